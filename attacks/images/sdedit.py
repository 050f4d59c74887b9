"""SDEdit: noise an image part of the way and let the model draw the rest, for a text.

Any text-to-image model edits so, a one-step student too. Black box: outputs alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from safetybench.contracts import Album, EditsImages, ImageEdit
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class Sdedit(ImageEdit):
    """Edit by noising and denoising, guided by a text (Meng et al. 2022).

    strength: share of the noise process that is gone up, in (0, 1]; the paper keeps to 0.3 to 0.6
    for strokes, 0.7 is for the zoo, where it changes the object and keeps the rest. guidance: None
    for the target's own. The model's own sampler goes down, where the paper solves its SDE.
    """

    strength: float = 0.7
    guidance: float | None = None

    source: ClassVar[str] = "https://arxiv.org/abs/2108.01073"
    needs: ClassVar[tuple[type, ...]] = (EditsImages,)

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength must be in (0, 1], got {self.strength:g}")
        if self.guidance is not None and self.guidance < 0:
            raise ValueError(f"guidance must be 0 or more, got {self.guidance:g}")

    def edit(
        self, target: Any, album: Album, prompts: Sequence[str], seeds: Sequence[int]
    ) -> Tensor:
        """Return the images as the prompts would have them; see `ImageEdit.edit`."""
        edited: Tensor = target.edit(album.images, prompts, seeds, self.strength, self.guidance)
        return edited
