"""SCott: consistency distillation whose teacher takes several stochastic steps, with a GAN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from safetybench.distill.adversary import Adversary, heads_for
from safetybench.distill.consistency import consistency, fresh_samples, stored
from safetybench.distill.lab import Lab
from safetybench.distill.recipe import Distillation, Plan
from safetybench.distill.samplers import renoising
from safetybench.distill.schedule import Group, Stage
from safetybench.distill.terms import once, together
from safetybench.distill.views import averaged_view, lora_view
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class Scott(Distillation):
    """Stochastic consistency distillation (Liu et al. 2024), after the paper: no code published.

    hops, eta: steps of the teacher between the two points and their share of new noise, on
    another scale than Song et al.'s. gan: weight of the hinge loss, published 0.4, by the teacher
    with a LoRA of `rank` in encoder and middle (published in the decoder); 0 reads no real images.
    The published weight lambda(t) is 1 here. The rest is as in consistency.
    """

    times: tuple[int, ...] = (899, 674, 449, 224)
    guidance: float = 3.0
    points: int = 20
    hops: int = 3
    eta: float = 0.2
    gan: float = 0.1
    rank: int = 8
    disc_lr: float = 1e-3
    pairs: int = 1024
    trail: float = 0.95

    source: ClassVar[str] = "https://arxiv.org/abs/2403.01505"

    @property
    def reads_images(self) -> bool:
        """Tell whether the adversarial term is on."""
        return self.gan > 0

    def plan(self, lab: Lab, steps: int) -> Plan:
        """Return the one-stage training of discriminator and student."""
        learns = lab.weights()
        target, update = averaged_view(lab.student, learns, self.trail)
        data = stored(lab, self.pairs, self.guidance)
        loss = consistency(lab, target, data, first=self.times[0], points=self.points,
                           scale=self.guidance, hops=self.hops, eta=self.eta)  # fmt: skip
        groups = []
        if self.gan:
            reader, its = lora_view(lab.teacher, self.rank, seed=2)
            heads = heads_for(lab, reader)
            judge = Adversary(lab, reader, heads, kind="hinge", high=0.7)
            roll = once(fresh_samples(lab, data, self.times[0], self.points))
            loss = together(loss, judge.generator(roll, self.gan))
            its += list(heads.parameters())
            groups.append(Group(name="discriminator", weights=its, loss=judge.discriminator(roll),
                                lr=self.disc_lr))  # fmt: skip
        groups.append(Group(name="student", weights=learns, loss=loss, lr=self.lr,
                            betas=(0.9, 0.99)))  # fmt: skip
        stage = Stage(steps=steps, groups=groups, after=[update], keeps=[target.unet])
        return Plan(stages=[stage], learns=learns, **renoising(lab.teacher, self.times))
