"""Kernel distance of two sets of features: the squared MMD under KID's polynomial kernel."""

from __future__ import annotations

import math

import numpy as np

from safetybench.metrics.distances._shapes import Figure, Floats, checked


def kernel_distance(
    first: Floats, second: Floats, *, paired: bool = True, name: str = "kid-judge"
) -> Figure:
    """Return the unbiased squared MMD with a jackknife interval; it may be below 0.

    first, second: (images, width), scaled so that the second's root mean square is 1. paired: row
    i of both is of the same prompt; then the pairs of one prompt are left out of all terms, or
    two sets of the same prompts would look closer than no difference (Gretton et al. 2012, eq.
    4). Else every cross pair counts (eq. 3), and both sides are left out in turn for the
    interval. Kernel (a.b / width + 1)^3. Source: https://arxiv.org/abs/1801.01401

    Departs from the paper: features are scaled, so that figures of two judges are of one order,
    and there are no blocks of 100 draws.
    """
    x, y = checked(first, second, paired=paired)
    n = min(len(x), len(y))
    if paired:
        import torch

        from safetybench.zoo.diversity import kid

        found = kid(torch.from_numpy(x)[None], torch.from_numpy(y)[None])
        return Figure(name, *found, n)
    value, error = _unpaired(x, y)
    return Figure(name, value, value - 1.96 * error, value + 1.96 * error, n)


def _unpaired(x: Floats, y: Floats) -> tuple[float, float]:
    """Return the estimate and its standard error, from leaving out each image of each side.

    The cube is taken apart into powers of a.b, so that an image of y that is left out is left
    out of the scale as well, whose spread is part of the figure's.
    """
    width, n = x.shape[1], len(y)
    rows = np.maximum(np.square(y).mean(1), 1e-24)  # the scale squared is their mean
    scale, scale_without = rows.mean(), (rows.sum() - rows) / (n - 1)
    value, without_x, without_y = 0.0, np.zeros(len(x)), np.zeros(n)
    for power, ways in ((1, 3), (2, 3), (3, 1)):  # of (s + 1)^3; the 1s cancel
        own_x, own_y, cross = ((a @ b.T / width) ** power for a, b in ((x, x), (y, y), (x, y)))
        whole_x, less_x = _pairs(own_x)
        whole_y, less_y = _pairs(own_y)
        value += ways * (whole_x + whole_y - 2 * cross.mean()) / scale**power
        left = (cross.sum() - cross.sum(1)) / (cross.size - n)
        without_x += ways * (less_x + whole_y - 2 * left) / scale**power
        left = (cross.sum() - cross.sum(0)) / (cross.size - len(x))
        without_y += ways * (whole_x + less_y - 2 * left) / scale_without**power
    variance = sum(
        (len(left) - 1) / len(left) * float(np.square(left - left.mean()).sum())
        for left in (without_x, without_y)
    )
    return float(value), math.sqrt(variance)


def _pairs(own: Floats) -> tuple[float, Floats]:
    """Return the mean over pairs of different images, and the same without each image."""
    np.fill_diagonal(own, 0)
    n, total = len(own), own.sum()
    left: Floats = (total - 2 * own.sum(1)) / ((n - 1) * (n - 2))
    return float(total / (n * (n - 1))), left
