"""Hyper-SD: trajectory segmented consistency distillation into one LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from safetybench.distill.consistency import consistency, stored
from safetybench.distill.lab import Lab
from safetybench.distill.recipe import Distillation, Plan
from safetybench.distill.samplers import tcd
from safetybench.distill.schedule import Group, Stage, Step
from safetybench.distill.views import averaged_view
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class HyperSd(Distillation):
    """TSCD into one LoRA (Ren et al. 2024), after the paper: weights alone were published.

    segments: how many the path is cut into, one stretch of the training each; a student ends on
    the last. rank: of the LoRA. times, eta: of the finished student under TCD. Left out are
    the published adversarial loss, and the reward and score distillation stages of the one-step
    LoRA; the distance is pseudo-Huber.
    """

    times: tuple[int, ...] = (899, 674, 449, 224)
    eta: float = 0.3
    segments: tuple[int, ...] = (8, 4, 2, 1)
    guidance: float = 3.0
    rank: int = 24
    points: int = 24
    pairs: int = 1024
    trail: float = 0.95
    lr: float = 1e-3

    source: ClassVar[str] = "https://arxiv.org/abs/2404.13686"

    def plan(self, lab: Lab, steps: int) -> Plan:
        """Return the one-stage training whose segments grow longer."""
        learns = lab.weights(self.rank)
        target, update = averaged_view(lab.student, learns, self.trail)

        def cut(step: Step) -> int:
            return self.segments[step.index * len(self.segments) // step.total]

        loss = consistency(lab, target, stored(lab, self.pairs, self.guidance),
                           first=self.times[0], points=self.points, scale=self.guidance,
                           segments=cut)  # fmt: skip
        group = Group(name="student", weights=learns, loss=loss, lr=self.lr, betas=(0.9, 0.99))
        stage = Stage(steps=steps, groups=[group], after=[update], keeps=[target.unet])
        return Plan(stages=[stage], learns=learns,
                    **tcd(lab.teacher, self.times, self.eta))  # fmt: skip
