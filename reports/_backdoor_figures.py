"""Geometry of one figure: of each model how often the trigger works, and what it still draws.

Hand-made SVG, as `_figures`: see there why. Both stand side by side, as a backdoor that is gone
from a model that draws nothing was not removed.
"""

from __future__ import annotations

from typing import NamedTuple

from ._backdoor import Model, Part
from ._cells import Estimate


class Dot(NamedTuple):
    """A share on a scale from 0 to 100 %; positions in percent of the width."""

    estimate: Estimate
    at: str
    low: str
    high: str


class Line(NamedTuple):
    """One model; a dot is None where there is no such figure."""

    model: Model
    asr: Dot | None
    accuracy: Dot | None


class Chart(NamedTuple):
    """The figure of one subject; floor, before: ASR and accuracy of the original, "" for none."""

    groups: tuple[tuple[str, tuple[Line, ...]], ...]
    floor: str
    before: str


def chart(part: Part) -> Chart:
    """Return the figure of a subject, its models by group."""
    groups = tuple(
        (title, tuple(Line(m, *(_dot(m.figures[k]) for k in ("asr", "accuracy"))) for m in mine))
        for title, mine in part.groups
    )
    first = next((line for _, lines in groups for line in lines if line.model.role == "original"),
                 None)  # fmt: skip
    marks = (None, None) if first is None else (first.asr, first.accuracy)
    return Chart(groups, *("" if dot is None else dot.at for dot in marks))


def _dot(e: Estimate) -> Dot | None:
    if e.value is None:
        return None
    ends = (e.value, *(e.value if end is None else end for end in (e.low, e.high)))
    return Dot(e, *(f"{100 * min(max(end, 0), 1):.1f}%" for end in ends))
