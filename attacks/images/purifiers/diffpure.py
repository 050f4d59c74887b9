"""DiffPure: noise the image a little and let a diffusion model draw it clean again.

Any model that edits images will do: it is asked with the empty text. Protective noise is drowned
and is not what the model draws; a model that shares its autoencoder with the surrogate may be
fooled as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from safetybench.contracts import Album, EditsImages, EncodesImages, Purifier
from safetybench.draws import Streams
from safetybench.pixels import rounded
from safetybench.registry import register

from ._redraw import check_strength, redrawn
from ._sides import fitted


@register
@dataclass(frozen=True, kw_only=True)
class DiffPure(Purifier):
    """Noise to t* and run the sampler down from there (Nie et al. 2022).

    strength: t* as a share of all times. Published: 0.1 against classifiers on CIFAR-10, 0.15 on
    ImageNet, 0.5 on CelebA-HQ; 0.1 as GrIDPure's baseline against protections, on images halved
    to the 256 pixels of its model.

    Departs from the paper: a latent, text-to-image model with the empty prompt stands for the
    unconditional pixel model, at the image's own size, and steps are the native sampler's. It is
    entered at its own time below t* (see `EditsImages.edit`), which leaves one step of the zoo
    teacher's twelve at 0.1, not one hundred. Xue and Chen (2024) found that latent purifiers do
    worse than pixel ones, for noise made for one autoencoder moves others as well.
    """

    strength: float = 0.1

    source: ClassVar[str] = "https://arxiv.org/abs/2205.07460"
    needs: ClassVar[tuple[type, ...]] = (EditsImages, EncodesImages)
    sees: ClassVar[str] = "the protected image, and a diffusion model"

    def __post_init__(self) -> None:
        check_strength(self.strength)

    def purify(self, target: Any, album: Album, seed: int = 0) -> Tensor:
        """Return images drawn anew; see `Purifier.purify`."""
        images = album.images.float()
        if not len(album):
            return images.clone()
        seeds = Streams(seed, [f"{i}/diffpure" for i in album.ids]).integers(0, 2**31)
        drawn = redrawn(target, fitted(target, images), seeds.tolist(), self.strength)
        return rounded(drawn[:, :, : images.shape[2], : images.shape[3]]).to(images)
