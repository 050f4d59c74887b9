"""Intervals and p where outcomes come in albums: all prompts of an album share one trained model.

They are no tries of their own, and what is computed over prompts alone is too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from safetybench.stats import Interval, Span

from ._log import CellLog


class Clusters(NamedTuple):
    """The albums of some outcomes, in their order; none where every outcome is its own."""

    albums: tuple[str, ...] = ()

    def of(self, values: Sequence[float], level: float) -> tuple[Interval | None, float]:
        """Return Student's interval and p of a mean, by the spread between albums.

        The cluster-robust standard error of a mean (CR1), with one degree of freedom less than
        there are albums. No interval and p 1 where one album leaves no spread to look at.
        """
        names = list(dict.fromkeys(self.albums))
        place = [names.index(name) for name in self.albums]
        sums, sizes = np.bincount(place, values), np.bincount(place)
        k, n = len(names), len(values)
        mean = float(sums.sum() / n)
        if k < 2:
            return None, 1.0
        error = math.sqrt(k / (k - 1) * float(((sums - mean * sizes) ** 2).sum())) / n
        reach = float(special.stdtrit(k - 1, (1 + level) / 2)) * error
        found = Interval(mean - reach, mean + reach, level, "clustered-t")
        if not error:
            return found, 0.0 if mean else 1.0
        return found, float(2 * special.stdtr(k - 1, -abs(mean) / error))

    def interval(self, plain: Interval, values: Sequence[float], span: Span) -> Interval:
        """Return the hull of an interval over single values and of that between albums.

        With albums that happen to agree the second has no width, with albums that differ the
        first is too narrow; neither alone is to be trusted with a handful of them.
        """
        if not self.albums or not values:
            return plain
        mine, _ = self.of(values, plain.level)
        if mine is None:
            return Interval(span.low, span.high, plain.level, "one-album")
        low, high = min(plain.low, mine.low), max(plain.high, mine.high)
        method = f"{plain.method}, {mine.method}"
        return Interval(max(low, span.low), min(high, span.high), plain.level, method)

    def p_value(self, plain: float, values: Sequence[float]) -> float:
        """Return the greater of the p over single values and of that between albums."""
        return max(plain, self.of(values, 0.95)[1]) if self.albums and values else plain


def clusters(log: CellLog, names: Sequence[str]) -> Clusters:
    """Return the albums of some items of a log; of edits there are none."""
    homes = _homes(log)
    return Clusters(tuple(homes[name] for name in names)) if homes else Clusters()


def by_album(
    log: CellLog, names: Sequence[str], ours: Sequence[bool], theirs: Sequence[bool]
) -> dict[str, dict[str, Any]]:
    """Return n, and the rates under the protection and under noise, of each album; {} for edits.

    log: that tells the album of each of its items; ours, theirs: outcomes of the items `names`.
    """
    homes, rows = _homes(log), dict[str, dict[str, Any]]()
    for album in dict.fromkeys(homes.values()):
        mine = [i for i, name in enumerate(names) if homes[name] == album]
        rows[album] = {
            "n": len(mine),
            "rate": sum(ours[i] for i in mine) / len(mine) if mine else None,
            "noise_rate": sum(theirs[i] for i in mine) / len(mine) if mine else None,
        }
    return rows


def _homes(log: CellLog) -> dict[str, str]:
    return {item.item: str(item.extra["album"]) for item in log.items if "album" in item.extra}
