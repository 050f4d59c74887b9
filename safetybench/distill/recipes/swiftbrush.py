"""SwiftBrush: variational score distillation to one step with a LoRA as fake score.

No real image is read; the regression that comes first reads samples of the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from safetybench.distill import rules
from safetybench.distill.guidance import Scale, Triple
from safetybench.distill.lab import Lab
from safetybench.distill.recipe import Distillation, Plan
from safetybench.distill.rollouts import simulate
from safetybench.distill.samplers import renoising
from safetybench.distill.schedule import Group, Stage
from safetybench.distill.terms import follow, match, once, warm_up
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class Swiftbrush(Distillation):
    """SwiftBrush (Nguyen and Tran 2024).

    guidance: of the teacher and of the LoRA alike, published 4.5: where both match, the student
    is the teacher without guidance. fake_guidance: another scale for the LoRA; 1 bakes the
    guidance in, as in ProlificDreamer. rank: of the LoRA, published
    64 on a network 270 times as large. start: published the last time; at zero terminal SNR
    nothing of the noise reaches the teacher's answer there. warmup: as in dmd2, not published.
    """

    start: int = 699
    guidance: Scale = 3.0
    fake_guidance: Scale | None = None
    rank: int = 16
    lora_lr: float = 2e-3
    pairs: int = 1024
    warmup: int = 200

    source: ClassVar[str] = "https://arxiv.org/abs/2312.05239"

    def plan(self, lab: Lab, steps: int) -> Plan:
        """Return the regression, then LoRA and student in turns."""
        learns = lab.weights()
        fake, its = lab.follower(self.rank)
        same = self.guidance if self.fake_guidance is None else self.fake_guidance
        triple = Triple(fake=same, real=self.guidance)
        roll = once(simulate(lab, (self.start,)))
        student = match(lab, fake, roll, lambda s: rules.vsd(s.real, s.fake, s.alpha, s.sigma),
                        triple)  # fmt: skip
        groups = [
            Group(name="fake", weights=its, loss=follow(lab, fake, roll, triple), lr=self.lora_lr),
            Group(name="student", weights=learns, loss=student, lr=self.lr),
        ]
        mean = sum(self.guidance) / 2 if isinstance(self.guidance, tuple) else self.guidance
        first = warm_up(lab, learns, self.start, self.warmup, self.pairs, mean, self.lr)
        return Plan(stages=[*first, Stage(steps=steps, groups=groups)], learns=learns,
                    **renoising(lab.teacher, (self.start,)))  # fmt: skip
