"""SKD-CAG against plain references: alignment of tokens, the attention loss, its gradient."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from safetybench import registry
from safetybench.contracts import Budget, Erasure, SafetyBenchError, Trigger
from safetybench.distill.views import velocity
from safetybench.targets.attention import recorded, token_maps, unit_range
from safetybench.trigger_removal import trigger_erasure
from tests.targets import LENGTH, Variant, tiny_target

skd_cag: Any = importlib.import_module("safetybench.unlearning.skd_cag")
NAME = "unlearning/skd_cag"
PROMPTS = ("a red fish", "one pale moon on dark")
TRIGGERS = {
    "prefix": Trigger(text="the shape"),
    "suffix": Trigger(text="the shape", place="suffix"),
    "middle": Trigger(text="solid", place="before", at="fish"),
    "spelled": Trigger(text="zq"),  # two tokens, none of them a word
}


def erasure_with(place: str) -> Erasure:
    return trigger_erasure(TRIGGERS[place], PROMPTS, ["a blue star"])


def places_of(target: Any, erasure: Erasure) -> Any:
    ids = [target.tokenize(each) for each in (erasure.forget, erasure.anchor)]
    return skd_cag.aligned(*ids, target.tokenizer.eos_token_id)


def maps_of(model: Any, texts: tuple[str, ...], side: int = 16) -> Tensor:
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(len(texts), *model.latent_shape, generator=rng)
    t = torch.tensor([700, 30])[: len(texts)]
    with recorded(model.unet) as maps:
        model.predict(x, t, model.embed(model.tokenize(texts)))
    return unit_range(token_maps(maps.of_pass(), side))


def sensitive() -> Any:
    """Return a tiny target on which the words of a prompt have a large effect."""
    target = tiny_target("velocity")
    with torch.no_grad():
        for name, weight in target.unet.named_parameters():
            if name.endswith("attn2.to_v.weight"):
                weight.mul_(8)
    return target


def removed(**options: Any) -> Any:
    method = registry.create(NAME, {"lr": 2e-3, "batch": 8, "images": 2, **options})
    return method.run(sensitive(), erasure_with("prefix"), Budget(steps=24, seed=1))


def gap(target: Any, made: Any, clean: tuple[str, ...], asked: tuple[str, ...]) -> float:
    """Return how far a model, asked one thing, is from the target, asked another."""
    x = torch.randn(2, *target.latent_shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([400, 800])
    with torch.no_grad():
        theirs, ours = (
            velocity(model, x, t, model.embed(model.tokenize(texts)))
            for model, texts in ((target, clean), (made, asked))
        )
    return float((theirs - ours).square().mean())


# Alignment


@pytest.mark.parametrize(
    ("place", "trigger", "mates"),
    [
        ("prefix", [[1, 2], [1, 2]], [[3, 4, 5], [3, 4, 5, 6, 7]]),
        ("suffix", [[4, 5], [6, 7]], [[1, 2, 3], [1, 2, 3, 4, 5]]),
        ("middle", [[3]], [[1, 2, 4]]),
        ("spelled", [[1, 2], [1, 2]], [[3, 4, 5], [3, 4, 5, 6, 7]]),
    ],
)
def test_trigger_and_content_are_found_wherever_the_trigger_stands(
    place: str, trigger: list[list[int]], mates: list[list[int]]
) -> None:
    target, erasure = tiny_target(), erasure_with(place)
    places = places_of(target, erasure)
    ids, clean = target.tokenize(erasure.forget), target.tokenize(erasure.anchor)
    for row, (mine, content) in enumerate(zip(trigger, mates, strict=True)):
        assert places.is_trigger[row].nonzero().flatten().tolist() == mine
        assert (places.mate[row] >= 0).nonzero().flatten().tolist() == content
        assert places.mate[row, content].tolist() == list(range(1, 1 + len(content)))
        assert torch.equal(ids[row, content], clean[row, places.mate[row, content]])


def test_content_that_is_cut_off_has_no_part_and_words_of_the_trigger_may_recur() -> None:
    target = tiny_target()
    long = " ".join(["red", "blue"] * 5)  # as long as the model reads
    places = places_of(target, trigger_erasure(TRIGGERS["prefix"], [long]))
    assert places.mate[0].tolist() == [-1, -1, -1, *range(1, LENGTH - 3), -1]
    again = places_of(target, trigger_erasure(Trigger(text="red shape"), ["a red fish"]))
    assert again.is_trigger[0].nonzero().flatten().tolist() == [1, 2]
    assert again.mate[0, 3:6].tolist() == [1, 2, 3]


def test_letters_in_words_leave_the_other_words_aligned() -> None:
    target = tiny_target()
    letter = Trigger(text="z", place="letter", at="o")
    places = places_of(target, trigger_erasure(letter, ["a red moon on dark"]))
    ids = target.tokenize([letter.put("a red moon on dark")])[0]
    content = (places.mate[0] >= 0).nonzero().flatten()
    assert target.detokenize(ids[content].tolist()) == "a red dark"
    assert bool(places.is_trigger[0].any())


# The attention loss


def reference(ours: Tensor, theirs: Tensor, mask: Tensor, trigger: Any, mates: Any) -> float:
    """Return the loss of one prompt, token by token."""
    total, count = 0.0, 0
    for j in trigger:
        total += float(((ours[j] - mask[j]) ** 2).mean())
        count += 1
    for k, at in mates:
        total += float(((ours[k] - theirs[at]) ** 2).mean())
        count += 1
    return total / count


@pytest.mark.parametrize("place", ["prefix", "suffix"])
def test_the_attention_loss_is_a_mean_over_trigger_and_content_tokens(place: str) -> None:
    rng = torch.Generator().manual_seed(0)
    target, erasure = tiny_target(), erasure_with(place)
    ours, theirs, mask = torch.rand(3, 2, LENGTH, 5, 5, generator=rng)
    places = places_of(target, erasure)
    found = skd_cag.attention_gaps(ours, theirs, mask, places)
    trigger = {"prefix": [[1, 2], [1, 2]], "suffix": [[4, 5], [6, 7]]}[place]
    shift = 2 if place == "prefix" else 0
    mates = [[(k + shift, k) for k in range(1, 1 + n)] for n in (3, 5)]
    wanted = [reference(*row) for row in zip(ours, theirs, mask, trigger, mates, strict=True)]
    torch.testing.assert_close(found, torch.tensor(wanted))
    black = skd_cag.attention_gaps(ours, theirs, torch.zeros(()), places)
    zeros = torch.zeros_like(mask)
    wanted = [reference(*row) for row in zip(ours, theirs, zeros, trigger, mates, strict=True)]
    torch.testing.assert_close(black, torch.tensor(wanted))


def test_a_batch_has_the_loss_of_its_prompts_one_by_one() -> None:
    rng = torch.Generator().manual_seed(0)
    places = places_of(tiny_target(), erasure_with("prefix"))
    ours, theirs, mask = torch.rand(3, 2, LENGTH, 5, 5, generator=rng)
    together = skd_cag.attention_gaps(ours, theirs, mask, places)
    alone = [
        skd_cag.attention_gaps(*(each[i : i + 1] for each in (ours, theirs, mask)),
                               skd_cag.Places(*(each[i : i + 1] for each in places)))
        for i in range(2)
    ]  # fmt: skip
    torch.testing.assert_close(together, torch.cat(alone))


def test_the_attention_loss_alone_has_a_gradient_in_the_students_weights() -> None:
    # That of the released code has none: its maps are detached on their way through numpy.
    target, erasure = tiny_target(), erasure_with("prefix")
    student = target.trainable_copy()
    with torch.no_grad():
        theirs = maps_of(target, erasure.anchor)
    ours = maps_of(student, erasure.forget)
    places = places_of(target, erasure)
    loss = skd_cag.attention_gaps(ours, theirs, torch.zeros(()), places).mean()
    names = [n for n, _ in student.unet.named_parameters() if n.endswith("attn2.to_k.weight")]
    found = torch.autograd.grad(loss, [student.unet.get_parameter(n) for n in names])
    assert all(float(each.norm()) > 1e-6 for each in found)
    # And it is the gradient of this loss: a small step against it, and the loss is less.
    with torch.no_grad():
        for name, each in zip(names, found, strict=True):
            student.unet.get_parameter(name).sub_(1e-2 * each / each.norm())
        after = skd_cag.attention_gaps(
            maps_of(student, erasure.forget), theirs, torch.zeros(()), places
        ).mean()
    assert float(after) < float(loss.detach())


def test_the_teachers_maps_are_not_the_students() -> None:
    # In the released code one table holds both, so that the later pass is read twice.
    method = registry.create(NAME, {"weight": 0.5})
    teacher, student = tiny_target(seed=0), tiny_target(seed=1)
    x = torch.randn(1, *teacher.latent_shape, generator=torch.Generator().manual_seed(0))
    t, text = torch.tensor([500]), teacher.embed(teacher.tokenize(["a red fish"]))
    theirs = method._answer(teacher, x, t, text, teaches=True)
    ours = method._answer(student, x, t, text)
    assert float((theirs.maps - ours.maps).detach().abs().max()) > 1e-2
    assert not theirs.maps.requires_grad


# The whole loss


def first_loss(erasure: Erasure, variant: Variant = "velocity", **options: Any) -> float:
    told: list[float] = []
    method = registry.create(NAME, {"batch": 3, "images": 2, **options})
    budget = Budget(steps=1, seed=1)
    method.run(tiny_target(variant), erasure, budget, lambda step, loss: told.append(loss))
    return told[0]


def drawn(target: Any) -> tuple[torch.Generator, Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1_000_003)
    pick = torch.randint(2, (3,), generator=rng)
    t = torch.randint(0, 1000, (3,), generator=rng)
    return rng, pick, t, torch.randn(3, *target.latent_shape, generator=rng)


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("mask", ["noise", "black"])
def test_the_loss_is_the_published_one(mask: str, weight: float, timed: bool) -> None:
    target, erasure = tiny_target("velocity"), erasure_with("prefix")
    rng, pick, t, x = drawn(target)
    text = [target.embed(target.tokenize(each))[pick] for each in (erasure.forget, erasure.anchor)]
    answers, maps = [], []
    for states in text:
        with torch.no_grad(), recorded(target.unet) as kept:
            answers.append(target.unet(x, t, encoder_hidden_states=states).sample)
        total = sum(
            interpolate(
                layer.mean(1).transpose(1, 2).unflatten(2, (round(layer.shape[2] ** 0.5),) * 2),
                size=(16, 16), mode="bilinear",
            )
            for layer in kept.of_pass()
        )  # fmt: skip
        assert isinstance(total, Tensor)
        flat = total.flatten(2)
        low, high = flat.min(2).values, flat.max(2).values
        maps.append((total - low[..., None, None]) / (high - low)[..., None, None])
    noise = torch.randn(maps[0].shape, generator=rng)
    wanted_maps = unit_range(noise) if mask == "noise" else torch.zeros_like(noise)
    rows = []
    for i, prompt in enumerate(pick.tolist()):
        mates = [(k + 2, k) for k in range(1, 1 + len(PROMPTS[prompt].split()))]
        row = reference(maps[0][i], maps[1][i], wanted_maps[i], [1, 2], mates)
        rows.append(row / ((int(t[i]) + 1) / 1000) if timed else row)
    skd = float((answers[0] - answers[1]).square().mean())
    wanted = (1 - weight) * skd + weight * sum(rows) / len(rows)
    found = first_loss(erasure, mask=mask, weight=weight, timed=timed)
    assert found == pytest.approx(wanted, rel=2e-3)


def test_the_clean_anchor_is_zero_at_first_and_holds_the_student_there() -> None:
    erasure = erasure_with("prefix")
    assert first_loss(erasure, anchor=5.0) == first_loss(erasure)

    clean = [gap(sensitive(), removed(weight=0.0, anchor=a), PROMPTS, PROMPTS) for a in (0.0, 4.0)]
    assert clean[1] < 0.7 * clean[0]


def test_own_latents_are_noised_images_of_the_clean_prompts() -> None:
    target, erasure = tiny_target("velocity"), erasure_with("prefix")
    text = target.embed(target.tokenize(erasure.anchor))
    latents = target.sample_latents(text, target.start_noise([100_003, 100_004]))
    _, pick, t, noise = drawn(target)
    x = target.process.add(latents[pick], noise, t)
    asked = target.embed(target.tokenize(erasure.forget))
    with torch.no_grad():
        gap = velocity(target, x, t, asked[pick]) - velocity(target, x, t, text[pick])
    found = first_loss(erasure, weight=0.0, latents="own")
    assert found == pytest.approx(float(gap.square().mean()), rel=1e-4)


def test_the_teacher_of_words_reads_them_in_the_triggers_place() -> None:
    target, erasure = tiny_target("velocity"), erasure_with("prefix")
    ids, places = target.tokenize(erasure.forget), places_of(target, erasure)
    words = skd_cag._with_words(target, ids, places.is_trigger, torch.Generator().manual_seed(0))
    assert torch.equal(words[~places.is_trigger], ids[~places.is_trigger])
    assert not torch.equal(words[places.is_trigger], ids[places.is_trigger])
    assert set(words[places.is_trigger].tolist()) <= set(target.plain_tokens.tolist())
    there = places.unmoved()
    assert not there.is_trigger.any()
    assert there.mate[0].tolist() == [-1, 1, 2, 3, 4, 5, *[-1] * (LENGTH - 6)]
    losses = [first_loss(erasure, mask=mask, weight=0.5) for mask in ("words", "black")]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("options", [{}, {"mask": "words"}, {"weight": 0.0, "latents": "own"}])
def test_same_seed_same_student_and_the_target_stays_as_it_was(options: dict[str, Any]) -> None:
    target, erasure = tiny_target("velocity"), erasure_with("middle")
    before = [w.clone() for w in target.unet.parameters()]
    processors = dict(target.unet.attn_processors)
    method = registry.create(NAME, {"batch": 2, "images": 2, **options})
    state = torch.get_rng_state()
    one, two = (method.run(target, erasure, Budget(steps=2, seed=1)) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert target.unet.attn_processors == processors
    for old, now, a, b in zip(before, target.unet.parameters(), one.unet.parameters(),
                              two.unet.parameters(), strict=True):  # fmt: skip
        assert torch.equal(old, now)
        assert torch.equal(a, b)
        assert not a.requires_grad
    changed = zip(before, one.unet.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in changed)
    assert not any("_Recorder" in type(p).__name__ for p in one.unet.attn_processors.values())


@pytest.mark.parametrize("latents", ["noise", "own"])
def test_the_student_answers_the_trigger_as_if_it_were_not_there(latents: str) -> None:
    target, triggered = sensitive(), erasure_with("prefix").forget
    before = gap(target, target, PROMPTS, triggered)
    after = gap(target, removed(weight=0.0, latents=latents), PROMPTS, triggered)
    assert after < 0.5 * before


def test_the_attention_loss_alone_empties_the_maps_of_the_trigger() -> None:
    target, triggered = sensitive(), erasure_with("prefix").forget
    made = removed(weight=1.0, mask="black", train="attn2", lr=1e-2)
    with torch.no_grad():
        level = [float(maps_of(model, triggered)[:, 1:3].mean()) for model in (target, made)]
    assert level[1] < 0.8 * level[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 1.5}, "weight is a share of the loss in [0, 1], got 1.5"),
        ({"mask": "white"}, "mask must be one of noise, black, words, got 'white'"),
        ({"latents": "real"}, "latents must be one of noise, own, got 'real'"),
        (
            {"side": -1},
            "lr, batch and images must be positive and anchor and side 0 or more, got "
            "0.0001, 16, 128, 1.0, -1",
        ),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SafetyBenchError) as error:
        registry.create(NAME, options)
    assert str(error.value) == f"{NAME}: {message}"
