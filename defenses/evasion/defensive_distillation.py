"""Defensive distillation: a student of a teacher like itself, both trained at a high temperature.

A defense that was broken: it blinds attacks that follow the cross-entropy's gradient, and no
other. Needs labelled images alone, it makes its own teacher.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from safetybench.contracts import Budget, ClassLesson, Hardening
from safetybench.registry import register
from safetybench.vision.fitting import Batch, fit

from ._fresh import fresh
from ._terms import check_temperature, check_training, logits_of


@register
@dataclass(frozen=True, kw_only=True)
class DefensiveDistillation(Hardening):
    """Distil at a temperature, deploy without it (Papernot et al. 2016).

    temperature: T of both trainings, published 1 to 100, where 100 defends best. The teacher has
    the student's layers, drawn anew, and is trained on labels by softmax(logits / T); the student
    is trained on the teacher's softmax(logits / T) in the same way and answers with its logits,
    which are about T times as large as a plain network's: the softmax of most is then exactly 1
    or 0 in float32, and the gradient of the cross-entropy exactly 0. Each takes budget.steps
    updates. Departs in the optimiser: AdamW divides a gradient by its size, so that one that is T
    times smaller trains as fast.
    """

    temperature: float = 100.0
    size: int = 128
    rate: float = 1e-2

    source: ClassVar[str] = "https://arxiv.org/abs/1511.04508"

    def __post_init__(self) -> None:
        check_training(self.size, self.rate)
        check_temperature(self.temperature)

    def run(
        self, net: nn.Module, lesson: ClassLesson, budget: Budget, report: Any = None
    ) -> nn.Module:
        """Return `net`, trained; see `Hardening.run`. Reports twice budget.steps steps."""
        teacher = fresh(net, budget.seed + 1)

        def hard(net: nn.Module, batch: Batch) -> Tensor:
            logits = net(batch.images) / self.temperature
            return nn.functional.cross_entropy(logits, batch.labels)

        own = replace(budget, seed=budget.seed + 1)
        fit(teacher, lesson, own, hard, size=self.size, rate=self.rate, report=report)
        soft = (logits_of(teacher, lesson.data.images) / self.temperature).softmax(1)

        def loss(net: nn.Module, batch: Batch) -> Tensor:
            logits = net(batch.images) / self.temperature
            return nn.functional.cross_entropy(logits, soft[batch.rows])

        return fit(
            net,
            lesson,
            budget,
            loss,
            size=self.size,
            rate=self.rate,
            report=report,
            first=budget.steps,
        )
