"""Score identity distillation in one or few steps, under three guidance policies.

Like DMD2 in its roles, but the gradient also goes through the inputs of both scores. No real
image is read unless Diffusion-GAN is on. Zero-CFG, Anti-CFG and the few-step mixture are after
the paper; LSG after the published code of the one-step version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from safetybench.distill import rules
from safetybench.distill.adversary import Adversary, map_mean
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
class SidFewStep(Distillation):
    """Few-step SiD (Zhou et al. 2025): LSG, Zero-CFG or Anti-CFG, with Diffusion-GAN on request.

    times: as in dmd2; the mixture of all steps' samples is matched. policy: "lsg" guides all
    three uses of a score by `guidance`, "zero" hides the prompt from the fake score and leaves
    the teacher unguided, "anti" guides the fake score by -1. alpha: of the loss. gan: weight of
    the adversarial term, whose discriminator is the fake score's own encoder without further
    weights. warmup: as in dmd2 and at `guidance`, whatever
    the policy; not published, it saves thousands of steps at this size.
    """

    times: tuple[int, ...] = (699,)
    policy: Literal["lsg", "zero", "anti"] = "zero"
    guidance: float = 3.0
    alpha: float = 1.0
    gan: float = 0.0
    fake_lr: float = 6e-4
    pairs: int = 1024
    warmup: int = 200

    source: ClassVar[str] = "https://arxiv.org/abs/2505.12674"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy not in ("lsg", "zero", "anti"):
            raise ValueError(f"policy is one of lsg, zero, anti, got {self.policy!r}")

    @property
    def reads_images(self) -> bool:
        """Tell whether the adversarial term is on."""
        return self.gan > 0

    def plan(self, lab: Lab, steps: int) -> Plan:
        """Return the regression, then fake score and student in turns."""
        learns = lab.weights()
        fake, its = lab.follower()
        triple = {"lsg": Triple(train=self.guidance, fake=self.guidance, real=self.guidance),
                  "zero": Triple(train=0.0, fake=0.0, real=1.0),
                  "anti": Triple(train=-1.0, fake=-1.0, real=1.0)}[self.policy]  # fmt: skip
        roll = once(simulate(lab, self.times))
        student = match(lab, fake, roll, lambda s: rules.sid(s.x, s.real, s.fake, self.alpha),
                        triple, through=True)  # fmt: skip
        critic: Any = follow(lab, fake, roll, triple)
        if self.gan:
            judge = Adversary(lab, fake, map_mean)
            student = together(student, judge.generator(roll, self.gan))
            critic = together(critic, judge.discriminator(roll, self.gan))
        groups = [Group(name="fake", weights=its, loss=critic, lr=self.fake_lr),
                  Group(name="student", weights=learns, loss=student, lr=self.lr)]  # fmt: skip
        first = warm_up(lab, learns, self.times[0], self.warmup, self.pairs, self.guidance, self.lr)
        return Plan(stages=[*first, Stage(steps=steps, groups=groups)], learns=learns,
                    **renoising(lab.teacher, self.times))  # fmt: skip
