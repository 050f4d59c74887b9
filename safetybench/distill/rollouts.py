"""How a student comes by the sample that is judged: one step, a chain, or stored trajectories."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from safetybench.distill.guidance import guided
from safetybench.distill.lab import Lab
from safetybench.distill.schedule import Step
from safetybench.distill.views import draw


class Roll(NamedTuple):
    """A student's sample, (batch, channels, h, w), its text states and the time it was made at.

    rows: of the training prompts, None where the text came with data.
    """

    x: Tensor
    text: Tensor
    t: int
    rows: Tensor | None = None


Rollout = Callable[[Step, bool], Roll]


def simulate(lab: Lab, times: Sequence[int]) -> Rollout:
    """Return the rollout of a student that renoises its own samples along `times`.

    A uniformly drawn number of steps is made without gradient, from pure noise at the first
    time on; the sample of the last one carries it. One time is a one-step student. This is the
    backward simulation of DMD2, at which a few-step student sees in training what it sees at
    inference. Source: https://arxiv.org/abs/2405.14867
    """

    def roll(step: Step, with_grad: bool) -> Roll:
        text, x, rows = lab.draw(step)
        stop = int(torch.randint(len(times), (), generator=step.rng("chain")))
        renoise = step.rng("renoise")
        with torch.no_grad():
            for now, then in pairwise(times[: stop + 1]):
                clean = lab.student.x0(x, lab.times(now), text)
                x = lab.process.add(clean, lab.noise(renoise), lab.times(then))
        with torch.set_grad_enabled(with_grad):
            made = lab.student.x0(x, lab.times(times[stop]), text)
        return Roll(made, text, times[stop], rows)

    return roll


def ddim(
    process: Any, x: Tensor, clean: Tensor, now: Tensor, then: Tensor | None,
    eta: float = 0.0, noise: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return x at the time `then`, from x at `now` and its x0-prediction; None is the clean end.

    eta: share of the noise that is new, 0 for the deterministic DDIM of Song et al. 2021 and 1
    for renoising (not their scale, on which 1 is ancestral); then `noise` is needed. now, then:
    (batch,) int64.
    Source: https://arxiv.org/abs/2010.02502
    """
    if then is None:
        return clean
    old = process.convert(clean, "sample", "epsilon", x, now)
    if eta:
        assert noise is not None
        old = (1 - eta**2) ** 0.5 * old + eta * noise
    answer: Tensor = process.add(clean, old, then)
    return answer


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Stored paths of the teacher's guided sampler.

    times: of the sampler, noisiest first; x: (times + 1, count, channels, h, w), the noise first
    and the clean end last; clean: (times, count, channels, h, w), the guided x0-predictions;
    rows: (count,) of the prompts; scale: (count,) guidance of each path. Of paths stored by their
    ends alone x has two points and clean one.
    """

    times: tuple[int, ...]
    x: Tensor
    clean: Tensor
    rows: Tensor
    scale: Tensor


_Kept = dict[Any, Trajectories]
_OF_MEMORY: WeakKeyDictionary[Any, _Kept] = WeakKeyDictionary()
_OF_FILES: OrderedDict[str, _Kept] = OrderedDict()  # by digest, the two teachers used last


@torch.no_grad()
def trajectories(
    lab: Lab, count: int, low: float, high: float | None = None, *, ends: bool = False
) -> Trajectories:
    """Return `count` guided DDIM paths of the teacher over its native time grid.

    low, high: range of the guidance, one draw a path; ends: store noise and sample alone. They
    are data and not part of a training's randomness: drawn once for a teacher and kept for the
    recipes and seeds that follow in the process.
    """
    high = low if high is None else high
    key = (count, low, high, ends, lab.ids.shape, tuple(lab.ids.flatten().tolist()))
    kept = _kept(lab.teacher)
    if key not in kept:
        kept[key] = _run(lab, count, low, high, ends)
    return kept[key]


def _kept(teacher: Any) -> _Kept:
    digest = getattr(teacher, "digest", "")
    if not digest:
        return _OF_MEMORY.setdefault(teacher, {})
    kept = _OF_FILES.setdefault(digest, {})
    _OF_FILES.move_to_end(digest)
    while len(_OF_FILES) > 2:
        _OF_FILES.popitem(last=False)
    return kept


def _run(lab: Lab, count: int, low: float, high: float, ends: bool) -> Trajectories:
    rng = torch.Generator().manual_seed(0x7EAC4)
    rows = draw(len(lab.ids), count, rng)
    scale = (low + (high - low) * torch.rand(count, generator=rng)).to(lab.teacher.device)
    start = lab.noise(rng, count)
    times = tuple(lab.teacher.sampler_times)
    xs, cleans = [], []
    for part in torch.arange(count).split(64):
        x, text = start[part], lab.text(rows[part])
        path, predictions = [x], []
        for now, then in zip(times, [*times[1:], None], strict=True):
            t = torch.full((len(x),), now, device=x.device)
            clean = guided(lab.teacher, x, t, text, scale[part])
            x = ddim(lab.process, x, clean, t, None if then is None else torch.full_like(t, then))
            path.append(x)
            predictions.append(clean)
        xs.append(torch.stack([path[0], path[-1]] if ends else path))
        cleans.append(torch.stack(predictions[-1:] if ends else predictions))
    return Trajectories(times, torch.cat(xs, 1), torch.cat(cleans, 1), rows, scale)
