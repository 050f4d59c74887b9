"""What purifiers ask of a diffusion model: a little noise, and the way down without any text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_AT_ONCE = 64  # images; tiles of one picture are many, and all at once may not fit


def check_strength(strength: float) -> None:
    """Raise ValueError unless `strength` is a share of the way up the noise process."""
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be in (0, 1], got {strength}")


def redrawn(target: Any, images: Tensor, seeds: Sequence[int], strength: float) -> Tensor:
    """Return images noised and run down the native sampler with the empty text.

    images: (batch, 3, height, width) in [0, 1], sides that the model takes. Guided by nothing, so
    that one pass a step is enough; a denoiser that takes the scale as an input gets its own.
    """
    guidance = None if getattr(target, "takes_guidance", False) else 1.0
    parts = []
    for start in range(0, len(images), _AT_ONCE):
        part = images[start : start + _AT_ONCE]
        some = list(seeds[start : start + _AT_ONCE])
        drawn = target.edit(part, [""] * len(part), some, strength, guidance)
        parts.append(drawn.to(images))
    return torch.cat(parts) if parts else images.clone()
