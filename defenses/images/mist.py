"""Mist: pull latents to a high-contrast image and make what is left hard to denoise.

White box: gradients through the image encoder, and but for the textural mode through the denoiser
of a surrogate. Made against both learning from images and editing them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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
from ._score import Pull, Score, goal_latents, protected, through_encoder

Mode = Literal["fused", "textural", "semantic"]
MODES: tuple[Mode, ...] = ("fused", "textural", "semantic")
_PUBLISHED_VALUES = 4 * 64 * 64  # of the latents of 512 pixels


@register
@dataclass(frozen=True, kw_only=True)
class Mist(ImageProtection):
    """Minimise the textural loss minus `weight` times the semantic one (Liang and Wu 2023).

    mode: the textural loss is the squared distance of the latents from those of a target image,
    the semantic loss AdvDM's, and "fused" both. (The README and the code number the modes
    differently; here they have names.) weight: published 1e4 for a semantic loss that is a mean
    over 16,384 latent values; the mean is taken over that many here whatever the size of the
    image, else the balance of the two would change with it. rate: step in units of epsilon;
    published 1/255 of 16/255, 100 steps, a uniform start. Departs from the code: the latents are
    the posterior's mean; time 0 is never drawn; captions are the images' own; letters stand for
    the target image, which is not ours to ship.
    """

    mode: Mode = "fused"
    weight: float = 1e4
    rate: float = 1 / 16

    source: ClassVar[str] = "https://arxiv.org/abs/2305.12683"
    needs: ClassVar[tuple[type, ...]] = (EncodesImages, Denoises, EncodesText)
    published: ClassVar[Budget] = Budget(epsilon=16 / 255, steps=100)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        if not self.weight > 0:
            raise ValueError(f"weight must be above 0, got {self.weight}")
        check_rate(self.rate)

    def climb(self, target: Any, album: Album, seed: int = 0) -> Climb:
        """Return the climb; losses: what is minimised, or AdvDM's loss in the semantic mode."""
        if self.mode == "semantic":
            return through_encoder(target, Score(target, album, seed).error)
        goal = goal_latents(target, album)
        error = Score(target, album, seed).error if self.mode == "fused" else None
        return through_encoder(target, self._pull(goal, error))

    def _pull(self, goal: Tensor, error: Pull | None) -> Pull:
        def pull(latents: Tensor) -> tuple[Tensor, Tensor]:
            gap = latents - goal
            direction, losses = -2 * gap, gap.square().sum((1, 2, 3))
            if error is None:
                return direction, losses
            gradient, semantic = error(latents)
            share = self.weight * latents[0].numel() / _PUBLISHED_VALUES
            return direction + share * gradient, losses - share * semantic

        return pull

    def protect(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Tensor:
        """Return the album's images, protected; see `ImageProtection.protect`."""
        climb = self.climb(target, album, budget.seed)
        return protected(
            target, album, climb, budget, rate=self.rate, start="uniform", report=report
        )
