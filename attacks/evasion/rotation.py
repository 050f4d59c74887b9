"""Rotation: an image turned by a few degrees, which nobody chose against the model.

No attack and bound by no norm: accuracy on it tells of natural change, which adversarial training
may well make worse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from safetybench.class_contracts import Access
from safetybench.contracts import Budget, Classifies, Evasion
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class Rotation(Evasion):
    """Turn an image about its middle (one random draw of the turns of Engstrom et al. 2019).

    degrees: the most it is turned by, either way; angles are uniform. Bilinear; what comes in
    repeats the edge, where the authors pad with black.
    """

    degrees: float = 15.0

    source: ClassVar[str] = "https://arxiv.org/abs/1712.02779"
    sees: ClassVar[Access] = "nothing"
    is_natural: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.degrees <= 180:
            raise ValueError(f"degrees must be in (0, 180], got {self.degrees}")

    def perturb(
        self,
        target: Classifies,
        images: Tensor,
        labels: Tensor,
        budget: Budget,
        surrogate: Classifies | None = None,
    ) -> Tensor:
        """Return turned images; see `Evasion.perturb`."""
        if not len(images):
            return images.clone()
        generator = torch.Generator().manual_seed(budget.seed)
        drawn = 2 * torch.rand(len(images), generator=generator) - 1
        angles = (math.radians(self.degrees) * drawn).to(images)
        height, width = images.shape[2:]
        turns = images.new_zeros(len(images), 2, 3)
        turns[:, 0, 0] = turns[:, 1, 1] = angles.cos()
        # The grid runs from -1 to 1 along both axes, however long they are.
        turns[:, 0, 1] = -angles.sin() * height / width
        turns[:, 1, 0] = angles.sin() * width / height
        grid = torch.nn.functional.affine_grid(turns, list(images.shape), align_corners=False)
        turned = torch.nn.functional.grid_sample(
            images, grid, padding_mode="border", align_corners=False
        )
        return turned.clamp(0, 1)
