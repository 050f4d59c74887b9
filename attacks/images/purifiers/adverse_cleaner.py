"""AdverseCleaner: smooth between edges only, again and again; needs no model.

A filter of sixteen lines that the first protections were not made against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from safetybench.contracts import Album, Purifier
from safetybench.pixels import LEVELS, rounded
from safetybench.registry import register

from ._filters import GuidedFilter, bilateral


@register
@dataclass(frozen=True, kw_only=True)
class AdverseCleaner(Purifier):
    """Bilateral filters, then filters guided by the image as it came (Zhang 2023).

    smooth: bilateral filters in a row, of diameter 5 and both sigmas 8 (of 255 levels, of
    pixels). guide: guided filters in a row, of radius 4 and eps 16 levels squared. Published: 64
    and 4. Departs from the release in rounding, where it truncates, and in exact weights, where
    OpenCV reads them from a table.
    """

    smooth: int = 64
    guide: int = 4

    source: ClassVar[str] = "https://github.com/lllyasviel/AdverseCleaner"

    def __post_init__(self) -> None:
        if self.smooth < 0 or self.guide < 0 or not self.smooth + self.guide:
            raise ValueError(
                "smooth and guide must be 0 or more, and not both 0, got "
                f"{self.smooth} and {self.guide}"
            )

    def purify(self, target: Any, album: Album, seed: int = 0) -> Tensor:
        """Return smoothed images; see `Purifier.purify`. There is nothing random in it."""
        given = album.images.float() * LEVELS
        images = given
        for _ in range(self.smooth):
            images = bilateral(images, 5, 8.0, 8.0)
        if self.guide:
            filtered = GuidedFilter(given, 4, 16.0)
            for _ in range(self.guide):
                images = filtered(images)
        return rounded(images / LEVELS)
