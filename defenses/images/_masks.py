"""Masks that an editor might use in the place of the one that is expected (DiffusionGuard).

The area to protect is shrunk along its contour at random, so that a protection holds for masks
that nobody showed it. Masks are drawn before the first step and used in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import KDTree
from torch import Tensor

from safetybench.draws import item_generator

Region = NDArray[np.bool_]  # (height, width)
Points = NDArray[np.int64]  # (count, 2), rows and columns

# The eight neighbours in clockwise order, rows downwards, from the east on.
_AROUND = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))


@dataclass(frozen=True, kw_only=True)
class ContourShrink:
    """The authors' "contour_shrink" (Choi et al. 2025); see `shrunk` for what is ours.

    strength: largest move of a vertex, over the drawn share of the radius; rounds: at most this
    many moves, without the last; smoothness: of the moves along the contour, in radii.
    radius_scale: radius in units of that of a disc of the same area. The authors' code means
    that radius, and gets 2.22 times it.
    """

    strength: float = 1.1
    rounds: int = 15
    smoothness: float = 0.1
    radius_scale: float = 2.22

    def __post_init__(self) -> None:
        values = (self.strength, self.smoothness, self.radius_scale)
        if min(values) < 0 or self.rounds < 2:
            raise ValueError(
                "strength, smoothness and radius_scale must be 0 or more and rounds 2 or more, "
                f"got {self.strength:g}, {self.smoothness:g}, {self.radius_scale:g}, {self.rounds}"
            )


def mask_bank(
    masks: Tensor, ids: tuple[str, ...], seed: int, count: int, shrink: ContourShrink
) -> Tensor:
    """Return `count` masks of each image, (count, batch, 1, height, width) bool, on the CPU.

    masks: (batch, 1, height, width), 1 where an editor draws anew; all that is 0 is shrunk, each
    of its connected parts by itself. A mask depends on the seed and its image's id alone.
    """
    kept = (masks[:, 0] < 0.5).cpu().numpy()
    bank = np.ones((count, *masks.shape), dtype=bool)
    for i, name in enumerate(ids):
        stream = item_generator(seed, f"{name}/masks")
        rng = np.random.default_rng(int(torch.randint(1 << 62, (), generator=stream)))
        parts, number = _labelled(kept[i])
        for k in range(count):
            for part in range(1, number + 1):
                bank[k, i, 0] &= ~shrunk(parts == part, shrink, rng)
    return torch.from_numpy(bank)


def shrunk(region: Region, shrink: ContourShrink, rng: np.random.Generator) -> Region:
    """Return a connected region after a random number of random moves of its contour.

    It only ever loses area. Departs from the authors' code: moves are real numbers and not cut to
    whole ones, they are smoothed around the contour and not from its first point to its last,
    and where no contour is left the region stays as it is by then, where theirs starts over with
    the whole one.
    """
    radius = shrink.radius_scale * float(np.sqrt(region.sum() / np.pi))
    reach = shrink.strength * rng.uniform(0, radius)
    rounds = int(rng.uniform(1, shrink.rounds))
    for _ in range(rounds):
        corners = _corners(_largest(region))
        if len(corners) < 3:  # a line or a point has no inside to move
            return region
        region = _moved(region, corners, reach, shrink.smoothness * radius, rng)
    return region


def outline(region: Region) -> Points:
    """Return the outer boundary of one connected region, (count, 2), clockwise, pixel by pixel.

    By Moore's tracing; every step goes to one of eight neighbours, and thin parts are walked
    there and back. A region without pixels has none.
    """
    padded = np.pad(region, 1)
    width = padded.shape[1]
    flat = padded.tobytes()  # plain bytes: looking at single pixels of an array is slow
    first = flat.find(1)
    if first < 0:
        return np.zeros((0, 2), np.int64)
    ways = [row * width + column for row, column in _AROUND]
    # The first pixel of the top row has nothing above it and nothing to its left.
    at, look, found, leaving = first, 5, [first], None
    while True:
        way = next((w % 8 for w in range(look, look + 8) if flat[at + ways[w % 8]]), None)
        if way is None or (at == first and way == leaving):
            break
        leaving = way if leaving is None else leaving
        at += ways[way]
        found.append(at)
        look = way + (7 if way % 2 == 0 else 6)  # from the empty pixel that was seen last
    if len(found) > 1:
        found.pop()  # the first one again
    rows, columns = np.divmod(np.asarray(found, np.int64), width)
    points: Points = np.stack([rows, columns], 1) - 1
    return points


def _labelled(region: Region) -> tuple[NDArray[np.int32], int]:
    """Return connected parts numbered from 1, (height, width), and how many there are."""
    found: Any = ndimage.label(region, np.ones((3, 3)))
    return found[0], int(found[1])


def _largest(region: Region) -> Region:
    parts, number = _labelled(region)
    if number < 2:
        return region
    found: Region = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return found


def _corners(region: Region) -> Points:
    """Return the points of the outline at which it turns."""
    points = outline(region)
    if len(points) < 3:
        return points
    before = points - np.roll(points, 1, 0)
    turns: Points = points[(before != np.roll(before, -1, 0)).any(1)]
    return turns


def _moved(
    region: Region, corners: Points, reach: float, sigma: float, rng: np.random.Generator
) -> Region:
    """Return the region within its outline, of which every corner was moved by up to `reach`."""
    moves: Any = rng.uniform(-reach, reach, corners.shape)
    if sigma > 0:
        moves = ndimage.gaussian_filter1d(moves, sigma, axis=0, mode="wrap")
    last = np.array(region.shape) - 1
    points = np.clip(np.rint(corners + moves), 0, last).astype(np.int64)
    is_out = ~region[points[:, 0], points[:, 1]]
    if is_out.any():
        nearest = KDTree(corners).query(points[is_out])[1]
        points[is_out] = corners[nearest]
    drawn = Image.new("1", region.shape[::-1])
    # Pillow wants columns first.
    ImageDraw.Draw(drawn).polygon([(int(c), int(r)) for r, c in points], fill=1, outline=1)
    found: Region = np.asarray(drawn, dtype=bool) & region
    return found
