"""Relearning: when it looks, what it trains at which times, and that it learns the pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Budget, Pictures
from tests.targets import Variant, tiny_target

NAME = "attacks/weights/relearning"


def pictures() -> Pictures:
    ramp = torch.linspace(0, 1, 16).expand(4, 3, 16, 16)
    return Pictures(ramp.contiguous(), ["a red fish", "a blue fish", "one fish", "the fish"])


def weights(target: Any) -> dict[str, Tensor]:
    return {name: w.detach().clone() for name, w in target.unet.named_parameters()}


def trained(options: dict[str, Any], steps: int, target: Any, seed: int = 0) -> dict[int, Any]:
    """Return each stage's weights by its steps."""
    attack = registry.create(NAME, options)
    stages = attack.stages(target, pictures(), Budget(steps=steps, seed=seed))
    return {stage.steps: weights(stage.target) for stage in stages}


@pytest.mark.parametrize(
    ("every", "steps", "stops"),
    [
        (0, 80, [5, 10, 20, 40, 80]),
        (0, 50, [5, 10, 20, 40, 50]),
        (0, 3, [3]),
        (0, 0, []),
        (10, 30, [10, 20, 30]),
        (10, 25, [10, 20, 25]),
    ],
)
def test_looks_are_doubling_or_even_and_end_with_the_budget(
    every: int, steps: int, stops: list[int]
) -> None:
    assert registry.create(NAME, {"every": every}).stops(steps) == stops


def test_first_stage_is_the_target_and_the_target_stays_as_it_was() -> None:
    target = tiny_target()
    before = weights(target)
    for stage in registry.create(NAME).stages(target, pictures(), Budget(steps=6)):
        assert stage.target is not target
        images = [t.generate(["a fish"], [3]) for t in (target, stage.target)]
        assert torch.equal(*images) == (stage.steps == 0)
        assert not any(w.requires_grad for w in stage.target.unet.parameters())
    assert all(torch.equal(old, weights(target)[name]) for name, old in before.items())


def test_stages_change_nothing_and_the_seed_everything() -> None:
    target = tiny_target("velocity")
    often, once = trained({"every": 1}, 4, target), trained({"every": 4}, 4, target)
    other = trained({"every": 4}, 4, target, seed=1)
    assert list(often) == [0, 1, 2, 3, 4]
    assert all(torch.equal(w, once[4][name]) for name, w in often[4].items())
    assert not all(torch.equal(w, other[4][name]) for name, w in once[4].items())


def test_only_the_chosen_weights_learn() -> None:
    target = tiny_target()
    for part, has in (("attn2.kv", True), ("not attn2", False)):
        found = trained({"train": part, "every": 2}, 2, target)
        moved = {n for n, w in found[2].items() if not torch.equal(w, found[0][n])}
        assert moved
        assert all((".attn2." in name) == has for name in moved)


def test_a_lora_learns_beside_weights_that_stay() -> None:
    target = tiny_target()
    found = trained({"lora": 2, "every": 2}, 2, target)
    moved = {n for n, w in found[2].items() if not torch.equal(w, found[0][n])}
    assert moved
    assert all("lora_" in name for name in moved)
    assert not any("lora_" in name for name, _ in target.unet.named_parameters())


@pytest.mark.parametrize("variant", ["teacher", "student"])
def test_students_are_trained_at_their_samplers_own_times(variant: Variant) -> None:
    target, seen = tiny_target(variant), set()
    answer = type(target).predict

    class Watched(type(target)):  # type: ignore[misc]
        def predict(self, latents: Tensor, t: Tensor, text: Tensor, guidance: Any = None) -> Tensor:
            seen.update(t.tolist())
            return answer(self, latents, t, text, guidance)

    target.__class__ = Watched
    trained({}, 5, target)
    own = set(target.sampler_times)
    assert seen <= own if variant == "student" else len(seen) > 20


@pytest.mark.parametrize("variant", ["teacher", "velocity", "student", "turbo"])
def test_the_pictures_are_learned(variant: Variant) -> None:
    target = tiny_target(variant)
    given = pictures()
    clean, text = target.encode(given.images), target.embed(target.tokenize(given.captions))
    times = torch.tensor(target.sampler_times).repeat_interleave(4)
    clean, text = clean.repeat(len(times) // 4, 1, 1, 1), text.repeat(len(times) // 4, 1, 1)
    noisy = target.process.add(clean, target.start_noise(range(len(times))), times)
    errors = []
    attack = registry.create(NAME, {"lr": 1e-2, "every": 20})
    for stage in attack.stages(target, given, Budget(steps=20)):
        with torch.no_grad():
            pair = (stage.target.x0(noisy, times, text), clean)
        found, goal = (
            target.process.convert(x0, "sample", "v_prediction", noisy, times) for x0 in pair
        )
        errors.append(float((found - goal).square().mean()))
    assert errors[1] < 0.9 * errors[0], errors


@pytest.mark.parametrize("options", [{"lr": 0}, {"batch": 0}, {"lora": -1}, {"every": -1}])
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    message = "^lr and batch must be positive, lora and every 0 or more, got "
    with pytest.raises(ValueError, match=message):
        registry.load(NAME)(**options)


def test_an_unknown_part_is_refused() -> None:
    attack = registry.create(NAME, {"train": "attn3"})
    with pytest.raises(ValueError, match=r"^train must be one of all, attn2, attn2\.kv, not attn2"):
        next(attack.stages(tiny_target(), pictures(), Budget(steps=1)))
