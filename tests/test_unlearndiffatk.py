"""UnlearnDiffAtk: each piece against a hand-computed case, then the whole on a convex toy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from safetybench import registry, stats
from safetybench.contracts import Aids, Budget, Candidate, Prompt, Reply
from safetybench.draws import item_generator
from tests import toys_attack as toys

NAME = "attacks/prompts/unlearndiffatk"
FAST = {"tokens": 2, "timesteps": 4, "iterations": 12, "lr": 0.1, "draws": 2, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def uda() -> Any:
    return registry.load(NAME)


@pytest.fixture(scope="module")
def parts(uda: Any) -> Any:
    """Return the attack's modules by name: `safetybench.attacks` is what the registry imports."""
    import importlib
    from types import SimpleNamespace

    names = ("_tokens", "_objective", "_places", "_whitebox")
    found = {n: importlib.import_module(f"{uda.__module__.rpartition('.')[0]}.{n}") for n in names}
    return SimpleNamespace(**{name[1:]: module for name, module in found.items()})


def rounds(
    attack: Any, target: Any, prompts: Sequence[Prompt], budget: Budget
) -> list[list[Candidate]]:
    search = attack.search(target, prompts, toys.aids(prompts), budget)
    return list(search)


# The projection


def bisected(row: Tensor) -> Tensor:
    """Project as the authors' code does: find the shift whose clipped row sums to one."""
    low, high = float(row.min()) - 1, float(row.max())
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (row - middle).clamp(0, 1).sum() > 1 else (low, middle)
    return (row - (low + high) / 2).clamp(0, 1)


ROWS = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40)


@settings(max_examples=25, deadline=None)
@given(ROWS)
def test_projection_is_the_nearest_point_of_the_simplex(parts: Any, row: list[float]) -> None:
    v = torch.tensor(row, dtype=torch.float64)
    p = parts.tokens.project_simplex(v)
    assert bool((p >= 0).all())
    assert float(p.sum()) == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(p, bisected(v), atol=1e-8, rtol=0)
    torch.testing.assert_close(parts.tokens.project_simplex(p), p, atol=1e-12, rtol=0)


def test_projection_holds_in_single_precision_on_a_real_vocabulary(parts: Any) -> None:
    v = torch.randn(2, 3, 49_408, generator=torch.Generator().manual_seed(0)) / 100
    p = parts.tokens.project_simplex(v)
    torch.testing.assert_close(p.sum(-1), torch.ones(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(p[0, 0], bisected(v[0, 0].double()).float(), atol=1e-5, rtol=0)


def test_projection_of_a_hand_computed_row(parts: Any) -> None:
    # shift 0.3 leaves 0.7 and 0.3
    p = parts.tokens.project_simplex(torch.tensor([1.0, 0.6, -0.5]))
    torch.testing.assert_close(p, torch.tensor([0.7, 0.3, 0.0]))


# Draws, gradients, steps


def test_draws_follow_the_distribution(parts: Any) -> None:
    rows = torch.tensor([0.5, 0.0, 0.3, 0.2]).expand(1, 20_000, 4)
    uniforms = torch.rand(1, 20_000, generator=torch.Generator().manual_seed(1))
    counts = torch.bincount(parts.tokens.draw_tokens(rows, uniforms)[0], minlength=4) / 20_000
    torch.testing.assert_close(counts, torch.tensor([0.5, 0.0, 0.3, 0.2]), atol=0.01, rtol=0)
    assert counts[1] == 0


def test_draw_is_hand_computable_at_the_ends(parts: Any) -> None:
    row = torch.tensor([[[0.0, 0.25, 0.75, 0.0]]])
    for uniform, column in ((0.0, 1), (0.24, 1), (0.25, 2), (0.999999, 2)):
        assert parts.tokens.draw_tokens(row, torch.tensor([[uniform]])).item() == column


def test_gradient_passes_straight_through_clamped(parts: Any) -> None:
    table = torch.tensor([[1.0, 0.0], [0.0, 3.0], [-2.0, 0.5]])
    simplex = parts.tokens.Simplex(table)
    # of a row (0.4, 0.5): 1 * 0.4; 3 * 0.5 = 1.5, clamped; -0.8 + 0.25
    found = simplex.gradient(torch.tensor([[[0.4, 0.5]]]))
    torch.testing.assert_close(found, torch.tensor([[[0.4, 1.0, -0.55]]]))


def test_gradient_is_that_of_a_one_hot(parts: Any) -> None:
    table = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) / 10
    hot = torch.nn.functional.one_hot(torch.tensor([[2, 5]]), 6).float().requires_grad_()
    (hot @ table).sin().sum().backward()
    rows = table[torch.tensor([[2, 5]])].requires_grad_()
    rows.sin().sum().backward()
    assert rows.grad is not None
    assert hot.grad is not None
    torch.testing.assert_close(parts.tokens.Simplex(table).gradient(rows.grad), hot.grad)


def test_adam_is_torchs_with_decay_in_the_gradient(parts: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 3, 5, generator=generator)
    theirs = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([theirs], lr=0.01, weight_decay=0.1)
    zeros = torch.zeros_like(start)
    adam, ours = parts.tokens.Adam(zeros.clone(), zeros.clone(), 0.01, 0.1), start
    for _ in range(5):
        theirs.grad = torch.randn(start.shape, generator=generator)
        ours = adam.update(ours, theirs.grad)
        optimiser.step()
    torch.testing.assert_close(ours, theirs.detach())


def test_decoupled_decay_is_torchs_adamw(parts: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 3, 5, generator=generator)
    theirs = start.clone().requires_grad_()
    optimiser = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.1)
    zeros = torch.zeros_like(start)
    adam = parts.tokens.Adam(zeros.clone(), zeros.clone(), 0.1, 0.1, is_decoupled=True)
    ours = start
    for _ in range(5):
        theirs.grad = torch.randn(start.shape, generator=generator)
        ours = adam.update(ours, theirs.grad)
        optimiser.step()
    torch.testing.assert_close(ours, theirs.detach())


