"""Attacks through ART, against closed forms on a linear target and against ART's own traps."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from safetybench import registry
from safetybench.contracts import Budget, SafetyBenchError
from safetybench.vision.ball import sizes
from safetybench.vision.evading import evade
from tests.toys_classifier import Toy, digits, linear, rightly, trained


def made(name: str, **options: Any) -> Any:
    return registry.create(f"attacks/evasion/{name}", options)


def refusal(name: str, **options: Any) -> str:
    with pytest.raises(SafetyBenchError) as caught:
        made(name, **options)
    return str(caught.value)


def gaps(toy: Toy, images: Tensor, labels: Tensor, order: float) -> Tensor:
    """Return the distance to the nearest boundary of a linear toy, in the norm dual to `order`."""
    net: Any = toy.net
    weight, logits = net[1].weight.detach(), toy.logits(images).detach()
    lead = logits.gather(1, labels[:, None]) - logits
    apart = (weight[labels][:, None] - weight[None]).norm(p=order, dim=2)
    found: Tensor = (
        (lead / apart).nan_to_num(nan=math.inf).scatter(1, labels[:, None], math.inf).amin(1)
    )
    return found


class Scaled(nn.Module):
    """A network whose logits are so far apart that a softmax of them is 0 or 1."""

    def __init__(self, net: nn.Module, scale: float) -> None:
        super().__init__()
        self.net, self.scale = net, scale

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.scale * self.net(images)
        return found


class Wavers(nn.Module):
    """A network that says another class each time."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.randn(len(images), 4) + 0 * images.sum()


class Settled(nn.Module):
    """A network that says one class of everything; with a slope, one that is no number."""

    def __init__(self, has_slope: bool) -> None:
        super().__init__()
        self.has_slope = has_slope

    def forward(self, images: Tensor) -> Tensor:
        still = torch.tensor([1.0, 0, 0, 0]).expand(len(images), 4)
        return still + (images.sum() - images.sum()).sqrt() if self.has_slope else still


def test_fgsm_is_one_step_of_the_loss_s_gradient() -> None:
    toy = linear()
    images, labels = rightly(toy, 70)  # more than a batch of ART's
    free = images.clone().requires_grad_()
    nn.functional.cross_entropy(toy.logits(free), labels, reduction="sum").backward()
    assert free.grad is not None
    found = made("fgsm").perturb(toy, images, labels, Budget(epsilon=0.1))
    assert torch.allclose(found, images + 0.1 * free.grad.sign(), atol=1e-6)
    found = made("fgsm").perturb(toy, images, labels, Budget(epsilon=0.1, norm="l2"))
    unit = free.grad / free.grad.flatten(1).norm(dim=1)[:, None, None, None]
    assert torch.allclose(found, images + 0.1 * unit, atol=1e-5)


def test_fgsm_with_a_temperature_sees_through_a_saturated_softmax() -> None:
    plain = trained()
    toy = Toy(Scaled(plain.net, 1000), 10, (1, 8, 8))
    images, labels = digits()[1].images[:50], digits()[1].labels[:50]
    budget = Budget(epsilon=0.15, steps=1)
    rate = {
        temperature: float(
            evade(made("fgsm", temperature=temperature), toy, images, labels, budget)
            .is_wrong.float()
            .mean()
        )
        for temperature in (1.0, 1000.0, 0.0)
    }
    base = float(evade(made("fgsm"), plain, images, labels, budget).is_wrong.float().mean())
    assert rate[1.0] < 0.3
    assert rate[1000.0] == pytest.approx(base, abs=0.05)
    assert rate[0.0] >= base - 0.1
    assert base > 0.5
    assert refusal("fgsm", temperature=-1) == (
        "attacks/evasion/fgsm: temperature must be positive, or 0 for each image's, got -1"
    )


def test_deepfool_finds_the_nearest_boundary_of_a_linear_target() -> None:
    toy = linear()
    images, labels = rightly(toy, 16)
    found = made("deepfool").perturb(toy, images, labels, Budget(steps=100, norm="l2"))
    assert (toy.logits(found).argmax(1) != labels).all()
    near = gaps(toy, images, labels, 2)
    assert torch.allclose(sizes(found - images, "l2"), 1.02 * near, rtol=0.01, atol=1e-3)
    assert refusal("deepfool", overshoot=-1) == (
        "attacks/evasion/deepfool: overshoot must be 0 or more, got -1"
    )
    assert refusal("deepfool", classes=1) == (
        "attacks/evasion/deepfool: classes must be 2 or more, got 1"
    )


