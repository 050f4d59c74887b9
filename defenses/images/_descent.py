"""Projected signed gradient ascent on images, which nearly all image protections share.

The iterate is float32 whatever the networks are; only the answer is rounded, to 8 bits and inside
the ball. An image's path depends on its id and the budget's seed, not on its batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from safetybench.contracts import Album, Budget
from safetybench.draws import Streams
from safetybench.pixels import LEVELS, rounded_inside
from safetybench.wording import fraction

Start = Literal["clean", "uniform"]
# Of the iterate, (batch, 3, h, w), and the step: what to climb, alike, and the loss of each image.
Climb = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def ascend(
    album: Album,
    climb: Climb,
    budget: Budget,
    *,
    rate: float,
    start: Start = "clean",
    is_decaying: bool = False,
    report: Any = None,
    device: torch.device | None = None,
) -> Tensor:
    """Return images within `budget.epsilon` of the album's that climb, 8-bit, float32.

    rate: step in units of epsilon; is_decaying: the step falls linearly to 1 % of itself, as
    PhotoGuard's does. start: "uniform" in the ball, or the clean image. device: where `climb`
    gets the iterate, None for where the album is; the answer is where the album is.

    Raises:
        ValueError: a ball that holds no other 8-bit image, another norm than Linf, or images that
            are not 8-bit.
    """
    check_ball(budget)
    clean = album.images.float() if device is None else album.images.float().to(device)
    low, high = (clean - budget.epsilon).clamp(min=0), (clean + budget.epsilon).clamp(max=1)
    images = clean
    if start == "uniform":
        noise = Streams(budget.seed, [f"{i}/start" for i in album.ids])
        shift = (2 * noise.uniform(clean.shape[1:], clean) - 1) * budget.epsilon
        images = torch.minimum(torch.maximum(clean + shift, low), high)
    step = rate * budget.epsilon
    for i in range(budget.steps):
        direction, loss = climb(images, i)
        share = 1 - 0.99 * i / max(budget.steps - 1, 1) if is_decaying else 1.0
        moved = images + step * share * direction.sign()
        images = torch.minimum(torch.maximum(moved, low), high)
        if report is not None:
            report(i + 1, float(loss.mean()))
    return rounded_inside(images, clean, budget.epsilon).to(album.images.device)


def check_ball(budget: Budget) -> None:
    """Raise ValueError unless the budget's ball is of Linf and holds another 8-bit image."""
    if budget.norm != "linf" or budget.epsilon <= 0:
        raise ValueError(
            f"protection needs epsilon above 0 in norm linf, got {budget.epsilon:g} in "
            f"{budget.norm}; say it in [0, 1] units, as 8/255 = {8 / 255:.4f}"
        )
    if budget.epsilon * LEVELS < 0.999:  # what `rounded_inside` takes for less than a level
        raise ValueError(
            "epsilon must be at least 1/255, the least by which 8-bit pixels can move, got "
            f"{fraction(budget.epsilon)}"
        )


def check_rate(rate: float) -> None:
    """Raise ValueError unless a step, in units of epsilon, stays inside the ball."""
    if not 0 < rate <= 2:  # 2 epsilon is the ball's width
        raise ValueError(f"rate must be a step in (0, 2] times epsilon, got {rate}")


def gradient_of(objective: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of an objective, (batch,), in the images, and its values.

    Losses of a batch are added, so that no image's gradient knows how many others there are.
    """
    free = images.detach().requires_grad_(True)
    with torch.enable_grad():
        values = objective(free)
        (gradient,) = torch.autograd.grad(values.sum(), free)
    return gradient.detach(), values.detach()