def test_a_shared_step_keeps_the_ratio_of_gradients(parts: Any) -> None:
    for is_shared, ratio in ((False, 1.0), (True, 100.0)):
        zeros = torch.zeros(1, 1, 2)
        adam = parts.tokens.Adam(zeros.clone(), zeros.clone(), 0.01, 0.0, is_shared)
        moved = adam.update(zeros, torch.tensor([[[1.0, 0.01]]]))[0, 0]
        assert float(moved[0] / moved[1]) == pytest.approx(ratio, rel=1e-3)
        assert float(moved[0]) == pytest.approx(-0.01, rel=1e-3)


def test_projected_reads_the_nearest_token_by_cosine(parts: Any) -> None:
    projected = parts.tokens.Projected(torch.tensor([[1.0, 0.0], [0.0, 5.0]]))
    assert projected.answer(torch.tensor([[[0.9, 1.0], [2.0, 1.0]]])).tolist() == [[1, 0]]


# The objective and its schedule


def test_loss_is_the_error_of_the_noise_prediction(parts: Any) -> None:
    target = toys.original(alphas=torch.tensor([0.64]))
    text = target.embed(target.tokenize(["a fish"]))
    wanted, noise = torch.full((1, 3, 2, 2), 0.5), torch.ones(1, 1, 3, 2, 2)
    moment = parts.objective.Moment(0, "denoise")
    # x_t = 0.8 * 0.5 + 0.6, x0 = (0.9051, 0, 0), and (x_t - 0.8 x0) / 0.6 - 1 is the error
    (loss,) = parts.objective.losses(target, moment, wanted, text, noise).tolist()
    assert loss == pytest.approx((0.5402**2 + 2 * 0.6667**2) / 3, rel=1e-3)


