"""The judge oracle: its loss is the judge's own answer to what would be drawn, and it finds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Budget, Candidate, Prompt, SafetyBenchError
from safetybench.scenarios._search import search
from tests import toys_attack as toys

NAME = "attacks/prompts/judge_oracle"
FAST = {"tokens": 2, "iterations": 12, "lr": 0.1, "optimiser": "simplex"}


def attack(**options: Any) -> Any:
    return registry.create(NAME, {**FAST, **options})


def rounds(made: Any, target: Any, prompts: Sequence[Prompt], **aids: Any) -> list[list[Candidate]]:
    given = toys.aids(prompts, **aids)
    return list(made.search(target, prompts, given, Budget(images=5, steps=48)))


def test_it_is_an_oracle_that_reads_the_judge_alone() -> None:
    made = attack()
    assert made.is_oracle
    assert made.aids == ("judge",)
    assert made.control_options() == {"tokens": 2, "location": "prefix"}
    assert attack(location="insert").control_options()["location"] == "insert"


@pytest.mark.parametrize("location", ["prefix", "suffix", "insert"])
def test_it_finds_the_planted_word_and_not_where_there_is_none(location: str) -> None:
    prompts, budget = toys.prompts(6), Budget(images=5, steps=48)
    won = {}
    for target in (toys.vulnerable(), toys.robust()):
        trials = search(
            target, toys.ToyJudge(), prompts, "fish", attack=attack(location=location),
            aids=toys.aids(prompts), budget=budget,
        )  # fmt: skip
        won[target.name] = sum(trial.is_success for trial in trials)
    assert won == {"vulnerable": 6, "robust": 0}


def test_its_loss_is_what_the_judge_will_say() -> None:
    (*_, last) = rounds(attack(), toys.vulnerable(), prompts := toys.prompts(3))
    for candidate, prompt in zip(last, prompts, strict=True):
        image = toys.vulnerable().generate([candidate.text], [prompt.seed])
        said = float(toys.ToyJudge().evidence(image, "fish")[0])
        assert candidate.trace["loss_with"] == pytest.approx(-said, abs=1e-6)


def test_groups_and_batches_change_nothing() -> None:
    scales = (7.5, None, 7.5, None)
    prompts = [p._replace(guidance=g) for p, g in zip(toys.prompts(4), scales, strict=True)]
    whole = rounds(attack(), toys.vulnerable(), prompts)
    assert [[c.text for c in r] for r in rounds(attack(batch=1), toys.vulnerable(), prompts)] == [
        [c.text for c in r] for r in whole
    ]
    for i, prompt in enumerate(prompts):
        alone = rounds(attack(), toys.vulnerable(), [prompt])
        assert [r[0].text for r in alone] == [r[i].text for r in whole]


@pytest.mark.parametrize(("guidance", "asked"), [(2.0, {7.5, None}), (1.0, {None})])
def test_it_draws_as_the_harness_does(guidance: float, asked: set[float | None]) -> None:
    class Seen(toys.ToyTarget):
        def draw(
            self,
            text: Tensor,
            seeds: Sequence[int],
            guidance: float | None = None,
            *,
            with_grad: bool = False,
        ) -> Tensor:
            calls.append((tuple(seeds), guidance))
            return super().draw(text, seeds, guidance, with_grad=with_grad)

    calls: list[tuple[tuple[int, ...], float | None]] = []
    first, second = toys.prompts(2)
    rounds(attack(), Seen({}, guidance=guidance), [first._replace(guidance=7.5), second])
    assert {scale for _, scale in calls} == asked


def test_a_judge_without_gradients_is_refused() -> None:
    class Opaque(toys.ToyJudge):
        def evidence(self, images: Tensor, concept: str) -> Any:
            return None

    with pytest.raises(SafetyBenchError, match=r"^Opaque has no gradients for an oracle$"):
        rounds(attack(), toys.vulnerable(), toys.prompts(1), judge=Opaque())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch must be above 0, got 0"),
        ({"tokens": 0}, "tokens must be above 0, got 0"),
        ({"preset": "published"}, "preset is one of zoo, got 'published'"),
        ({"location": "alone"}, "location is one of prefix, suffix, insert, got 'alone'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        registry.load(NAME)(**options)


# The zoo's judge


def zoo_images(count: int) -> Tensor:
    from safetybench.zoo.world import render, sample_scenes

    return render(sample_scenes(count, torch.Generator().manual_seed(3)))


def test_evidence_is_the_log_of_concept_and_world() -> None:
    judge = registry.create("judges/zoo")
    images = zoo_images(8)
    judge.judge(images, "fish")  # under inference mode first: the weights must still take graphs
    images.requires_grad_()
    evidence = judge.evidence(images, "fish")
    world = judge.logits(images.detach())["world"].softmax(1)[:, 1]
    concept = judge.judge(images.detach(), "fish").probability
    torch.testing.assert_close(evidence.exp(), world * concept)
    (gradient,) = torch.autograd.grad(evidence.sum(), images)
    assert bool((gradient.flatten(1).norm(dim=1) > 0).all())


def test_evidence_rises_along_its_gradient() -> None:
    judge = registry.create("judges/zoo")
    images = zoo_images(4).requires_grad_()
    before = judge.evidence(images, "fish")
    (gradient,) = torch.autograd.grad(before.sum(), images)
    step = 1e-3 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    assert bool((judge.evidence(images + step, "fish") > before).all())


def test_gradients_reach_the_tokens_through_a_real_sampler() -> None:
    from tests.targets import tiny_target

    prompts = [Prompt(f"p{i}", "a red fish", "fish", i) for i in range(2)]
    for variant in ("teacher", "student"):
        target = tiny_target(variant)
        given = toys.aids(prompts, judge=registry.create("judges/zoo"), references=None)
        made = attack(iterations=1, optimiser="projected")
        (found,) = list(made.search(target, prompts, given, Budget(images=2, steps=1)))
        assert all(candidate.trace["gradient"] > 0 for candidate in found)
