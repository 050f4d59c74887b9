"""DiffusionGuard: against inpainting, make the denoiser's first prediction as long as it gets.

An editor decides in its first step what it draws beside a face. White box: the surrogate is an
inpainting model; text is left empty, and no sampler runs. Each step costs one pass through the
encoder and one through the denoiser, and their way back to the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from safetybench.contracts import Album, Budget, EncodesText, ImageProtection, Inpaints
from safetybench.draws import Streams
from safetybench.registry import register

from ._descent import Climb, ascend, gradient_of
from ._masks import ContourShrink, mask_bank


@register
@dataclass(frozen=True, kw_only=True)
class DiffusionGuard(ImageProtection):
    """Climb the norm of the first prediction, from pure noise, under random masks (Choi et al.).

    Published at ICLR 2025. objective: "noise" is the paper's, the norm of the noise prediction;
    "x0" that of the x0-prediction; "auto" takes "noise" where the network predicts noise and
    "x0" for all others, whose noise prediction is next to their input. rate: step in epsilons,
    published 0.5/255 of 8/255. t: the time that the network is told; "sampler" is the first of
    the surrogate's own sampler. The authors run PNDM in 4 steps, which begins at 751.

    augment: shrink the area to protect along its contour, or take it as it is ("none"); strength,
    rounds, smoothness: published 1.1, 15 and 0.1, for images of 512 pixels. Moves are smoothed
    over a length, so on smaller images they are larger: at 64 pixels strength 0.4 keeps as much.
    radius_scale: 2.22 is what the authors' code computes. bank: masks drawn for each image, and
    used in turn; the authors draw one at every step.

    Departs from the paper's code also in the precision of images (float32, theirs half) and in
    encoding at the posterior mean, where theirs draws.
    """

    objective: Literal["auto", "noise", "x0"] = "auto"
    t: int | Literal["sampler"] = "sampler"
    rate: float = 1 / 16
    augment: Literal["contour_shrink", "none"] = "contour_shrink"
    strength: float = 1.1
    rounds: int = 15
    smoothness: float = 0.1
    radius_scale: float = 2.22
    bank: int = 64

    source: ClassVar[str] = "https://arxiv.org/abs/2410.05694"
    needs: ClassVar[tuple[type, ...]] = (Inpaints, EncodesText)
    sees: ClassVar[str] = "weights of the surrogate, the area that is to be kept"
    uses_masks: ClassVar[bool] = True
    published: ClassVar[Budget] = Budget(steps=800, epsilon=8 / 255)

    def __post_init__(self) -> None:
        if self.objective not in ("auto", "noise", "x0"):
            raise ValueError(f"objective must be auto, noise or x0, got {self.objective!r}")
        if self.augment not in ("contour_shrink", "none"):
            raise ValueError(f"augment must be contour_shrink or none, got {self.augment!r}")
        if not (self.t == "sampler" or (isinstance(self.t, int) and self.t >= 0)):
            raise ValueError(f"t must be sampler or a time of the process, got {self.t!r}")
        if not 0 < self.rate <= 1 or self.bank < 1:
            raise ValueError(
                f"rate must be in (0, 1] and bank 1 or more, got {self.rate:g} and {self.bank}"
            )
        assert self._shrink  # it checks its own options

    def protect(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Tensor:
        """Return the album's images inside the ball, 8-bit; see `ImageProtection.protect`.

        Only pixels that are kept change: the editor sees no others.

        Raises:
            ValueError: no masks, a time that the process has not, or the objective "noise" where
                the input is all noise and any network's answer is that noise.
        """
        climb = self.climb(target, album, budget)
        return ascend(album, climb, budget, rate=self.rate, report=report)

    def climb(self, target: Any, album: Album, budget: Budget) -> Climb:
        """Return the climb, and as losses the norms; masks are drawn here, for all steps.

        Raises:
            ValueError: as `protect`.
        """
        if album.masks is None:
            raise ValueError("masks must say which area an editor may draw anew, got none")
        time, goal = self._time(target), self._goal(target)
        bank = self._bank(album, budget)
        streams = Streams(budget.seed, [f"{name}/noise" for name in album.ids])
        text = target.null_text.expand(len(album), -1, -1)
        times = torch.full((len(album),), time, device=text.device)

        def climb(images: Tensor, step: int) -> tuple[Tensor, Tensor]:
            masks = bank[step % len(bank)].to(images)

            def length(free: Tensor) -> Tensor:
                seen = target.given(free, masks)
                noise = streams.normal(seen.latent_shape, text)
                said = seen.predict(noise, times, text)
                said = seen.process.convert(said, seen.prediction, goal, noise, times)
                norms: Tensor = said.flatten(1).norm(dim=1)
                return norms

            return gradient_of(length, images)

        return climb

    @property
    def _shrink(self) -> ContourShrink:
        return ContourShrink(
            strength=self.strength,
            rounds=self.rounds,
            smoothness=self.smoothness,
            radius_scale=self.radius_scale,
        )

    def _bank(self, album: Album, budget: Budget) -> Tensor:
        """Return masks to be used in turn, (count, batch, 1, height, width)."""
        assert album.masks is not None
        if self.augment == "none":
            return album.masks[None]
        count = min(self.bank, max(budget.steps, 1))
        return mask_bank(album.masks, album.ids, budget.seed, count, self._shrink)

    def _time(self, target: Any) -> int:
        time = int(target.sampler_times[0]) if self.t == "sampler" else int(self.t)
        if time >= target.process.steps:
            raise ValueError(f"t must be below {target.process.steps}, got {time}")
        return time

    def _goal(self, target: Any) -> Literal["epsilon", "sample"]:
        """Return the kind of prediction whose norm is climbed."""
        has_noise = target.prediction == "epsilon"
        if self.objective == "x0" or (self.objective == "auto" and not has_noise):
            return "sample"
        time = torch.tensor([self._time(target)])
        if not has_noise and float(target.process.alpha(time)) == 0:
            raise ValueError(
                f"objective must be x0 or auto at time {self._time(target)} of {target.name}: its "
                "input is all noise there, and so is its noise prediction, whatever the image"
            )
        return "epsilon"
