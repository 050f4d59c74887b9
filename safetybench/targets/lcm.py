"""A latent consistency model (Luo et al. 2023), as its own pipeline in diffusers runs it."""

from __future__ import annotations

from typing import Any

from safetybench.targets.text_to_image import TextToImage


class TextToImageLCM(TextToImage):
    """A target over the parts of a LatentConsistencyModelPipeline."""

    pipeline = "LatentConsistencyModelPipeline"

    @staticmethod
    def _corrected(scheduler: Any) -> Any:
        return scheduler  # its pipeline takes a scheduler as it is, clipping and all
