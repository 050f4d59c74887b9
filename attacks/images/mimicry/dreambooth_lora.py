"""DreamBooth with a LoRA: teach the denoiser that a rare word means these few pictures.

White box: trains a low-rank change of the denoiser's attention, by the denoising loss. The change
is small, and can be plugged on every model of the architecture, such as the target's students.
"""

from __future__ import annotations

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
    GeneratesImages,
    Mimicry,
)
from safetybench.distill.training import tune
from safetybench.registry import register
from safetybench.targets.personalise import (
    LAYERS,
    Layers,
    Lesson,
    Lora,
    examples_of,
    lora_of,
    lora_on,
    own_examples,
    plugged,
)

from ._captions import captions_of, check_album, check_template


@register
@dataclass(frozen=True, kw_only=True)
class DreamboothLora(Mimicry):
    """Bind a rare word and a class noun to a subject (Ruiz et al. 2023), by a LoRA.

    name: the rare word; kind: the noun of its class, "" for none, as for a style. template: of a
    caption where the album's own does not say both. rank: of the LoRA, also its scale; layers:
    where in the denoiser it sits; train_text: also on the text encoder's attention. lr: of AdamW;
    batch: pictures a step. prior: weight of the class pictures (prior preservation), 0 for none;
    class_images: how many the model itself draws of them, once. tries: noises tried for each
    picture of a few-step student, see `safetybench.targets.personalise.picture_loss`.

    Published: 1,000 steps at 1e-6 to 5e-6 on all weights, the text encoder's with them, prior 1
    and 200 class images; of the usual LoRA script rank 4 on the attention, lr 1e-4, batch 1 and
    500 steps. The defaults are for the zoo, whose text encoder was trained to read over rare words
    and whose denoiser has attention at 4x4 alone. LoRA weights and AdamW are float32 whatever the
    networks are, the learning rate falls to 0 over the second half, and gradients are clipped.
    `tries` and the prior term of few-step students are ours: trained as published, on noised
    pictures at its own times, a one-step student learns the mean of all pictures.
    """

    name: str = "sks"
    kind: str = "shape"
    template: str = "a {}"
    rank: int = 16
    layers: Layers = "all"
    train_text: bool = True
    lr: float = 1e-3
    batch: int = 8
    prior: float = 1.0
    class_images: int = 64
    tries: int = 8

    source: ClassVar[str] = "https://arxiv.org/abs/2208.12242"
    needs: ClassVar[tuple[type, ...]] = (GeneratesImages, EncodesText, Denoises, EncodesImages)

    def __post_init__(self) -> None:
        check_template(self.template)
        if not self.name.strip():
            raise ValueError(f"name must be a word, got {self.name!r}")
        if self.layers not in LAYERS:
            raise ValueError(f"layers must be one of {', '.join(LAYERS)}, got {self.layers!r}")
        counts = (self.rank, self.batch, self.class_images, self.tries)
        if self.lr <= 0 or self.prior < 0 or min(counts) < 1:
            raise ValueError(
                "lr, rank, batch, class_images and tries must be positive and prior 0 or more, "
                f"got {self.lr}, {self.rank}, {self.batch}, {self.class_images}, {self.tries}, "
                f"{self.prior}"
            )

    @property
    def word(self) -> str:
        """Return the rare word with its class noun."""
        return f"{self.name} {self.kind}".strip()

    def learn(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Any:
        """Return a target that draws the album's subject for `word`; see `Mimicry.learn`."""
        return plugged(target, self.lora(target, album, budget, report))

    def lora(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Lora:
        """Return what was learnt as a LoRA, for `safetybench.targets.personalise.plugged`.

        Plugged on a student of `target`, it is what a mimic has who tunes the teacher and draws
        with the student. The album's own captions stay where they say `word`.

        Raises:
            ValueError: an album without images, or a budget without steps.
        """
        check_album(album, budget.steps)
        captions = captions_of(album, self.word, self.template)
        lesson = Lesson(
            frozen=target,
            shown=examples_of(target, album.images, captions),
            kept=self._kept(target, captions, budget.seed),
            weight=self.prior,
            batch=self.batch,
            tries=self.tries,
        )
        view, weights = lora_on(
            target, self.rank, budget.seed, self.layers, with_text=self.train_text
        )

        def loss_at(step: int, rng: torch.Generator) -> Tensor:
            return lesson.loss(view, rng)

        tune(weights, loss_at, steps=budget.steps, lr=self.lr, seed=budget.seed, report=report)
        return lora_of(view)

    def _kept(self, target: Any, captions: list[str], seed: int) -> Any:
        """Return class pictures that the target draws, of the same captions without the word."""
        if not self.prior:
            return None
        plain = [f" {text} ".replace(f" {self.word} ", f" {self.kind} ") for text in captions]
        texts = [" ".join(plain[i % len(plain)].split()) for i in range(self.class_images)]
        return own_examples(target, texts, seed)
