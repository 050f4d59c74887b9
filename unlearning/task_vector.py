"""Task-vector negation: learn a concept better, and go the other way from the old weights.

A copy is fine-tuned on the model's own images of the concept; what it learned is subtracted.
White box: gradients of the denoiser; no real image is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from safetybench.contracts import Budget, Erasure, Unlearning
from safetybench.distill.training import tune
from safetybench.distill.views import chosen_parameters, draw, velocity
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class TaskVector(Unlearning):
    """Forget by negating a task vector (Ilharco et al. 2023).

    scale: of the vector that is subtracted; published is the largest of 0, 0.05, ..., 1 at which
    a control task keeps 95 %. A model's own images of a concept teach it little, so the zoo needs
    2, the largest of 0.5, 1, 2, 4 and 8 that keeps other objects after 100 steps. train, lr: of the
    fine-tuning; published is "all", which costs the zoo's teacher more of the other concepts.
    images: of the concept, one for each of the first forget prompts, batch: of them in a step.
    The paper has real data of the task; here the target draws its own, under its own guidance.
    """

    scale: float = 2.0
    train: str = "attn2.kv"
    lr: float = 1e-3
    batch: int = 16
    images: int = 256

    source: ClassVar[str] = "https://arxiv.org/abs/2212.04089"

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.scale < 0 or self.batch < 1 or self.images < 1:
            raise ValueError(
                "lr, batch and images must be positive and scale 0 or more, got "
                f"{self.lr}, {self.batch}, {self.images}, {self.scale}"
            )

    def run(self, target: Any, erasure: Erasure, budget: Budget, report: Any = None) -> Any:
        """Return a target that lost what fine-tuning on the concept adds."""
        made = target.clone()
        weights = chosen_parameters(made.unet, self.train)
        before = [weight.detach().clone() for weight in weights]
        text = target.embed(target.tokenize(erasure.forget[: self.images]))
        latents = own_images(target, text, budget.seed)

        def loss_at(step: int, rng: torch.Generator) -> Tensor:
            pick = draw(len(latents), self.batch, rng)
            return denoising_loss(made, latents[pick], text[pick], rng)

        tune(weights, loss_at, steps=budget.steps, lr=self.lr, seed=budget.seed, report=report)
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old - self.scale * (weight - old))
        return made


def own_images(target: Any, text: Tensor, seed: int) -> Tensor:
    """Return latents of the target's images of text states, one each."""
    # Of the zoo's world no evaluation has such seeds; a user's table may.
    noise = target.start_noise([seed * 100_003 + i for i in range(len(text))])
    pairs = zip(text.split(64), noise.split(64), strict=True)
    return torch.cat([target.sample_latents(states, start) for states, start in pairs])


def denoising_loss(model: Any, x: Tensor, text: Tensor, rng: torch.Generator) -> Tensor:
    """Return the denoising loss on clean latents x, as velocity, which is finite at every time."""
    t = torch.randint(0, model.process.steps, (len(x),), generator=rng).to(x.device)
    noise = torch.randn(x.shape, generator=rng).to(x.device)
    noisy = model.process.add(x, noise, t)
    goal = model.process.alpha(t) * noise - model.process.sigma(t) * x
    gap: Tensor = velocity(model, noisy, t, text) - goal
    return gap.square().mean()
