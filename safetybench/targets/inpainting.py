"""An inpainting model under test: the parts of a diffusers StableDiffusionInpaintPipeline.

Its denoiser sees, beside the noisy latents, a mask and the latents of the masked image. All else
is as in text to image, so samplers, attacks and defenses drive both alike.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from safetybench.targets.text_to_image import TextToImage


class Inpainting(TextToImage):
    """A target over the parts of a StableDiffusionInpaintPipeline; see `contracts.Inpaints`.

    Masks are 1 where the image is drawn anew, and cut at 0.5 as diffusers cuts them. `given` binds
    an image and its mask; without it everything is drawn anew, as under a mask of ones, which
    inpainting models are trained on: `generate`, `edit` and `x0` work so as in text to image.
    The area that is kept passes through the autoencoder and is not pasted back, as in diffusers.
    Departs from its pipeline in one thing: masked images are encoded at the posterior mean and
    not at a draw, so an answer depends on nothing but what it is given.
    """

    pipeline = "StableDiffusionInpaintPipeline"

    _seen: Tensor | None = None  # what is bound, (batch, 1 + channels, h, w)
    _root: Inpainting | None = None  # whose `given` it was, where evaluations are counted

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._all_anew: dict[tuple[int, ...], Tensor] = {}

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return (channels, h, w) of one image's latents: the given image's, or the native."""
        _, height, width = super().latent_shape
        if self._seen is not None:
            height, width = self._seen.shape[2:]
        return (self.vae.config.latent_channels, height, width)

    def inpaint(
        self,
        images: Tensor,
        masks: Tensor,
        prompts: Sequence[str],
        seeds: Sequence[int],
        guidance: float | None = None,
    ) -> Tensor:
        """Return images whose masked area is drawn anew, (batch, 3, height, width) in [0, 1].

        images: (batch, 3, height, width) in [0, 1], with sides that are multiples of the pixels
        of a latent; masks: (batch, 1, height, width) in [0, 1], 1 where to draw anew.

        Raises:
            ValueError: other shapes, values outside [0, 1], or not one of each for every image.
        """
        if not len(images) == len(masks) == len(prompts) == len(seeds):
            raise ValueError(
                f"one mask, prompt and seed for each image: got {len(images)} images, "
                f"{len(masks)} masks, {len(prompts)} prompts and {len(seeds)} seeds"
            )
        for name, values in (("images", images), ("masks", masks)):
            if not bool(((values >= 0) & (values <= 1)).all()):
                raise ValueError(f"{name} must be in [0, 1], got {_range(values)}")
        if not len(images):
            return images.clone()
        with torch.inference_mode():
            text = self.embed(self.tokenize(prompts))
            drawn = self.given(images, masks).draw(text, seeds, guidance)
        return drawn.clone()

    def given(self, images: Tensor, masks: Tensor) -> Self:
        """Return this target with images and masks bound, whose sampler then fills the masks.

        Of the answer, `sample_latents`, `x0` and `predict` take latents of a whole number of
        times this batch, and are differentiable in `images`; their evaluations count here too.
        """
        twin = copy.copy(self)
        twin.bind(self.beside(images, masks))
        twin._root, twin.nfe = self._root or self, 0
        return twin

    def bind(self, seen: Tensor | None) -> None:
        """Show the denoiser `seen`, of `beside`, from now on; None: everything is drawn anew."""
        self._seen = seen

    def beside(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return what the denoiser sees beside noisy latents, (batch, 1 + channels, h, w).

        The mask, nearest pixel of each latent, and the latents of the image with the masked area
        at 0 of [-1, 1], which is gray; both as `prepare_mask_latents` of diffusers' pipeline.
        Differentiable in `images`.

        Raises:
            ValueError: images or masks of other shapes.
        """
        side = self._pixels_per_latent
        _check_shapes(images, masks, side)
        images, masks = images.to(self.device), masks.to(self.device)
        is_kept = (masks < 0.5).to(images.dtype)
        latents = self.encode(images * is_kept + 0.5 * (1 - is_kept))
        small = functional.interpolate(1 - is_kept, size=latents.shape[2:], mode="nearest")
        return torch.cat([small, latents], 1)

    def predict(
        self, latents: Tensor, t: Tensor, text: Tensor, guidance: float | Tensor | None = None
    ) -> Tensor:
        """Return the denoiser's own answer, which is of the kind `prediction`; see `x0`.

        Raises:
            ValueError: the batch is not a whole number of times that of the given images.
        """
        seen = self._seen if self._seen is not None else self._anew(latents)
        if len(latents) % len(seen):
            raise ValueError(
                f"latents must be a whole number of times the {len(seen)} images that were given, "
                f"got {len(latents)}"
            )
        # Passes of guidance lie one behind the other, each a whole batch.
        seen = seen.repeat(len(latents) // len(seen), 1, 1, 1).to(latents.dtype)
        if self._root is not None:
            self._root.nfe += len(latents)
        return super().predict(torch.cat([latents, seen], 1), t, text, guidance)

    @staticmethod
    def _channels_beside(vae: Any) -> int:
        return 1 + int(vae.config.latent_channels)

    def _anew(self, latents: Tensor) -> Tensor:
        """Return what the denoiser sees of an image that is masked all over, (1, ..., h, w)."""
        size = tuple(latents.shape[2:])
        if size not in self._all_anew:
            # It may be asked for while sampling, and enter a graph later.
            with torch.inference_mode(False), torch.no_grad():
                height, width = (self._pixels_per_latent * each for each in size)
                gray = torch.full((1, 3, height, width), 0.5, device=self.device)
                self._all_anew[size] = self.beside(gray, torch.ones_like(gray[:, :1]))
        return self._all_anew[size]


def _check_shapes(images: Tensor, masks: Tensor, side: int) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be (batch, 3, height, width), got {tuple(images.shape)}")
    if images.shape[2] % side or images.shape[3] % side:
        raise ValueError(
            f"images must have sides that are multiples of {side}, got {tuple(images.shape[2:])}"
        )
    wanted = (len(images), 1, *images.shape[2:])
    if tuple(masks.shape) != wanted:
        raise ValueError(f"masks must be {wanted}, got {tuple(masks.shape)}")


def _range(values: Tensor) -> str:
    return f"{float(values.min()):g} to {float(values.max()):g}"
