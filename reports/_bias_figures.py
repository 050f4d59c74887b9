"""Geometry of one figure: of each model how often its answers are biased, on three sets of tasks.

Hand-made SVG, as `_figures`: see there why. A rate that does not count is hollow.
"""

from __future__ import annotations

from typing import NamedTuple

from ._bias import SETS, Model, Part
from ._cells import Estimate


class Dot(NamedTuple):
    """A rate on a scale from 0 to 100 %; positions in percent of the width."""

    estimate: Estimate
    at: str
    low: str
    high: str


class Line(NamedTuple):
    """One model; dots: by set, None where there is no rate that counts."""

    model: Model
    dots: tuple[tuple[str, Dot | None], ...]


class Chart(NamedTuple):
    """The figure of one subject; before: by set where the teacher's dot is, "" for none."""

    sets: tuple[str, ...]
    groups: tuple[tuple[str, tuple[Line, ...]], ...]
    before: dict[str, str]


def chart(part: Part) -> Chart:
    """Return the figure of a subject, its models by group."""
    asked = {tasks for model in part.models for tasks, _ in model.spots}
    sets = tuple(tasks for tasks in SETS if tasks in asked)
    groups = tuple(
        (title, tuple(Line(m, tuple((tasks, _dot(m, tasks)) for tasks in sets)) for m in mine))
        for title, mine in part.groups
    )
    teachers = part.of_role("teacher")
    dots = {tasks: _dot(teachers[0], tasks) if teachers else None for tasks in sets}
    return Chart(sets, groups, {tasks: dot.at if dot else "" for tasks, dot in dots.items()})


def _dot(model: Model, tasks: str) -> Dot | None:
    spot = model.spot(tasks)
    if not spot.is_valid or spot.abr.value is None:
        return None
    e = spot.abr
    ends = (spot.abr.value, *(e.value if end is None else end for end in (e.low, e.high)))
    return Dot(e, *(f"{100 * min(max(end or 0.0, 0), 1):.1f}%" for end in ends))
