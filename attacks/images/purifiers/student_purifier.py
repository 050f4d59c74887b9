"""Student purifier: a little noise, and one answer of a few-step student, that is all.

One network evaluation an image, where diffusion purifiers take tens to thousands. Needs the
student's denoiser, autoencoder and text encoder, which whoever has the weights has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from safetybench.contracts import Album, Denoises, EncodesImages, EncodesText, Purifier
from safetybench.draws import Streams
from safetybench.pixels import rounded
from safetybench.registry import register

from ._redraw import check_strength
from ._sides import fitted


@register
@dataclass(frozen=True, kw_only=True)
class StudentPurifier(Purifier):
    """Noise to t* and take the x0-prediction there (after Lei et al. 2024, OSCP).

    strength: t* as a share of all times; 0.1 to 0.3 is what one would use.

    Ours is what is left of OSCP without its training: any distilled student as it is, at a time
    that it may never have seen, with the empty text. Theirs is a consistency model distilled on
    attacked latents (GAND), guided by the image's edges (ControlNet). On a teacher this is one
    denoising step, which is the blurred mean of what it would draw.
    """

    strength: float = 0.2

    source: ClassVar[str] = "https://arxiv.org/abs/2408.17064"
    needs: ClassVar[tuple[type, ...]] = (Denoises, EncodesImages, EncodesText)
    sees: ClassVar[str] = "the protected image, and a few-step student"

    def __post_init__(self) -> None:
        check_strength(self.strength)

    def purify(self, target: Any, album: Album, seed: int = 0) -> Tensor:
        """Return images cleaned in one pass; see `Purifier.purify`."""
        images = album.images.float()
        if not len(album):
            return images.clone()
        streams = Streams(seed, [f"{i}/student_purifier" for i in album.ids])
        time = max(round(self.strength * target.process.steps) - 1, 0)
        with torch.inference_mode():
            text = target.embed(target.tokenize([""])).expand(len(album), -1, -1)
            latents = target.encode(fitted(target, images))
            times = torch.full((len(album),), time, device=latents.device)
            noise = streams.normal(latents.shape[1:], latents)
            drawn = target.decode(target.x0(target.process.add(latents, noise, times), times, text))
        return rounded(drawn[:, :, : images.shape[2], : images.shape[3]].clone()).to(images)
