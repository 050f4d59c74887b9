"""Adapter guidance distillation: an adapter that answers in one pass what guidance does in two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from safetybench.distill.lab import Lab
from safetybench.distill.paths import guidance_regression
from safetybench.distill.recipe import Distillation, Plan
from safetybench.distill.schedule import Group, Stage
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class Agd(Distillation):
    """Adapter guidance distillation (Jensen et al. 2025) on guided trajectories, after the paper.

    low, high: range of the guidance, which stays an input of the student; guidance: the
    student's own. width: of the adapter's branches; the denoiser is frozen and shared. paths:
    stored trajectories. The adapter
    sees time and scale, and the text through the attention that it stands beside. Gradient
    checkpointing does nothing here.
    """

    guidance: float = 3.0
    low: float = 1.0
    high: float = 5.0
    width: int = 32
    paths: int = 512
    lr: float = 3e-3

    source: ClassVar[str] = "https://arxiv.org/abs/2503.07274"

    @property
    def takes_lora(self) -> bool:
        """Tell that what learns is the adapter."""
        return False

    def plan(self, lab: Lab, steps: int) -> Plan:
        """Return the one-stage regression of the adapter."""
        from safetybench.targets.adapter import GuidanceAdapter

        with torch.random.fork_rng():
            torch.manual_seed(3)
            adapter = GuidanceAdapter(lab.teacher.unet, self.width)
        lab.student = lab.teacher.with_adapter(adapter)
        learns = list(adapter.parameters())

        def ask(x: Tensor, t: Tensor, text: Tensor, scale: Tensor) -> Tensor:
            answer: Tensor = lab.student.x0(x, t, text, guidance=scale)
            return answer

        loss = guidance_regression(lab, ask, self.paths, self.low, self.high)
        group = Group(name="adapter", weights=learns, loss=loss, lr=self.lr, betas=(0.9, 0.99))
        return Plan(stages=[Stage(steps=steps, groups=[group])], learns=learns, times=None,
                    guidance=self.guidance)  # fmt: skip