def test_carlini_wagner_finds_the_nearest_boundary_of_a_linear_target() -> None:
    toy = linear()
    images, labels = rightly(toy, 16)
    found = made("carlini_wagner_linf").perturb(toy, images, labels, Budget(steps=500))
    assert (toy.logits(found).argmax(1) != labels).all()
    near = gaps(toy, images, labels, 1)
    ratio = sizes(found - images, "linf") / near
    assert ratio.min() >= 0.999
    assert ratio.mean() < 1.05
    for options, told in (
        ({"rate": 0}, "rate must be in (0, 1], got 0"),
        ({"shrink": 1}, "shrink must be in (0, 1), got 1"),
        ({"patience": 0}, "patience must be 1 or more, got 0"),
    ):
        assert refusal("carlini_wagner_linf", **options) == (
            f"attacks/evasion/carlini_wagner_linf: {told}"
        )


def test_carlini_wagner_needs_no_softmax_and_is_nearer_than_art_s() -> None:
    images, labels = digits()[1].images[:6], digits()[1].labels[:6]
    plain = trained()
    toy = Toy(Scaled(plain.net, 1000), 10, (1, 8, 8))
    ours = evade(made("carlini_wagner_linf"), plain, images, labels, Budget(steps=200))
    hidden = evade(made("carlini_wagner_linf"), toy, images, labels, Budget(steps=200))
    assert ours.is_wrong.all()
    assert hidden.is_wrong.all()
    assert float(hidden.linf.mean()) < 1.1 * float(ours.linf.mean())
    theirs = made("art", method="CarliniLInfMethod", options={"initial_const": 10.0}).perturb(
        plain, images, labels, Budget(steps=50, epsilon=1.0)
    )
    size = sizes(theirs - images, "linf")
    assert size.any()
    assert (size[size > 0] > 1.5 * ours.linf[size > 0]).all()


@pytest.mark.parametrize(
    ("name", "norm", "order", "worst"),
    [("hop_skip_jump", "l2", 2, 1.4), ("hop_skip_jump", "linf", 1, 1.6), ("boundary", "l2", 2, 2)],
)
def test_a_search_by_decisions_comes_near_and_keeps_its_queries(
    name: str, norm: Any, order: float, worst: float
) -> None:
    toy = linear()
    images, labels = rightly(toy, 6)
    toy.asked = 0
    found = made(name).perturb(toy, images, labels, Budget(queries=1500, norm=norm))
    assert toy.asked <= 6 * 1500
    assert (toy.logits(found).argmax(1) != labels).all()
    ratio = sizes(found - images, norm) / gaps(toy, images, labels, order)
    assert ratio.min() >= 1
    assert ratio.mean() < worst


@pytest.mark.parametrize("name", ["hop_skip_jump", "boundary"])
def test_a_search_by_decisions_ends(name: str) -> None:
    images, labels = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.int64)
    budget = Budget(queries=300, norm="l2")
    toy = Toy(Wavers(), 4, (1, 4, 4))  # ART alone would halve a step for ever
    made(name).perturb(toy, images, labels, budget)
    assert toy.asked <= 2 * 300
    toy = Toy(Settled(False), 4, (1, 4, 4))
    assert torch.equal(made(name).perturb(toy, images, labels, budget), images)
    assert toy.asked == 2 * 100
    one = Budget(queries=1, norm="l2")
    assert torch.equal(made(name).perturb(linear(), images, labels, one), images)


def test_what_searches_by_decisions_refuse() -> None:
    assert refusal("hop_skip_jump", slope_queries=0) == (
        "attacks/evasion/hop_skip_jump: slope_queries must be 1 or more, got 0"
    )
    assert refusal("boundary", around=0) == (
        "attacks/evasion/boundary: around must be in (0, 1), got 0"
    )
    assert refusal("boundary", towards=1) == (
        "attacks/evasion/boundary: towards must be in (0, 1), got 1"
    )


