"""Classifiers for tests: a linear one, of which all is known, and a small one that is trained."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from safetybench.contracts import Labelled


class Toy:
    """A target around any network; counts what it is asked."""

    def __init__(self, net: nn.Module, classes: int, shape: tuple[int, int, int]) -> None:
        self.name, self.classes, self.shape = "toy", classes, shape
        self.net = net.eval()
        self.asked = 0

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def logits(self, images: Tensor) -> Tensor:
        self.asked += len(images)
        found: Tensor = self.net(images)
        return found


def linear(seed: int = 0, classes: int = 4, side: int = 4, channels: int = 1) -> Toy:
    """Return a linear classifier, whose distances to each boundary have a closed form."""
    generator = torch.Generator().manual_seed(seed)
    width = channels * side * side
    layer = nn.Linear(width, classes)
    layer.weight.data = torch.randn(classes, width, generator=generator)
    layer.bias.data = 0.1 * torch.randn(classes, generator=generator)
    return Toy(nn.Sequential(nn.Flatten(), layer), classes, (channels, side, side))


def rightly(toy: Toy, count: int = 16, seed: int = 1) -> Labelled:
    """Return random images in the middle of [0, 1], labelled as the toy sees them."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 + 0.4 * torch.rand(count, *toy.shape, generator=generator)
    with torch.no_grad():
        return Labelled(images, toy.logits(images).argmax(1))


@cache
def digits() -> tuple[Labelled, Labelled]:
    """Return scikit-learn's digits as (1, 8, 8) images in [0, 1]: train and test."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    images = torch.tensor(data.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(data.target, dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return Labelled(images[:1397], labels[:1397]), Labelled(images[1397:], labels[1397:])


@cache
def trained(epsilon: float = 0.0, seed: int = 0) -> Toy:
    """Return a small network that reads the digits; with epsilon, trained against FGSM."""
    train, _ = digits()
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip
    optimiser = torch.optim.Adam(net.parameters(), lr=0.005)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(250):
        chosen = torch.randint(len(train.images), (64,), generator=generator)
        images, labels = train.images[chosen], train.labels[chosen]
        if epsilon:
            watched = images.clone().requires_grad_()
            loss = nn.functional.cross_entropy(net(watched), labels)
            (slope,) = torch.autograd.grad(loss, watched)
            images = (images + epsilon * slope.sign()).clamp(0, 1)
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimiser.step()
    return Toy(net.requires_grad_(False), 10, (1, 8, 8))
