"""Shift: an image moved by a few pixels, which nobody chose against the model.

No attack and bound by no norm: accuracy on it tells of natural change, which adversarial training
may well make worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from safetybench.class_contracts import Access
from safetybench.contracts import Budget, Classifies, Evasion
from safetybench.registry import register

_WAYS = torch.tensor([[y, x] for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x])


@register
@dataclass(frozen=True, kw_only=True)
class Shift(Evasion):
    """Move an image one way of eight (one random draw of the shifts of Engstrom et al. 2019).

    pixels: by how many, along each axis that it moves on. What comes in repeats the edge.
    """

    pixels: int = 2

    source: ClassVar[str] = "https://arxiv.org/abs/1712.02779"
    sees: ClassVar[Access] = "nothing"
    is_natural: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.pixels < 1:
            raise ValueError(f"pixels must be 1 or more, got {self.pixels}")

    def perturb(
        self,
        target: Classifies,
        images: Tensor,
        labels: Tensor,
        budget: Budget,
        surrogate: Classifies | None = None,
    ) -> Tensor:
        """Return moved images; see `Evasion.perturb`."""
        generator = torch.Generator().manual_seed(budget.seed)
        drawn = torch.randint(len(_WAYS), (len(images),), generator=generator)
        changed, (height, width) = images.clone(), images.shape[2:]
        for row, (down, right) in enumerate((self.pixels * _WAYS[drawn]).tolist()):
            ys = (torch.arange(height, device=images.device) - down).clamp(0, height - 1)
            xs = (torch.arange(width, device=images.device) - right).clamp(0, width - 1)
            changed[row] = images[row][:, ys][:, :, xs]
        return changed
