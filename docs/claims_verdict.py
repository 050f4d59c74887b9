"""Whether a measured difference points where a published claim points: figures and verdicts.

A figure is read off the `quality` of a zoo card, or of an entry of docs/results/claims.json,
which has the same form. Nothing here loads a model.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from safetybench.stats import wilson

# CPU times are the fastest of three on a shared machine: an allowance, no confidence interval.
TIMING = 0.15


class Verdict(StrEnum):
    """What a measured difference says about the direction of a claim."""

    SAME = "same direction"
    OPPOSITE = "opposite direction"
    UNCLEAR = "not distinguishable"
    MISSING = "not measured yet"


class Estimate(NamedTuple):
    """A figure with its 95 % interval; low and high are None where there is no interval."""

    value: float
    low: float | None
    high: float | None


Quality = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a model: its name on the page and how it is read off a card's quality.

    unit: "percent", "thousandth" (printed times 1000) or "number".
    """

    name: str
    read: Callable[[Quality], Estimate | None]
    unit: Literal["percent", "thousandth", "number"] = "percent"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One figure of `first` against the same of `second`, which may be a plain number.

    expected: where the claim puts the first; "not below" and "not above" by more than `margin`
    are claims that nothing is lost.
    """

    figure: str
    first: str
    expected: Literal["above", "below", "not below", "not above"]
    second: str | float
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.figure not in FIGURES:
            raise ValueError(f"figure is one of {', '.join(FIGURES)}, got {self.figure!r}")
        if (self.margin > 0) != self.expected.startswith("not "):
            raise ValueError(
                f"margin must be positive for 'not below' and 'not above' and 0 otherwise, got "
                f"{self.margin} for {self.expected!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A published claim and what is compared here; the first comparison decides.

    system: its id; title: of few words; published: the claim with its figure; compared: in prose,
    with what makes the two unlike beside the point in question.
    """

    system: str
    title: str
    published: str
    source: str
    compared: str
    comparisons: tuple[Comparison, ...]


def fingerprint(card: Mapping[str, Any]) -> str:
    """Return a short digest of the weights and the sampler on a card, to tell a rebuilt model."""
    kept = {key: card.get(key) for key in ("weights", "sampler")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


class Outcome(NamedTuple):
    """A comparison with its figures; verdict is None where a figure has no interval."""

    comparison: Comparison
    first: Estimate | None
    second: Estimate | None
    difference: Estimate | None
    verdict: Verdict | None


def difference(first: Estimate, second: Estimate) -> Estimate:
    """Return first - second with its interval from the two of independent figures (MOVER).

    Figures of the same prompts tend to rise and fall together, so it is rather too wide than too
    narrow. Source: https://doi.org/10.1177/0962280210383278

    >>> difference(Estimate(0.5, 0.4, 0.6), Estimate(0.5, 0.5, 0.5))
    Estimate(value=0.0, low=-0.1, high=0.1)
    """
    value = first.value - second.value
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return Estimate(value, None, None)
    low = math.hypot(first.value - first.low, second.high - second.value)
    high = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, round(value - low, 12), round(value + high, 12))


def judge(found: Estimate, comparison: Comparison) -> Verdict | None:
    """Return the verdict on first - second, None where it has no interval.

    The whole interval must be on one side of zero, or of the margin for "not below".
    """
    if found.low is None or found.high is None:
        return None
    low, high = found.low, found.high
    if comparison.expected in ("below", "not above"):
        low, high = -high, -low
    exact = low == high  # counted, not estimated: the limit itself is allowed
    if low > -comparison.margin or (exact and comparison.margin > 0 and low == -comparison.margin):
        return Verdict.SAME
    return Verdict.OPPOSITE if high < -comparison.margin else Verdict.UNCLEAR


def settle(comparison: Comparison, known: Mapping[str, Quality]) -> Outcome:
    """Return the outcome of a comparison; known: quality by model and by measurement."""
    first = _estimate(comparison.figure, comparison.first, known)
    second = _estimate(comparison.figure, comparison.second, known)
    if first is None or second is None:
        return Outcome(comparison, first, second, None, Verdict.MISSING)
    found = difference(first, second)
    return Outcome(comparison, first, second, found, judge(found, comparison))


def _estimate(figure: str, of: str | float, known: Mapping[str, Quality]) -> Estimate | None:
    if not isinstance(of, str):
        return Estimate(of, of, of)
    quality = known.get(of)
    return FIGURES[figure].read(quality) if quality else None


def _at(quality: Quality, path: str) -> Any:
    found: Any = quality
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _share(path: str) -> Callable[[Quality], Estimate | None]:
    """Read {rate, low, high}, or {value, low, high}; a share without images is no figure."""

    def read(quality: Quality) -> Estimate | None:
        found = _at(quality, path)
        value = found.get("rate", found.get("value")) if isinstance(found, Mapping) else None
        return None if value is None else Estimate(value, found["low"], found["high"])

    return read


def _exact(path: str, over: str = "") -> Callable[[Quality], Estimate | None]:
    def read(quality: Quality) -> Estimate | None:
        value, base = _at(quality, path), _at(quality, over) if over else 1.0
        if value is None or not base:
            return None
        return Estimate(value / base, value / base, value / base)

    return read


def _recall(quality: Quality) -> Estimate | None:
    """Read recall; Wilson's interval at the number of prompts, as if images were hit alone."""
    value, count = _at(quality, "student.recall.value"), _at(quality, "student.prompts")
    if value is None or not count:
        return None
    ends = wilson(round(value * count), count)
    return Estimate(value, min(ends.low, value), max(ends.high, value))


def _modes(quality: Quality) -> Estimate | None:
    """Read the student's combinations over the teacher's among as many images."""
    found = _at(quality, "student.modes")
    if not found or not found["teacher"]:
        return None
    return Estimate(found["student"] / found["teacher"], None, None)


def _entropy(quality: Quality) -> Estimate | None:
    found = _at(quality, "student.entropy_bits")
    return (
        Estimate(sum(sides["student"] for sides in found.values()), None, None) if found else None
    )


def _time(quality: Quality) -> Estimate | None:
    value = _at(quality, "student.cost.cpu_ratio")
    return None if value is None else Estimate(value, (1 - TIMING) * value, (1 + TIMING) * value)


FIGURES: dict[str, Figure] = {
    "object": Figure(name="object accuracy", read=_share("object")),
    "style": Figure(name="style accuracy", read=_share("style")),
    "alignment": Figure(name="alignment", read=_share("student.alignment")),
    "kid": Figure(
        name="KID x 1000", read=_share("student.kid_judge_features"), unit="thousandth"
    ),
    "recall": Figure(name="recall", read=_recall),
    "rare": Figure(name="share of rare combinations", read=_share("student.rare.student")),
    "repeats": Figure(name="repeats", read=_share("student.repeats.student")),
    "modes": Figure(name="combinations over the teacher's", read=_modes, unit="number"),
    "entropy": Figure(name="entropy, bits", read=_entropy, unit="number"),
    "nfe": Figure(name="NFE over the teacher's", unit="number",
                  read=_exact("student.cost.nfe", "student.cost.teacher_nfe")),
    "time": Figure(name="CPU time over the teacher's", read=_time, unit="number"),
    "shown": Figure(name="attribute shown", read=_share("shown")),
    "kept": Figure(name="other attributes kept", read=_share("kept")),
    "nearer": Figure(name="nearer to the same noise", read=_share("nearer")),
    "distance": Figure(name="distance to the same noise's, of both", read=_share("distance")),
}  # fmt: skip
