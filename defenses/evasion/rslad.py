"""RSLAD: robust soft labels replace hard ones everywhere, in the attack as in both losses.

Robust distillation without labels. Needs a robust teacher's logits; white box to the student.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from safetybench.contracts import Budget, ClassLesson, Hardening
from safetybench.registry import register
from safetybench.vision.fitting import Batch, fit

from ._inner import attacked, check_ball, check_inner
from ._terms import answers, check_share, check_training, device_of, kl


@register
@dataclass(frozen=True, kw_only=True)
class Rslad(Hardening):
    """Distil robust soft labels at attacked and clean images (Zi et al. 2021).

    alpha: weight of KL(teacher(x) || student(x')), published 5/6; the rest is the same at x. The
    attack climbs the former. inner_steps: of the attack, published 10. rel_step: its step as a
    share of epsilon, published 1/4. Departs from the code in the divergence, which is summed over
    classes where the code averages over them as over the batch, see `kl`; in a uniform start and
    in the optimiser.
    """

    alpha: float = 5 / 6
    inner_steps: int = 10
    rel_step: float = 0.25
    size: int = 128
    rate: float = 3e-3

    source: ClassVar[str] = "https://arxiv.org/abs/2108.07969"
    needs_teacher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_training(self.size, self.rate)
        check_inner(self.inner_steps, self.rel_step)
        check_share("alpha", self.alpha)

    def run(
        self, net: nn.Module, lesson: ClassLesson, budget: Budget, report: Any = None
    ) -> nn.Module:
        """Return `net`, trained; see `Hardening.run`."""
        check_ball(budget, self)
        goals = answers(lesson, self, device_of(net))

        def loss(net: nn.Module, batch: Batch) -> Tensor:
            goal = goals[batch.rows]
            attack = attacked(
                net,
                batch.images,
                lambda logits: kl(logits, goal),
                budget,
                batch.generator,
                steps=self.inner_steps,
                rel_step=self.rel_step,
            )
            far, near = kl(net(attack), goal), kl(net(batch.images), goal)
            return (self.alpha * far + (1 - self.alpha) * near).mean()

        return fit(net, lesson, budget, loss, size=self.size, rate=self.rate, report=report)
