"""Inpainting: draw an area of an image anew for a text, and keep the rest as it is.

Needs a model whose denoiser sees the mask and what it leaves. Black box: outputs alone. The mask
is the editor's own and need not be the one that a protection was made for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from safetybench.contracts import Album, ImageEdit, Inpaints
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class Inpainting(ImageEdit):
    """Edit the masked area by a model made for it (Rombach et al. 2022, latent diffusion).

    guidance: None for the target's own.
    """

    guidance: float | None = None

    source: ClassVar[str] = "https://arxiv.org/abs/2112.10752"
    needs: ClassVar[tuple[type, ...]] = (Inpaints,)
    uses_masks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.guidance is not None and self.guidance < 0:
            raise ValueError(f"guidance must be 0 or more, got {self.guidance:g}")

    def edit(
        self, target: Any, album: Album, prompts: Sequence[str], seeds: Sequence[int]
    ) -> Tensor:
        """Return the images with the album's masks drawn anew; see `ImageEdit.edit`.

        Raises:
            ValueError: the album has no masks.
        """
        if album.masks is None:
            raise ValueError("masks must say which area to draw anew, got none")
        drawn: Tensor = target.inpaint(album.images, album.masks, prompts, seeds, self.guidance)
        return drawn
