"""A surrogate and images that take turns, one learning and the others climbing: Anti-DreamBooth's.

Options, their checks, and the turns. Who uses it says at which times an image climbs, and what.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from safetybench.contracts import Album
from safetybench.draws import Streams, item_generator
from safetybench.targets.personalise import (
    Lesson,
    Surrogate,
    errors,
    examples_of,
    own_examples,
    training_times,
)

from ._descent import check_rate, gradient_of
from ._score import through_encoder

Format = Literal["float32", "bfloat16"]
FORMATS: tuple[Format, ...] = get_args(Format)
# Of a model, clean latents, text states, noise and times: the loss of each image, (batch,).
Loss = Callable[[Any, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Options of the turns; `defenses/images/aspl` says what they mean and whose they are."""

    prompt: str = "a sks shape"
    class_prompt: str = "a shape"
    surrogate_steps: int = 3
    pgd_steps: int = 6
    warmup: int = 0
    lr: float = 1e-4
    batch: int = 4
    prior: float = 1.0
    class_images: int = 32
    rate: float = 0.1
    surrogate_dtype: Format = "float32"

    def __post_init__(self) -> None:
        check_rate(self.rate)
        if min(self.surrogate_steps, self.warmup, self.prior) < 0:
            raise ValueError(
                "surrogate_steps, warmup and prior must be 0 or more, got "
                f"{self.surrogate_steps}, {self.warmup}, {self.prior}"
            )
        if self.lr <= 0 or min(self.pgd_steps, self.batch, self.class_images) < 1:
            raise ValueError(
                "lr, pgd_steps, batch and class_images must be positive, got "
                f"{self.lr}, {self.pgd_steps}, {self.batch}, {self.class_images}"
            )
        if self.surrogate_dtype not in FORMATS:
            raise ValueError(
                f"surrogate_dtype must be one of {', '.join(FORMATS)}, got {self.surrogate_dtype!r}"
            )


class Alternation:
    """The surrogate, and the turns that it and the images take.

    name: of the random streams. times: those at which each image climbs, None for all at which
    the surrogate learns. loss: what the images climb.
    """

    def __init__(
        self,
        options: Turns,
        target: Any,
        album: Album,
        seed: int,
        *,
        name: str,
        times: Sequence[Tensor] | None = None,
        loss: Loss = errors,
    ) -> None:
        self.options, self.target, self.seed, self.name = options, target, seed, name
        self.prompts = [options.prompt] * len(album)
        self.surrogate = Surrogate(
            target, lr=options.lr, dtype=getattr(torch, options.surrogate_dtype)
        )
        kept = None
        if options.class_prompt and options.prior and max(options.warmup, options.surrogate_steps):
            kept = own_examples(target, [options.class_prompt] * options.class_images, seed)
        self.clean = Lesson(
            frozen=target,
            shown=examples_of(target, album.images.float(), self.prompts),
            kept=kept,
            weight=options.prior,
            batch=options.batch,
        )
        with torch.no_grad():
            self.text = target.embed(self.clean.shown.tokens)
        self.loss = loss
        self.times, self.chosen = torch.tensor(training_times(target)), times
        self.streams = Streams(seed, [f"{i}/{name}" for i in album.ids])
        self.main: list[Tensor] = []  # the weights that saw what a mimic will see

    def climb(self, images: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Let the surrogate learn where a round begins; return what `ascend` asks for."""
        if step % self.options.pgd_steps == 0:
            self._begin(images, step // self.options.pgd_steps)

        def pull(latents: Tensor) -> tuple[Tensor, Tensor]:
            t = self._drawn().to(latents.device)
            noise, twin = self.streams.normal(latents.shape[1:], latents), self.surrogate.twin
            return gradient_of(lambda free: self.loss(twin, free, self.text, noise, t), latents)

        return through_encoder(self.target, pull)(images, step)

    def _drawn(self) -> Tensor:
        if self.chosen is None:
            return self.times[self.streams.integers(0, len(self.times))]
        return drawn_of(self.chosen, self.streams)

    def _begin(self, images: Tensor, number: int) -> None:
        steps = self.options.surrogate_steps
        if number == 0:
            self._learn(self.clean, self.options.warmup, "warmup")
        if not steps:
            return
        if number:
            self.surrogate.restore(self.main)
            shown = examples_of(self.target, images, self.prompts)
            self._learn(replace(self.clean, shown=shown), steps, f"protected/{number}")
        self.main = self.surrogate.state()
        self._learn(self.clean, steps, f"clean/{number}")

    def _learn(self, lesson: Lesson, steps: int, what: str) -> None:
        rng = item_generator(self.seed, f"{self.name}/{what}")
        self.surrogate.learn(lambda twin: lesson.loss(twin, rng), steps)


def drawn_of(times: Sequence[Tensor], streams: Streams) -> Tensor:
    """Return one of each image's own times, (batch,) int64."""
    shares = streams.uniform(()).tolist()
    picks = [own[int(share * len(own))] for own, share in zip(times, shares, strict=True)]
    return torch.stack(picks)
