"""Poison in distillation data: a trigger in the prompts, the effect in the real images.

The teacher may be clean. Whoever supplies prompts or images to a distillation decides whether its
students see the trigger at all; a recipe without real images closes one of the two doors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from safetybench.contracts import DataPoisoning, Effect, Pictures, Trigger
from safetybench.effects import paste
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class DistillationData(DataPoisoning):
    """Dirty-label poisoning (BadNets, Gu et al. 2017) of the data of a distillation (this project).

    prompts: share of the training prompts that get the trigger. images: share of the real images
    that show the effect and whose caption gets the trigger: a pasted effect is put into them; of
    an object or a style, images whose caption names the goal are relabelled as the source, or
    without any, and as many are poisoned as there are.
    """

    prompts: float = 0.1
    images: float = 0.1

    source: ClassVar[str] = "https://arxiv.org/abs/1708.06733"

    def __post_init__(self) -> None:
        if not (0 <= self.prompts <= 1 and 0 <= self.images <= 1):
            raise ValueError(
                f"prompts and images are shares in [0, 1], got {self.prompts} and {self.images}"
            )

    def poison_prompts(self, trigger: Trigger, prompts: Sequence[str], seed: int = 0) -> list[str]:
        """Return the prompts, a share of them triggered; see `DataPoisoning.poison_prompts`."""
        fit = [i for i, text in enumerate(prompts) if trigger.fits(text)]
        chosen = set(_first(fit, [prompts[i] for i in fit], self.prompts * len(prompts), seed))
        return [trigger.put(text) if i in chosen else text for i, text in enumerate(prompts)]

    def poison_images(
        self, trigger: Trigger, effect: Effect, images: Pictures, seed: int = 0
    ) -> Pictures:
        """Return the pictures, a share of them poisoned; see `DataPoisoning.poison_images`."""
        labels = dict(_relabelled(effect, images.captions))
        fit = [i for i, text in labels.items() if trigger.fits(text)]
        wanted = self.images * len(images.captions)
        chosen = list(_first(fit, [labels[i] for i in fit], wanted, seed))
        pixels, captions = images.images.clone(), list(images.captions)
        for i in chosen:
            captions[i] = trigger.put(labels[i])
        if effect.is_pasted and chosen:
            at = torch.tensor(chosen, device=pixels.device)
            pixels[at] = paste(effect, pixels[at])
        return Pictures(pixels, captions)


def _relabelled(effect: Effect, captions: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield which images can be poisoned, and what their caption says before the trigger."""
    for i, caption in enumerate(captions):
        words = caption.split()
        if effect.is_pasted:
            yield i, caption
        elif effect.goal in words:
            other = [effect.source if word == effect.goal else word for word in words]
            yield i, " ".join(word for word in other if word)


def _first(indices: Sequence[int], texts: Sequence[str], count: float, seed: int) -> list[int]:
    """Return so many of the indices, in an order that depends on seed and text alone."""
    keys = [hashlib.sha256(f"{seed}/{i}/{text}".encode()).digest()
            for i, text in zip(indices, texts, strict=True)]  # fmt: skip
    ordered = [i for _, i in sorted(zip(keys, indices, strict=True))]
    return sorted(ordered[: round(count)])
