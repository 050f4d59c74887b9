"""What the searches for a trigger in noise share: where they start and how they look at images."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Start = Literal["negative", "positive", "both"]
STARTS: tuple[Start, ...] = get_args(Start)


def start(kind: Start, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Return a first trigger: uniform in [-1, 0], in [0, 1] or in [-1, 1].

    The published searches start negative, which suits the black surroundings of the triggers they
    were tried on; from the wrong side a search ends elsewhere.
    """
    drawn = torch.rand(shape, generator=rng)
    return {"negative": -drawn, "positive": drawn, "both": 2 * drawn - 1}[kind]


def uniformity(images: Tensor, skip: float = 0.25) -> float:
    """Return the mean distance between images, root mean square of pixels in [0, 1].

    images: (batch, channels, h, w), 3 or more. skip: share of the nearest and of the farthest
    neighbours of each image, and of the images nearest and farthest on average, that are left out.
    """
    flat = images.flatten(1)
    distance = torch.cdist(flat, flat) / flat.shape[1] ** 0.5
    inner = _middle(distance, skip).mean(1)
    return float(_middle(inner[None], skip).mean())


def _middle(values: Tensor, skip: float) -> Tensor:
    """Return the middle of each row, at least one value of it."""
    count = values.shape[1]
    cut = min(int(skip * count), (count - 1) // 2)
    return values.sort(1).values[:, cut : count - cut]


def check_starts(kinds: tuple[Start, ...]) -> None:
    """Refuse no start at all and unknown ones."""
    unknown = [kind for kind in kinds if kind not in STARTS]
    if unknown or not kinds:
        raise ValueError(f"starts are of {', '.join(STARTS)}, got {unknown or 'none'}")
