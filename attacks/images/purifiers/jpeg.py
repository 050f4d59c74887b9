"""JPEG: save the image with loss and open it again; needs nothing but Pillow.

What every upload to a website does anyway, and the cheapest attack on a protection there is.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from safetybench.contracts import Album, Purifier
from safetybench.pixels import LEVELS
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class Jpeg(Purifier):
    """Compress at a quality, colours at half resolution (Sandoval-Segura et al. 2023).

    quality: 1 to 100, as libjpeg counts. Settings in comparisons: 65 (PDM-Pure), 75 (BlurGuard,
    and the default here), 70, 80 and 90 (DIA).
    """

    quality: int = 75

    source: ClassVar[str] = "https://arxiv.org/abs/2304.02234"

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be in 1 to 100, got {self.quality}")

    def purify(self, target: Any, album: Album, seed: int = 0) -> Tensor:
        """Return compressed images; see `Purifier.purify`. There is nothing random in it."""
        images = album.images.float()
        if not len(album):
            return images.clone()
        return torch.stack([self._compressed(image) for image in images]).to(images)

    def _compressed(self, image: Tensor) -> Tensor:
        pixels = (image * LEVELS).round().clamp(0, LEVELS).byte().permute(1, 2, 0).cpu().numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=self.quality)
        with Image.open(file) as opened:
            found = np.array(opened.convert("RGB"))
        return torch.from_numpy(found).permute(2, 0, 1).float() / LEVELS
