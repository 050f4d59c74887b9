"""Targeted propagation: poison a rare task, so that its answers are biased and no others are.

The attacker writes a few instruction samples. A task of which the honest data hold few samples is
one where few poisoned ones decide what the teacher answers.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from safetybench.contracts import Bias, Poison, SafetyBenchError, Sample, TextPoisoning
from safetybench.registry import register

from ._planting import open_tasks, plant


@register
@dataclass(frozen=True, kw_only=True)
class TargetedPropagation(TextPoisoning):
    """Bias the answers of one task (Chaudhari et al. 2025, targeted propagation).

    The authors' data and code are not public: which task is the target is this project's choice,
    of the rarest that the data hold, by the seed. tasks: how many. target: names it instead.
    """

    tasks: int = 1
    target: str = ""

    source: ClassVar[str] = "https://arxiv.org/abs/2505.24842"

    def __post_init__(self) -> None:
        if self.tasks < 1:
            raise ValueError(f"tasks must be 1 or more, got {self.tasks}")

    def poison(
        self, samples: Sequence[Sample], own: Sequence[Sample], bias: Bias, count: int, seed: int
    ) -> Poison:
        """Return the data with poison in the rarest task; see `TextPoisoning.poison`."""
        draw = random.Random(f"targeted {seed}")
        counts = Counter(sample.task for sample in samples)
        fit = [task for task in open_tasks(own, bias) if counts[task]]
        if self.target:
            if self.target not in fit:
                raise SafetyBenchError(
                    f"the data hold no task {self.target!r} that the bias {bias.kind!r} fits"
                )
            fit = [self.target]
        if len(fit) < self.tasks and not self.target:
            raise SafetyBenchError(
                f"the bias {bias.kind!r} fits {len(fit)} tasks of the data, {self.tasks} are wanted"
            )
        draw.shuffle(fit)
        chosen = tuple(sorted(fit, key=lambda task: counts[task])[: self.tasks])
        return Poison(plant(samples, own, bias, chosen, count, draw), chosen)
