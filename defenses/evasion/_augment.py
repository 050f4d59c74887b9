"""Movements and colours of images, differentiable, bounded by ranges that two methods share."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

MOVES = 6  # numbers that say how one image is changed


class Ranges(NamedTuple):
    """The most that each change may be, in both directions.

    rotate: degrees; shift: of the image's side, along each axis; scale: of 1; brightness: added
    to pixels in [0, 1]; contrast: of 1, around the middle grey.
    """

    rotate: float
    shift: float
    scale: float
    brightness: float
    contrast: float


def check_ranges(ranges: Ranges) -> None:
    """Refuse ranges that turn an image inside out."""
    if not 0 <= ranges.rotate <= 180:
        raise ValueError(f"rotate must be in [0, 180] degrees, got {ranges.rotate}")
    for name, value in ranges._asdict().items():
        if name != "rotate" and not 0 <= value < 1:
            raise ValueError(f"{name} must be in [0, 1), got {value}")
    if not any(ranges):
        raise ValueError("rotate, shift, scale, brightness or contrast must be above 0, got 0")


def changed(images: Tensor, moves: Tensor, ranges: Ranges) -> Tensor:
    """Return images moved and coloured; what enters from outside is black.

    images: (batch, c, h, w) in [0, 1]; moves: (batch, MOVES) in [-1, 1], shares of the ranges:
    rotation, shift right and down, scale, brightness, contrast.
    """
    turn, right, down, scale, bright, contrast = moves.unbind(1)
    angle = turn * math.radians(ranges.rotate)
    factor = 1 + scale * ranges.scale
    height, width = images.shape[2:]
    cos, sin = angle.cos() / factor, angle.sin() / factor
    # Maps places of the answer to places of the image; both axes run from -1 to 1.
    rows = [
        torch.stack([cos, sin * height / width, -2 * ranges.shift * right], 1),
        torch.stack([-sin * width / height, cos, -2 * ranges.shift * down], 1),
    ]
    grid = nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = nn.functional.grid_sample(images, grid, align_corners=False)
    stretched = (moved - 0.5) * (1 + ranges.contrast * contrast)[:, None, None, None] + 0.5
    return (stretched + ranges.brightness * bright[:, None, None, None]).clamp(0, 1)
