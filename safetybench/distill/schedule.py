"""Who learns when: steps with their streams of draws, groups that take turns, stages, averages.

Every draw comes from a stream named by seed, stage, step, turn and purpose, so that one term's
draws do not depend on another's, and a resumed training ends with the same weights.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_SEEDS = 1_000_000_000  # evaluation begins there


@dataclass(frozen=True, kw_only=True)
class Step:
    """Where a training is: stage, step of `total` in it, and which of a group's turns it is."""

    index: int
    total: int
    seed: int
    stage: int = 0
    turn: int = 0

    def rng(self, purpose: str) -> torch.Generator:
        """Return the generator of one purpose ("noise", "times", ...), fresh at every call.

        Its seeds lie below those that images are judged at.
        """
        key = f"{self.seed}/{self.stage}/{self.index}/{self.turn}/{purpose}"
        return torch.Generator().manual_seed(zlib.crc32(key.encode()) % _SEEDS)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Weights that learn together from one loss.

    loss: maps a step to a scalar; repeats: updates in a step, for two time scales; every: takes
    part only in each so many-th step. betas: beta1 is 0 by default, as moving targets need.
    """

    name: str
    weights: Sequence[nn.Parameter]
    loss: Callable[[Step], Tensor]
    lr: float
    betas: tuple[float, float] = (0.0, 0.99)
    repeats: int = 1
    every: int = 1
    clip: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a training: its groups in the order of their turns, and for how many steps.

    after: called at the end of each step; keeps: modules that it changes, for the checkpoint.
    """

    steps: int
    groups: Sequence[Group]
    after: Sequence[Callable[[Step], None]] = ()
    keeps: Sequence[nn.Module] = ()


class Average:
    """Exponential moving average of weights; the decay warms up as (1 + step) / (10 + step)."""

    def __init__(self, weights: Sequence[nn.Parameter], decay: float) -> None:
        self.weights, self.decay = list(weights), decay
        self.values = [w.detach().clone() for w in self.weights]

    @torch.no_grad()
    def update(self, step: Step) -> None:
        """Take in the weights as they are now."""
        decay = min(self.decay, (1 + step.index) / (10 + step.index))
        torch._foreach_lerp_(self.values, [w.detach() for w in self.weights], 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Put the averages into the weights."""
        torch._foreach_copy_([w.detach() for w in self.weights], self.values)
