"""IAD: a student trusts its teacher as far as that is right under attack, else itself.

Robust distillation from a teacher that is not reliable on the student's own attacks. Needs the
teacher's logits; white box to the student.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from safetybench.contracts import Budget, ClassLesson, Hardening
from safetybench.registry import register
from safetybench.vision.fitting import Batch, fit

from ._inner import attacked, check_ball, check_inner
from ._terms import answers, ce, check_share, check_training, device_of, kl, teacher_of


@register
@dataclass(frozen=True, kw_only=True)
class Iad(Hardening):
    """Weigh the teacher's answers and the student's own (Zhu et al. 2022, IAD-I).

    The trust is the teacher's probability of the label at x', to the power `beta`, published 0.1;
    the loss is KL(teacher(x) || student(x')) + (1 - trust) KL(student(x) || student(x')). warm_up:
    share of the training without the second term, published 60 of 200 epochs. inner_steps: of the
    attack, published 10. rel_step: its step as a share of epsilon, published 1/4. The attack climbs
    the cross-entropy. As in the released IAD-I the first term has no trust as its weight. Departs
    in that the student's own clean answers are goals without a gradient, in a temperature of 1, in
    the divergence, see `kl`, in a uniform start and in the optimiser.
    """

    beta: float = 0.1
    warm_up: float = 0.3
    inner_steps: int = 10
    rel_step: float = 0.25
    size: int = 128
    rate: float = 3e-3

    source: ClassVar[str] = "https://arxiv.org/abs/2106.04928"
    needs_teacher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_training(self.size, self.rate)
        check_inner(self.inner_steps, self.rel_step)
        check_share("warm_up", self.warm_up)
        if self.beta < 0:
            raise ValueError(f"beta must be 0 or more, got {self.beta}")

    def run(
        self, net: nn.Module, lesson: ClassLesson, budget: Budget, report: Any = None
    ) -> nn.Module:
        """Return `net`, trained; see `Hardening.run`."""
        check_ball(budget, self)
        teacher = teacher_of(lesson, self)
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
            logits = net(attack)
            value = kl(logits, goals[batch.rows])
            if batch.share >= self.warm_up:
                with torch.no_grad():
                    seen = teacher.logits(attack.to(teacher.device)).to(logits)
                    own = net(batch.images)
                trust = (-self.beta * ce(seen, batch.labels)).exp()
                value = value + (1 - trust) * kl(logits, own)
            return value.mean()

        return fit(net, lesson, budget, loss, size=self.size, rate=self.rate, report=report)