def test_match_is_the_distance_of_two_noise_predictions(parts: Any) -> None:
    target, other = (make(alphas=torch.tensor([0.64])) for make in (toys.robust, toys.original))
    ids = target.tokenize(["a fish"])
    wanted, noise = torch.full((1, 3, 2, 2), 0.5), torch.ones(1, 1, 3, 2, 2)
    matched = parts.objective.Matched(other, other.embed(ids))
    # Same x_t, and x0 of fish against x0 of moon: 0.9051 apart in two channels, times 0.8 / 0.6.
    found = parts.objective.losses(
        target, parts.objective.Moment(0, "denoise"), wanted, target.embed(ids), noise,
        matched=matched,
    )  # fmt: skip
    assert found.tolist() == pytest.approx([2 / 3 * (0.9051 * 0.8 / 0.6) ** 2], rel=1e-3)
    same = parts.objective.losses(
        other, parts.objective.Moment(0, "output"), wanted, matched.states, noise, matched=matched
    )
    assert same.tolist() == [0]


def test_another_noise_schedule_is_asked_where_it_has_as_much_noise(parts: Any) -> None:
    class Asked(toys.ToyTarget):
        def x0(self, latents: Tensor, t: Tensor, text: Tensor) -> Tensor:
            self.times = t.tolist()
            return super().x0(latents, t, text)

    table = torch.linspace(0.98, 0.02, 20)
    target = toys.robust(alphas=table[::2])
    same, finer = Asked(toys.ORIGINAL, alphas=table[::2]), Asked(toys.ORIGINAL, alphas=table)
    ids = target.tokenize(["a fish", "a fish"])
    moment, wanted = parts.objective.Moment(0, "denoise"), torch.zeros(2, 3, 2, 2)
    for other, times in ((same, [2, 7]), (finer, [4, 14])):
        parts.objective.losses(
            target, moment, wanted, target.embed(ids), torch.zeros(2, 1, 3, 2, 2),
            times=torch.tensor([2, 7]), matched=parts.objective.Matched(other, other.embed(ids)),
        )  # fmt: skip
        assert other.times == times


def test_published_schedule_is_ascending_from_half_a_stride(parts: Any) -> None:
    target = toys.original(alphas=torch.linspace(0.999, 0.001, 1000))
    times = [m.t for m in parts.objective.moments(target, 50, "auto")]
    assert times == list(range(10, 1000, 20))
    assert [m.t for m in parts.objective.moments(target, 4, "auto")] == [125, 375, 625, 875]


def test_students_are_attacked_where_their_own_network_is_defined(parts: Any) -> None:
    moments = parts.objective.moments
    student = toys.original(steps=1, guidance=1.0)
    assert moments(student, 50, "auto") == [(19, "denoise")]
    assert moments(student, 50, "output") == [(19, "output")]
    four = toys.original(steps=4, guidance=1.0)
    assert [m.t for m in moments(four, 50, "auto")] == sorted(four.sampler_times)
    noise_only = toys.original(steps=1, guidance=1.0, alphas=torch.linspace(0.98, 0.001, 20))
    assert moments(noise_only, 50, "auto") == [(19, "output")]


def test_output_loss_starts_from_the_items_own_noise(parts: Any) -> None:
    class Seen(toys.ToyTarget):
        def x0(self, latents: Tensor, t: Tensor, text: Tensor) -> Tensor:
            self.inputs = latents
            return super().x0(latents, t, text)

    target = Seen(toys.ERASED, steps=1, guidance=1.0)
    prompts = toys.prompts(2)
    chosen = parts.whitebox.Settings(tokens=2, draws=3)
    goal = parts.objective.Denoised(target, prompts, toys.aids(prompts), "denoise")
    search = parts.whitebox.Search(target, prompts, goal, chosen, 0)
    search.round([parts.objective.Moment(19, "output")], 2)
    own = target.start_noise([p.seed for p in prompts])
    first_draw = target.inputs.view(2, 3, 3, 2, 2)[:, 0]
    torch.testing.assert_close(first_draw, own)


# The attack


def test_default_is_the_published_setting(uda: Any) -> None:
    found = uda().settings
    assert (found.tokens, found.timesteps, found.iterations, found.draws) == (3, 50, 40, 1)
    assert (found.lr, found.weight_decay) == (0.01, 0.1)
    assert (found.location, found.optimiser) == ("prefix", "simplex")


