"""Anti-DreamBooth: make images that a model learns badly from, with a surrogate learning in turns.

White box: full gradients through denoiser and image encoder of a surrogate, and its weights, which
learn the images meanwhile as a mimic's would. An album is one set: its images share a surrogate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

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
from safetybench.draws import Streams, item_generator
from safetybench.registry import register
from safetybench.targets.personalise import (
    Lesson,
    Surrogate,
    errors,
    examples_of,
    own_examples,
    training_times,
)

from ._descent import Climb, check_rate, gradient_of
from ._score import protected, through_encoder

Format = Literal["float32", "bfloat16"]
FORMATS: tuple[Format, ...] = get_args(Format)


@register
@dataclass(frozen=True, kw_only=True)
class Aspl(ImageProtection):
    """Climb the denoising loss of a surrogate that learns alternately (Van Le et al. 2023).

    Every `pgd_steps` steps the surrogate takes `surrogate_steps` on the images protected so far;
    a copy of it takes as many on the clean ones and is then attacked. warmup: steps on the clean
    images before all that. With surrogate_steps 0, warmup is FSMG (a fully trained surrogate),
    and without warmup the surrogate is the model as it is.
    prompt: what the mimic will call the images; class_prompt: of `class_images` pictures that the
    model draws and the surrogate is to keep, with the weight `prior`; "" for none. lr: of AdamW;
    batch: pictures a step. rate: of the climb, in units of epsilon. surrogate_dtype: of the
    surrogate's denoiser; in "bfloat16", as released, steps of the published lr are rounded away
    for all weights above 1e-4, and ASPL is nearly the attack on the model as it is.

    Published: 50 rounds of 3 and 6 steps, lr 5e-7, prior 1 with 200 class images, batch 1, for
    people ("a photo of sks person"). lr, batch, prompts and class_images are for the zoo. Departs
    from the code: the surrogate learns from the same images that are protected, not from others
    of the person; the text encoder does not learn; latents are the posterior's mean; times and
    noises are an image's own. A few-step surrogate learns and is attacked at its own times.
    """

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

    source: ClassVar[str] = "https://arxiv.org/abs/2303.15433"
    needs: ClassVar[tuple[type, ...]] = (EncodesImages, Denoises, EncodesText)
    sees: ClassVar[str] = "weights of the surrogate, which it trains"
    # 0.05 of [-1, 1]; 50 rounds of 6 steps.
    published: ClassVar[Budget] = Budget(epsilon=0.025, steps=300)

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

    def climb(self, target: Any, album: Album, seed: int = 0) -> Climb:
        """Return the climb, and as losses the denoising errors of the surrogate of the step.

        Steps must come in order: the surrogate learns between them.
        """
        return _Alternation(self, target, album, seed).climb

    def protect(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Tensor:
        """Return the album's images, protected; see `ImageProtection.protect`."""
        climb = self.climb(target, album, budget.seed)
        return protected(target, album, climb, budget, rate=self.rate, report=report)


class _Alternation:
    """The surrogate, and the turns that it and the images take."""

    def __init__(self, options: Aspl, target: Any, album: Album, seed: int) -> None:
        self.options, self.target, self.seed = options, target, seed
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
        self.times = torch.tensor(training_times(target))
        self.streams = Streams(seed, [f"{i}/aspl" for i in album.ids])
        self.main: list[Tensor] = []  # the weights that saw what a mimic will see

    def climb(self, images: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Let the surrogate learn where a round begins; return what `ascend` asks for."""
        if step % self.options.pgd_steps == 0:
            self._begin(images, step // self.options.pgd_steps)

        def pull(latents: Tensor) -> tuple[Tensor, Tensor]:
            picks = self.streams.integers(0, len(self.times))
            noise = self.streams.normal(latents.shape[1:], latents)
            t, twin = self.times[picks].to(latents.device), self.surrogate.twin
            return gradient_of(lambda free: errors(twin, free, self.text, noise, t), latents)

        return through_encoder(self.target, pull)(images, step)

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
        rng = item_generator(self.seed, f"aspl/{what}")
        self.surrogate.learn(lambda twin: lesson.loss(twin, rng), steps)
