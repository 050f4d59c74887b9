"""Crop and resize: shift noise off the grid that it was made for; needs no model.

The image that comes back shows a little less of the scene, so it does not lie over the original.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import interpolate

from safetybench.contracts import Album, Purifier
from safetybench.pixels import rounded
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class CropResize(Purifier):
    """Cut a border off and enlarge what is left (a baseline of Xue and Chen 2024, PDM-Pure).

    share: of each side that is cut off, half of it at either end. Published: 0.2 (PDM-Pure) and
    0.1 (DIA). down_up: sides are first scaled by this and then brought back, 0.5 for the plain
    way down and up, 1 for none; with share 0 nothing is cut. Bicubic, with antialiasing on the
    way down. Where the published crop lies is not said; here it is the middle.
    """

    share: float = 0.2
    down_up: float = 1.0

    source: ClassVar[str] = "https://arxiv.org/abs/2404.13320"

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"share must be in [0, 1), got {self.share}")
        if not 0 < self.down_up <= 1:
            raise ValueError(f"down_up must be in (0, 1], got {self.down_up}")
        if self.share == 0 and self.down_up == 1:
            raise ValueError("share must be above 0 or down_up below 1, got neither")

    def purify(self, target: Any, album: Album, seed: int = 0) -> Tensor:
        """Return the middles, enlarged; see `Purifier.purify`. There is nothing random in it."""
        images = album.images.float()
        if not len(album):
            return images.clone()
        height, width = images.shape[2:]
        kept = [max(1, round(side * (1 - self.share))) for side in (height, width)]
        top, left = (height - kept[0]) // 2, (width - kept[1]) // 2
        found = images[:, :, top : top + kept[0], left : left + kept[1]]
        if self.down_up < 1:
            found = _resized(found, [max(1, round(side * self.down_up)) for side in kept])
        return rounded(_resized(found, [height, width]))


def _resized(images: Tensor, size: list[int]) -> Tensor:
    return interpolate(images, size, mode="bicubic", antialias=True)
