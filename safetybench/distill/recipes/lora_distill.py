"""LoRA-enhanced distillation: guidance at a fixed scale baked into a LoRA, one pass a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from safetybench.distill.lab import Lab
from safetybench.distill.paths import guidance_regression
from safetybench.distill.recipe import Distillation, Plan
from safetybench.distill.schedule import Group, Stage
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class LoraDistill(Distillation):
    """LoRA-enhanced distillation on guided diffusion (Golnari 2023).

    guidance: baked in; the student keeps the teacher's sampler and needs half its evaluations.
    rank: of the LoRA, which can be scaled or taken off. paths: stored guided trajectories, where
    the paper noises images; x_t is then what the student meets at inference.
    """

    guidance: float = 3.0
    rank: int = 16
    paths: int = 512
    lr: float = 1e-3

    source: ClassVar[str] = "https://arxiv.org/abs/2312.06899"

    def plan(self, lab: Lab, steps: int) -> Plan:
        """Return the one-stage regression."""
        learns = lab.weights(self.rank)

        def ask(x: Tensor, t: Tensor, text: Tensor, scale: Tensor) -> Tensor:
            answer: Tensor = lab.student.x0(x, t, text)
            return answer

        loss = guidance_regression(lab, ask, self.paths, self.guidance, self.guidance)
        group = Group(name="student", weights=learns, loss=loss, lr=self.lr, betas=(0.9, 0.99))
        return Plan(stages=[Stage(steps=steps, groups=[group])], learns=learns, times=None)
