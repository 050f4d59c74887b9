"""Concept ablation: make prompts with a concept behave like the same prompts with an anchor.

The model is taught to predict for "a red fish" what it predicted for "a red circle", on noised
images of the anchor. White box: gradients of the denoiser; no real image is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from safetybench.contracts import Budget, Erasure, Unlearning
from safetybench.distill.training import tune
from safetybench.distill.views import chosen_parameters, draw
from safetybench.registry import register

from ._terms import check_part, distance, images_of


@register
@dataclass(frozen=True, kw_only=True)
class ConceptAblation(Unlearning):
    """Match the concept's prediction to the anchor's (Kumari et al. 2023, model-based).

    train: "attn2.kv" is the published choice for styles and objects; lr: of AdamW.
    retain: weight of the prior term on other prompts (published as optional, weight 1).
    batch: prompts of each kind in a step. images: of the anchor, generated once (published 200
    prompts, 1,000 images). Departs from the paper in comparing the network's own prediction:
    for a v-prediction model that is the noise loss without its factor alpha_t squared, which
    would leave the first step of a zero-terminal-SNR sampler untrained.
    """

    train: str = "attn2.kv"
    lr: float = 1e-3
    retain: float = 1.0
    batch: int = 16
    images: int = 256

    source: ClassVar[str] = "https://arxiv.org/abs/2303.13516"

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.retain < 0 or self.batch < 1 or self.images < 1:
            raise ValueError(
                "lr, batch and images must be positive and retain 0 or more, got "
                f"{self.lr}, {self.batch}, {self.images}, {self.retain}"
            )
        check_part(self.train)

    def run(self, target: Any, erasure: Erasure, budget: Budget, report: Any = None) -> Any:
        """Return a target that draws the anchor where the concept is asked for."""
        student = target.clone()
        weights = chosen_parameters(student.unet, self.train)
        text = {
            kind: target.embed(target.tokenize(getattr(erasure, kind)))
            for kind in ("forget", "anchor", "retain")
        }
        latents = images_of(target, text["anchor"][: self.images], budget.seed)
        other = images_of(target, text["retain"][: self.images], budget.seed + 1)

        def loss_at(step: int, rng: torch.Generator) -> Tensor:
            pick = draw(len(latents), self.batch, rng)
            loss = distance(
                target, student, latents[pick], text["forget"][pick], text["anchor"][pick], rng
            )
            if not self.retain:
                return loss
            pick = draw(len(other), self.batch, rng)
            kept = text["retain"][pick]
            return loss + self.retain * distance(target, student, other[pick], kept, kept, rng)

        tune(weights, loss_at, steps=budget.steps, lr=self.lr, seed=budget.seed, report=report)
        return student
