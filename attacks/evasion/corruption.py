"""Corruption: noise, blur, fog and the like, as a camera or the weather makes them.

No attack and bound by no norm: accuracy on it tells of natural change, which adversarial training
may well make worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from safetybench.class_contracts import Access
from safetybench.contracts import Budget, Classifies, Evasion
from safetybench.registry import register

Kind = Literal["gaussian_noise", "blur", "contrast", "brightness", "fog"]
# Strengths 1 to 5 of the set for images of 32 pixels, in the authors' make_cifar_c.py.
_STRENGTHS: dict[Kind, tuple[float, ...]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.1),
    "blur": (0.4, 0.6, 0.7, 0.8, 1.0),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "fog": (0.2, 0.5, 0.75, 1.0, 1.5),
}
_ROUGHNESS = (3.0, 3.0, 2.5, 2.0, 1.75)  # of fog: by how much each finer grain is fainter


@register
@dataclass(frozen=True, kw_only=True)
class Corruption(Evasion):
    """Corrupt an image (Hendrycks and Dietterich 2019): five of their fifteen, less alike ones.

    kind: gaussian_noise, blur (Gaussian), contrast, brightness or fog. severity: 1 to 5, with
    their strengths for images of 32 pixels. Departs from the paper: brightness is added to every
    channel and not to HSV's value, which is the same for gray; fog is a sum of ever finer random
    grids, not a diamond-square fractal; nothing is rounded to 256 values.
    """

    kind: Kind = "gaussian_noise"
    severity: int = 3

    source: ClassVar[str] = "https://arxiv.org/abs/1903.12261"
    sees: ClassVar[Access] = "nothing"
    is_natural: ClassVar[bool] = True

    def __post_init__(self) -> None:
        kinds = get_args(Kind)
        if self.kind not in kinds:
            raise ValueError(f"kind must be one of {', '.join(kinds)}, got {self.kind!r}")
        if not 1 <= self.severity <= 5:
            raise ValueError(f"severity must be in [1, 5], got {self.severity}")

    def perturb(
        self,
        target: Classifies,
        images: Tensor,
        labels: Tensor,
        budget: Budget,
        surrogate: Classifies | None = None,
    ) -> Tensor:
        """Return corrupted images; see `Evasion.perturb`."""
        if not len(images):
            return images.clone()
        strength = _STRENGTHS[self.kind][self.severity - 1]
        generator = torch.Generator().manual_seed(budget.seed)
        by_kind: dict[Kind, Callable[[], Tensor]] = {
            "gaussian_noise": lambda: images + strength * _normal(images, generator),
            "blur": lambda: _blurred(images, strength),
            "contrast": lambda: images.lerp(images.mean((2, 3), keepdim=True), 1 - strength),
            "brightness": lambda: images + strength,
            "fog": lambda: _fogged(images, strength, _ROUGHNESS[self.severity - 1], generator),
        }
        return by_kind[self.kind]().clamp(0, 1)


def _normal(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(images.shape, generator=generator).to(images)


def _blurred(images: Tensor, sigma: float) -> Tensor:
    """Blur along both axes with a Gaussian of `sigma` pixels, cut off at four of them."""
    reach = math.ceil(4 * sigma)
    taps = torch.arange(-reach, reach + 1).to(images)
    kernel = torch.exp(-(taps**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    for kernel_along in (kernel, kernel.transpose(2, 3)):
        pad = [reach * (size > 1) for size in kernel_along.shape[:1:-1] for _ in range(2)]
        padded = torch.nn.functional.pad(images, pad, mode="replicate")
        images = torch.nn.functional.conv2d(padded, kernel_along, groups=images.shape[1])
    return images


def _fogged(
    images: Tensor, strength: float, roughness: float, generator: torch.Generator
) -> Tensor:
    """Add a cloud in [0, 1] times the strength, and scale back to the image's own maximum."""
    count, _, height, width = images.shape
    cloud = images.new_zeros(count, 1, height, width)
    for octave in range(1 + math.ceil(math.log2(max(height, width)))):
        side = 2**octave + 1
        grid = torch.rand(count, 1, side, side, generator=generator).to(images)
        grown = torch.nn.functional.interpolate(
            grid, (height, width), mode="bilinear", align_corners=True
        )
        cloud += grown / roughness**octave
    low, high = cloud.amin((1, 2, 3), keepdim=True), cloud.amax((1, 2, 3), keepdim=True)
    cloud = (cloud - low) / (high - low).clamp_min(1e-12)
    top = images.amax((1, 2, 3), keepdim=True)
    return (images + strength * cloud) * top / (top + strength)
