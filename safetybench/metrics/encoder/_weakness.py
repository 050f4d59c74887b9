"""Amplification of a perturbation by the encoder, and the denoiser's gradient against its noise.

Xue et al. (2024, Diff-Protect) say that the encoder is what protections break; these are the two
figures of it. Source: https://arxiv.org/abs/2311.12832
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from safetybench.draws import Streams


def amplification(target: Any, images: Tensor, perturbed: Tensor) -> Tensor:
    """Return (|dz| / |z|) / (|dx| / |x|), (batch,): the relative shift of latents over pixels'.

    images, perturbed: (batch, 3, height, width) in [0, 1]; target encodes images. Norms are L2
    over an image. Not a number where nothing was perturbed. What random noise of the same size
    gives is the figure to compare with.

    Departs from the paper, which records Linf and L1 of latents scaled to their clean range.

    Raises:
        ValueError: batches of other shapes.
    """
    if images.shape != perturbed.shape or images.ndim != 4:
        raise ValueError(
            "images must be two batches of one shape (batch, 3, height, width), got "
            f"{tuple(images.shape)} and {tuple(perturbed.shape)}"
        )
    with torch.inference_mode():
        latents, moved = target.encode(images), target.encode(perturbed)
    inside = (_norm(moved - latents) / _norm(latents)).clone()
    return inside / (_norm(perturbed - images) / _norm(images))


def gradient_snr(
    target: Any,
    images: Tensor,
    times: Sequence[int],
    draws: int,
    *,
    seed: int = 0,
    ids: Sequence[str] | None = None,
) -> Tensor:
    """Return |E g|^2 / E|g - E g|^2 of each image at each time, (batch, times) float32.

    g is the gradient in the latents z of the denoising loss at one noise draw, with the empty
    text; E is over draws, of which all times share the same. images: (batch, 3, height, width)
    in [0, 1]. times: of the noise process. draws: 2 or more; a draw is two passes a time. The
    numerator is without its bias, so that no signal at all is 0 at any number of draws, a little
    below by chance. ids: what an image's noise is made of beside `seed`, its place by default.

    The loss is that of x0, which is the noise loss times what depends on the time alone: the
    ratio is the same, and exists where there is no signal left as well.

    Raises:
        ValueError: fewer than two draws, or a time that the process has not.
    """
    steps = target.process.steps
    if draws < 2 or any(not 0 <= time < steps for time in times):
        raise ValueError(
            f"draws must be 2 or more and times in 0 to {steps - 1}, got {draws} and {list(times)}"
        )
    names = [str(i) for i in range(len(images))] if ids is None else list(ids)
    streams = Streams(seed, [f"{name}/gradient_snr" for name in names])
    with torch.inference_mode():
        latents = target.encode(images)
        text = target.embed(target.tokenize([""]))
    latents, text = latents.clone(), text.clone().expand(len(latents), -1, -1)
    total = torch.zeros(len(times), *latents.shape, dtype=torch.float64, device=latents.device)
    energy = total.new_zeros(len(times), len(latents))
    for _ in range(draws):
        noise = streams.normal(latents.shape[1:], latents)
        for i, time in enumerate(times):
            gradient = _gradient(target, latents, noise, time, text).double()
            total[i] += gradient
            energy[i] += gradient.flatten(1).square().sum(1)
    squared = (total / draws).flatten(2).square().sum(2)
    spread = (energy - draws * squared).clamp(min=0) / (draws - 1)
    return ((squared - spread / draws) / spread).T.float()


def _gradient(target: Any, latents: Tensor, noise: Tensor, time: int, text: Tensor) -> Tensor:
    free = latents.detach().requires_grad_(True)
    times = torch.full((len(free),), time, device=free.device)
    with torch.enable_grad():
        clean = target.x0(target.process.add(free, noise, times), times, text)
        (gradient,) = torch.autograd.grad((clean - free).square().sum(), free)
    return gradient.detach()


def _norm(values: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return norms
