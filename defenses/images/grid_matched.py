"""Grid-matched protection: AdvDM or SDS at only those times at which the surrogate's sampler looks.

A few-step student sees an image at one to four noise levels, so what is crafted at all others is
wasted on it. White box, as AdvDM or SDS are; made for surrogates with a sampler of few steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from safetybench.contracts import (
    Album,
    Budget,
    Denoises,
    EditsImages,
    EncodesImages,
    EncodesText,
    ImageProtection,
)
from safetybench.registry import register
from safetybench.targets.sampling import entered

from ._descent import Climb, Start, check_rate
from ._score import Score, Sign, check_sign, protected, signed, through_encoder

Objective = Literal["advdm", "sds"]
# The starts of the two methods as they were published.
STARTS: dict[Objective, Start] = {"advdm": "uniform", "sds": "clean"}


@register
@dataclass(frozen=True, kw_only=True)
class GridMatched(ImageProtection):
    """Draw times from the surrogate's own grid, entered at a strength; this change is ours.

    The source is AdvDM's (Liang et al. 2023), whose times are all alike likely. strength: of the
    edit that is expected, in (0, 1]: the times used are those at which the surrogate's sampler
    asks its denoiser when entered there, all alike likely, and a one-step student has one.
    objective: "advdm" or "sds", with the starts these were published with. sign: "up"
    is AdvDM's, "down" the one published for SDS. rate: step in units of epsilon. Nothing of this
    is published; epsilon and steps are AdvDM's.
    """

    strength: float = 0.7
    objective: Objective = "advdm"
    sign: Sign = "up"
    rate: float = 1 / 16

    source: ClassVar[str] = "https://arxiv.org/abs/2302.04578"
    needs: ClassVar[tuple[type, ...]] = (EncodesImages, Denoises, EncodesText, EditsImages)
    published: ClassVar[Budget] = Budget(epsilon=16 / 255, steps=100)

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength must be in (0, 1], got {self.strength}")
        if self.objective not in STARTS:
            raise ValueError(
                f"objective must be one of {', '.join(STARTS)}, got {self.objective!r}"
            )
        check_sign(self.sign)
        check_rate(self.rate)

    def times(self, target: Any) -> tuple[int, ...]:
        """Return the times that are drawn from, noisiest first.

        Raises:
            ValueError: the sampler looks at pure noise alone, which holds nothing of the image.
        """
        # A scheduler may ask at times between the discrete ones; 0 is left out, as everywhere.
        grid = [max(round(t), 1) for t in entered(target, self.strength)[1].tolist()]
        signal = target.process.alphas_cumprod.tolist()
        seen = tuple(t for t in dict.fromkeys(grid) if signal[t] > 0)
        if not seen:
            raise ValueError(
                f"strength must leave some of the image, got {self.strength:g}, at which the "
                f"sampler of {target.name} starts from noise alone"
            )
        return seen

    def climb(self, target: Any, album: Album, seed: int = 0) -> Climb:
        """Return the climb, and as losses the mean square errors of the predicted noise."""
        score = Score(target, album, seed, times=self.times(target))
        pull = score.error if self.objective == "advdm" else score.residual
        return through_encoder(target, signed(pull, self.sign))

    def protect(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Tensor:
        """Return the album's images, protected; see `ImageProtection.protect`."""
        climb = self.climb(target, album, budget.seed)
        start = STARTS[self.objective]
        return protected(target, album, climb, budget, rate=self.rate, start=start, report=report)
