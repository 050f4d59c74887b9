"""Two edge-keeping filters, as OpenCV defines them, on batches of images of any size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ._sides import mirrored


def bilateral(images: Tensor, diameter: int, sigma_colour: float, sigma_space: float) -> Tensor:
    """Return the mean of each pixel's round neighbourhood, weighted by likeness and nearness.

    images: (batch, 3, height, width), in the units of `sigma_colour`; likeness is of the sum of
    differences over channels. sigma_space: pixels. Source: https://doi.org/10.1109/ICCV.1998.710815
    """
    radius = diameter // 2
    height, width = images.shape[2:]
    padded = mirrored(images, radius, (radius, radius), "reflect")
    total, weights = torch.zeros_like(images), torch.zeros_like(images[:, :1])
    for y in range(-radius, radius + 1):
        for x in range(-radius, radius + 1):
            if x * x + y * y > radius * radius:
                continue
            top, left = radius + y, radius + x
            other = padded[:, :, top : top + height, left : left + width]
            apart = (other - images).abs().sum(1, keepdim=True)
            nearness = (x * x + y * y) / (2 * sigma_space**2)
            weight = (-apart.square() / (2 * sigma_colour**2) - nearness).exp()
            total += weight * other
            weights += weight
    return total / weights


class GuidedFilter:
    """Smooths images so that their edges are those of a guide (He et al. 2010), three channels.

    guide: (batch, 3, height, width). radius: of the square window in pixels. eps: variance, in
    the guide's units squared, below which a window counts as flat. Computed in float64, for a
    variance is a small difference of large numbers. Source: https://doi.org/10.1109/TPAMI.2012.213
    """

    def __init__(self, guide: Tensor, radius: int, eps: float) -> None:
        self.guide, self.radius = guide.double(), radius
        self.mean = self._box(self.guide)
        spread = self._box(_outer(self.guide, self.guide)) - _outer(self.mean, self.mean)
        spread = spread.unflatten(1, (3, 3)).permute(0, 3, 4, 1, 2)  # (batch, h, w, 3, 3)
        self.inverse = torch.linalg.inv(spread + eps * torch.eye(3).to(spread))

    def __call__(self, images: Tensor) -> Tensor:
        """Return images, (batch, 3, height, width), as locally linear functions of the guide."""
        given = images.double()
        mean = self._box(given)
        shared = self._box(_outer(self.guide, given)) - _outer(self.mean, mean)
        slopes = torch.einsum("bhwij,bjkhw->bikhw", self.inverse, shared.unflatten(1, (3, 3)))
        offset = mean - torch.einsum("bikhw,bihw->bkhw", slopes, self.mean)
        slopes = self._box(slopes.flatten(1, 2)).unflatten(1, (3, 3))
        found = torch.einsum("bikhw,bihw->bkhw", slopes, self.guide) + self._box(offset)
        return found.to(images)

    def _box(self, values: Tensor) -> Tensor:
        """Return means over windows; borders are mirrored with their own pixels, as OpenCV's."""
        r = self.radius
        padded = mirrored(values, r, (r, r), "symmetric")
        return avg_pool2d(avg_pool2d(padded, (2 * r + 1, 1), 1), (1, 2 * r + 1), 1)


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """Return products of all pairs of channels, (batch, 9, height, width)."""
    return (left[:, :, None] * right[:, None]).flatten(1, 2)
