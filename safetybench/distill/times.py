"""Time samplers and grids: which noise levels a term looks at. Times are drawn on the CPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def uniform(
    count: int, steps: int, rng: torch.Generator, low: float = 0.02, high: float = 0.98
) -> Tensor:
    """Return times uniform in [low, high) of a process of `steps` discrete times."""
    return torch.randint(int(low * steps), max(int(high * steps), int(low * steps) + 1), (count,),
                         generator=rng)  # fmt: skip


def above(t: Tensor, steps: int, rng: torch.Generator, high: float = 0.98) -> Tensor:
    """Return times uniform between a student's own time and `high`, as Decoupled DMD's CA needs.

    Source: https://arxiv.org/abs/2511.22677
    """
    t = t.cpu()
    room = (int(high * steps) - t).clamp(min=1)
    return (t + (torch.rand(len(t), generator=rng) * room).long()).clamp(max=steps - 1)


def atan_lognormal(count: int, rng: torch.Generator, mean: float, std: float) -> Tensor:
    """Return TrigFlow angles atan(exp(N(mean, std))), (batch,) float64 in (0, pi / 2).

    Source: https://arxiv.org/abs/2410.11081
    """
    draws = torch.randn(count, generator=rng, dtype=torch.float64) * std + mean
    return draws.exp().atan().clamp(1e-3, math.pi / 2)


def grid(steps: int, points: int, first: int | None = None) -> list[int]:
    """Return `points` evenly spaced times from `first` (the last time by default) down, over 0."""
    top = steps - 1 if first is None else first
    return [round(top * (points - i) / points) for i in range(points)]


def segment_end(index: int, points: int, segments: int) -> int:
    """Return the grid index at which the segment of `index` ends, `points` for clean images.

    Trajectory segmented consistency distillation (Ren et al. 2024, Hyper-SD): the grid of
    `points` times is cut into equal segments; 1 is plain consistency.
    Source: https://arxiv.org/abs/2404.13686
    """
    size = math.ceil(points / segments)
    return min((index // size + 1) * size, points)
