"""How alike two models' images are, and how much of the one's variety the other kept.

All of it from a judge's features (draws, prompts, width) and labels (draws, prompts), the same
prompts in both sets: a model draws every prompt more than once, and prompts are the units that
intervals resample. A label of -1 is an image that shows nothing of this world.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safetybench.stats import Span, clustered_bootstrap

Share = Mapping[str, Any]  # rate (None without images), low, high and n


class Estimate(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


class Manifold(NamedTuple):
    """Precision and recall of one set of images against another, both in [0, 1]."""

    precision: float
    recall: float


def kid(first: Tensor, second: Tensor) -> Estimate:
    """Return the squared MMD of two sets under KID's kernel, unbiased, so it may be below 0.

    first, second: features (draws, prompts, width), the same prompts; scaled so that the second
    set's root mean square is 1. Kernel (a.b / width + 1)^3 of KID,
    https://arxiv.org/abs/1801.01401; estimator of Gretton et al. 2012, eq. 4. It leaves the
    pairs of one prompt out of all three terms; torchmetrics leaves them in the cross term, which
    makes two sets of the same prompts look closer than no difference. Jackknife interval.
    """
    n = first.shape[1]
    if n < 3:
        raise ValueError(f"kid needs at least 3 prompts, got {n}")
    scale = second.double().square().mean().sqrt().clamp(min=1e-12)
    x, y = first.double() / scale, second.double() / scale
    cross = _kernel(x, y)
    h = _kernel(x, x) + _kernel(y, y) - cross - cross.T  # (prompts, prompts)
    h.fill_diagonal_(0)
    total = h.sum()
    value = float(total) / (n * (n - 1))
    left_out = (total - 2 * h.sum(1)) / ((n - 1) * (n - 2))
    error = math.sqrt((n - 1) / n * float((left_out - left_out.mean()).square().sum()))
    return Estimate(value, value - 1.96 * error, value + 1.96 * error)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """Return the kernel between prompts, the mean over their draws, (prompts, prompts)."""
    values: Tensor = (a.flatten(0, 1) @ b.flatten(0, 1).T / a.shape[-1] + 1) ** 3
    apart: Tensor = values.unflatten(1, b.shape[:2]).unflatten(0, a.shape[:2])
    return apart.mean((0, 2))


def precision_recall(images: Tensor, real: Tensor, k: int = 3) -> Manifold:
    """Return improved precision and recall (Kynkäänniemi et al. 2019), k-th neighbour balls.

    images, real: features (n, width), more than k of each and equally many: both figures depend
    on n, so read them against another set of the real model. https://arxiv.org/abs/1904.06991
    """
    if min(len(images), len(real)) <= k:
        raise ValueError(f"precision needs more than {k} images, got {len(images)}, {len(real)}")
    return Manifold(_covered(images, real, k), _covered(real, images, k))


def _covered(points: Tensor, by: Tensor, k: int) -> float:
    """Return the share of points within reach of some point of `by`: its k-th neighbour's."""
    # Not by matrix products: rounding would put a point at a distance from itself.
    exactly = "donot_use_mm_for_euclid_dist"
    points, by = points.double(), by.double()
    radii = torch.cdist(by, by, compute_mode=exactly).kthvalue(k + 1).values  # itself is nearest
    near = torch.cdist(points, by, compute_mode=exactly) <= radii
    return near.any(1).double().mean().item()


def entropy_bits(labels: Tensor, cells: int) -> float:
    """Return the plug-in entropy of labels, -1 left out; compare only at like numbers."""
    counts = _counts(labels, cells)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * shares.log2()).sum()) + 0.0  # no minus zero


