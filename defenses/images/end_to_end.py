"""End to end: the exact gradient through the whole edit of a one- or few-step student.

A many-step editor is too deep to differentiate, so protections attack a part of it: the encoder,
or single denoiser calls. A distilled editor is one or a few calls, and nothing needs to be left
out. White box: weights of the student.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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
class EndToEnd(ImageProtection):
    """Push a student's edit away from its edit of the clean image, or towards gray. Our own.

    It is PhotoGuard's diffusion attack (Salman et al. 2023, the source) without its cut: the
    sampler is the victim's own in full, at the strength of its edits. What is new is "away": the
    distance to what the same noise would have made of the clean image, which starts from uniform
    noise in the ball, because it has no gradient at the clean image itself.

    objective: "away", or "gray" as PhotoGuard has it. space: compare latents of the edits or, at
    the price of the decoder, pixels. noises: fresh noises in each step, run as one batch.
    through, strength, guidance: as of photoguard_diffusion. rate: step in epsilons. All values
    are ours, chosen on the zoo. On a many-step target every step of its sampler is held in memory.
    """

    objective: Literal["away", "gray"] = "away"
    space: Literal["latents", "pixels"] = "latents"
    through: Through = "auto"
    strength: float = 0.7
    guidance: float | None = None
    noises: int = 1
    rate: float = 1 / 8

    source: ClassVar[str] = "https://arxiv.org/abs/2302.06588"
    needs: ClassVar[tuple[type, ...]] = (EditsImages, EncodesImages, EncodesText)
    published: ClassVar[Budget] = Budget(steps=100, epsilon=8 / 255)

    def __post_init__(self) -> None:
        check_options(self.through, self.strength, self.rate, self.guidance, self.noises)
        if self.objective not in ("away", "gray") or self.space not in ("latents", "pixels"):
            raise ValueError(
                "objective must be away or gray and space latents or pixels, got "
                f"{self.objective!r} and {self.space!r}"
            )

    def protect(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Tensor:
        """Return the album's images inside the ball, 8-bit; see `ImageProtection.protect`."""
        editor = Editor.of(target, album, self.through, self.strength, self.guidance)
        edit = editor.latents if self.space == "latents" else editor.images
        clean = album.images.float()
        gray = self._gray(target, clean.to(editor.text.device))
        sign = 1 if self.objective == "away" else -1
        streams = Streams(budget.seed, [f"{name}/edits" for name in album.ids])

        def climb(images: Tensor, step: int) -> tuple[Tensor, Tensor]:
            seeds = torch.stack([streams.integers(0, _SEEDS) for _ in range(self.noises)])
            with torch.no_grad():
                goal = edit(clean, seeds) if self.objective == "away" else gray

            def distance(free: Tensor) -> Tensor:
                errors: Tensor = (edit(free, seeds) - goal).square().flatten(1).mean(1)
                return sign * errors.reshape(seeds.shape).mean(0)

            return gradient_of(distance, images)

        return ascend(
            album,
            climb,
            budget,
            rate=self.rate,
            start="uniform" if self.objective == "away" else "clean",
            report=report,
        )

    def _gray(self, target: Any, clean: Tensor) -> Tensor:
        """Return gray in the space of the comparison, (1, channels, h, w)."""
        gray = torch.full_like(clean[:1], 0.5)
        if self.space == "pixels":
            return gray
        with torch.no_grad():
            latents: Tensor = target.encode(gray)
        return latents
