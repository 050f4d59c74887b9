"""Distillation on images moved and coloured at random: the control of HARD.

What random changes of the same ranges do without looking for disagreement. Needs the teacher's
logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from safetybench.contracts import Budget, ClassLesson, Hardening
from safetybench.registry import register
from safetybench.vision.fitting import Batch, fit

from ._augment import MOVES, Ranges, changed, check_ranges
from ._terms import answers, check_temperature, check_training, device_of, kl, teacher_of


@register
@dataclass(frozen=True, kw_only=True)
class RandomAugmentation(Hardening):
    """Distil on images and on random changes of them (the control in Nix et al. 2023).

    rotate: degrees; shift: of the side; scale, brightness, contrast: shares; each change is drawn
    uniformly up to these, both ways. temperature: of T^2 KL(teacher / T || student / T), half of
    it on the images and half on the changed ones. Labels are not used.
    """

    rotate: float = 30.0
    shift: float = 0.15
    scale: float = 0.15
    brightness: float = 0.1
    contrast: float = 0.2
    temperature: float = 4.0
    size: int = 128
    rate: float = 3e-3

    source: ClassVar[str] = "https://arxiv.org/abs/2305.14890"
    needs_teacher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_training(self.size, self.rate)
        check_temperature(self.temperature)
        check_ranges(self.ranges)

    @property
    def ranges(self) -> Ranges:
        """The most of each change."""
        return Ranges(self.rotate, self.shift, self.scale, self.brightness, self.contrast)

    def run(
        self, net: nn.Module, lesson: ClassLesson, budget: Budget, report: Any = None
    ) -> nn.Module:
        """Return `net`, trained; see `Hardening.run`."""
        teacher = teacher_of(lesson, self)
        goals = answers(lesson, self, device_of(net))

        def loss(net: nn.Module, batch: Batch) -> Tensor:
            draws = torch.rand(len(batch.images), MOVES, generator=batch.generator)
            moved = changed(batch.images, 2 * draws.to(batch.images) - 1, self.ranges)
            with torch.no_grad():
                told = teacher.logits(moved.to(teacher.device)).to(moved)
            near = kl(net(batch.images), goals[batch.rows], self.temperature)
            far = kl(net(moved), told, self.temperature)
            return self.temperature**2 * (near + far).mean() / 2

        return fit(net, lesson, budget, loss, size=self.size, rate=self.rate, report=report)
