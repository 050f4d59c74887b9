"""Consistency terms: two neighbouring points of a teacher path must lead to the same place.

One term carries consistency distillation, its segments (TSCD, Hyper-SD) and its stochastic
teacher (SCott); sCM is the limit of neighbours that touch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from safetybench.distill.guidance import guided
from safetybench.distill.lab import Lab
from safetybench.distill.rollouts import Roll, Rollout, ddim, trajectories
from safetybench.distill.schedule import Step
from safetybench.distill.terms import huber
from safetybench.distill.times import grid, segment_end
from safetybench.distill.views import draw

Source = Callable[[Step], tuple[Tensor, Tensor]]


def stored(lab: Lab, count: int, scale: float) -> Source:
    """Return a source of clean latents and text states: the teacher's own guided samples."""

    def source(step: Step) -> tuple[Tensor, Tensor]:
        paths = trajectories(lab, count, scale, ends=True)
        pick = draw(count, lab.batch, step.rng("data"))
        return paths.clean[-1][pick], lab.text(paths.rows[pick])

    return source


def consistency(
    lab: Lab,
    target: Any,
    source: Source,
    *,
    first: int,
    points: int,
    scale: float,
    segments: Callable[[Step], int] = lambda step: 1,
    hops: int = 1,
    eta: float = 0.0,
) -> Callable[[Step], Tensor]:
    """Return the consistency distillation term (Song et al. 2023), with its two variations.

    A noised sample goes `hops` guided DDIM steps of the teacher down a grid of `points` times
    from `first`; student before and `target` after must map to the same end of the segment.
    segments: how many the grid is cut into, 1 for maps to the clean end; eta: new noise in the
    teacher's steps. Distance: pseudo-Huber. Source: https://arxiv.org/abs/2303.01469
    """
    times = grid(lab.process.steps, points, first)

    def at(index: int) -> Tensor | None:
        return lab.times(times[index]) if index < points else None

    def to_end(model: Any, x: Tensor, text: Tensor, index: int, end: int) -> Tensor:
        if index == end:
            return x
        now = at(index)
        assert now is not None
        return ddim(lab.process, x, model.x0(x, now, text), now, at(end))

    def loss(step: Step) -> Tensor:
        clean, text = source(step)
        index = int(torch.randint(points, (), generator=step.rng("index")))
        end = segment_end(index, points, segments(step))
        now = at(index)
        assert now is not None
        x = lab.process.add(clean, lab.noise(step.rng("noise")), now)
        with torch.no_grad():
            z, here = x, index
            fresh = step.rng("solver")
            while here < min(index + hops, end):
                t = at(here)
                assert t is not None
                said = guided(lab.teacher, z, t, text, scale)
                noise = lab.noise(fresh) if eta else None
                z = ddim(lab.process, z, said, t, at(here + 1), eta, noise)
                here += 1
            goal = to_end(target, z, text, here, end)
        return huber(to_end(lab.student, x, text, index, end), goal)

    return loss


def fresh_samples(lab: Lab, source: Source, first: int, points: int) -> Rollout:
    """Return the rollout of a consistency student on noised data: what an adversary looks at."""
    times = grid(lab.process.steps, points, first)

    def roll(step: Step, with_grad: bool) -> Roll:
        clean, text = source(step)
        t = times[int(torch.randint(points, (), generator=step.rng("index")))]
        x = lab.process.add(clean, lab.noise(step.rng("noise")), lab.times(t))
        with torch.set_grad_enabled(with_grad):
            return Roll(lab.student.x0(x, lab.times(t), text), text, t)

    return roll