def distinct(labels: Tensor, among: int) -> float:
    """Return how many different labels are to be expected among so many images, -1 left out.

    Rarefaction (Hurlbert 1971, https://doi.org/10.2307/1934145), so that sets of unlike size
    compare: all that differ if `among` is their number, which it may not exceed.
    """
    counts = labels[labels >= 0].unique(return_counts=True)[1].double()
    total = float(counts.sum())
    if among > total:
        raise ValueError(f"among must be at most the {total:g} images with a label, got {among}")

    def log_ways(of: Tensor) -> Tensor:  # to choose `among` images of so many, up to a constant
        return torch.lgamma(of + 1) - torch.lgamma((of - among + 1).clamp(min=1))

    ways = (log_ways(total - counts) - log_ways(counts.sum())).exp()  # to miss a label
    return float((1 - ways.where(total - counts >= among, 0)).sum())


def rare_cells(labels: Tensor, cells: int, mass: float = 0.25) -> Tensor:
    """Return which cells are rare, (cells,) bool: the rarest that together hold at most `mass`.

    Cells without an image are rare. Ties are broken by lot with a fixed seed, as the order of
    the cells means something.
    """
    counts = _counts(labels, cells)
    lot = torch.randperm(cells, generator=torch.Generator().manual_seed(0))
    order = lot[counts[lot].argsort(stable=True)]
    held = counts[order].cumsum(0)
    rare = torch.zeros(cells, dtype=torch.bool)
    rare[order[held <= mass * counts.sum()]] = True
    return rare


def rare_shares(images: Tensor, real: Tensor, cells: int) -> dict[str, Any]:
    """Return how much of the real model's rare cells the images keep, with intervals.

    images, real: labels (draws, prompts); two draws of the real model. Cells are chosen by its
    first and counted in its second: counted where they were chosen they would look rarer than
    they are, and every other model would seem to have gained them. (Doing the reverse as well
    would use more, but ties the two counts together, and no interval here knows of that.)
    Returns the `student` and `teacher` shares, and `ratio` with `low` and `high`.
    """
    if len(real) != 2:
        raise ValueError(f"real must hold two draws of each prompt, got {len(real)}")
    rare = rare_cells(real[0], cells).double()
    student, teacher = _share(rare[images], images), _share(rare[real[1:]], real[1:])
    return {"student": student, "teacher": teacher, **ratio_of_shares(student, teacher)}


def ratio_of_shares(one: Share, other: Share) -> dict[str, float | None]:
    """Return one / other of two independent shares with its interval (MOVER).

    Right where a share is 0: `high` comes from the intervals of the shares, and is None where
    the other share's reaches 0. Source: Donner & Zou 2012,
    https://doi.org/10.1177/0962280210383278
    """
    p, q = one["rate"], other["rate"]
    if p is None or not q:
        return {"ratio": None, "low": None, "high": None}
    (l1, u1), (l2, u2) = (one["low"], one["high"]), (other["low"], other["high"])
    low_root = math.sqrt(max((p * q) ** 2 - l1 * u2 * (2 * p - l1) * (2 * q - u2), 0.0))
    high_root = math.sqrt(max((p * q) ** 2 - u1 * l2 * (2 * p - u1) * (2 * q - l2), 0.0))
    # The lower end is expanded by its conjugate: 2 q - u2 may be 0.
    low = l1 * (2 * p - l1) / (p * q + low_root) if p else 0.0
    high = (p * q + high_root) / (l2 * (2 * q - l2)) if l2 else None
    return {"ratio": p / q, "low": low, "high": high}


def _counts(labels: Tensor, cells: int) -> Tensor:
    return torch.bincount(labels[labels >= 0].flatten(), minlength=cells)


def _share(hits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return the mean of hits (draws, prompts) where there is a label, prompts resampled."""
    prompts = torch.arange(labels.shape[1]).expand_as(labels)
    seen = labels >= 0
    values = hits[seen].tolist()
    if not values:
        return {"rate": None, "low": 0.0, "high": 1.0, "n": 0}
    found = clustered_bootstrap(values, prompts[seen].tolist(), seed=0, span=Span(0, 1))
    mean = sum(values) / len(values)
    return {"rate": mean, "low": found.low, "high": found.high, "n": len(values)}
