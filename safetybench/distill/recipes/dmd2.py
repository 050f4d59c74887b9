"""DMD2: distribution matching on two time scales, in one or a few steps, with or without a GAN.

A fake denoiser follows the student's samples; the student moves along the difference between
the teacher's guided score and the fake one. Without the GAN it sees no real image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from safetybench.distill import rules
from safetybench.distill.adversary import Adversary, heads_for
from safetybench.distill.guidance import Triple
from safetybench.distill.lab import Lab
from safetybench.distill.recipe import Distillation, Plan
from safetybench.distill.rollouts import simulate
from safetybench.distill.samplers import renoising
from safetybench.distill.schedule import Group, Stage
from safetybench.distill.terms import follow, match, once, together, warm_up
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class Dmd2(Distillation):
    """Improved distribution matching distillation (Yin et al. 2024).

    times: at which the student reads noise and then its own renoised samples; one is a one-step
    student. guidance: of the real score, baked into the student. gan: weight of the adversarial
    term on real images, published 5e-3, with heads on the fake score's encoder; 0 needs none.
    fake_steps: updates of the fake score for one of the student. pairs, warmup: teacher samples
    by noise and the steps regressed on them first, as published for one-step SDXL.
    """

    times: tuple[int, ...] = (699,)
    guidance: float = 3.0
    gan: float = 0.0
    fake_steps: int = 2
    fake_lr: float = 6e-4
    pairs: int = 1024
    warmup: int = 200

    source: ClassVar[str] = "https://arxiv.org/abs/2405.14867"

    @property
    def reads_images(self) -> bool:
        """Tell whether the adversarial term is on."""
        return self.gan > 0

    def plan(self, lab: Lab, steps: int) -> Plan:
        """Return the regression and the two-time-scale training."""
        learns = lab.weights()
        fake, its = lab.follower()
        triple = Triple(real=self.guidance)
        roll = once(simulate(lab, self.times))
        student = match(lab, fake, roll, lambda s: rules.dmd(s.x, s.real, s.fake), triple)
        critic: Any = follow(lab, fake, roll, triple)
        if self.gan:
            heads = heads_for(lab, fake)
            judge = Adversary(lab, fake, heads)
            student = together(student, judge.generator(roll, self.gan))
            critic = together(critic, judge.discriminator(roll, 0.01))
            its += list(heads.parameters())
        groups = [
            Group(name="fake", weights=its, loss=critic, lr=self.fake_lr, repeats=self.fake_steps),
            Group(name="student", weights=learns, loss=student, lr=self.lr),
        ]
        first = warm_up(lab, learns, self.times[0], self.warmup, self.pairs, self.guidance, self.lr)
        return Plan(stages=[*first, Stage(steps=steps, groups=groups)], learns=learns,
                    **renoising(lab.teacher, self.times))  # fmt: skip
