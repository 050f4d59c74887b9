"""Consistency distillation: the plain control of the consistency family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from safetybench.distill.consistency import consistency, stored
from safetybench.distill.lab import Lab
from safetybench.distill.recipe import Distillation, Plan
from safetybench.distill.samplers import renoising
from safetybench.distill.schedule import Group, Stage
from safetybench.distill.views import averaged_view
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class Consistency(Distillation):
    """Consistency distillation of a guided latent model (Song et al. 2023; Luo et al. 2023, LCM).

    times: of the finished student, which renoises. points: of the grid that teacher steps go
    along, from the first of `times` down, where the student later reads pure noise. pairs: guided
    samples of the teacher that are noised. trail: decay of the target network's average.
    """

    times: tuple[int, ...] = (899, 674, 449, 224)
    guidance: float = 3.0
    points: int = 20
    pairs: int = 1024
    trail: float = 0.95

    source: ClassVar[str] = "https://arxiv.org/abs/2303.01469"

    def plan(self, lab: Lab, steps: int) -> Plan:
        """Return the one-stage training with its target network."""
        learns = lab.weights()
        target, update = averaged_view(lab.student, learns, self.trail)
        data = stored(lab, self.pairs, self.guidance)
        loss = consistency(lab, target, data, first=self.times[0], points=self.points,
                           scale=self.guidance)  # fmt: skip
        group = Group(name="student", weights=learns, loss=loss, lr=self.lr, betas=(0.9, 0.99))
        stage = Stage(steps=steps, groups=[group], after=[update], keeps=[target.unet])
        return Plan(stages=[stage], learns=learns, **renoising(lab.teacher, self.times))
