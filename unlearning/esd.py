"""ESD: push the model away from a concept, by its own classifier-free guidance turned round.

The prediction for the concept is trained towards the unconditional one minus the direction in
which the concept lies. White box: gradients of the denoiser; no images at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from safetybench.contracts import Budget, Erasure, Unlearning
from safetybench.distill.training import tune
from safetybench.distill.views import chosen_parameters, draw, velocity
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class Esd(Unlearning):
    """Erase by negative guidance (Gandikota et al. 2023).

    eta: negative guidance, published 1. train: "attn2" is ESD-x (styles), "not attn2" ESD-u
    (objects), "attn2.kv" ESD-x-strict, "all" everything. guidance: of the partial sampling that
    makes x_t, published 3. bare: share of steps on the bare concept, the rest on full prompts.
    retain: weight of a term that keeps other prompts, on noised images of the frozen model;
    published 0, but a tiny model collapses without it, since one gradient step moves every
    concept. batch: prompts of the concept in a step, with four times as many others.
    """

    eta: float = 1.0
    train: str = "attn2"
    lr: float = 1e-3
    guidance: float = 3.0
    bare: float = 0.5
    retain: float = 1.0
    batch: int = 8

    source: ClassVar[str] = "https://arxiv.org/abs/2303.07345"

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.batch < 1 or self.retain < 0 or not 0 <= self.bare <= 1:
            raise ValueError(
                "lr and batch must be positive, retain 0 or more and bare in [0, 1], got "
                f"{self.lr}, {self.batch}, {self.retain}, {self.bare}"
            )

    def run(self, target: Any, erasure: Erasure, budget: Budget, report: Any = None) -> Any:
        """Return a target that no longer follows the concept."""
        student = target.clone()
        weights = chosen_parameters(student.unet, self.train)
        full = target.embed(target.tokenize(erasure.forget))
        bare = target.embed(target.tokenize(erasure.bare))
        kept = target.embed(target.tokenize(erasure.retain))
        others = self._images(target, kept, budget.seed) if self.retain else kept

        def loss_at(step: int, rng: torch.Generator) -> Tensor:
            source = bare if float(torch.rand((), generator=rng)) < self.bare else full
            text = source[draw(len(source), self.batch, rng)]
            x, t = self._partly_sampled(student, text, rng)
            loss = (velocity(student, x, t, text) - self._goal(target, x, t, text)).square().mean()
            if not self.retain:
                return loss
            pick = draw(len(others), 4 * self.batch, rng)
            return loss + self.retain * self._drift(target, student, others[pick], kept[pick], rng)

        tune(weights, loss_at, steps=budget.steps, lr=self.lr, seed=budget.seed, report=report)
        return student

    @torch.no_grad()
    def _goal(self, frozen: Any, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        null = velocity(frozen, x, t, frozen.null_text.expand(len(x), -1, -1))
        return null - self.eta * (velocity(frozen, x, t, text) - null)

    @staticmethod
    def _images(target: Any, text: Tensor, seed: int) -> Tensor:
        """Return latents of the frozen model's images, one for each of the retain prompts."""
        # Far from every evaluation seed.
        noise = target.start_noise([seed * 100_003 + i for i in range(len(text))])
        pairs = zip(text.split(64), noise.split(64), strict=True)
        return torch.cat([target.sample_latents(states, start) for states, start in pairs])

    @staticmethod
    def _drift(frozen: Any, student: Any, x: Tensor, text: Tensor, rng: torch.Generator) -> Tensor:
        """Return how far the student has gone from the frozen model on noised images."""
        t = torch.randint(0, frozen.process.steps, (len(x),), generator=rng).to(x.device)
        noisy = frozen.process.add(x, torch.randn(x.shape, generator=rng).to(x.device), t)
        with torch.no_grad():
            goal = velocity(frozen, noisy, t, text)
        return (velocity(student, noisy, t, text) - goal).square().mean()

    @torch.no_grad()
    def _partly_sampled(
        self, model: Any, text: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return latents after a random number of sampler steps, with the time they are at."""
        times = model.sampler_times
        stop = int(torch.randint(len(times), (), generator=rng))
        x = torch.randn((len(text), *model.latent_shape), generator=rng).to(text.device)
        for now, then in pairwise(times[: stop + 1]):
            t = torch.full((len(x),), now, device=x.device)
            pair = torch.cat([model.null_text.expand(len(x), -1, -1), text])
            null, aimed = model.x0(torch.cat([x, x]), torch.cat([t, t]), pair).chunk(2)
            clean = null + self.guidance * (aimed - null)
            noise = model.process.convert(clean, "sample", "epsilon", x, t)
            x = model.process.add(clean, noise, torch.full_like(t, then))
        return x, torch.full((len(x),), times[stop], device=x.device)
