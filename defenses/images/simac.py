"""SimAC: Anti-DreamBooth at the times where an image's gradient is large, chosen beforehand.

White box: as ASPL, full gradients through denoiser and image encoder of a surrogate, and its
weights, which learn meanwhile. The choice costs some 150 gradients of each image more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from safetybench.contracts import (
    Album,
    Budget,
    Denoises,
    EncodesImages,
    EncodesText,
    ImageProtection,
)
from safetybench.draws import Streams
from safetybench.registry import register
from safetybench.targets.personalise import errors, training_times

from ._alternation import Alternation, Loss, Turns
from ._descent import Climb, check_ball, gradient_of
from ._greedy import greedy_times
from ._score import device_of, protected, through_encoder


@register
@dataclass(frozen=True, kw_only=True)
class Simac(Turns, ImageProtection):
    """Climb as ASPL does, at times chosen greedily for each image (Wang et al. 2024, CVPR).

    keep: as many times as are left at most; window: width in times of what one round drops;
    probes: times tried in a round. Published 100, 40 and 5 for 1000 times; a surrogate that has no
    more than `keep`, as a few-step student, keeps all its own. The choice is made on the model as
    it is, before it learns. feature_grad: also climb `feature_weight` times the mean square by
    which the residual blocks of the denoiser's last stage answer otherwise than for the clean
    image, which is the paper's second half. In the released code this term is a plain number,
    without a gradient, so that what was measured with it is the first half alone; off by default
    for that reason, and for its further pass a step. The other options are those of `aspl`.

    Published: 16/255 of [-1, 1], rate 0.005 of it, 50 rounds of 6 steps. Departs from the code
    in what `aspl` says, and: every image gets its times (theirs leaves an image without any where
    50 rounds do not suffice, and all later ones get their neighbour's); the step between rounds
    takes the gradient of its probe, not one at fresh noise.
    """

    rate: float = 0.08
    keep: int = 100
    window: int = 40
    probes: int = 5
    feature_grad: bool = False
    feature_weight: float = 1.0

    source: ClassVar[str] = "https://arxiv.org/abs/2312.07865"
    needs: ClassVar[tuple[type, ...]] = (EncodesImages, Denoises, EncodesText)
    sees: ClassVar[str] = "weights of the surrogate, which it trains"
    published: ClassVar[Budget] = Budget(epsilon=8 / 255, steps=300)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.window <= self.keep or self.probes < 1:
            raise ValueError(
                "window must be from 1 to keep and probes 1 or more, got "
                f"{self.window} of {self.keep} and {self.probes}"
            )
        if self.feature_weight <= 0:
            raise ValueError(f"feature_weight must be above 0, got {self.feature_weight:g}")

    def times(self, target: Any, album: Album, budget: Budget) -> list[Tensor]:
        """Return the times that are kept for each image, rising, (count,) int64 each.

        Raises:
            ValueError: as `ascend`, for a ball that is none.
        """
        check_ball(budget)
        streams = Streams(budget.seed, [f"{i}/simac-times" for i in album.ids])
        clean = album.images.float().to(device_of(target, album))
        low, high = (clean - budget.epsilon).clamp(min=0), (clean + budget.epsilon).clamp(max=1)
        with torch.no_grad():
            text = target.embed(target.tokenize([self.prompt] * len(album)))

        def slope(images: Tensor, t: Tensor) -> Tensor:
            def pull(latents: Tensor) -> tuple[Tensor, Tensor]:
                noise, at = streams.normal(latents.shape[1:], latents), t.to(latents.device)
                return gradient_of(lambda free: errors(target, free, text, noise, at), latents)

            return through_encoder(target, pull)(images, 0)[0]

        def move(images: Tensor, gradient: Tensor) -> Tensor:
            moved = images + self.rate * budget.epsilon * gradient.sign()
            return torch.minimum(torch.maximum(moved, low), high)

        own = torch.tensor(sorted(training_times(target)))
        return greedy_times(
            slope,
            move,
            clean,
            own,
            streams,
            keep=self.keep,
            window=self.window,
            probes=self.probes,
        )

    def climb(self, target: Any, album: Album, budget: Budget) -> Climb:
        """Return the climb after the choice of times; see `Aspl.climb`."""
        times, loss = self.times(target, album, budget), self._loss(target, album)
        turns = Alternation(self, target, album, budget.seed, name="simac", times=times, loss=loss)
        return turns.climb

    def protect(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Tensor:
        """Return the album's images, protected; see `ImageProtection.protect`."""
        climb = self.climb(target, album, budget)
        return protected(target, album, climb, budget, rate=self.rate, report=report)

    def _loss(self, target: Any, album: Album) -> Loss:
        """Return what the images climb: the denoising error, and the features' where asked."""
        if not self.feature_grad:
            return errors
        with torch.no_grad():
            clean = target.encode(album.images.float().to(device_of(target, album)))

        def loss(twin: Any, latents: Tensor, text: Tensor, noise: Tensor, t: Tensor) -> Tensor:
            with torch.no_grad(), _watched(twin) as before:
                errors(twin, clean, text, noise, t)
            with _watched(twin) as after:
                error = errors(twin, latents, text, noise, t)
            apart = [
                (mine.float() - own.float()).square().flatten(1).mean(1)
                for mine, own in zip(after, before, strict=True)
            ]
            return error + self.feature_weight * torch.stack(apart).mean(0)

        return loss


@contextmanager
def _watched(target: Any) -> Iterator[list[Tensor]]:
    """Collect what the residual blocks of the denoiser's last stage answer."""
    found: list[Tensor] = []
    blocks = target.unet.up_blocks[-1].resnets
    handles = [b.register_forward_hook(lambda _b, _x, out: found.append(out)) for b in blocks]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
