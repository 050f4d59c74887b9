"""ACE: make a model predict one fixed pattern as the noise of every protected image.

A consistent error is what a model then learns or draws, where AdvDM's errors differ from step to
step and cancel out. White box: gradients through denoiser and image encoder of a surrogate.
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

from ._descent import Climb, check_rate, gradient_of
from ._score import Score, goal_latents, protected, through_encoder


@register
@dataclass(frozen=True, kw_only=True)
class Ace(ImageProtection):
    """Bring the predicted noise to the latents of a target image (Zheng et al. 2023).

    plus: ACE+, which brings the image's own latents there too, with `weight`, published 100, times
    the mean squared distance (in ACE's code; that of Mist v2 pushes them away through a double
    negative). rate: step in units of epsilon, published 0.005 in [-1, 1] of 4/255; 5 rounds of 50
    steps from the clean image. Departs from the code: the surrogate stays as it is, where ACE
    trains a LoRA of it for 10 steps after each round; the latents are the posterior's mean; time
    0 is never drawn; captions are the images' own; letters stand for the target image.
    """

    plus: bool = False
    weight: float = 100.0
    rate: float = 0.16

    source: ClassVar[str] = "https://arxiv.org/abs/2310.04687"
    needs: ClassVar[tuple[type, ...]] = (EncodesImages, Denoises, EncodesText)
    published: ClassVar[Budget] = Budget(epsilon=4 / 255, steps=250)

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"weight must be above 0, got {self.weight}")
        check_rate(self.rate)

    def climb(self, target: Any, album: Album, seed: int = 0) -> Climb:
        """Return the climb, and as losses what is minimised."""
        goal = goal_latents(target, album)
        score = Score(target, album, seed)

        def pull(latents: Tensor) -> tuple[Tensor, Tensor]:
            draw = score.draw(latents)

            def loss(free: Tensor) -> Tensor:
                found = (score.predicted(free, draw) - goal).square().mean((1, 2, 3))
                if self.plus:
                    found = found + self.weight * (free - goal).square().mean((1, 2, 3))
                return found

            gradient, losses = gradient_of(loss, latents)
            return -gradient, losses

        return through_encoder(target, pull)

    def protect(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Tensor:
        """Return the album's images, protected; see `ImageProtection.protect`."""
        climb = self.climb(target, album, budget.seed)
        return protected(target, album, climb, budget, rate=self.rate, report=report)