@pytest.mark.parametrize("name", ["fgsm", "deepfool", "art"])
def test_a_target_without_a_gradient_is_told(name: str) -> None:
    images, labels = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.int64)
    budget = Budget(epsilon=0.1, steps=2, norm="l2")

    def told(has_slope: bool) -> str:
        toy = Toy(Settled(has_slope), 4, (1, 4, 4))
        with pytest.raises(SafetyBenchError) as caught:
            made(name).perturb(toy, images, labels, budget)
        return str(caught.value)

    assert told(False) == (
        "the logits of toy have no gradient; attack it by scores or decisions instead"
    )
    assert told(True) == (
        "the gradient of toy is no number; attack it by scores or decisions instead"
    )


def test_the_generators_are_restored_after_a_failure_too() -> None:
    images, labels = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.int64)
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    with pytest.raises(SafetyBenchError):
        made("fgsm").perturb(
            Toy(Settled(False), 4, (1, 4, 4)), images, labels, Budget(epsilon=0.1, seed=-1)
        )
    drawn = random.random(), float(np.random.rand()), float(torch.rand(()))
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    assert drawn == (random.random(), float(np.random.rand()), float(torch.rand(())))


@pytest.mark.parametrize("name", ["fgsm", "deepfool", "hop_skip_jump", "carlini_wagner_linf"])
def test_two_classes_are_enough(name: str) -> None:
    toy = linear(classes=2)
    images, labels = rightly(toy, 4)
    attack = made(name)
    budget = Budget(epsilon=0.3 if name == "fgsm" else 0, queries=200, norm=attack.norms[0])
    found = attack.perturb(toy, images, labels, budget)
    assert (toy.logits(found).argmax(1) != labels).all()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("ProjectedGradientDescent", {}),
        ("MomentumIterativeMethod", {}),
        ("AutoProjectedGradientDescent", {"loss_type": "difference_logits_ratio"}),
        ("SquareAttack", {"max_iter": 300}),
        ("CarliniL2Method", {}),
        ("AutoAttack", {}),
    ],
)
def test_attacks_of_art_by_name(
    method: str, options: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    toy, test = trained(), digits()[1]
    attack = made("art", method=method, options=options)
    # One that is minimal is cut to the ball, so that it gets a large one.
    budget = Budget(epsilon=1.0 if method == "CarliniL2Method" else 0.4, steps=10, seed=2)
    found = evade(attack, toy, test.images[:8], test.labels[:8], budget)
    assert found.is_wrong.float().mean() > 0.7
    assert found.linf.max() <= budget.epsilon + 1e-5
    again = evade(attack, toy, test.images[:8], test.labels[:8], budget)
    assert torch.equal(found.images, again.images)
    assert capfd.readouterr() == ("", "")


def test_what_art_refuses() -> None:
    assert refusal("art", method="ProjectedGradientDecent") == (
        "attacks/evasion/art: method must be an evasion attack of ART, "
        "got 'ProjectedGradientDecent'; did you mean 'ProjectedGradientDescent'?"
    )
    assert refusal("art", method="HopSkipJump") == (
        "attacks/evasion/art: method must draw from a seed, got 'HopSkipJump'; "
        "use attacks/evasion/hop_skip_jump"
    )
    assert refusal("art", method="FastGradientMethod", options={"minimall": True}) == (
        "attacks/evasion/art: options must be of ART's FastGradientMethod, got 'minimall'; "
        "did you mean 'minimal'? it takes eps_step, num_random_init, batch_size, minimal"
    )
    assert "got 'eps'" in refusal("art", options={"eps": 0.1})
    toy = linear()
    images, labels = rightly(toy, 2)
    with pytest.raises(SafetyBenchError) as caught:
        made("art", options={"batch_size": 0}).perturb(toy, images, labels, Budget(epsilon=0.1))
    assert str(caught.value) == (
        "ART's ProjectedGradientDescent on toy: The batch size `batch_size` has to be positive."
    )
    with pytest.raises(SafetyBenchError, match="ART's LowProFool on toy: No feature importance"):
        made("art", method="LowProFool").perturb(toy, images, labels, Budget(epsilon=0.1))


def test_art_with_epsilon_0_changes_nothing() -> None:
    toy = linear()
    images, labels = rightly(toy, 2)
    assert torch.equal(made("art").perturb(toy, images, labels, Budget(steps=3)), images)
