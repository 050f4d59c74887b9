"""The one loop that trains classifiers: shuffled batches, a rate that rises and falls, any loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from safetybench.class_contracts import ClassLesson
from safetybench.component import Budget, SafetyBenchError

Report = Callable[[int, float], None]
_WARM = 0.2  # share of the steps over which the rate rises


class Batch(NamedTuple):
    """What a loss is given: images with their labels, and their rows in the lesson's data.

    share: of the training that is done, in [0, 1); generator: of this training, on the CPU.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor
    share: float
    generator: torch.Generator


Loss = Callable[[nn.Module, Batch], Tensor]


def fit(
    net: nn.Module,
    lesson: ClassLesson,
    budget: Budget,
    loss: Loss,
    *,
    size: int,
    rate: float,
    optimiser: Literal["adam", "sgd"] = "adam",
    decay: float = 0.0,
    report: Report | None = None,
    first: int = 0,
) -> nn.Module:
    """Train `net` in place for budget.steps updates and return it in evaluation mode.

    loss: a scalar of the network and a batch. size: images a batch, all of them if there are
    fewer; every image is seen once before any is seen again. rate: the highest; it rises to it
    over the first fifth and falls to zero as a cosine. decay: of the weights. "sgd" has a
    momentum of 0.9. first: the step that the report starts to count from. All randomness is
    budget.seed's, the global generators stay as they were.

    Raises:
        SafetyBenchError: no data, no weight to train, or a loss or weight that is no number.
    """
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    if not weights:
        raise SafetyBenchError("the network has no weight that may be trained")
    if not len(lesson.data.images):
        raise SafetyBenchError("the lesson has no images to train on")
    descent = _optimiser(weights, optimiser, rate, decay)
    generator = torch.Generator().manual_seed(budget.seed)
    images, labels = (part.to(weights[0].device) for part in lesson.data)
    batches = _batches(len(images), size, generator)
    net.train()
    with torch.enable_grad():
        for step in range(budget.steps):
            for group in descent.param_groups:
                group["lr"] = rate * _height((step + 0.5) / budget.steps)
            rows = next(batches).to(images.device)
            share = step / budget.steps
            value = loss(net, Batch(images[rows], labels[rows], rows, share, generator))
            seen = float(value.detach())
            if not math.isfinite(seen):
                raise SafetyBenchError(
                    f"the loss is {seen} at step {first + step}; a lower rate than {rate} may help"
                )
            descent.zero_grad(set_to_none=True)
            value.backward()
            descent.step()
            if report is not None:
                report(first + step, seen)
    descent.zero_grad(set_to_none=True)
    if not all(bool(torch.isfinite(weight).all()) for weight in weights):
        raise SafetyBenchError(
            f"weights are no numbers after step {first + budget.steps - 1}; "
            f"a lower rate than {rate} may help"
        )
    return net.eval()


def steps_of(epochs: float, count: int, size: int) -> int:
    """Return the updates in which `count` images are seen `epochs` times, `size` at once.

    >>> steps_of(6, 12000, 128)
    563
    """
    return max(1, math.ceil(epochs * count / min(size, count)))


def _optimiser(
    weights: list[nn.Parameter], name: Literal["adam", "sgd"], rate: float, decay: float
) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.AdamW(weights, lr=rate, weight_decay=decay)
    return torch.optim.SGD(weights, lr=rate, momentum=0.9, weight_decay=decay)


def _height(share: float) -> float:
    """Return the rate as a share of the highest; share: of the training that is done.

    >>> _height(0.1), _height(0.2), round(_height(0.6), 6)
    (0.5, 1.0, 0.5)
    """
    if share < _WARM:
        return share / _WARM
    return (1 + math.cos(math.pi * (share - _WARM) / (1 - _WARM))) / 2


def _batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield rows without end, always `size` of them or all; a new order each time through."""
    size = min(size, count)
    rest = torch.empty(0, dtype=torch.int64)
    while True:
        if len(rest) < size:
            rest = torch.cat([rest, torch.randperm(count, generator=generator)])
        yield rest[:size]
        rest = rest[size:]


__all__ = ["Batch", "Loss", "fit", "steps_of"]
