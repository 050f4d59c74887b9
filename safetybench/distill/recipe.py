"""The frame of every recipe: a file of `recipes/` says what is trained, this runs it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from safetybench.contracts import Budget, Means, Pictures, Recipe, Unavailable
from safetybench.distill.lab import Lab
from safetybench.distill.schedule import Average, Stage
from safetybench.distill.training import train
from safetybench.targets.spec import Sampler

# Options that mean the same in every recipe which has them.
_LEAST = {"gan": 0, "warmup": 0, "start": 0, "pairs": 1, "paths": 1, "points": 2, "fake_steps": 1,
          "hops": 1, "rank": 1, "width": 1, "lora_lr": 0, "fake_lr": 0, "disc_lr": 0}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a recipe trains, and how its student is sampled.

    stages: in order; learns: the student's weights, whose average is kept. times: the student's
    own time grid, or None for the teacher's sampler without a second pass; guidance: that the
    sampler is given. scheduler: of the student, None for the teacher's.
    """

    stages: Sequence[Stage]
    learns: Sequence[nn.Parameter]
    times: tuple[int, ...] | None
    guidance: float = 1.0
    eta: float = 0.0
    scheduler: Any = None


@dataclass(frozen=True, kw_only=True)
class Distillation(Recipe):
    """What all recipes have in common.

    batch: prompts of one turn; lr: of the student; ema: decay of the averaged weights.
    """

    batch: int = 32
    lr: float = 3e-4
    ema: float = 0.98

    def __post_init__(self) -> None:
        if self.batch < 1 or self.lr <= 0 or not 0 <= self.ema < 1:
            raise ValueError(
                "batch and lr must be positive and ema in [0, 1), got "
                f"{self.batch}, {self.lr}, {self.ema}"
            )
        times = getattr(self, "times", None)
        if times is not None and (
            not times or any(a <= b for a, b in pairwise(times)) or times[-1] < 0
        ):
            raise ValueError(f"times must fall, noisiest first, got {list(times)}")
        for name, least in _LEAST.items():
            if getattr(self, name, least) < least:
                raise ValueError(f"{name} must be {least} or more, got {getattr(self, name)}")

    @property
    def takes_lora(self) -> bool:
        """Tell whether the student may be a LoRA: not where new weights are what it learns."""
        return True

    @property
    def data(self) -> str:
        """What the student sees: "real" images, "synthetic" ones of the teacher, or "none"."""
        if self.reads_images:
            return "real"
        stored = getattr(self, "paths", 0) or (getattr(self, "pairs", 0) and self._uses_pairs)
        return "synthetic" if stored else "none"

    @property
    def _uses_pairs(self) -> bool:
        return getattr(self, "warmup", 1) > 0

    @abstractmethod
    def plan(self, lab: Lab, steps: int) -> Plan:
        """Return what to train for `steps` student updates; the lab's student starts as teacher."""
        ...

    def run(
        self,
        target: Any,
        prompts: Sequence[str],
        budget: Budget,
        report: Any = None,
        *,
        images: Pictures | None = None,
        means: Means | None = None,
    ) -> Any:
        """Return the student of `target`; see `Recipe.run`.

        Raises:
            ValueError: no prompts, or no steps.
            Unavailable: the recipe reads real images and there are none.
        """
        if not prompts or budget.steps < 1:
            raise ValueError(f"prompts and steps are needed, got {len(prompts)}, {budget.steps}")
        if self.reads_images and (images is None or not len(images.captions)):
            raise Unavailable(f"{type(self).__name__} with these options reads real images")
        means = means or Means()
        if means.lora and not self.takes_lora:
            raise Unavailable(f"{type(self).__name__} trains new inputs, which no LoRA holds")
        pictures = images if self.reads_images else None
        lab = Lab.open(target, prompts, self.batch, means, pictures)
        plan = self.plan(lab, budget.steps)
        half = torch.autocast(target.device.type, torch.bfloat16, enabled=means.half)
        with half:
            train(
                plan.stages,
                seed=budget.seed,
                average=Average(plan.learns, self.ema),
                checkpoint=means.checkpoint,
                save_every=means.save_every,
                report=report,
            )
        student = lab.student
        student.unet.requires_grad_(False)
        for weight in plan.learns:  # an adapter's are not the denoiser's
            weight.requires_grad_(False)
        if means.recompute:
            student.unet.disable_gradient_checkpointing()
        if plan.times is None:
            sampler = replace(target.sampler, guidance=plan.guidance)
        else:
            sampler = Sampler(steps=len(plan.times), guidance=plan.guidance, timesteps=plan.times,
                              eta=plan.eta)  # fmt: skip
        return student.with_sampler(sampler, plan.scheduler)
