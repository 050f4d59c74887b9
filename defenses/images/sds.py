"""Diff-Protect: protection by score distillation, at half the price of AdvDM.

White box, but only outputs of the denoiser are needed beside gradients of the image encoder: the
denoiser's Jacobian is dropped. Descending makes images smooth to the model; climbing, strange.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from safetybench.contracts import (
    Album,
    Budget,
    Denoises,
    EncodesImages,
    EncodesText,
    ImageProtection,
)
from safetybench.registry import register

from ._descent import Climb, check_rate
from ._score import Score, Sign, check_sign, goal_latents, protected, signed, through_encoder


@register
@dataclass(frozen=True, kw_only=True)
class Sds(ImageProtection):
    """Move latents along predicted minus true noise (Xue et al. 2024, SDS and SDST).

    sign: "down" is the paper's SDS(-), "up" its SDS(+). target_rate: 0 for SDS; above, SDST: so
    many times the SDS direction, less the gradient of the squared distance to the latents of
    high-contrast letters; published 5, also tried 1. Both go back through the encoder once, where
    the released code encodes three times. times_per_step: times and noises averaged in a step for
    one encoder pass, published 1. rate: step in units of epsilon; published 1/255 of 16/255, 100
    steps from the clean image. Departs from the code: the latents are the posterior's mean; time
    0 is never drawn; captions are the images' own; the letters stand for Mist's target image.
    """

    sign: Sign = "down"
    target_rate: float = 0.0
    times_per_step: int = 1
    rate: float = 1 / 16

    source: ClassVar[str] = "https://arxiv.org/abs/2311.12832"
    needs: ClassVar[tuple[type, ...]] = (EncodesImages, Denoises, EncodesText)
    published: ClassVar[Budget] = Budget(epsilon=16 / 255, steps=100)

    def __post_init__(self) -> None:
        check_sign(self.sign)
        check_rate(self.rate)
        if self.target_rate < 0:
            raise ValueError(f"target_rate must be 0 or more, got {self.target_rate}")
        if self.times_per_step < 1:
            raise ValueError(f"times_per_step must be 1 or more, got {self.times_per_step}")

    def climb(self, target: Any, album: Album, seed: int = 0) -> Climb:
        """Return the climb; losses: of denoising, with a target the squared distance to it."""
        score = Score(target, album, seed, each=self.times_per_step)
        distilled = signed(score.residual, self.sign)
        if not self.target_rate:
            return through_encoder(target, distilled)
        goal = goal_latents(target, album)

        def pull(latents: Tensor) -> tuple[Tensor, Tensor]:
            direction, _ = distilled(latents)
            gap = latents - goal
            return self.target_rate * direction - 2 * gap, gap.square().sum((1, 2, 3))

        return through_encoder(target, pull)

    def protect(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Tensor:
        """Return the album's images, protected; see `ImageProtection.protect`."""
        climb = self.climb(target, album, budget.seed)
        return protected(target, album, climb, budget, rate=self.rate, report=report)