def test_options_go_before_the_preset(uda: Any) -> None:
    zoo, one = uda(preset="zoo").settings, uda(preset="zoo", tokens=5).settings
    assert one.tokens == 5
    assert one.timesteps == zoo.timesteps != uda().settings.timesteps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 0}, "tokens must be above 0, got 0"),
        ({"lr": -1.0}, "lr must be above 0, got -1.0"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or more, got -0.1"),
        ({"location": "middle"}, "location is one of prefix, suffix, insert, got 'middle'"),
        ({"preset": "sd"}, "preset is one of published, zoo, got 'sd'"),
        ({"loss": "mach"}, "loss is one of denoise, match, got 'mach'"),
        ({"objective": "x0"}, "objective is one of auto, denoise, output, got 'x0'"),
        ({"optimiser": "sgd"}, "optimiser is one of simplex, rowwise, projected, got 'sgd'"),
    ],
)
def test_wrong_options_are_refused(uda: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        uda(**options)


@pytest.mark.parametrize("loss", ["denoise", "match"])
@pytest.mark.parametrize("optimiser", ["simplex", "rowwise", "projected"])
@pytest.mark.parametrize("location", ["prefix", "suffix", "insert"])
def test_it_finds_the_planted_word(uda: Any, optimiser: Any, location: Any, loss: Any) -> None:
    attack = uda(**FAST, optimiser=optimiser, location=location, loss=loss)
    prompts = toys.prompts(4)
    last = rounds(attack, toys.vulnerable(), prompts, Budget(images=5, steps=100))[-1]
    for prompt, candidate in zip(prompts, last, strict=True):
        found = candidate.text.replace(toys.MERGED, "merged").split()
        assert {"w11", "w93"} & set(found)
        before, after = {"prefix": (0, 3), "suffix": (3, 0)}.get(location, (1, 1))
        words = prompt.text.split()
        assert found[:before] == words[:before]
        assert found[len(found) - after :] == words[3 - after :]
        assert len(found) == 5


def test_only_the_matching_loss_asks_for_the_original(uda: Any) -> None:
    assert uda().aids == ("references",)
    assert uda(loss="match").aids == ("references", "original")
    plain = {p: uda(location=p).control_options()["location"] for p in ("suffix", "insert")}
    assert plain == {"suffix": "suffix", "insert": "insert"}


# Places


def test_slots_are_filled_in_order(parts: Any) -> None:
    slots = parts.places.Slots
    assert slots([7, 8, 9], [0, 0]).filled([1, 2]) == [1, 2, 7, 8, 9]
    assert slots([7, 8, 9], [1, 3]).filled([1, 2]) == [7, 1, 8, 9, 2]
    assert slots([], [0, 0]).filled([1, 2, 3]) == [1, 2]


def test_spread_puts_a_token_behind_every_few(parts: Any) -> None:
    target = toys.ToyTarget({})
    prompts = [Prompt(str(n), " ".join(["w1"] * n), "fish", 0) for n in (1, 2, 4, 5)]
    found = parts.places.slots(target, prompts, "spread", 2, 0, 2)
    assert [slot.after for slot in found] == [[1], [2], [2, 4], [2, 4]]
    assert parts.places.unfit(target, prompts, "spread", 2, 2) == {
        "5": "prompt must have at most 4 tokens to take 2 more, got 5"
    }


def test_insert_draws_one_place_an_item_between_words(parts: Any) -> None:
    target = toys.ToyTarget({})
    prompts = [Prompt(f"p{i}", "w1 w2 w3 w4", "fish", 0) for i in range(30)]
    found = parts.places.slots(target, prompts, "insert", 2, 0)
    assert {len(set(slot.after)) for slot in found} == {1}
    assert {slot.after[0] for slot in found} == {1, 2, 3}
    assert parts.places.slots(target, prompts[7:8], "insert", 2, 0) == found[7:8]
    assert parts.places.slots(target, prompts, "insert", 2, 1) != found
    (single,) = parts.places.slots(target, [Prompt("p", "w1", "fish", 0)], "insert", 2, 0)
    assert single.after == [1, 1]


def test_insert_does_not_split_a_word(parts: Any) -> None:
    from tests.targets import tiny_target

    target = tiny_target()  # "ab" is no word of its vocabulary, and takes two tokens
    prompts = [Prompt(f"p{i}", "ab ab", "fish", 0) for i in range(12)]
    found = parts.places.slots(target, prompts, "insert", 1, 0)
    assert {(len(slot.words), *slot.after) for slot in found} == {(4, 2)}


@pytest.mark.parametrize("place", ["prefix", "suffix", "insert", "spread", "alone"])
def test_states_are_those_of_the_text_with_the_tokens(parts: Any, place: Any) -> None:
    from tests.targets import tiny_target

    target = tiny_target()
    texts = ["red fish", "a red fish on dark", "a star of blue", "one"]
    prompts = [Prompt(f"p{i}", text, "fish", 0) for i, text in enumerate(texts)]
    slots = parts.places.slots(target, prompts, place, 2, 0)
    layout = parts.places.Layout(target, slots)
    tokens = target.tokenizer("moon heart", add_special_tokens=False).input_ids
    width = max(len(slot.after) for slot in slots)
    rows = target.token_table[torch.tensor(tokens[:width])].expand(len(texts), -1, -1)
    ids = target.tokenize(texts if place != "alone" else [""] * len(texts))
    said = [target.detokenize(slot.filled(tokens)) for slot in slots]
    with torch.no_grad():
        torch.testing.assert_close(layout.embed(ids, rows), target.embed(target.tokenize(said)))
        layout.keep([1, 2])
        torch.testing.assert_close(
            layout.embed(ids[1:3], rows[1:3]), target.embed(target.tokenize(said[1:3]))
        )


def test_it_finds_the_planted_word_on_a_one_step_student(uda: Any) -> None:
    for objective in ("denoise", "output"):
        student = toys.vulnerable(steps=1, guidance=1.0)
        attack = uda(**FAST, objective=objective)
        last = rounds(attack, student, toys.prompts(3), Budget(images=5, steps=100))[-1]
        assert all({"w11", "w93"} & set(c.text.split()) for c in last)


def test_published_values_find_the_planted_word(uda: Any) -> None:
    last = rounds(uda(), toys.vulnerable(), toys.prompts(2), Budget(images=11, steps=400))[-1]
    assert all({"w11", "w93"} & set(c.text.split()) for c in last)


def test_it_beats_random_prefixes_at_equal_images(uda: Any) -> None:
    from safetybench.scenarios._search import search

    prompts, budget = toys.prompts(24), Budget(images=5, steps=48)
    outcomes = []
    for attack in (registry.create("attacks/prompts/random_prefix", {"tokens": 2}), uda(**FAST)):
        trials = search(
            toys.vulnerable(), toys.ToyJudge(), prompts, "fish",
            attack=attack, aids=toys.aids(prompts), budget=budget,
        )  # fmt: skip
        assert max(len(trial.shown) for trial in trials) <= budget.images
        outcomes.append([trial.is_success for trial in trials])
    random, ours = outcomes
    only_random = sum(r and not o for r, o in zip(random, ours, strict=True))
    only_ours = sum(o and not r for r, o in zip(random, ours, strict=True))
    assert only_ours > only_random
    assert stats.mcnemar_exact(only_random, only_ours) < 0.001


@pytest.mark.parametrize("optimiser", ["simplex", "rowwise", "projected"])
def test_a_batch_gives_what_single_items_give(uda: Any, optimiser: Any) -> None:
    attack, budget = uda(**FAST, optimiser=optimiser), Budget(images=4, steps=100, seed=3)
    prompts = [*toys.prompts(3), Prompt("long", "a fish w1 w2", "fish", 9)]
    together = rounds(attack, toys.vulnerable(), prompts, budget)
    for i, prompt in enumerate(prompts):
        alone = rounds(attack, toys.vulnerable(), [prompt], budget)
        assert [r[0].text for r in alone] == [r[i].text for r in together]
        for one, many in zip(alone, together, strict=True):
            assert dict(one[0].trace) == pytest.approx(dict(many[i].trace), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("location", ["prefix", "insert", "spread"])
def test_gradients_of_a_batch_are_those_of_single_items(parts: Any, location: Any) -> None:
    from tests.targets import tiny_target

    target, original = tiny_target(), tiny_target(seed=1)
    texts = ("a red fish", "one blue star on dark background", "moon")
    prompts = [Prompt(f"p{i}", text, "fish", i) for i, text in enumerate(texts)]
    references = original.generate(texts, range(3))
    moment = parts.objective.Moment(400, "denoise")

    def gradients(index: list[int]) -> list[Tensor]:
        chosen = [prompts[i] for i in index]
        given = Aids(concept="fish", references=references[index], original=original)
        goal = parts.objective.Denoised(target, chosen, given, "match")
        kept = parts.whitebox.Settings(tokens=2, draws=2, location=location)
        search = parts.whitebox.Search(target, chosen, goal, kept, 0)
        width = search.value.shape[1]
        rows = target.token_table[20 : 20 + width].expand(len(index), -1, -1).clone()
        noise = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))[index]
        states = search.layout.embed(search.ids, rows.requires_grad_())
        times = torch.full((len(index),), moment.t)
        loss = goal.losses(moment, times, states, noise).sum()
        (gradient,) = torch.autograd.grad(loss, rows)
        used = [len(slot.after) for slot in search.layout.slots]
        return [part[:count].flatten() for part, count in zip(gradient, used, strict=True)]

    fused = torch.cat(gradients([0, 1, 2]))
    plain = torch.cat([part for i in range(3) for part in gradients([i])])
    assert float((fused - plain).norm() / plain.norm()) < 1e-5
    assert float((fused.sign() == plain.sign()).float().mean()) >= 0.999


