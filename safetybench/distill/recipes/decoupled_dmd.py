"""Decoupled DMD: guidance augmentation and distribution matching, each at its own noise level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from safetybench.distill import rules
from safetybench.distill import times as sampled
from safetybench.distill.guidance import Triple
from safetybench.distill.lab import Lab
from safetybench.distill.recipe import Distillation, Plan
from safetybench.distill.rollouts import Rollout, simulate
from safetybench.distill.samplers import renoising
from safetybench.distill.schedule import Group, Stage, Step
from safetybench.distill.terms import Scores, follow, once
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class DecoupledDmd(Distillation):
    """Decoupled DMD (Liu et al. 2025), after the paper: its training code was not published.

    times: of the student. guidance: w of (w - 1) CA. coupled: draw one time for both terms,
    which is DMD2. The normaliser is that of dmd2, by the guided prediction at CA's time; both
    terms renoise by the same draw.
    """

    times: tuple[int, ...] = (899, 699, 499, 249)
    guidance: float = 3.0
    coupled: bool = False
    fake_steps: int = 2
    fake_lr: float = 6e-4

    source: ClassVar[str] = "https://arxiv.org/abs/2511.22677"

    def plan(self, lab: Lab, steps: int) -> Plan:
        """Return the two-time-scale training with its two terms."""
        learns = lab.weights()
        fake, its = lab.follower()
        roll = once(simulate(lab, self.times))
        groups = [
            Group(name="fake", weights=its, loss=follow(lab, fake, roll, Triple()),
                  lr=self.fake_lr, repeats=self.fake_steps),
            Group(name="student", weights=learns, loss=self.term(lab, fake, roll), lr=self.lr),
        ]  # fmt: skip
        return Plan(stages=[Stage(steps=steps, groups=groups)], learns=learns,
                    **renoising(lab.teacher, self.times))  # fmt: skip

    def term(self, lab: Lab, fake: Any, rollout: Rollout) -> Callable[[Step], Tensor]:
        """Return dm + (w - 1) ca, ca only at more noise than the student itself starts from."""

        def loss(step: Step) -> Tensor:
            roll = rollout(step, True)
            early = sampled.above(lab.times(roll.t), lab.process.steps, step.rng("ca times"))
            late = sampled.uniform(lab.batch, lab.process.steps, step.rng("times"))
            with torch.no_grad():
                noise = lab.noise(step.rng("noise"))
                by_dm = Scores(lab, roll, late.to(roll.x.device), noise)
                by_ca = by_dm if self.coupled else Scores(lab, roll, early.to(roll.x.device), noise)
                aimed, bare = by_ca.ask(lab.teacher, 1.0), by_ca.ask(lab.teacher, 0.0)
                real = aimed if self.coupled else by_dm.ask(lab.teacher, 1.0)
                gradient = rules.dm(real, by_dm.ask(fake, 1.0))
                gradient = gradient + (self.guidance - 1) * rules.ca(aimed, bare)
                size = rules.normaliser(roll.x, bare + self.guidance * (aimed - bare))
            return rules.pull(roll.x, gradient / size)

        return loss
