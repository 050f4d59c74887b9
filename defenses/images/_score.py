"""What encoder and score protections share: noise residuals, one encoder pass a step, a goal.

An objective speaks of latents: which way they should move, and its loss. Only that direction goes
back through the encoder, so a step costs one encoder pass forth and back whatever the terms are,
and a denoiser whose Jacobian is dropped builds no graph at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from safetybench.contracts import Album, Budget
from safetybench.draws import Streams

from ._descent import Climb, Start, ascend, gradient_of

Sign = Literal["up", "down"]
SIGNS: tuple[Sign, ...] = ("up", "down")
# Of latents, (batch, channels, h, w): where they should go, alike, and the loss of each image.
Pull = Callable[[Tensor], tuple[Tensor, Tensor]]

# Two dot-matrix letters; what is read does not matter, strokes and contrast do.
_LETTERS = (
    "00000000 01000010 01100010 01010010 01001010 01000110 01000010 00000000",
    "00000000 00111100 01000010 01000010 01000010 01000010 00111100 00000000",
)
_CELLS = 4  # letters along a side


class Draw(NamedTuple):
    """Times, (batch,) int64, and noises, (batch, channels, h, w), of one step."""

    t: Tensor
    noise: Tensor


class Score:
    """A surrogate's noise predictions for an album, each image under its own caption.

    times: those to draw from, all alike likely; None for every one but 0, at which there is so
    little noise that what was predicted of it cannot be told from rounding. each: draws a step.
    Draws come from the seed and an image's id alone: the times of a step, then its noises.
    """

    def __init__(
        self,
        target: Any,
        album: Album,
        seed: int,
        *,
        times: Collection[int] | None = None,
        each: int = 1,
    ) -> None:
        self.target, self.each = target, each
        with torch.no_grad():
            text = target.embed(target.tokenize(album.captions))
        self._text = text.repeat_interleave(each, 0)
        self._streams = Streams(seed, [f"{i}/score" for i in album.ids])
        known = range(1, target.process.steps) if times is None else times
        self._times = torch.tensor(sorted(known), dtype=torch.int64, device=text.device)

    def draw(self, latents: Tensor) -> Draw:
        """Return times and noises of a step, `each` of them side by side for each image."""
        picks = [self._streams.integers(0, len(self._times), latents) for _ in range(self.each)]
        noise = self._streams.normal((self.each, *latents.shape[1:]), latents)
        return Draw(self._times[torch.stack(picks, 1).flatten()], noise.flatten(0, 1))

    def predicted(self, latents: Tensor, draw: Draw) -> Tensor:
        """Return the noise that the surrogate sees in noised latents, (batch * each, c, h, w)."""
        process = self.target.process
        noisy = process.add(latents.repeat_interleave(self.each, 0), draw.noise, draw.t)
        clean = self.target.x0(noisy, draw.t, self._text)
        noise: Tensor = process.convert(clean, "sample", "epsilon", noisy, draw.t)
        return noise

    def error(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return the full gradient of the denoising loss in the latents, and the loss, (batch,).

        The loss is the mean square of predicted minus true noise at fresh times and noises.
        """
        draw = self.draw(latents)

        def loss(free: Tensor) -> Tensor:
            residual = self.predicted(free, draw) - draw.noise
            return self._by_image(residual.square().mean((1, 2, 3)))

        return gradient_of(loss, latents)

    @torch.no_grad()
    def residual(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return predicted minus true noise, mean over the draws of an image, and the loss.

        Score distillation's gradient: that of the loss without the denoiser's Jacobian, w(t) = 1.
        """
        draw = self.draw(latents)
        residual = self.predicted(latents, draw) - draw.noise
        return self._by_image(residual), self._by_image(residual.square().mean((1, 2, 3)))

    def _by_image(self, values: Tensor) -> Tensor:
        return values.reshape(-1, self.each, *values.shape[1:]).mean(1)


def signed(pull: Pull, sign: Sign) -> Pull:
    """Return a pull up its loss, or down; `pull` gives the gradient."""
    way = 1.0 if sign == "up" else -1.0

    def turned(latents: Tensor) -> tuple[Tensor, Tensor]:
        gradient, losses = pull(latents)
        return way * gradient, losses

    return turned


def check_sign(sign: str) -> None:
    """Raise ValueError unless `sign` says up or down."""
    if sign not in SIGNS:
        raise ValueError(f"sign must be one of {', '.join(SIGNS)}, got {sign!r}")


def through_encoder(target: Any, pull: Pull) -> Climb:
    """Return the climb in pixels that moves latents as `pull` says: one encoder pass and back."""

    def climb(images: Tensor, step: int) -> tuple[Tensor, Tensor]:
        free = images.detach().requires_grad_(True)
        with torch.enable_grad():
            latents = target.encode(free)
        direction, losses = pull(latents.detach())
        (gradient,) = torch.autograd.grad(latents, free, direction)
        return gradient, losses

    return climb


def protected(
    target: Any,
    album: Album,
    climb: Climb,
    budget: Budget,
    *,
    rate: float,
    start: Start = "clean",
    is_decaying: bool = False,
    report: Any = None,
) -> Tensor:
    """Return the album's images after `ascend`, computed where the surrogate is."""
    return ascend(
        album,
        climb,
        budget,
        rate=rate,
        start=start,
        is_decaying=is_decaying,
        report=report,
        device=device_of(target, album),
    )


def device_of(target: Any, album: Album) -> torch.device:
    """Return where the surrogate is; a target that does not say is where the album is."""
    found: torch.device = getattr(target, "device", album.images.device)
    return found


def pattern(height: int, width: int) -> Tensor:
    """Return an image of letters, black on white and white on black in turns, (1, 3, h, w).

    It stands for Mist's published target image, which is not ours to ship: that too is
    high-contrast text repeated over the whole image.
    """
    letters = torch.tensor(
        [[[float(dot) for dot in row] for row in rows.split()] for rows in _LETTERS]
    )
    rows = []
    for i in range(_CELLS):
        cells = [(letters[(i // 2 + j) % 2], (i + j) % 2) for j in range(_CELLS)]
        rows.append(torch.cat([1 - cell if is_dark else cell for cell, is_dark in cells], 1))
    small = torch.cat(rows, 0)[None, None]
    return torch.nn.functional.interpolate(small, (height, width)).expand(-1, 3, -1, -1)


@torch.no_grad()
def goal_latents(target: Any, album: Album, goal: Tensor | None = None) -> Tensor:
    """Return the latents of a goal image (1, 3, h, w), of `pattern` by default; (1, c, h, w)."""
    image = pattern(*album.images.shape[2:]) if goal is None else goal
    latents: Tensor = target.encode(image.to(device_of(target, album)))
    return latents