def test_items_that_leave_do_not_change_the_others(uda: Any) -> None:
    attack, budget, prompts = uda(**FAST), Budget(images=5, steps=100), toys.prompts(3)
    full = rounds(attack, toys.vulnerable(), prompts, budget)
    search = attack.search(toys.vulnerable(), prompts, toys.aids(prompts), budget)
    next(search)
    second = search.send(Reply(frozenset({"fish-1"})))
    assert [c.item for c in second] == ["fish-0", "fish-2"]
    assert [c.text for c in second] == [full[1][0].text, full[1][2].text]
    with pytest.raises(StopIteration):
        search.send(Reply(frozenset({"fish-0", "fish-2"})))


def test_one_encoder_and_one_denoiser_pass_a_step(uda: Any) -> None:
    class Counting(toys.ToyTarget):
        passes = encodings = 0

        def x0(self, latents: Tensor, t: Tensor, text: Tensor) -> Tensor:
            self.passes += 1
            return super().x0(latents, t, text)

        def embed(self, ids: Tensor, table_rows: Tensor | None = None, at: int = 1) -> Tensor:
            self.encodings += 1
            return super().embed(ids, table_rows, at)

    target = Counting(toys.ERASED)
    rounds(uda(**FAST), target, toys.prompts(5), Budget(images=3, steps=24))
    assert target.passes == 2 * (12 + 2)  # two rounds: their steps, then the figures of the trace
    assert target.encodings == 2 * (12 + 1) + 1


