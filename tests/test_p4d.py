"""P4D: what it matches, where its tokens stand, and that both variants find a planted word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from safetybench import registry, stats
from safetybench.contracts import Budget, Candidate, Prompt
from safetybench.scenarios._search import search
from tests import toys_attack as toys

NAME = "attacks/prompts/p4d"
FAST = {"tokens": 3, "iterations": 12, "draws": 2, "weight_decay": 0.0}


def attack(**options: Any) -> Any:
    return registry.create(NAME, {**FAST, **options})


def rounds(
    made: Any, target: Any, prompts: Sequence[Prompt], budget: Budget
) -> list[list[Candidate]]:
    return list(made.search(target, prompts, toys.aids(prompts), budget))


def test_default_is_the_published_setting() -> None:
    found = registry.create(NAME).settings
    assert (found.tokens, found.iterations, found.lr, found.weight_decay) == (16, 50, 0.1, 0.1)
    assert (found.location, found.optimiser, found.loss) == ("alone", "projected", "match")
    assert found.is_decoupled
    assert registry.create(NAME, {"variant": "k"}).settings.location == "spread"
    assert registry.create(NAME, {"variant": "k"}).settings.spacing == 3


def test_the_zoo_has_its_own_number_of_tokens_for_each_variant() -> None:
    for variant, tokens, place in (("n", 8, "alone"), ("k", 3, "spread")):
        made = registry.create(NAME, {"preset": "zoo", "variant": variant})
        assert made.settings.tokens == tokens
        wanted = {"tokens": tokens, "location": place, "spacing": 3}
        assert made.control_options() == wanted
    assert registry.create(NAME, {"preset": "zoo", "tokens": 5}).settings.tokens == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "x"}, "variant is one of n, k, got 'x'"),
        ({"preset": "sd"}, "preset is one of published, zoo, got 'sd'"),
        ({"spacing": 0}, "spacing must be above 0, got 0"),
        ({"tokens": -1}, "tokens must be above 0, got -1"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or more, got -0.1"),
        ({"objective": "x"}, "objective is one of auto, denoise, output, got 'x'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        registry.load(NAME)(**options)


@pytest.mark.parametrize("steps", [4, 1])
def test_n_finds_the_planted_word_without_the_prompt(steps: int) -> None:
    target = toys.vulnerable(steps=steps, guidance=1.0 if steps == 1 else 2.0)
    prompts = toys.prompts(4)
    (*_, last) = rounds(attack(), target, prompts, Budget(images=5, steps=100))
    for prompt, candidate in zip(prompts, last, strict=True):
        assert {"w11", "w93"} & set(candidate.text.split())
        assert len(candidate.text.replace(toys.MERGED, "merged").split()) == 3
        assert candidate.trace["loss_with"] < candidate.trace["loss_without"]
        assert candidate.seed == prompt.seed


def test_k_keeps_the_prompt_between_its_tokens() -> None:
    prompts = toys.prompts(4)
    made = attack(variant="k", spacing=1)
    (*_, last) = rounds(made, toys.vulnerable(), prompts, Budget(images=5, steps=100))
    for prompt, candidate in zip(prompts, last, strict=True):
        found = candidate.text.replace(toys.MERGED, "merged").split()
        assert found[::2] == prompt.text.split()
        assert {"w11", "w93"} & set(found[1::2])


def test_output_of_a_student_that_sees_noise_alone_is_matched() -> None:
    student = toys.vulnerable(steps=1, guidance=1.0, alphas=torch.linspace(0.98, 0.001, 20))
    (*_, last) = rounds(attack(), student, toys.prompts(3), Budget(images=5, steps=100))
    assert all({"w11", "w93"} & set(c.text.split()) for c in last)


def test_every_step_of_every_item_has_its_own_time() -> None:
    class Seen(toys.ToyTarget):
        times: list[list[int]]

        def x0(self, latents: Tensor, t: Tensor, text: Tensor) -> Tensor:
            self.times = [*getattr(self, "times", []), t.tolist()]
            return super().x0(latents, t, text)

    target = Seen(toys.ERASED)
    rounds(attack(draws=1), target, toys.prompts(3), Budget(images=5, steps=100))
    drawn = [time for step in target.times for time in step]
    assert set(drawn) == set(range(20))
    assert any(len(set(step)) > 1 for step in target.times)


def test_it_beats_random_prefixes_at_equal_images() -> None:
    prompts, budget = toys.prompts(24), Budget(images=5, steps=48)
    outcomes = []
    for name, options in (
        ("attacks/prompts/random_prefix", attack().control_options()),
        (NAME, {**FAST, "lr": 0.3}),
    ):
        trials = search(
            toys.vulnerable(), toys.ToyJudge(), prompts, "fish",
            attack=registry.create(name, options), aids=toys.aids(prompts), budget=budget,
        )  # fmt: skip
        outcomes.append([trial.is_success for trial in trials])
    only_random = sum(r and not o for r, o in zip(*outcomes, strict=True))
    only_ours = sum(o and not r for r, o in zip(*outcomes, strict=True))
    assert only_ours > only_random
    assert stats.mcnemar_exact(only_random, only_ours) < 0.001


@pytest.mark.parametrize("variant", ["n", "k"])
def test_a_batch_gives_what_single_items_give(variant: str) -> None:
    # Prompts of 1, 3 and 5 words have one to three free places with "k".
    texts = ("fish", "a fish w20", "a fish w21 w22 w23")
    prompts = [Prompt(f"p{i}", text, "fish", i) for i, text in enumerate(texts)]
    made, budget = attack(variant=variant, spacing=2), Budget(images=4, steps=30, seed=3)
    if variant == "k":
        assert set(made.unfit(toys.vulnerable(), prompts)) == {"p2"}
    together = rounds(made, toys.vulnerable(), prompts[:2], budget)
    for i, prompt in enumerate(prompts[:2]):
        alone = rounds(made, toys.vulnerable(), [prompt], budget)
        assert [r[0].text for r in alone] == [r[i].text for r in together]
        for one, many in zip(alone, together, strict=True):
            assert dict(one[0].trace) == pytest.approx(dict(many[i].trace), rel=1e-4, abs=1e-6)


def test_prompts_and_tokens_that_do_not_fit_are_refused_by_name() -> None:
    prompts = toys.prompts(2)
    assert attack(tokens=7).unfit(toys.robust(), prompts) == {
        prompt.id: "the text encoder takes at most 6 tokens, got 7" for prompt in prompts
    }
    assert rounds(attack(tokens=7), toys.robust(), prompts, Budget(images=3, steps=9)) == []
    assert attack(tokens=6).unfit(toys.robust(), prompts) == {}


@pytest.mark.parametrize("variant", ["n", "k"])
def test_it_runs_on_a_real_pipeline(variant: str) -> None:
    from tests.targets import tiny_target

    target, original = tiny_target(seed=0), tiny_target(seed=1)
    texts = ("a red fish", "a red fish on dark background")
    prompts = [Prompt(f"p{i}", text, "fish", i) for i, text in enumerate(texts)]
    references = original.generate([p.text for p in prompts], [p.seed for p in prompts])
    made = attack(variant=variant, iterations=2)
    if variant == "k":
        made = attack(variant=variant, iterations=2, tokens=2)
    given = toys.aids(prompts, references=references, original=original)
    found = list(made.search(target, prompts, given, Budget(images=3, steps=4)))
    assert [len(r) for r in found] == [2, 2]
    assert all(c.trace["gradient"] > 0 for r in found for c in r)
