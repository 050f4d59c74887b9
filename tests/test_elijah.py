"""Elijah: its loss, where its search ends on models of known answer, its score, its removal."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from safetybench import registry
from safetybench.contracts import Budget, ModelDetector
from safetybench.zoo.unconditional import world_images
from tests.toys_unconditional import SIZE, Formula, box, tiny_unconditional

NAME = "defenses/triggers/elijah"
SHARED: Any = importlib.import_module("safetybench.defenses.triggers._inversion")
BUDGET = Budget(steps=240, images=48)


def detector(**options: Any) -> Any:
    return registry.create(NAME, {"batch": 8, **options})


def test_is_a_registered_detector_without_a_base() -> None:
    made = registry.create(NAME)
    assert isinstance(made, ModelDetector)
    assert not made.uses_base
    assert eval(repr(made), {"Elijah": type(made)}) == made


def test_the_loss_is_the_published_one() -> None:
    target, trigger = tiny_unconditional(), box(0.7)
    noise = target.start_noise(range(5))
    said = torch.stack([target.predict(z[None] + trigger, torch.tensor([99]))[0] for z in noise])
    wanted = (said.mean(0) - 0.4 * trigger).abs().mean()
    found = detector(shift=0.4).loss(target, noise, trigger)
    assert float(found) == pytest.approx(float(wanted), rel=1e-4)


def test_the_search_finds_the_trigger_that_a_model_hands_on() -> None:
    # A backdoored answer is r / 2 on triggered noise, so tau = r is the only zero of the loss.
    target = Formula(lambda x, t: 0.5 * box().expand_as(x) + 0 * x, wakes=box())
    found = detector().invert(target, BUDGET)
    assert len(found.candidates) == 3
    for each in found.candidates:
        assert torch.allclose(each.trigger, box(), atol=0.15)
        assert each.uniformity == pytest.approx(0, abs=1e-6)
    assert found.clean > 0.1
    told = detector().examine(target, None, BUDGET)
    assert told.score == pytest.approx(1, abs=1e-6)
    assert [name for name, _ in told.evidence] == ["start negative", "start positive", "start both"]


def test_a_model_without_a_backdoor_scores_nothing() -> None:
    # A clean denoiser takes noise for noise: e(z + tau) = z + tau, so the search returns to 0.
    target = Formula(lambda x, t: x)
    found = detector(batch=64).invert(target, BUDGET)
    assert abs(found.score) < 0.1
    assert max(float(each.trigger.abs().mean()) for each in found.candidates) < 0.4


def test_the_budget_is_shared_and_kept() -> None:
    target, steps = tiny_unconditional(), []
    detector(sampler="ddim-1").invert(
        target, Budget(steps=9, images=12), lambda step, loss: steps.append(step)
    )
    assert target.nfe == 9 * 8 + 4 * 3
    assert steps == [0, 0, 0]
    with pytest.raises(ValueError) as told:  # noqa: PT011  # matched whole below
        detector().invert(target, Budget(steps=2, images=12))
    assert str(told.value) == (
        "budget must have a step for each of 3 starts and three images for each and for clean "
        "noise, got 2 steps, 12 images"
    )


def test_same_seed_same_answer() -> None:
    target = tiny_unconditional()
    made = detector(sampler="ddim-1", starts=("positive",))
    found = [made.invert(target, Budget(steps=4, images=8, seed=s)) for s in (1, 1, 2)]
    triggers = [each.candidates[0].trigger for each in found]
    assert torch.equal(triggers[0], triggers[1])
    assert not torch.equal(triggers[0], triggers[2])


def test_uniformity_of_three_images_and_of_equal_ones() -> None:
    images = torch.stack([torch.full((3, 2, 2), v) for v in (0.0, 0.3, 0.9)])
    # Mean distances with the image itself: 0.4, 0.3 and 0.5.
    assert SHARED.uniformity(images, skip=0) == pytest.approx(0.4, abs=1e-4)
    assert SHARED.uniformity(images[:1].repeat(6, 1, 1, 1)) == pytest.approx(0, abs=1e-6)
    # A quarter of outliers does not move the trimmed mean of the rest.
    many = torch.cat([torch.zeros(12, 3, 2, 2), torch.ones(3, 3, 2, 2)])
    assert SHARED.uniformity(many) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("negative", -1, 0), ("positive", 0, 1), ("both", -1, 1)]
)
def test_starts_are_where_they_say(kind: Any, low: float, high: float) -> None:
    drawn = SHARED.start(kind, (3, 16, 16), torch.Generator().manual_seed(0))
    assert low <= float(drawn.min()) < low + 0.1
    assert high - 0.1 < float(drawn.max()) <= high


def test_removal_answers_triggered_noise_as_clean_noise() -> None:
    target = tiny_unconditional()
    images, trigger = world_images(32, 0, SIZE), box(4.0)
    before = [w.clone() for w in target.unet.parameters()]
    made = detector(removal_lr=2e-3, removal_batch=8)
    found = made.remove(target, trigger, images, Budget(steps=40))
    assert all(torch.equal(a, b) for a, b in zip(before, target.unet.parameters(), strict=True))
    noise, t = target.start_noise(range(16)), torch.full((16,), 99)
    with torch.no_grad():
        wanted = target.predict(noise, t)
        apart = [(m.predict(noise + trigger, t) - wanted).square().mean() for m in (target, found)]
    assert float(apart[1]) < 0.7 * float(apart[0])


def test_removals_loss_is_the_sum_of_three() -> None:
    target, images, trigger = tiny_unconditional(), world_images(8, 0, SIZE), box()
    told: list[float] = []
    detector(removal_batch=4).remove(
        target, trigger, images, Budget(steps=1, seed=2), lambda step, loss: told.append(loss)
    )
    rng = torch.Generator().manual_seed(2 * 1_000_003)
    x = images[torch.randint(8, (4,), generator=rng)] * 2 - 1
    t = torch.randint(100, (4,), generator=rng)
    noise = torch.randn(x.shape, generator=rng)
    fresh = torch.randn(x.shape, generator=rng)
    with torch.no_grad():
        last = torch.full((4,), 99)
        clean = target.predict(target.process.add(x, noise, t), t) - noise
        moved = target.predict(fresh + trigger, last) - target.predict(fresh, last)
    # The third term, clean noise against the frozen model's, is 0 before the first step.
    assert told == [pytest.approx(float(clean.square().mean() + moved.square().mean()), rel=1e-4)]


def test_options_are_checked() -> None:
    kind: Any = registry.load(NAME)
    with pytest.raises(ValueError, match=r"negative, positive, both, got \['zero'\]"):
        kind(starts=("zero",))
    with pytest.raises(ValueError, match="starts are of negative, positive, both, got none"):
        kind(starts=())
    with pytest.raises(ValueError) as told:  # noqa: PT011  # matched whole below
        kind(shift=0)
    assert str(told.value) == (
        "shift, lr, batch, removal_lr and removal_batch must be positive, got 0, 0.1, 100, "
        "0.0002, 64"
    )
