"""PhotoGuard's encoder attack: move an image's latents to zero or to those of another image.

Edits then start from latents that show something else. Needs gradients of the image encoder
alone, so that it holds for every model with that encoder, whatever its denoiser and text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from safetybench.contracts import Album, Budget, EncodesImages, ImageProtection
from safetybench.registry import register

from ._descent import Climb, check_rate
from ._score import goal_latents, protected, through_encoder

Goal = Literal["norm", "gray", "pattern"]
GOALS: tuple[Goal, ...] = ("norm", "gray", "pattern")


@register
@dataclass(frozen=True, kw_only=True)
class PhotoguardEncoder(ImageProtection):
    """Pull latents towards zero or towards a gray image's (Salman et al. 2023, encoder attack).

    goal: "norm" makes the latents short, as released for image to image; "gray" moves them to a
    gray image's and "pattern" to high-contrast letters', as released for inpainting with any
    target. rate: first step in units of epsilon, published 1/3 (inpainting 1/6), falling linearly
    to 1 % of itself over the budget; a uniform start in the ball; epsilon 0.03 in [0, 1] and
    1,000 steps. Departs from the code in the latents' shift, which newer autoencoders have and
    which is taken off here before their norm is taken; Stable Diffusion 1 and 2 have none.
    """

    goal: Goal = "norm"
    rate: float = 1 / 3

    source: ClassVar[str] = "https://arxiv.org/abs/2302.06588"
    needs: ClassVar[tuple[type, ...]] = (EncodesImages,)
    sees: ClassVar[str] = "weights of the surrogate's image encoder"
    published: ClassVar[Budget] = Budget(epsilon=0.03, steps=1000)

    def __post_init__(self) -> None:
        if self.goal not in GOALS:
            raise ValueError(f"goal must be one of {', '.join(GOALS)}, got {self.goal!r}")
        check_rate(self.rate)

    def climb(self, target: Any, album: Album, seed: int = 0) -> Climb:
        """Return the climb, and as losses the distances that are left; nothing is random."""
        aim: Tensor | None = None
        if self.goal == "gray":
            aim = goal_latents(target, album, torch.full_like(album.images[:1].float(), 0.5))
        elif self.goal == "pattern":
            aim = goal_latents(target, album)

        def pull(latents: Tensor) -> tuple[Tensor, Tensor]:
            gap = latents if aim is None else latents - aim
            # The square's gradient: the norm's is this over the norm, and a sign forgets lengths.
            return -2 * gap, gap.flatten(1).norm(dim=1)

        return through_encoder(target, pull)

    def protect(
        self, target: EncodesImages, album: Album, budget: Budget, report: Any = None
    ) -> Tensor:
        """Return the album's images, protected; see `ImageProtection.protect`."""
        return protected(
            target,
            album,
            self.climb(target, album, budget.seed),
            budget,
            rate=self.rate,
            start="uniform",
            is_decaying=True,
            report=report,
        )
