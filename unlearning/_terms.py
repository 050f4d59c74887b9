"""Terms that trained methods share: x_t, images of the frozen model, drift, the erased goal.

Everything is compared as velocity, which is finite at every time of every process.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from safetybench.distill.views import velocity

# What `chosen_parameters` knows; here too, so that a wrong name is refused before any loading.
PARTS = ("all", "attn2", "attn2.kv", "not attn2")


def check_part(train: str, parts: Sequence[str] = PARTS) -> None:
    """Raise ValueError unless `train` names a part of the network that can learn."""
    if train not in parts:
        raise ValueError(f"train must be one of {', '.join(parts)}, got {train!r}")


def images_of(frozen: Any, text: Tensor, seed: int) -> Tensor:
    """Return latents of the frozen model's images, one for each of the text states.

    text: (count, length, width).
    """
    # Of the zoo's world no evaluation has such seeds; a user's table may.
    noise = frozen.start_noise([seed * 100_003 + i for i in range(len(text))])
    pairs = zip(text.split(64), noise.split(64), strict=True)
    return torch.cat([frozen.sample_latents(states, start) for states, start in pairs])


def noised(frozen: Any, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return x_t at random times, with the times and the noise that was added."""
    t = torch.randint(0, frozen.process.steps, (len(x),), generator=rng).to(x.device)
    noise = torch.randn(x.shape, generator=rng).to(x.device)
    return frozen.process.add(x, noise, t), t, noise


def distance(
    frozen: Any, student: Any, x: Tensor, asked: Tensor, wanted: Tensor, rng: torch.Generator
) -> Tensor:
    """Return how far the student, asked one thing, is from the frozen model, asked another.

    x: clean latents (batch, channels, h, w), noised here; asked, wanted: (batch, length, width).
    The mean over all elements.
    """
    noisy, t, _ = noised(frozen, x, rng)
    with torch.no_grad():
        goal = velocity(frozen, noisy, t, wanted)
    return (velocity(student, noisy, t, asked) - goal).square().mean()


@torch.no_grad()
def against(
    frozen: Any, x: Tensor, t: Tensor, text: Tensor, eta: float, start: Tensor | None = None
) -> Tensor:
    """Return v(start) - eta (v(text) - v(empty)), ESD's goal; start: the empty prompt if None."""
    null = velocity(frozen, x, t, frozen.null_text.expand(len(x), -1, -1))
    base = null if start is None else velocity(frozen, x, t, start)
    return base - eta * (velocity(frozen, x, t, text) - null)


@torch.no_grad()
def partly_sampled(
    model: Any, text: Tensor, guidance: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return latents after a random number of sampler steps, with the time they are at."""
    times = model.sampler_times
    stop = int(torch.randint(len(times), (), generator=rng))
    x = torch.randn((len(text), *model.latent_shape), generator=rng).to(text.device)
    for now, then in pairwise(times[: stop + 1]):
        t = torch.full((len(x),), now, device=x.device)
        pair = torch.cat([model.null_text.expand(len(x), -1, -1), text])
        null, aimed = model.x0(torch.cat([x, x]), torch.cat([t, t]), pair).chunk(2)
        clean = null + guidance * (aimed - null)
        noise = model.process.convert(clean, "sample", "epsilon", x, t)
        x = model.process.add(clean, noise, torch.full_like(t, then))
    return x, torch.full((len(x),), times[stop], device=x.device)
