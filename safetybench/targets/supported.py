"""Refuse networks that a text-to-image target cannot drive, before anything is asked of them."""

from __future__ import annotations

from typing import Any

from safetybench.contracts import Unavailable


def refuse_unsupported(unet: Any, vae: Any, text_encoder: Any, beside: int = 0) -> None:
    """Check that the networks of a pipeline are those of plain text-to-image, or of inpainting.

    beside: channels that the denoiser sees beside the noisy latents.

    Raises:
        Unavailable: they are not.
    """
    if beside and unet.config.in_channels != vae.config.latent_channels + beside:
        raise Unavailable(
            f"the denoiser takes {unet.config.in_channels} channels, and inpainting needs one of "
            f"{vae.config.latent_channels + beside}: noisy latents, mask and masked image"
        )
    if not beside and unet.config.in_channels != vae.config.latent_channels:
        raise Unavailable(
            f"the denoiser takes {unet.config.in_channels} channels and the autoencoder makes "
            f"{vae.config.latent_channels}: inpainting and image-conditioned models are not "
            "supported as text-to-image targets"
        )
    if getattr(text_encoder.config, "use_attention_mask", False):
        raise Unavailable("text encoders that mask padding are not supported")
    if vae.config.get("latents_mean") is not None:
        raise Unavailable("autoencoders that shift each channel by itself are not supported")
