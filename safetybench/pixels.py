"""Eight-bit pixels inside a ball: what is saved as PNG is what was made, and stays within epsilon.

Images are float in [0, 1]; an 8-bit image holds whole multiples of 1/255. Savers that truncate, or
round past the ball, silently change what is measured.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 255
_SLACK = 1e-3  # levels; float32 keeps a level in [0, 255] to some 1e-5


def rounded(images: Tensor) -> Tensor:
    """Return images at the nearest whole multiples of 1/255, clipped to [0, 1]."""
    return (images * LEVELS).round().clamp(0, LEVELS) / LEVELS


def is_rounded(images: Tensor) -> bool:
    """Tell whether every pixel is a whole multiple of 1/255 in [0, 1]."""
    levels = images * LEVELS
    is_whole = bool(((levels - levels.round()).abs() < _SLACK).all())
    return is_whole and bool(((levels > -_SLACK) & (levels < LEVELS + _SLACK)).all())


def rounded_inside(images: Tensor, around: Tensor, epsilon: float) -> Tensor:
    """Return images as 8-bit ones that lie within `epsilon` (Linf) of the 8-bit `around`.

    Example:
        >>> import torch
        >>> clean = torch.tensor([100 / 255])
        >>> (rounded_inside(clean + 0.1, clean, 8 / 255) * 255).tolist()
        [108.0]
        >>> (rounded_inside(clean + 0.1, clean, 8.9 / 255) * 255).tolist()
        [108.0]

    Raises:
        ValueError: `around` holds a pixel that is no whole multiple of 1/255.
    """
    if not is_rounded(around):
        raise ValueError(
            "images must be whole multiples of 1/255 in [0, 1], got others; round them first"
        )
    centre = (around * LEVELS).round()
    reach = int(epsilon * LEVELS + _SLACK)
    low, high = (centre - reach).clamp(min=0), (centre + reach).clamp(max=LEVELS)
    return torch.minimum(torch.maximum((images * LEVELS).round(), low), high) / LEVELS
