"""Clean tuning: go on training a model on clean prompts, in the hope that it forgets a backdoor.

The defense that needs to know nothing. It never asks the model anything with the trigger, so what
the trigger does is hardly touched: the control that a removal is measured against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from safetybench.contracts import Budget, Erasure, Unlearning
from safetybench.distill.training import tune
from safetybench.distill.views import chosen_parameters, draw, velocity
from safetybench.registry import register

from ._terms import check_part, images_of, noised

Goal = Literal["images", "self"]


@register
@dataclass(frozen=True, kw_only=True)
class CleanTuning(Unlearning):
    """Fine-tune on clean data (the baseline of fine-pruning, Liu et al. 2018, and of SKD-CAG).

    goal: "images" learns the noise in the model's own images of the retain prompts, under its own
    guidance; "self" answers as the frozen model does on these, the baseline in the place of data:
    a student that starts as its teacher has nothing to learn then, and stays as it is.
    train: published "all". images: one for each of the first retain prompts, or anchor prompts
    where there are none; batch: of them in a step. Departs in having no real images, and in
    comparing answers as velocity. The forget prompts and `bare` are not read.
    """

    goal: Goal = "images"
    train: str = "all"
    lr: float = 1e-4
    batch: int = 16
    images: int = 256

    source: ClassVar[str] = "https://arxiv.org/abs/1805.12185"

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.batch < 1 or self.images < 1:
            raise ValueError(
                f"lr, batch and images must be positive, got {self.lr}, {self.batch}, {self.images}"
            )
        if self.goal not in get_args(Goal):
            raise ValueError(f"goal must be images or self, got {self.goal!r}")
        check_part(self.train)

    def run(self, target: Any, erasure: Erasure, budget: Budget, report: Any = None) -> Any:
        """Return a target that was trained on clean prompts alone."""
        student = target.clone()
        weights = chosen_parameters(student.unet, self.train)
        prompts = (erasure.retain or erasure.anchor)[: self.images]
        text = target.embed(target.tokenize(prompts))
        latents = images_of(target, text, budget.seed)

        def loss_at(step: int, rng: torch.Generator) -> Tensor:
            pick = draw(len(latents), self.batch, rng).to(latents.device)
            x, states = latents[pick], text[pick]
            noisy, t, noise = noised(target, x, rng)
            if self.goal == "images":
                goal = target.process.alpha(t) * noise - target.process.sigma(t) * x
            else:
                with torch.no_grad():
                    goal = velocity(target, noisy, t, states)
            gap: Tensor = velocity(student, noisy, t, states) - goal
            return gap.square().mean()

        tune(weights, loss_at, steps=budget.steps, lr=self.lr, seed=budget.seed, report=report)
        return student