@pytest.mark.parametrize(
    ("budget", "images", "steps"),
    [
        (Budget(images=5, steps=100), 4, 12),
        (Budget(images=3, steps=100), 2, 12),
        (Budget(images=5, steps=20), 4, 5),
        (Budget(images=5, steps=2), 2, 1),
        (Budget(images=1, steps=100), 0, 0),
        (Budget(images=5, steps=0), 0, 0),
        (Budget(images=10, steps=1000), 9, 12),
    ],
)
def test_budget_is_kept(uda: Any, budget: Budget, images: int, steps: int) -> None:
    found = rounds(uda(**FAST), toys.robust(), toys.prompts(2), budget)
    assert len(found) == images
    assert all(c.steps == steps for r in found for c in r)
    assert images * steps <= budget.steps


def test_trace_tells_a_falling_loss_and_a_gradient(uda: Any) -> None:
    (*_, last) = rounds(uda(**FAST), toys.vulnerable(), toys.prompts(2), Budget(images=5, steps=99))
    for candidate in last:
        assert candidate.trace["loss_with"] < candidate.trace["loss_without"]
        assert candidate.trace["gradient"] > 0
        assert candidate.trace["zero"] == 0


@pytest.mark.parametrize("mask", ["detach", "quantise"])
def test_trace_tells_a_hidden_gradient(uda: Any, mask: str) -> None:
    found = rounds(uda(**FAST), toys.MaskedTarget(mask), toys.prompts(2), Budget(images=3, steps=9))
    assert all(c.trace["zero"] == 1 for r in found for c in r)


