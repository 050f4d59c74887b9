"""Distances between images and the ball around them, in the two norms that attacks are held to."""

from __future__ import annotations

import torch
from torch import Tensor

from safetybench.class_contracts import Norm

_TINY = 1e-12  # below any gradient or distance that float32 tells from none


def sizes(change: Tensor, norm: Norm) -> Tensor:
    """Return the norm of each change: (batch, c, h, w) to (batch,).

    >>> sizes(torch.tensor([[[[3.0, -4.0]]]]), "l2")
    tensor([5.])
    """
    flat = change.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)


def clip(changed: Tensor, images: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """Return the nearest images (in l2, as good as) inside the ball around `images` and [0, 1]."""
    change = changed - images
    if norm == "linf":
        change = change.clamp(-epsilon, epsilon)
    else:
        size = sizes(change, norm).clamp_min(_TINY)
        change = change * (epsilon / size).clamp_max(1)[:, None, None, None]
    return (images + change).clamp(0, 1)


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """Return the direction of size 1 in which a linear function with this gradient grows most."""
    if norm == "linf":
        return gradient.sign()
    return gradient / sizes(gradient, norm).clamp_min(_TINY)[:, None, None, None]


def start(images: Tensor, epsilon: float, norm: Norm, generator: torch.Generator) -> Tensor:
    """Return a point drawn uniformly from the ball around each image, inside [0, 1]."""
    draw = torch.randn if norm == "l2" else torch.rand
    noise = draw(images.shape, generator=generator).to(images)
    if norm == "linf":
        return (images + epsilon * (2 * noise - 1)).clamp(0, 1)
    width = images.shape[1:].numel()
    radius = torch.rand(len(images), generator=generator).to(images) ** (1 / width)
    return (images + epsilon * radius[:, None, None, None] * steepest(noise, norm)).clamp(0, 1)
