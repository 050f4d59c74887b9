"""AdvDM: make an image hard to denoise, so that a diffusion model cannot make sense of it.

White box: full gradients through the denoiser and the image encoder of a surrogate; the text is
the image's own caption. Its mirror image makes the image easy to denoise instead.
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
from ._score import Score, Sign, check_sign, protected, signed, through_encoder


@register
@dataclass(frozen=True, kw_only=True)
class Advdm(ImageProtection):
    """Climb the denoising loss at random times and noises (Liang et al. 2023).

    sign: "up" is the paper's, "down" the AdvDM(-) of Xue et al. (2024), who published both at
    epsilon 16/255, 100 steps of 1/255 and a uniform start. rate: step in units of epsilon.
    Departs from the code: the latents are the posterior's mean, not a sample; time 0 is never
    drawn; the caption is the image's own, not one phrase for a folder; none is the empty prompt.
    """

    sign: Sign = "up"
    rate: float = 1 / 16

    source: ClassVar[str] = "https://arxiv.org/abs/2302.04578"
    needs: ClassVar[tuple[type, ...]] = (EncodesImages, Denoises, EncodesText)
    published: ClassVar[Budget] = Budget(epsilon=16 / 255, steps=100)

    def __post_init__(self) -> None:
        check_sign(self.sign)
        check_rate(self.rate)

    def climb(self, target: Any, album: Album, seed: int = 0) -> Climb:
        """Return the climb, and as losses the mean square errors of the predicted noise."""
        score = Score(target, album, seed)
        return through_encoder(target, signed(score.error, self.sign))

    def protect(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Tensor:
        """Return the album's images, protected; see `ImageProtection.protect`."""
        climb = self.climb(target, album, budget.seed)
        return protected(
            target, album, climb, budget, rate=self.rate, start="uniform", report=report
        )
