"""Sides of any length: images are mirrored on to what a filter or a model takes, and cut back."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Mirror = Literal["reflect", "symmetric"]  # without and with the border's own pixels repeated
_PROBE = 64  # pixels; every autoencoder in use divides 64


def mirrored(images: Tensor, before: int, after: tuple[int, int], mode: Mirror) -> Tensor:
    """Return images mirrored outwards, however small they are.

    images: (batch, channels, height, width). before: pixels added at the top and at the left;
    after: at the bottom and at the right.
    """
    for axis, behind in zip((2, 3), after, strict=True):
        index = np.pad(np.arange(images.shape[axis]), (before, behind), mode=mode)
        images = images.index_select(axis, torch.from_numpy(index).to(images.device))
    return images


def fitted(target: Any, images: Tensor) -> Tensor:
    """Return images where a model lives, mirrored on at the right and below to sides it takes."""
    images = images.to(getattr(target, "device", images.device))
    unit = side_unit(target, images)
    height, width = images.shape[2:]
    return mirrored(images, 0, (-height % unit, -width % unit), "reflect")


def side_unit(target: Any, images: Tensor) -> int:
    """Return what sides of images must be multiples of: two latents, as transformers pair them.

    A UNet's own halvings need no more, for it fits the way up to the way down.
    """
    device = getattr(target, "device", images.device)
    with torch.inference_mode():
        latents = target.encode(torch.zeros(1, 3, _PROBE, _PROBE, device=device))
    return 2 * (_PROBE // int(latents.shape[-1]))
