"""What Square proposes: stripes at first, then windows of one sign or of two pyramids."""

from __future__ import annotations

from bisect import bisect_left

import torch
from torch import Tensor

from safetybench.vision.ball import steepest

_TINY = 1e-12
# Of 10,000 queries, those after which the published windows are halved in area.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)

Window = tuple[slice, slice, slice, slice]


def share(turn: int, queries: int, first: float) -> float:
    """Return the share of an image that a window covers at this query of so many."""
    halvings = bisect_left(_HALVINGS, int(turn / queries * 10_000))
    return first / float(1 << halvings)


def signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Return random signs."""
    return (2 * torch.randint(2, shape, generator=generator) - 1).to(like)


def stripes(images: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """Return images with vertical stripes of size epsilon in linf."""
    count, channels, _, width = images.shape
    return (images + epsilon * signs((count, channels, 1, width), images, generator)).clamp(0, 1)


def recoloured(
    images: Tensor, best: Tensor, part: float, epsilon: float, generator: torch.Generator
) -> Tensor:
    """Return the best images with one window at the edge of the linf ball.

    One window for the whole batch, as in AutoAttack's version.
    """
    height, width = images.shape[2:]
    side = min(max(round((part * height * width) ** 0.5), 1), height, width)
    window = _window(images, side, generator)
    changed = best.clone()
    # Either sign adds twice epsilon, so that the ball's edge is met from wherever a pixel is.
    changed[window] += 2 * epsilon * signs((images.shape[1], 1, 1), images, generator)
    return torch.minimum(torch.maximum(changed, images - epsilon), images + epsilon).clamp(0, 1)


def pyramids(images: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """Return images with a grid of pyramids, together of size epsilon in l2."""
    count, channels, height, width = images.shape
    side = max(min(height, width) // 5, 1)
    change = torch.zeros_like(images)
    for top in range(height % side // 2, height - side + 1, side):
        for left in range(width % side // 2, width - side + 1, side):
            window = (..., slice(top, top + side), slice(left, left + side))
            pair = _pair(side, images, generator)
            change[window] = pair * signs((count, channels, 1, 1), images, generator)
    return (images + epsilon * steepest(change, "l2")).clamp(0, 1)


def moved(
    images: Tensor, best: Tensor, part: float, epsilon: float, generator: torch.Generator
) -> Tensor:
    """Return the best images with what two windows hold of the l2 ball put into one of them."""
    count, channels, height, width = images.shape
    side = max(round((part * height * width) ** 0.5), 3)
    side = min(side + 1 - side % 2, height, width)
    here, there = (_window(images, side, generator) for _ in range(2))
    change = best - images
    mask = torch.zeros_like(images[:1, :1])
    mask[here] = mask[there] = 1
    held = (change * mask).square().sum((2, 3), keepdim=True)
    spare = (epsilon**2 - change.square().sum((1, 2, 3), keepdim=True)).clamp_min(0) / channels
    pair = _pair(side, images, generator) * signs((count, channels, 1, 1), images, generator)
    new = _unit(pair + _unit(change[here])) * (spare + held).sqrt()
    change[there] = 0
    change[here] = new
    return (images + epsilon * steepest(change, "l2")).clamp(0, 1)


def _window(images: Tensor, side: int, generator: torch.Generator) -> Window:
    """Draw a window; the last row and column can be in it, which the code leaves out."""
    height, width = images.shape[2:]
    top = int(torch.randint(height - side + 1, (), generator=generator))
    left = int(torch.randint(width - side + 1, (), generator=generator))
    return slice(None), slice(None), slice(top, top + side), slice(left, left + side)


def _unit(change: Tensor) -> Tensor:
    """Return each channel at size 1 in l2."""
    return change / change.square().sum((2, 3), keepdim=True).sqrt().clamp_min(_TINY)


def _pair(side: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Return a pyramid above another of the other sign, or beside it: (side, side), size 1."""
    half = side // 2
    pair = torch.cat([_pyramid(half, side), -_pyramid(side - half, side)])
    if torch.rand((), generator=generator) > 0.5:
        pair = pair.T
    return (pair / pair.square().sum().sqrt()).to(like)


def _pyramid(height: int, width: int) -> Tensor:
    """Return steps that rise to the middle, each of 1 / (its distance + 1)^2: size 1."""
    if not height:
        return torch.zeros(0, width)
    far = max(height // 2, width // 2)
    levels = (1 / torch.arange(1.0, far + 2) ** 2).flip(0).cumsum(0).flip(0)
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    found = levels[torch.maximum(rows[:, None], columns[None])]
    return found / found.square().sum().sqrt()
