"""What the distances take and return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
FEWEST = 3  # images a side; a spread of two is no spread


class Figure(NamedTuple):
    """A named figure with its 95 % interval; n: images a side, the smaller number."""

    name: str
    value: float
    low: float
    high: float
    n: int


def checked(first: Floats, second: Floats, *, paired: bool) -> Sequence[Floats]:
    """Return both sets as float64 (images, width).

    Raises:
        ValueError: they are of other shapes, too few, hold what is no number, or are paired and
            of unlike length.
    """
    sides = [np.asarray(side, dtype=np.float64) for side in (first, second)]
    shapes = " and ".join(str(side.shape) for side in sides)
    if any(side.ndim != 2 for side in sides) or sides[0].shape[1] != sides[1].shape[1]:
        raise ValueError(f"features must be (images, width), the same width, got {shapes}")
    if min(len(side) for side in sides) < FEWEST:
        raise ValueError(f"features must be of at least {FEWEST} images, got {shapes}")
    if paired and len(sides[0]) != len(sides[1]):
        raise ValueError(f"paired features must be of the same prompts, got {shapes}")
    if not all(np.isfinite(side).all() for side in sides):
        raise ValueError("features must be finite")
    return sides
