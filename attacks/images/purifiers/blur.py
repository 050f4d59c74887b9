"""Blur: average fine noise away, and fine detail with it; needs no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from safetybench.contracts import Album, Purifier
from safetybench.pixels import rounded
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class Blur(Purifier):
    """Blur by a Gaussian (one of the purifiers of Choi et al. 2025).

    sigma: pixels. Published: 0.5, 1 and 1.5, on images of 512 pixels; the kernel is cut at four
    sigma, and borders are mirrored.
    """

    sigma: float = 1.0

    source: ClassVar[str] = "https://arxiv.org/abs/2410.05694"

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"sigma must be above 0 pixels, got {self.sigma}")

    def purify(self, target: Any, album: Album, seed: int = 0) -> Tensor:
        """Return blurred images; see `Purifier.purify`. There is nothing random in it."""
        pixels = album.images.float().cpu().numpy()
        blurred = gaussian_filter(pixels, (0, 0, self.sigma, self.sigma), mode="mirror")
        return rounded(torch.from_numpy(blurred)).to(album.images.device)
