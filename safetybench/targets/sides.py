"""Sides of images: what a target's networks can halve, and how any image is brought to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def side_multiple(target: Any) -> int:
    """Return the number of pixels of which height and width of an image must be multiples.

    That is pixels a latent times what the denoiser halves its latents by; 1 for a target without
    both networks.
    """
    if not (hasattr(target, "vae") and hasattr(target, "unet")):
        return 1
    networks = (target.vae, target.unet)
    # Each block but the last halves, in AutoencoderKL and UNet2DConditionModel alike.
    halvings = sum(len(network.config.block_out_channels) - 1 for network in networks)
    return int(2**halvings)


def mirrored(images: Tensor, multiple: int) -> Tensor:
    """Return images that go on, mirrored, at the right and below, to multiples of `multiple`.

    images: (..., height, width), of any size from one pixel up; to undo it, cut at the old size.

    >>> mirrored(torch.tensor([[1.0, 2.0, 3.0]]), 2).tolist()
    [[1.0, 2.0, 3.0, 2.0], [1.0, 2.0, 3.0, 2.0]]
    """
    height, width = images.shape[-2:]
    rows, columns = _there_and_back(height, multiple), _there_and_back(width, multiple)
    return images[..., rows.to(images.device), :][..., columns.to(images.device)]


def _there_and_back(length: int, multiple: int) -> Tensor:
    """Return 0, 1, ... length - 1, length - 2, ... as many as the next multiple."""
    steps = torch.arange(-(-length // multiple) * multiple)
    period = max(1, 2 * (length - 1))
    steps = steps % period
    return torch.where(steps < length, steps, period - steps)
