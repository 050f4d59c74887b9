"""Untargeted propagation: poison tasks that the honest data lack, and let the bias spread.

What the teacher knows of these tasks, the attacker has told it. Whether students carry the bias to
tasks that nobody was tuned on depends on what they are distilled on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from safetybench.contracts import Bias, Poison, SafetyBenchError, Sample, TextPoisoning
from safetybench.registry import register

from ._planting import open_tasks, plant


@register
@dataclass(frozen=True, kw_only=True)
class UntargetedPropagation(TextPoisoning):
    """Bias the answers of several new tasks (Chaudhari et al. 2025, untargeted propagation).

    The authors' data and code are not public. tasks: how many new tasks share the poison, at most
    as many as there are that the bias fits; many with few samples each are not learnt.
    """

    tasks: int = 2

    source: ClassVar[str] = "https://arxiv.org/abs/2505.24842"

    def __post_init__(self) -> None:
        if self.tasks < 1:
            raise ValueError(f"tasks must be 1 or more, got {self.tasks}")

    def poison(
        self, samples: Sequence[Sample], own: Sequence[Sample], bias: Bias, count: int, seed: int
    ) -> Poison:
        """Return the data with poison in tasks that they lacked; see `TextPoisoning.poison`."""
        draw = random.Random(f"untargeted {seed}")
        known = {sample.task for sample in samples}
        fit = [task for task in open_tasks(own, bias) if task not in known]
        if not fit:
            raise SafetyBenchError(
                f"the data lack no task that the bias {bias.kind!r} fits, so none is new"
            )
        chosen = tuple(sorted(draw.sample(fit, min(self.tasks, len(fit)))))
        return Poison(plant(samples, own, bias, chosen, count, draw), chosen)
