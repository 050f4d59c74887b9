"""ESD: push the model away from a concept, by its own classifier-free guidance turned round.

The prediction for the concept is trained towards the unconditional one minus the direction in
which the concept lies. White box: gradients of the denoiser; no images at all.
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

from ._terms import against, check_part, distance, images_of, partly_sampled


@register
@dataclass(frozen=True, kw_only=True)
class Esd(Unlearning):
    """Erase by negative guidance (Gandikota et al. 2023).

    eta: negative guidance, published 1. train: "attn2" is ESD-x (styles), "not attn2" ESD-u
    (objects), "attn2.kv" ESD-x-strict, "all" ESD-all. guidance: of the partial sampling that
    makes x_t, published 3. bare: share of steps on the bare concept, the rest on full prompts;
    published 1. retain: weight of a term that keeps other prompts, on noised images of the frozen
    model; published 0, but a tiny model collapses without it, since one gradient step moves every
    concept. batch: prompts of the concept in a step, with four times as many others.
    erase_from: a prompt; the concept is then taken as an attribute and erased from what this
    prompt says, the rest of which stays: the goal is v(prompt) - eta (v(concept) - v(empty)).
    The authors' later code writes the plain case so too, with the concept as prompt and eta 2.
    """

    eta: float = 1.0
    train: str = "attn2"
    lr: float = 1e-3
    guidance: float = 3.0
    bare: float = 0.5
    retain: float = 1.0
    batch: int = 8
    erase_from: str = ""

    source: ClassVar[str] = "https://arxiv.org/abs/2303.07345"

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.batch < 1 or self.retain < 0 or not 0 <= self.bare <= 1:
            raise ValueError(
                "lr and batch must be positive, retain 0 or more and bare in [0, 1], got "
                f"{self.lr}, {self.batch}, {self.retain}, {self.bare}"
            )
        if self.erase_from and self.bare != 1:
            raise ValueError(
                "bare must be 1 with erase_from, since a full prompt says more than the "
                f"attribute, got {self.bare}"
            )
        check_part(self.train)

    def run(self, target: Any, erasure: Erasure, budget: Budget, report: Any = None) -> Any:
        """Return a target that no longer follows the concept."""
        student = target.clone()
        weights = chosen_parameters(student.unet, self.train)
        full = target.embed(target.tokenize(erasure.forget))
        bare = target.embed(target.tokenize(erasure.bare))
        kept = target.embed(target.tokenize(erasure.retain))
        others = images_of(target, kept, budget.seed) if self.retain else kept
        prompt = target.embed(target.tokenize([self.erase_from])) if self.erase_from else None

        def loss_at(step: int, rng: torch.Generator) -> Tensor:
            source = bare if float(torch.rand((), generator=rng)) < self.bare else full
            text = source[draw(len(source), self.batch, rng)]
            start = prompt.expand(len(text), -1, -1) if prompt is not None else None
            asked = text if start is None else start
            x, t = partly_sampled(student, asked, self.guidance, rng)
            goal = against(target, x, t, text, self.eta, start)
            loss = (velocity(student, x, t, asked) - goal).square().mean()
            if not self.retain:
                return loss
            pick = draw(len(others), 4 * self.batch, rng)
            return loss + self.retain * distance(
                target, student, others[pick], kept[pick], kept[pick], rng
            )

        tune(weights, loss_at, steps=budget.steps, lr=self.lr, seed=budget.seed, report=report)
        return student
