"""Distillation on clean images: a student learns a teacher's soft answers, and no robustness.

The control of robust distillation: what the teacher's answers alone hand on. Needs the teacher's
logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from safetybench.contracts import Budget, ClassLesson, Hardening
from safetybench.registry import register
from safetybench.vision.fitting import Batch, fit

from ._terms import answers, ce, check_share, check_temperature, check_training, device_of, kl


@register
@dataclass(frozen=True, kw_only=True)
class Kd(Hardening):
    """Match softened answers (Hinton et al. 2015).

    alpha: weight of T^2 KL(teacher / T || student / T), the rest is the labels' cross-entropy.
    temperature: T; the paper tries 1 to 20. The paper gives no default of either.
    """

    alpha: float = 0.9
    temperature: float = 4.0
    size: int = 128
    rate: float = 3e-3

    source: ClassVar[str] = "https://arxiv.org/abs/1503.02531"
    needs_teacher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_training(self.size, self.rate)
        check_temperature(self.temperature)
        check_share("alpha", self.alpha)

    def run(
        self, net: nn.Module, lesson: ClassLesson, budget: Budget, report: Any = None
    ) -> nn.Module:
        """Return `net`, trained; see `Hardening.run`."""
        goals = answers(lesson, self, device_of(net))

        def loss(net: nn.Module, batch: Batch) -> Tensor:
            logits = net(batch.images)
            soft = self.temperature**2 * kl(logits, goals[batch.rows], self.temperature)
            return (self.alpha * soft + (1 - self.alpha) * ce(logits, batch.labels)).mean()

        return fit(net, lesson, budget, loss, size=self.size, rate=self.rate, report=report)
