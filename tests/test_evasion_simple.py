"""Noise, shifts, turns, corruptions and what transfers, against what is known of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Budget, SafetyBenchError
from safetybench.vision.ball import sizes
from tests.toys_classifier import digits, linear, rightly, trained

LINF = Budget(epsilon=0.1, steps=5, queries=20)
NONE = torch.zeros(0, dtype=torch.int64)


def made(name: str, **options: Any) -> Any:
    return registry.create(f"attacks/evasion/{name}", options)


def refusal(name: str, **options: Any) -> str:
    with pytest.raises(SafetyBenchError) as caught:
        made(name, **options)
    return str(caught.value)


def moved(name: str, images: Tensor, seed: int = 0, **options: Any) -> Tensor:
    labels = torch.zeros(len(images), dtype=torch.int64)
    found: Tensor = made(name, **options).perturb(linear(), images, labels, Budget(seed=seed))
    return found


def test_noise_is_on_the_surface_and_ends_where_it_fools() -> None:
    toy = linear()
    images, labels = rightly(toy, 8)
    noise = made("random_noise")
    corners = noise.perturb(toy, images, labels, Budget(epsilon=0.01, queries=3))
    assert torch.allclose((corners - images).abs(), torch.tensor(0.01), atol=1e-6)
    sphere = noise.perturb(toy, images, labels, Budget(epsilon=0.01, queries=3, norm="l2"))
    assert torch.allclose(sizes(sphere - images, "l2"), torch.tensor(0.01), atol=1e-6)
    toy.asked = 0
    far = noise.perturb(toy, images, labels, Budget(epsilon=0.3, queries=200))
    assert (toy.logits(far).argmax(1) != labels).all()
    assert toy.asked < 8 * 200
    toy.asked = 0
    noise.perturb(toy, images, labels, Budget(epsilon=0.0))
    assert toy.asked == 8 * 100


def test_more_draws_of_noise_never_fool_less() -> None:
    toy, test = trained(), digits()[1]
    rates = []
    for queries in (1, 10, 100):
        budget = Budget(epsilon=0.15, queries=queries)
        found = made("random_noise").perturb(toy, test.images[:50], test.labels[:50], budget)
        rates.append(float((toy.logits(found).argmax(1) != test.labels[:50]).float().mean()))
    assert rates == sorted(rates)


def test_transfer_runs_on_the_surrogate_alone() -> None:
    toy, other, test = trained(), trained(seed=1), digits()[1]
    images, labels = test.images[:20], test.labels[:20]
    toy.asked = other.asked = 0
    attack = made("transfer", attack="attacks/evasion/fgsm")
    found = attack.perturb(toy, images, labels, LINF, other)
    assert toy.asked == 0
    assert other.asked > 0
    direct = made("fgsm").perturb(other, images, labels, LINF)
    assert torch.equal(found, direct)
    # One that the surrogate misreads is attacked like the others.
    others = (labels + 1) % 10
    found = attack.perturb(toy, images, others, LINF, other)
    assert (sizes(found - images, "linf") > 0).all()


def test_what_transfer_refuses() -> None:
    toy = trained()
    images, labels = digits()[1].images[:2], digits()[1].labels[:2]

    def told(budget: Budget, surrogate: Any, **options: Any) -> str:
        with pytest.raises(SafetyBenchError) as caught:
            made("transfer", **options).perturb(toy, images, labels, budget, surrogate)
        return str(caught.value)

    assert told(LINF, None) == "Transfer needs a surrogate, got none"
    assert told(LINF, toy, attack="attacks/evasion/deepfool") == (
        "attacks/evasion/deepfool is held to l2, got linf"
    )
    assert told(LINF, linear(side=8)) == (
        "surrogate toy must have the classes and shape of toy, "
        "10 and (1, 8, 8), got 4 and (1, 8, 8)"
    )
    for name in ("random_noise", "shift", "transfer"):
        assert refusal("transfer", attack=f"attacks/evasion/{name}").endswith(
            f"attack must be one that looks at the model it runs on, got 'attacks/evasion/{name}'"
        )
    assert refusal("transfer", attack="attacks/prompts/p4d") == (
        "attacks/evasion/transfer: attack must be one of attacks/evasion, got 'attacks/prompts/p4d'"
    )


def test_a_shift_moves_by_so_many_pixels_and_repeats_the_edge() -> None:
    ramp = torch.arange(16.0).reshape(1, 1, 4, 4).expand(60, 1, 4, 4) / 16
    found = moved("shift", ramp, pixels=1)
    up, left = ramp[0, 0][[1, 2, 3, 3]], ramp[0, 0][:, [0, 0, 1, 2]]
    assert any(torch.equal(image[0], up) for image in found)
    assert any(torch.equal(image[0], left) for image in found)
    assert len({tuple(image.flatten().tolist()) for image in found}) == 8
    assert not any(torch.equal(image, ramp[0]) for image in found)
    assert not torch.equal(moved("shift", ramp, seed=1), moved("shift", ramp))
    assert refusal("shift", pixels=0) == ("attacks/evasion/shift: pixels must be 1 or more, got 0")


def test_a_rotation_turns_both_ways_and_keeps_lengths() -> None:
    flat = torch.full((4, 3, 6, 9), 0.3)
    assert torch.allclose(moved("rotation", flat), flat)
    line = torch.zeros(20, 1, 33, 65)
    line[:, :, 16, :] = 1  # a level line: how steep it comes out is the angle
    found = moved("rotation", line, degrees=20)
    columns = torch.tensor([22, 42])
    rows = torch.arange(33.0)[:, None]
    heights = (found[:, 0, :, columns] * rows).sum(1) / found[:, 0, :, columns].sum(1)
    angles = torch.atan2(heights[:, 1] - heights[:, 0], torch.tensor(20.0)).rad2deg()
    assert angles.abs().max() <= 21
    assert angles.max() > 5
    assert angles.min() < -5
    assert refusal("rotation", degrees=0) == (
        "attacks/evasion/rotation: degrees must be in (0, 180], got 0"
    )


@pytest.mark.parametrize("kind", ["gaussian_noise", "blur", "contrast", "brightness", "fog"])
def test_a_corruption_grows_with_its_severity(kind: str) -> None:
    images = digits()[1].images[:30]
    dyed = torch.cat([images, images / 2, 1 - images], dim=1)
    for given in (images, dyed):
        grown = [
            sizes(moved("corruption", given, kind=kind, severity=severity) - given, "l2").mean()
            for severity in range(1, 6)
        ]
        assert grown == sorted(grown)
        assert grown[0] > 0
    assert torch.equal(
        moved("corruption", images, kind=kind), moved("corruption", images, kind=kind)
    )


def test_corruptions_by_hand() -> None:
    flat = torch.full((2, 1, 8, 8), 0.4)
    assert torch.allclose(moved("corruption", flat, kind="blur", severity=5), flat)
    assert torch.allclose(moved("corruption", flat, kind="contrast", severity=5), flat)
    brighter = moved("corruption", flat, kind="brightness", severity=3)
    assert torch.allclose(brighter, flat + 0.15)
    noisy = moved("corruption", torch.full((9, 3, 16, 16), 0.5), severity=2)
    assert float(noisy.std()) == pytest.approx(0.06, rel=0.05)
    point = torch.zeros(1, 1, 9, 9)
    point[..., 4, 4] = 1
    blurred = moved("corruption", point, kind="blur", severity=5)
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-3)
    assert float(blurred[0, 0, 4, 4]) == pytest.approx(0.3989**2, rel=0.01)  # of sigma 1
    fogged = moved("corruption", flat, kind="fog", severity=5)
    assert fogged.max() <= 0.4 + 1e-6
    assert fogged.std() > 0.01


def test_what_a_corruption_refuses() -> None:
    assert refusal("corruption", kind="snow") == (
        "attacks/evasion/corruption: kind must be one of "
        "gaussian_noise, blur, contrast, brightness, fog, got 'snow'"
    )
    assert refusal("corruption", severity=6) == (
        "attacks/evasion/corruption: severity must be in [1, 5], got 6"
    )
