"""The guidance scale as an input of the denoiser, in the place of a second pass without text.

Such a student answers in one pass what its teacher answers at that scale in two (LCM, Luo et al.
2023, https://arxiv.org/abs/2310.04378).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def per_image(guidance: float | Tensor, batch: int, device: torch.device) -> Tensor:
    """Return a scale for each image, (batch,) float32; guidance: one for all, or (batch,)."""
    if not isinstance(guidance, Tensor):
        return torch.full((batch,), float(guidance), device=device)
    if guidance.ndim > 1 or guidance.numel() not in (1, batch):
        raise ValueError(
            f"guidance must be a number or ({batch},), one for each image, got "
            f"{tuple(guidance.shape)}"
        )
    return guidance.to(device, torch.float32).expand(batch)


def sinusoid(values: Tensor, width: int) -> Tensor:
    """Return sines and cosines of `values` (batch,), (batch, width) float32."""
    half = width // 2
    step = math.log(10000.0) / max(half - 1, 1)
    rates = torch.exp(-step * torch.arange(half, device=values.device, dtype=torch.float32))
    angles = values.float()[:, None] * rates
    return functional.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, width % 2))


def guidance_embedding(guidance: Tensor, width: int) -> Tensor:
    """Return what StableDiffusionPipeline passes as `timestep_cond`, (batch, width) float32.

    guidance: (batch,), in the Ho form. Nothing here waits for the device.
    """
    return sinusoid((guidance - 1) * 1000, width)
