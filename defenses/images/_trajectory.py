"""Gradients through a whole edit: the surrogate's own sampler and autoencoder, to the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from safetybench.contracts import Album, Inpaints

Through = Literal["auto", "sdedit", "inpaint"]
THROUGH: tuple[Through, ...] = ("auto", "sdedit", "inpaint")


def _inpaints(target: object) -> bool:
    return isinstance(target, Inpaints)


@dataclass(frozen=True, kw_only=True, eq=False)
class Editor:
    """What an editor would do to images, differentiable.

    text: (batch, length, width) that it is asked for; masks: (batch, 1, height, width) to inpaint
    them, None for SDEdit; strength: of SDEdit; guidance: None for the target's own.
    """

    target: Any
    text: Tensor
    masks: Tensor | None
    strength: float
    guidance: float | None

    @classmethod
    def of(
        cls, target: Any, album: Album, through: Through, strength: float, guidance: float | None
    ) -> Editor:
        """Return the editor of a target, asked for the album's own captions.

        What will be asked for is the editor's secret; a caption at least names what it is about.

        Raises:
            ValueError: inpainting by a model that does not, or without masks.
        """
        inpaints = _inpaints(target)
        is_able = inpaints and album.masks is not None
        if through == "inpaint" and not is_able:
            lacks = "no masks" if inpaints else f"{target.name}, which cannot"
            raise ValueError(f"through inpaint needs a model that inpaints and masks, got {lacks}")
        with torch.no_grad():
            text = target.embed(target.tokenize(list(album.captions)))
        masks = None if through == "sdedit" or not is_able else album.masks
        return cls(target=target, text=text, masks=masks, strength=strength, guidance=guidance)

    def latents(self, images: Tensor, seeds: Tensor) -> Tensor:
        """Return latents of the edited images, (repeats * batch, channels, h, w).

        images: (batch, 3, height, width) in [0, 1], each edited at several noises; seeds:
        (repeats, batch). The order of the answer is that of `seeds.flatten()`.
        """
        repeats, numbers = len(seeds), seeds.flatten().tolist()
        text, images = self.text.repeat(repeats, 1, 1), images.to(self.text.device)
        if self.masks is None:
            clean = self.target.encode(images).repeat(repeats, 1, 1, 1)
            edited: Tensor = self.target.edit_latents(
                clean, text, numbers, self.strength, self.guidance, with_grad=True
            )
            return edited
        # Each noise sees the image through one shared pass of the encoder.
        given = self.target.given(images, self.masks)
        drawn: Tensor = given.sample_latents(
            text, given.start_noise(numbers), self.guidance, with_grad=True, seeds=numbers
        )
        return drawn

    def images(self, images: Tensor, seeds: Tensor) -> Tensor:
        """Return the edited images, (repeats * batch, 3, height, width) in [0, 1]."""
        drawn: Tensor = self.target.decode(self.latents(images, seeds))
        return drawn


def check_options(
    through: str, strength: float, rate: float, guidance: float | None, repeats: int
) -> None:
    """Refuse options that make no edit.

    Raises:
        ValueError: says which.
    """
    if through not in THROUGH:
        raise ValueError(f"through must be one of {', '.join(THROUGH)}, got {through!r}")
    if not 0 < strength <= 1 or not 0 < rate <= 1:
        raise ValueError(f"strength and rate must be in (0, 1], got {strength:g} and {rate:g}")
    if repeats < 1 or (guidance is not None and guidance < 0):
        raise ValueError(
            f"repeats must be 1 or more and guidance 0 or more, got {repeats} and {guidance}"
        )
