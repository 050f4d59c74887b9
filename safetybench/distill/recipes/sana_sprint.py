"""SANA-Sprint: continuous-time consistency with a latent adversary, guidance as an input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from safetybench.distill.adversary import Adversary, heads_for
from safetybench.distill.lab import Lab
from safetybench.distill.recipe import Distillation, Plan
from safetybench.distill.samplers import renoising
from safetybench.distill.schedule import Group, Stage
from safetybench.distill.scm import LogVariance, scm, trig_rollout
from safetybench.distill.terms import together
from safetybench.distill.views import guidance_view
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class SanaSprint(Distillation):
    """sCM by forward differentiation, and LADD (Chen et al. 2025), on real images.

    times: of the student, which renoises; top: the noisiest time it is trained at.
    scales: guidance in training, given as an input; guidance: of the finished student. gan:
    weight of the hinge loss by heads on the frozen teacher's features, published 0.5. mean, std:
    of the angles; rests: share of adversarial samples made at `top`, for one guidance.
    Departs from the code: the discriminator's times are uniform below 0.7, mismatched texts are
    not given to it, and the student starts from pure noise at a time that still held a little
    signal in training.
    """

    times: tuple[int, ...] = (799, 499)
    top: int = 899
    scales: tuple[float, ...] = (2.0, 3.0, 4.0)
    guidance: float = 3.0
    gan: float = 0.5
    mean: float = 0.2
    std: float = 1.6
    rests: float = 0.5
    disc_lr: float = 1e-3

    source: ClassVar[str] = "https://arxiv.org/abs/2503.09641"

    @property
    def reads_images(self) -> bool:
        """Tell that consistency is trained on noised real images."""
        return True

    @property
    def takes_lora(self) -> bool:
        """Tell that the student gets a new input."""
        return False

    def plan(self, lab: Lab, steps: int) -> Plan:
        """Return the one-stage training of discriminator and student in turns."""
        lab.student = guidance_view(lab.student)
        learns = lab.weights()
        variance, heads = LogVariance().to(lab.teacher.device), heads_for(lab, lab.teacher)
        term = scm(lab, lab.real, variance, scales=self.scales, mean=self.mean, std=self.std,
                   top=self.top)  # fmt: skip
        judge = Adversary(lab, lab.teacher, heads, kind="hinge", high=0.7)
        roll = trig_rollout(lab, lab.real, mean=self.mean, std=self.std, top=self.top,
                            rests=self.rests, guidance=self.guidance)  # fmt: skip
        groups = [
            Group(name="discriminator", weights=list(heads.parameters()),
                  loss=judge.discriminator(roll), lr=self.disc_lr),
            Group(name="student", weights=[*learns, *variance.parameters()],
                  loss=together(term, judge.generator(roll, self.gan)), lr=self.lr),
        ]  # fmt: skip
        return Plan(stages=[Stage(steps=steps, groups=groups)], learns=learns,
                    guidance=self.guidance, **renoising(lab.teacher, self.times))  # fmt: skip
