"""BOOT: a one-step student that reads pure noise and learns the teacher's path by bootstrapping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from safetybench.distill.lab import Lab
from safetybench.distill.recipe import Distillation, Plan
from safetybench.distill.schedule import Group, Stage
from safetybench.distill.signal import bootstrap
from safetybench.distill.times import grid
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class Boot(Distillation):
    """BOOT (Gu et al. 2023), after the paper: no code was published.

    points: times of the path, which is data-free and paired by noise with the teacher's own
    deterministic sampler. start: the time input of the finished student; the times of the path
    are mapped to inputs from the last time down to it. guidance: of the teacher. boundary:
    weight of the first time's own prediction.
    """

    points: int = 16
    start: int = 699
    guidance: float = 3.0
    boundary: float = 0.5

    source: ClassVar[str] = "https://arxiv.org/abs/2306.05544"

    def plan(self, lab: Lab, steps: int) -> Plan:
        """Return the one-stage training."""
        learns = lab.weights()
        last = lab.process.steps - 1
        inputs = [last - round((last - self.start) * i / self.points) for i in
                  range(self.points + 1)]  # fmt: skip
        loss = bootstrap(lab, inputs=inputs, times=[*grid(lab.process.steps, self.points), 0],
                         scale=self.guidance, boundary=self.boundary)  # fmt: skip
        group = Group(name="student", weights=learns, loss=loss, lr=self.lr, betas=(0.9, 0.99))
        stage = Stage(steps=steps, groups=[group])
        return Plan(stages=[stage], learns=learns, times=(self.start,))