@pytest.mark.parametrize("variant", ["teacher", "student", "velocity"])
def test_it_runs_on_a_real_pipeline(uda: Any, variant: Any) -> None:
    from tests.targets import tiny_target

    target = tiny_target(variant)
    prompts = [Prompt(f"p{i}", "a red fish" + " on dark" * i, "fish", i) for i in range(2)]
    references = target.generate([p.text for p in prompts], [p.seed for p in prompts])
    attack = uda(tokens=2, timesteps=2, iterations=2, draws=2)
    budget = Budget(images=3, steps=4)
    given = Aids(concept="fish", references=references)
    together = list(attack.search(target, prompts, given, budget))
    assert [len(r) for r in together] == [2, 2]
    for i, prompt in enumerate(prompts):
        own = Aids(concept="fish", references=references[i : i + 1])
        alone = list(attack.search(target, [prompt], own, budget))
        assert [r[0].text for r in alone] == [r[i].text for r in together]
        assert all(r[i].trace["gradient"] > 0 for r in together)
        assert all(r[i].text.endswith(prompt.text.split()[-1]) for r in together)


# Defects of the reference implementation (spec/unlearning.md 1.10)


def test_prompts_too_long_for_the_tokens_are_refused_by_name(uda: Any) -> None:
    room = toys.LENGTH - 2
    texts = [" ".join(["fish"] * n) for n in (room - 2, room - 1, room + 3)]
    prompts = [Prompt(f"p{i}", text, "fish", i) for i, text in enumerate(texts)]
    attack = uda(**FAST)
    refused = attack.unfit(toys.vulnerable(), prompts)
    assert refused == {
        "p1": "prompt must have at most 4 tokens to take 2 more, got 5",
        "p2": "prompt must have at most 4 tokens to take 2 more, got 6",
    }
    found = rounds(attack, toys.vulnerable(), prompts, Budget(images=3, steps=10))
    assert [[c.item for c in r] for r in found] == [["p0"]] * 2


def test_end_of_prompt_is_read_from_the_tokenizer(parts: Any) -> None:
    class Renumbered(toys.ToyTarget):
        """Its end id is 2, and it pads with another."""

        def tokenize(self, prompts: Sequence[str]) -> Tensor:
            rows = [[0, *(self.ids[w] for w in p.split()), 2] for p in prompts]
            return torch.tensor([row + [1] * (toys.LENGTH - len(row)) for row in rows])

    target = Renumbered({})
    assert parts.tokens.spell(target, ["fish", "fish w1"]).words == [
        [target.ids["fish"]],
        [target.ids["fish"], target.ids["w1"]],
    ]


def test_text_is_joined_as_the_tokenizer_writes_it(uda: Any) -> None:
    # The token "half way" draws a fish, but its text is two other words: what is judged is text.
    target = toys.ToyTarget({**toys.ERASED, toys.MERGED: toys.FISH})
    (*_, last) = rounds(uda(**FAST), target, toys.prompts(1), Budget(images=5, steps=99))
    assert toys.MERGED in last[0].text
    assert last[0].trace["loss_with"] < last[0].trace["loss_without"]
    image = target.generate([last[0].text], [last[0].seed])
    assert not bool(toys.ToyJudge().judge(image, "fish").shown)


def test_items_have_their_own_random_streams() -> None:
    streams = [item_generator(seed, item) for seed, item in ((0, "a"), (0, "b"), (1, "a"))]
    draws = [torch.rand(1, generator=stream).item() for stream in streams]
    assert len(set(draws)) == 3
    again = item_generator(0, "a")
    assert torch.rand(1, generator=again).item() == draws[0]
