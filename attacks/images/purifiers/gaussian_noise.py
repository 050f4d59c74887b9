"""Gaussian noise: drown the protection in noise that means nothing; needs no model.

By itself it trades the image's quality for the protection's; robust mimicry denoises it after.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from safetybench.contracts import Album, Purifier
from safetybench.draws import Streams
from safetybench.pixels import rounded
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Purifier):
    """Add normal noise, clip and round (Hoenig et al. 2024, Gaussian noising).

    sigma: of the noise in [0, 1] pixel units. Published: 0.05, and 0.1 before their upscaler,
    which is left out here.
    """

    sigma: float = 0.05

    source: ClassVar[str] = "https://arxiv.org/abs/2406.12027"

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 1:
            raise ValueError(f"sigma must be in (0, 1] pixel units, got {self.sigma}")

    def purify(self, target: Any, album: Album, seed: int = 0) -> Tensor:
        """Return noisy images; see `Purifier.purify`."""
        images = album.images.float()
        if not len(album):
            return images.clone()
        streams = Streams(seed, [f"{i}/gaussian_noise" for i in album.ids])
        return rounded(images + self.sigma * streams.normal(images.shape[1:], images))
