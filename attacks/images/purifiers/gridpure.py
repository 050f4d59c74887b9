"""GrIDPure: purify overlapping tiles by very little noise, many times over.

Little noise keeps the picture, repetition removes the protection. Needs a model that edits
images; it is asked with the empty text, and all tiles of a batch go through it together.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor

from safetybench.contracts import Album, EditsImages, EncodesImages, Purifier
from safetybench.draws import Streams
from safetybench.pixels import rounded
from safetybench.registry import register

from ._redraw import check_strength, redrawn
from ._sides import fitted, side_unit


@register
@dataclass(frozen=True, kw_only=True)
class GridPure(Purifier):
    """Average purified tiles, mix, and repeat (Zhao et al. 2024).

    tile: side in pixels, cut to the image's where that is smaller; tiles lie half a tile apart,
    and one more is put together of the image's corners, which a single tile covers otherwise.
    strength: t* as a share of all times. keep: of the image that stays in each round (gamma).
    requantise: round to 8 bits after each round, as the released code does.
    Published: tile 256 of 512 pixels, strength 0.01 in ten steps, keep 0.1, 10 rounds (the code's
    README says 20). Departs from the paper as `diffpure` does: a latent model, whose autoencoder
    every round goes through, and its native sampler, which has at most a step at that noise.
    Rounds add the autoencoder's errors up, and tiles far smaller than what the model draws spoil
    clean images too: look at a clean image's answer first.
    """

    tile: int = 256
    strength: float = 0.01
    keep: float = 0.1
    rounds: int = 10
    requantise: bool = True

    source: ClassVar[str] = "https://arxiv.org/abs/2312.00084"
    needs: ClassVar[tuple[type, ...]] = (EditsImages, EncodesImages)
    sees: ClassVar[str] = "the protected image, and a diffusion model"

    def __post_init__(self) -> None:
        check_strength(self.strength)
        if self.tile < 1 or self.rounds < 1:
            raise ValueError(
                f"tile and rounds must be 1 or more, got {self.tile} and {self.rounds}"
            )
        if not 0 <= self.keep < 1:
            raise ValueError(f"keep must be in [0, 1), got {self.keep}")

    def purify(self, target: Any, album: Album, seed: int = 0) -> Tensor:
        """Return purified images; see `Purifier.purify`.

        Raises:
            ValueError: the model cannot take tiles of this side.
        """
        clean = album.images.float()
        if not len(album):
            return clean.clone()
        unit = side_unit(target, clean)
        if self.tile % unit:
            raise ValueError(
                f"tile must be a whole multiple of {unit}, as this model needs, got {self.tile}"
            )
        images = fitted(target, clean)
        grid = Grid(images.shape[2], images.shape[3], self.tile)
        streams = Streams(seed, [f"{i}/gridpure" for i in album.ids])
        for _ in range(self.rounds):
            tiles = grid.cut(images)  # (tiles, batch, 3, h, w)
            seeds = torch.cat([streams.integers(0, 2**31) for _ in range(len(tiles))])
            drawn = redrawn(target, tiles.flatten(0, 1), seeds.tolist(), self.strength)
            pure = grid.average(drawn.reshape(tiles.shape))
            images = (1 - self.keep) * pure + self.keep * images
            images = rounded(images) if self.requantise else images
        return rounded(images[:, :, : clean.shape[2], : clean.shape[3]]).to(clean)


class Grid:
    """Where tiles lie on images of one size: half a tile apart, the last ones at the far sides.

    size: (h, w) of a tile, no more than the image's.
    """

    def __init__(self, height: int, width: int, tile: int) -> None:
        self.size = (min(tile, height), min(tile, width))
        tops, lefts = (
            _starts(side, part) for side, part in zip((height, width), self.size, strict=True)
        )
        self.places = list(product(tops, lefts))
        self.image = (height, width)
        self._has_corners = len(tops) > 1 and len(lefts) > 1

    def cut(self, images: Tensor) -> Tensor:
        """Return tiles, (tiles, batch, 3, h, w); the corners' one comes last."""
        height, width = self.size
        tiles = [images[:, :, y : y + height, x : x + width] for y, x in self.places]
        if self._has_corners:
            corners = torch.empty_like(tiles[0])
            for inside, outside in self._corners():
                corners[:, :, *inside] = images[:, :, *outside]
            tiles.append(corners)
        return torch.stack(tiles)

    def average(self, tiles: Tensor) -> Tensor:
        """Return images in which every pixel is the mean of the tiles that cover it."""
        height, width = self.size
        total = tiles.new_zeros(*tiles.shape[1:3], *self.image)
        count = tiles.new_zeros(self.image)
        for (y, x), tile in zip(self.places, tiles, strict=False):  # the corners' tile is left
            total[:, :, y : y + height, x : x + width] += tile
            count[y : y + height, x : x + width] += 1
        if self._has_corners:
            for inside, outside in self._corners():
                total[:, :, *outside] += tiles[-1][:, :, *inside]
                count[outside] += 1
        return total / count

    def _corners(self) -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
        """Return the quarters of the corners' tile, and where each lies in the image."""
        halves = []
        for part, side in zip(self.size, self.image, strict=True):
            first = part // 2
            last = slice(side - (part - first), side)
            halves.append(((slice(0, first), slice(0, first)), (slice(first, part), last)))
        return [((y[0], x[0]), (y[1], x[1])) for y, x in product(*halves)]


def _starts(side: int, part: int) -> list[int]:
    """Return where parts of a side start: half a part apart, and the last at the end."""
    starts = list(range(0, side - part + 1, max(1, part // 2)))
    return starts if starts[-1] == side - part else [*starts, side - part]
