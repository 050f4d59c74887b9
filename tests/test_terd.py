"""TERD: its loss in closed form, where its search ends on a model of known answer, its scores."""

from __future__ import annotations

import importlib
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from safetybench import registry
from safetybench.contracts import Budget, ModelDetector
from tests.toys_unconditional import SIZE, Formula, box, tiny_unconditional

NAME = "defenses/triggers/terd"
MODULE: Any = importlib.import_module("safetybench.defenses.triggers.terd")


def detector(**options: Any) -> Any:
    return registry.create(NAME, options)


def test_is_a_registered_detector_without_a_base() -> None:
    made = registry.create(NAME)
    assert isinstance(made, ModelDetector)
    assert not made.uses_base
    assert eval(repr(made), {"Terd": type(made)}) == made


def test_the_loss_of_a_linear_model_knows_neither_image_nor_trigger() -> None:
    # e(x) = k x: image and trigger cancel, (1 - k sigma)^2 |e1 - e2|^2 / 2 stays.
    target = Formula(lambda x, t: 0.6 * x)
    t = torch.tensor([95, 99])
    x = torch.rand(2, 3, SIZE, SIZE)
    found = detector().loss(target, x, box(5.0), t, torch.Generator().manual_seed(1))
    rng = torch.Generator().manual_seed(1)
    first, second = (torch.randn(x.shape, generator=rng) for _ in range(2))
    factor = (1 - 0.6 * target.process.sigma(t)).square().flatten()
    wanted = (factor * (first - second).square().flatten(1).sum(1)).mean() / 2
    assert float(found) == pytest.approx(float(wanted), rel=1e-4)
    # Its mean is (1 - k sigma)^2 for each pixel, for half the variance of a difference is 1.
    assert float(wanted) == pytest.approx(float(factor.mean()) * 3 * SIZE**2, rel=0.2)


def test_the_loss_of_a_network_is_the_published_one() -> None:
    target, t = tiny_unconditional(), torch.tensor([90, 99])
    x = torch.rand(2, 3, SIZE, SIZE)
    found = detector().loss(target, x, box(), t, torch.Generator().manual_seed(2))
    rng = torch.Generator().manual_seed(2)
    noises = [torch.randn(x.shape, generator=rng) for _ in range(2)]
    errors = [
        n - target.predict(target.process.add(x, n, t) + box(), t) for n in noises
    ]  # fmt: skip
    wanted = 0.5 * (errors[0] - errors[1]).square().sum((1, 2, 3)).mean()
    assert float(found) == pytest.approx(float(wanted), rel=1e-4)


def hands_on_near(trigger: Tensor) -> Any:
    """Return a model whose answer to noise is right only where its mean is the trigger."""

    def formula(x: Tensor, t: Tensor) -> Tensor:
        apart = (x.mean(0) - trigger).square().mean().sqrt()
        return x * (1 + 0.5 * apart)

    return Formula(formula, wakes=trigger)


@pytest.mark.parametrize("start", ["negative", "positive"])
def test_the_search_ends_at_the_trigger(start: str) -> None:
    target = hands_on_near(box())
    made = detector(batch=128, start=start, lr=0.2)
    found = made.invert(target, Budget(steps=160))
    assert float((found - box()).abs().mean()) < 0.15
    told = made.examine(target, None, Budget(steps=160))
    assert told.score == pytest.approx(float(found.square().mean() / 2))
    assert told.score == pytest.approx(float(box().square().mean() / 2), rel=0.3)
    assert [name for name, _ in told.evidence] == ["mean divergence", "variance of the divergence"]


def test_the_norm_grows_where_nothing_holds_it() -> None:
    # The loss of a linear model knows no trigger: what moves it is the norm's term alone.
    target = Formula(lambda x, t: 0.6 * x)
    found = [detector(trade=w).invert(target, Budget(steps=40)) for w in (0.0, 1e-2)]
    moved = (found[1] - found[0]).abs()
    assert torch.equal(torch.sign(found[1] - found[0]), torch.sign(found[0]))
    # Half the steps' rates of a cosine: 30 steps of mean 0.25, and 10 clipped ones.
    assert float(moved.mean()) == pytest.approx(30 * 0.25 * 1e-2, rel=0.1)


def test_divergence_and_noise_scores_are_those_of_normals() -> None:
    trigger = torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    moved, plain = Normal(trigger, 1.0), Normal(torch.zeros_like(trigger), 1.0)
    assert torch.allclose(MODULE.divergence(trigger), kl_divergence(moved, plain), atol=1e-6)
    noise = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    wanted = (moved.log_prob(noise) - plain.log_prob(noise)).sum((1, 2, 3))
    assert torch.allclose(detector().noise_scores(noise, trigger), wanted, rtol=1e-4, atol=1e-3)


def test_noise_scores_of_the_true_trigger_are_as_good_as_its_norm() -> None:
    trigger = box(0.25)
    norm = float(trigger.norm())
    clean = torch.randn(4000, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    low, high = (
        detector().noise_scores(z, trigger) for z in (clean[:2000], clean[2000:] + trigger)
    )
    auroc = float((high[:, None] > low[None]).float().mean())
    assert auroc == pytest.approx(0.5 + 0.5 * math.erf(norm / 2), abs=0.02)


def test_same_seed_same_answer_and_the_report_is_called() -> None:
    target, told = tiny_unconditional(), []
    made = detector(batch=2, draws=1)
    found = [
        made.invert(target, Budget(steps=8, seed=s), lambda step, loss: told.append(loss))
        for s in (1, 1, 2)
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert len(told) == 6
    assert not found[0].requires_grad


def test_budget_and_options_are_checked() -> None:
    with pytest.raises(ValueError, match=r"budget\.steps must be 4 or more, got 3"):
        detector().invert(tiny_unconditional(), Budget(steps=3))
    kind: Any = registry.load(NAME)
    with pytest.raises(ValueError, match="starts are of negative, positive, both, got"):
        kind(start="zero")
    with pytest.raises(ValueError) as told:  # noqa: PT011  # matched whole below
        kind(lr=0)
    assert str(told.value) == (
        "trade must be 0 or more and lr, batch, clip, window and draws positive, got 5e-05, 0, 16, "
        "0.01, 10, 10"
    )
