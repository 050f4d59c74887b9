"""Frechet distance of two sets of features, taken for normal distributions (Dowson 1982)."""

from __future__ import annotations

import numpy as np

from safetybench.metrics.distances._shapes import Figure, Floats, checked

_LEVEL = 0.95


def frechet_distance(first: Floats, second: Floats) -> float:
    """Return |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), at least 0.

    first, second: (images, width). Biased upwards by an amount that depends on the number of
    images, and much so where they are fewer than the width: compare at equal numbers only.
    The root's trace is the nuclear norm of X1 X2', which needs no root of a matrix and is real
    however few the images. Source: https://doi.org/10.1016/0047-259X(82)90077-X

    >>> import numpy as np
    >>> points = np.array([[0.0], [1.0], [2.0]])
    >>> frechet_distance(points, points + 3)
    9.0
    """
    return _distance(*checked(first, second, paired=False))


def frechet(
    first: Floats,
    second: Floats,
    *,
    seed: int,
    paired: bool = True,
    name: str = "fid-judge",
    draws: int = 200,
) -> Figure:
    """Return the distance with a bootstrap interval over prompts.

    paired: row i of both is of the same prompt, and a draw takes both or none. The interval is
    the basic one, reflected at the value: a resampled set repeats images, which adds about as
    much bias as the value has, so that the reflection takes the bias off. It is therefore of the
    distributions' distance, and may lie below the value, all of it where images are few. Two
    equal sets are at 0, and their interval is 0 if they are paired.
    """
    x, y = checked(first, second, paired=paired)
    if draws < 100:
        raise ValueError(f"draws must be at least 100, got {draws}")
    value, rng = _distance(x, y), np.random.default_rng(seed)
    copies = []
    for _ in range(draws):
        i = rng.integers(len(x), size=len(x))
        j = i if paired else rng.integers(len(y), size=len(y))
        copies.append(_distance(x[i], y[j]))
    low, high = np.quantile(copies, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    ends = (max(2 * value - float(high), 0.0), max(2 * value - float(low), 0.0))
    return Figure(name, value, *ends, min(len(x), len(y)))


def _distance(x: Floats, y: Floats) -> float:
    means = x.mean(0) - y.mean(0)
    a, b = _root(x), _root(y)
    # The eigenvalues of S1 S2 are the squared singular values of a b'.
    shared = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    spread = np.square(a).sum() + np.square(b).sum() - 2 * shared
    return max(float(means @ means + spread), 0.0)


def _root(points: Floats) -> Floats:
    """Return a matrix R, as small as can be, with R' R the covariance of the points."""
    centred: Floats = (points - points.mean(0)) / np.sqrt(len(points) - 1)
    if len(points) <= points.shape[1]:
        return centred
    triangle: Floats = np.linalg.qr(centred).R
    return triangle
