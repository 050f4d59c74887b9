"""PhotoGuard's diffusion attack: make a whole edit come out as a plain gray image.

White box: gradients through the surrogate's sampler, step by step, and its decoder. It is the
costliest of its kind; every step runs `repeats` edits forward and back and holds them in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from safetybench.contracts import (
    Album,
    Budget,
    EditsImages,
    EncodesImages,
    EncodesText,
    ImageProtection,
)
from safetybench.draws import Streams
from safetybench.registry import register

from ._descent import ascend, gradient_of
from ._trajectory import Editor, Through, check_options

_SEEDS = 1 << 31


@register
@dataclass(frozen=True, kw_only=True)
class PhotoguardDiffusion(ImageProtection):
    """Move an edit's outcome to a target image (Salman et al. 2023, the diffusion attack).

    sampler_steps: the surrogate's sampler, cut to so many steps, published 4; one that has no
    more keeps its own grid, and 0 leaves it alone. repeats: noises of one step, published 10,
    run as one batch. guidance: published 7.5, None for the surrogate's own. level: gray of the
    target image, 0.5 is the authors' zero in [-1, 1]. rate: step in epsilons, of the paper's table
    2/255 of 16/255, in Linf and 200 steps; the authors' notebook takes an L2 ball of 16 with
    normalised gradients instead, which no equal-epsilon comparison can hold.

    through: "inpaint" where the surrogate inpaints and masks are given, which is the published
    attack, "sdedit" at `strength` for any other; "auto" takes the first that is possible. Gray
    values of the decoder that are cut to [0, 1] give no gradient. The text is the album's
    caption, published an empty one.
    """

    through: Through = "auto"
    strength: float = 0.7
    sampler_steps: int = 4
    repeats: int = 10
    guidance: float | None = None
    level: float = 0.5
    rate: float = 1 / 8

    source: ClassVar[str] = "https://arxiv.org/abs/2302.06588"
    needs: ClassVar[tuple[type, ...]] = (EditsImages, EncodesImages, EncodesText)
    published: ClassVar[Budget] = Budget(steps=200, epsilon=16 / 255)

    def __post_init__(self) -> None:
        check_options(self.through, self.strength, self.rate, self.guidance, self.repeats)
        if self.sampler_steps < 0 or not 0 <= self.level <= 1:
            raise ValueError(
                "sampler_steps must be 0 or more and level in [0, 1], got "
                f"{self.sampler_steps} and {self.level:g}"
            )

    def protect(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Tensor:
        """Return the album's images inside the ball, 8-bit; see `ImageProtection.protect`."""
        surrogate = self._shortened(target)
        editor = Editor.of(surrogate, album, self.through, self.strength, self.guidance)
        streams = Streams(budget.seed, [f"{name}/edits" for name in album.ids])

        def climb(images: Tensor, step: int) -> tuple[Tensor, Tensor]:
            seeds = torch.stack([streams.integers(0, _SEEDS) for _ in range(self.repeats)])

            def nearness(free: Tensor) -> Tensor:
                far: Tensor = (editor.images(free, seeds) - self.level).flatten(1).norm(dim=1)
                return -far.reshape(seeds.shape).mean(0)

            return gradient_of(nearness, images)

        protected = ascend(album, climb, budget, rate=self.rate, report=report)
        if surrogate is not target:
            target.nfe += surrogate.nfe
        return protected

    def _shortened(self, target: Any) -> Any:
        """Return the surrogate under a sampler of `sampler_steps`, if its own takes more."""
        if not 0 < self.sampler_steps < target.sampler.steps:
            return target
        return target.with_sampler(target.sampler.with_settings({"steps": self.sampler_steps}))
