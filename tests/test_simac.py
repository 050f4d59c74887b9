"""SimAC: which times are kept, for whom, and what is climbed at them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Album, Budget
from safetybench.draws import Streams
from safetybench.pixels import is_rounded
from safetybench.targets import personalise
from tests.targets import Variant, tiny_target

NAME = "defenses/images/simac"
SMALL = {"class_prompt": "", "batch": 2, "prompt": "a red shape", "pgd_steps": 2}
BUDGET = Budget(epsilon=8 / 255, steps=4)


def album(count: int = 2) -> Album:
    rng = torch.Generator().manual_seed(3)
    levels = torch.randint(0, 256, (count, 3, 16, 16), generator=rng)
    return Album(images=levels / 255, ids=tuple(f"i{k}" for k in range(count)))


def made(**options: Any) -> Any:
    return registry.create(NAME, {**SMALL, **options})


def greedy(slope: Any, ids: tuple[str, ...], **options: Any) -> list[Tensor]:
    """Choose times of 1000 for flat images, which a step makes brighter."""
    from importlib import import_module

    found: list[Tensor] = import_module("safetybench.defenses.images._greedy").greedy_times(
        slope,
        lambda images, gradient: images + 0.01 * gradient.sign(),
        torch.zeros(len(ids), 3, 2, 2),
        torch.arange(1000),
        Streams(0, list(ids)),
        **{"keep": 100, "window": 40, "probes": 5, **options},
    )
    return found


def falling(images: Tensor, t: Tensor) -> Tensor:
    """Return a gradient that is larger the less noise there is."""
    return (1000.0 - t).view(-1, 1, 1, 1).expand_as(images)


def test_times_of_large_gradients_are_kept() -> None:
    (kept,) = greedy(falling, ("a",))
    assert 60 < len(kept) <= 100
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert float(kept.float().mean()) < 200
    (other,) = greedy(lambda images, t: falling(images, 1000 - t), ("a",))
    assert float(other.float().mean()) > 800


def test_with_every_time_probed_the_least_goes_first() -> None:
    # So many probes see every time there is, so that nothing is left to chance.
    (kept,) = greedy(falling, ("a",), keep=998, window=1, probes=9000)
    assert kept.tolist() == list(range(998))


def test_no_more_times_than_are_kept_is_no_choice() -> None:
    def never(images: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("nothing was to be probed")

    (kept,) = greedy(never, ("a",), keep=1000)
    assert kept.tolist() == list(range(1000))


def test_an_image_climbs_between_rounds_until_its_times_are_chosen() -> None:
    seen: list[Tensor] = []

    def slope(images: Tensor, t: Tensor) -> Tensor:
        seen.append(images[:, 0, 0, 0].clone())
        return falling(images, t)

    together = greedy(slope, ("a", "b"), probes=2)
    rounds = torch.stack(seen)[::2]  # (rounds, images)
    assert torch.allclose(rounds[:5, 0], 0.01 * torch.arange(5))
    for name, kept in zip(("a", "b"), together, strict=True):
        (alone,) = greedy(falling, (name,), probes=2)
        assert torch.equal(alone, kept)
    assert not torch.equal(*together) or len(together[0]) != len(together[1])


@pytest.mark.parametrize("variant", ["teacher", "velocity"])
def test_every_image_has_times_of_its_own_whatever_its_batch(variant: Variant) -> None:
    target, given = tiny_target(variant), album(3)
    maker = made(keep=880, probes=2)
    kept = maker.times(target, given, BUDGET)
    assert len(kept) == 3
    assert all(840 < len(own) <= 880 for own in kept)
    again = maker.times(target, given, BUDGET)
    assert all(torch.equal(*pair) for pair in zip(kept, again, strict=True))
    for k in range(3):
        (alone,) = maker.times(target, given.only(k, k + 1), BUDGET)
        assert torch.equal(alone, kept[k])
    other = maker.times(target, given, Budget(epsilon=8 / 255, steps=4, seed=1))
    assert not all(map(torch.equal, kept, other))


def test_a_student_keeps_its_own_times() -> None:
    target = tiny_target("student")
    (kept, _) = made().times(target, album(), BUDGET)
    assert kept.tolist() == sorted(target.sampler_times)


@pytest.mark.parametrize("feature_grad", [False, True])
def test_climbs_at_the_kept_times_alone(feature_grad: bool) -> None:
    target, given = tiny_target("velocity"), album()
    maker = made(keep=960, probes=1, feature_grad=feature_grad)
    allowed = [set(own.tolist()) for own in maker.times(target, given, BUDGET)]
    climb = maker.climb(target, given, BUDGET)
    seen: list[Tensor] = []
    turns: Any = getattr(climb, "__self__")  # noqa: B009
    plain = turns.loss

    def loss(twin: Any, latents: Tensor, text: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        found: Tensor = plain(twin, latents, text, noise, t)
        return found

    turns.loss = loss
    for step in range(4):
        climb(given.images, step)
    assert len(seen) == 4
    assert all(int(t[i]) in allowed[i] for t in seen for i in range(2))


def test_features_of_the_clean_image_are_no_further_loss() -> None:
    target, given = tiny_target("velocity"), album()
    options = {"keep": 1000, "surrogate_steps": 0}
    plain, both = (
        made(**options, feature_grad=on, feature_weight=5.0).climb(target, given, BUDGET)
        for on in (False, True)
    )
    moved = given.with_images((given.images + 0.1).clamp(0, 1))
    (start, first), (same, second) = plain(given.images, 0), both(given.images, 0)
    assert torch.allclose(first, second)
    assert torch.allclose(start, same, atol=1e-6 * float(start.abs().max()))
    (slope, low), (steeper, high) = plain(moved.images, 1), both(moved.images, 1)
    assert (high > low).all()
    assert not torch.allclose(slope, steeper, rtol=1e-2)
    assert not target.unet.up_blocks[-1].resnets[0]._forward_hooks


def fresh_loss(target: Any, images: Tensor) -> Tensor:
    """Return the mean error of images at times and noises that no climb saw, (batch,)."""
    rng = torch.Generator().manual_seed(99)
    shown = personalise.examples_of(target, images, ["a red shape"] * len(images))
    text, found = target.embed(shown.tokens), []
    for _ in range(24):
        noise = torch.randn(shown.latents.shape, generator=rng)
        t = personalise.drawn_times(target, len(images), rng)
        found.append(personalise.errors(target, shown.latents, text, noise, t))
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("feature_grad", [False, True])
def test_protected_images_are_harder_to_learn_than_noisy_ones(feature_grad: bool) -> None:
    target, given = tiny_target("velocity"), album(3)
    budget = Budget(epsilon=16 / 255, steps=24)
    noisy = registry.create("defenses/images/sign_noise").protect(None, given, budget)
    maker = made(pgd_steps=6, surrogate_steps=1, keep=800, feature_grad=feature_grad)
    guarded = maker.protect(target, given, budget)
    assert is_rounded(guarded)
    assert float((guarded - given.images).abs().max()) <= 16 / 255 + 1e-6
    clean, floor, reached = (fresh_loss(target, i) for i in (given.images, noisy, guarded))
    assert ((reached - clean) > 2 * (floor - clean).abs()).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 101}, "window must be from 1 to keep and probes 1 or more, got 101 of 100 "
                          "and 5"),
        ({"probes": 0}, "window must be from 1 to keep and probes 1 or more, got 40 of 100 and 0"),
        ({"feature_weight": 0.0}, "feature_weight must be above 0, got 0"),
        ({"rate": 3.0}, "rate must be a step in (0, 2] times epsilon, got 3.0"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=NAME) as caught:
        registry.create(NAME, options)
    assert str(caught.value) == f"{NAME}: {message}"
