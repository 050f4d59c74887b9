"""Random sign noise: plus or minus epsilon in every value, which no model had a hand in.

The control of every image protection: an editor's answer changes for any noise, so only what a
protection does beyond this noise at the same epsilon counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from safetybench.contracts import Album, Budget, ImageProtection
from safetybench.draws import Streams
from safetybench.pixels import rounded_inside
from safetybench.registry import register

from ._descent import check_ball


@register
@dataclass(frozen=True, kw_only=True)
class SignNoise(ImageProtection):
    """Add a random sign times epsilon; as strong as any perturbation of the ball in Linf and L2.

    The random baseline that Choi et al. (2025) and later comparisons lack.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2410.05694"
    needs: ClassVar[tuple[type, ...]] = ()
    sees: ClassVar[str] = "nothing"
    is_control: ClassVar[bool] = True
    published: ClassVar[Budget] = Budget(epsilon=8 / 255)

    def protect(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Tensor:
        """Return the album's images with sign noise, 8-bit; see `ImageProtection.protect`.

        Raises:
            ValueError: a ball that holds no other 8-bit image, or another norm than Linf.
        """
        check_ball(budget)
        clean = album.images.float()
        noise = Streams(budget.seed, [f"{i}/sign" for i in album.ids])
        signs = torch.where(noise.uniform(clean.shape[1:], clean) < 0.5, -1.0, 1.0)
        return rounded_inside(clean + budget.epsilon * signs, clean, budget.epsilon)
