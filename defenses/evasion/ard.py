"""ARD: a student answers in the whole ball as a robust teacher does on the clean image.

Robust distillation of which the attack is on labels. Needs the teacher's logits; white box to the
student.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from safetybench.contracts import Budget, ClassLesson, Hardening
from safetybench.registry import register
from safetybench.vision.fitting import Batch, fit

from ._inner import attacked, check_ball, check_inner
from ._terms import answers, ce, check_share, check_temperature, check_training, device_of, kl


@register
@dataclass(frozen=True, kw_only=True)
class Ard(Hardening):
    """Distil the teacher's clean answers at attacked images (Goldblum et al. 2020).

    alpha: weight of T^2 KL(teacher(x) / T || student(x') / T), published 1; the rest is the
    clean cross-entropy. temperature: T, published 30. inner_steps: of the attack, published
    10. rel_step: its step as a share of epsilon, published 1/4. The attack climbs the student's
    cross-entropy. Departs from the code in the divergence, summed over classes, see `kl`, in a
    uniform start and in the optimiser.
    """

    alpha: float = 1.0
    temperature: float = 30.0
    inner_steps: int = 10
    rel_step: float = 0.25
    size: int = 128
    rate: float = 3e-3

    source: ClassVar[str] = "https://arxiv.org/abs/1905.09747"
    needs_teacher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_training(self.size, self.rate)
        check_inner(self.inner_steps, self.rel_step)
        check_temperature(self.temperature)
        check_share("alpha", self.alpha)

    def run(
        self, net: nn.Module, lesson: ClassLesson, budget: Budget, report: Any = None
    ) -> nn.Module:
        """Return `net`, trained; see `Hardening.run`."""
        check_ball(budget, self)
        goals = answers(lesson, self, device_of(net))

        def loss(net: nn.Module, batch: Batch) -> Tensor:
            attack = attacked(
                net,
                batch.images,
                lambda logits: ce(logits, batch.labels),
                budget,
                batch.generator,
                steps=self.inner_steps,
                rel_step=self.rel_step,
            )
            soft = kl(net(attack), goals[batch.rows], self.temperature).mean()
            value = self.alpha * self.temperature**2 * soft
            if self.alpha < 1:
                value = value + (1 - self.alpha) * ce(net(batch.images), batch.labels).mean()
            return value

        return fit(net, lesson, budget, loss, size=self.size, rate=self.rate, report=report)
