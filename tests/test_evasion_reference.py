"""AutoAttack against torchattacks 3.5.1, an independent implementation of all four parts."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import nn

from safetybench.class_contracts import Norm
from safetybench.contracts import Budget, Labelled
from safetybench.registry import create
from tests.toys_classifier import Toy, digits, trained

torchattacks = pytest.importorskip("torchattacks")


class Both(NamedTuple):
    """Shares of images read rightly under attack, and images on which the two disagree."""

    ours: float
    theirs: float
    differ: int


def compared(
    toy: Toy,
    data: Labelled,
    epsilon: float,
    norm: Norm = "linf",
    steps: int = 100,
    queries: int = 5000,
) -> Both:
    """Attack what is read rightly by both, as the original does."""
    is_right = toy.logits(data.images).argmax(1) == data.labels
    images, labels = data.images[is_right], data.labels[is_right]
    attack = create("attacks/evasion/auto_attack")
    budget = Budget(epsilon=epsilon, norm=norm, steps=steps, queries=queries)
    ours = attack.perturb(toy, images, labels, budget)
    name = {"linf": "Linf", "l2": "L2"}[norm]
    theirs = torchattacks.AutoAttack(toy.net, norm=name, eps=epsilon, n_classes=10, seed=0)
    # It gives APGD and FAB 10 steps each, where the authors give 100.
    for part in theirs._autoattack.attacks[:3]:
        part.steps = steps
    theirs._autoattack.attacks[3].n_queries = queries
    wrong, other = (
        toy.logits(found).argmax(1) != labels for found in (ours, theirs(images, labels))
    )
    count = len(data.labels)
    return Both(
        float((~wrong).sum() / count), float((~other).sum() / count), int((wrong != other).sum())
    )


def first(count: int) -> Labelled:
    """Return test images, and beyond the 400 that there are the first that were learnt."""
    images, labels = (torch.cat(both) for both in zip(*reversed(digits()), strict=True))
    return Labelled(images[:count], labels[:count])


@pytest.mark.parametrize(("hardened", "epsilon"), [(0.1, 0.1), (0.0, 0.05)])
def test_auto_attack_agrees_with_torchattacks(hardened: float, epsilon: float) -> None:
    found = compared(trained(hardened), first(60), epsilon, steps=40, queries=500)
    assert found.differ <= 1
    assert 0.1 < found.ours < 0.95


class _Wider(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2, padding=1),
            nn.ReLU(), nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip


def wider() -> Toy:
    """Return a deeper network, trained against FGSM in half of its steps."""
    torch.manual_seed(1)
    net, (images, labels) = _Wider(), digits()[0]
    optimiser = torch.optim.Adam(net.parameters(), lr=0.003)
    for step in range(300):
        chosen = torch.randint(len(images), (64,))
        batch = images[chosen].clone().requires_grad_()
        loss = nn.functional.cross_entropy(net(batch), labels[chosen])
        if step % 2:
            (gradient,) = torch.autograd.grad(loss, batch)
            moved = (batch + 0.1 * gradient.sign()).clamp(0, 1).detach()
            loss = nn.functional.cross_entropy(net(moved), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return Toy(net.requires_grad_(False), 10, (1, 8, 8))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["plain linf", "hardened linf", "wider l2"])
def test_robust_accuracy_is_within_a_point_of_torchattacks(which: str) -> None:
    if which == "plain linf":
        found = compared(trained(), first(500), 0.05)
    elif which == "hardened linf":
        found = compared(trained(0.1), first(500), 0.1)
    else:
        found = compared(wider(), first(500), 0.6, "l2")
    assert found.ours == pytest.approx(found.theirs, abs=0.01), found
