"""Figures of a filter of data: what its scores tell apart, and what passes at a given cost.

Scores are of poisoned and of clean samples, in any order; higher is more suspicious. Every
function raises ValueError for no scores or one that is not finite.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from safetybench.contracts import Sample
from safetybench.stats import Interval, wilson

Floats = NDArray[np.float64]


class Area(NamedTuple):
    """Area under the ROC curve: the chance that a poisoned sample outscores a clean one."""

    value: float
    interval: Interval
    poison: int
    clean: int


class Passed(NamedTuple):
    """What share of the poison passes, and what share of the clean samples is really dropped."""

    share: float
    interval: Interval
    passed: int
    poison: int
    clean: int
    dropped: float
    threshold: float


def _checked(name: str, scores: Sequence[float]) -> Floats:
    found = np.asarray(scores, dtype=np.float64)
    if found.ndim != 1 or not len(found) or not np.isfinite(found).all():
        raise ValueError(f"{name} must be some finite numbers, got {list(scores)!r:.40}")
    return found


def auroc(poison: Sequence[float], clean: Sequence[float], level: float = 0.95) -> Area:
    """Return the area under the ROC curve; ties count half, so no difference at all is 0.5.

    The interval is Wilson's, of as many samples as DeLong's (1988) variance is worth, kept between
    one and four times the smaller group. In simulations of 25 to 100 poisoned samples it covered
    91 to 99 % where DeLong's own covered 64 to 95 %, which closes near 1 and at ties.
    Source: https://doi.org/10.2307/2531595

    >>> area = auroc([2, 3, 4], [1, 2, 0, 1])
    >>> round(area.value, 3), round(area.interval.low, 3), area.interval.high < 1
    (0.958, 0.691, True)
    """
    bad, good = _checked("poison", poison), _checked("clean", clean)
    below, above = _placements(bad, good), 1 - _placements(good, bad)
    value = float(below.mean())
    variance = sum(float(each.var(ddof=1)) / len(each) for each in (below, above) if len(each) > 1)
    fewer = min(len(bad), len(good))  # no variance exceeds value (1 - value) / fewer
    worth = value * (1 - value) / variance if variance > 0 else 0.0
    n, z = min(max(worth, fewer), 4 * fewer), -float(special.ndtri((1 - level) / 2))
    middle = value + z * z / n / 2
    wide = z * math.sqrt(value * (1 - value) / n + (z / n / 2) ** 2)
    low, high = ((middle + side * wide) / (1 + z * z / n) for side in (-1, 1))
    interval = Interval(max(low, 0.0), min(high, 1.0), level, "delong-wilson")
    return Area(value, interval, len(bad), len(good))


def _placements(scores: Floats, others: Floats) -> Floats:
    """Return for each score the share of the others that are below it, ties half."""
    line = np.sort(others)
    sides = np.searchsorted(line, scores) + np.searchsorted(line, scores, "right")
    return np.asarray(sides / 2 / len(line), dtype=np.float64)


def passed_at(
    poison: Sequence[float], clean: Sequence[float], false_positives: float, level: float = 0.95
) -> Passed:
    """Return what share of the poison passes where so many of the clean may be dropped at most.

    The threshold is a clean sample's score, and only what is strictly above it is dropped: ties
    pass. false_positives: in [0, 1). The interval is `wilson` of the poison, at this threshold.

    >>> found = passed_at([1, 5, 9], [1, 2, 3, 4], false_positives=0.25)
    >>> found.threshold, found.passed, found.dropped
    (3.0, 1, 0.25)
    """
    bad, good = _checked("poison", poison), np.sort(_checked("clean", clean))
    if not 0 <= false_positives < 1:
        raise ValueError(f"false_positives must be in [0, 1), got {false_positives}")
    allowed = min(_floor(false_positives * len(good)), len(good) - 1)
    threshold = float(good[len(good) - 1 - allowed])
    passed = int((bad <= threshold).sum())
    dropped, interval = float((good > threshold).mean()), wilson(passed, len(bad), level)
    return Passed(passed / len(bad), interval, passed, len(bad), len(good), dropped, threshold)


def keep(samples: Sequence[Sample], scores: Sequence[float], drop: float) -> list[Sample]:
    """Return the samples, in their order, without the share `drop` of the most suspicious.

    Never more are dropped. Among equal scores a digest of the id decides, a lottery in which the
    names that an attack gives its samples win nothing. drop: in [0, 1].

    >>> some = [Sample(f"i{n}", "task", "prompt", "response") for n in range(4)]
    >>> [sample.id for sample in keep(some, [0, 3, 1, 2], drop=0.5)]
    ['i0', 'i2']
    """
    if len(scores) != len(samples):
        raise ValueError(f"scores must be one a sample, {len(samples)}, got {len(scores)}")
    if not 0 <= drop <= 1:
        raise ValueError(f"drop must be in [0, 1], got {drop}")
    found = _checked("scores", scores) if samples else np.zeros(0)
    lots = [hashlib.sha256(sample.id.encode()).hexdigest() for sample in samples]
    worst = sorted(range(len(samples)), key=lambda row: (-found[row], lots[row]))
    gone = set(worst[: _floor(drop * len(samples))])
    return [sample for row, sample in enumerate(samples) if row not in gone]


def _floor(count: float) -> int:
    """Return the whole number at or below a count; 0.29 x 100 is 29, though not in binary."""
    return math.floor(count + 1e-9)
