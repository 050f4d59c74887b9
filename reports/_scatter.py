"""Geometry of forgetting against utility: a mark a model, with a ring for its worst attack.

Hand-made SVG, as `_figures`: see there why.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ._cells import Estimate
from ._figures import Tick
from ._overview import ModelLine
from ._text import rate, titled

WIDTH, HEIGHT = 720, 460
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 16, 44
RING = 9.0  # radius, in pixels
MOST_NAMED = 12  # marks that are named in the figure; of more, each has a number
LETTER, LINE, GAP = 7.2, 13.0, 3.0  # size of a letter of a label and its margin, in pixels
_TICKS = (0.02, 0.05, 0.1, 0.2)
_MOST_TICKS = 6


class Mark(NamedTuple):
    """One model. low and high ends of both intervals in pixels; ring: hundredths of the circle.

    anchor: which end of the label stands at its place. lead: path of the line to a label that
    stands apart.
    """

    line: ModelLine
    style: str
    x: float
    y: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    ring: float | None
    label: str
    anchor: str
    label_x: float
    label_y: float
    lead: str
    words: str


class Label(NamedTuple):
    """What stands beside a mark and where, in pixels; anchor: which of its ends is at x.

    lead: path of the line to a label that stands apart.
    """

    text: str
    anchor: str
    x: float
    y: float
    lead: str


class Scatter(NamedTuple):
    """The figure; edges: where originals stand on the lower edge, in pixels.

    is_numbered: whether labels are numbers, for names would not fit.
    """

    marks: tuple[Mark, ...]
    edges: tuple[Tick, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    summary: str
    is_numbered: bool


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def covers(self, other: _Box) -> float:
        """Return the area that two boxes share."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)


class _Scale(NamedTuple):
    """An axis from `first`, in shares, to 1; start and end: in pixels."""

    first: float
    start: float
    end: float

    def at(self, share: float) -> float:
        """Return the place of a share, at the edge where it lies outside."""
        part = (min(max(share, self.first), 1.0) - self.first) / (1.0 - self.first)
        return round(self.start + (self.end - self.start) * part, 1)

    def ticks(self) -> tuple[Tick, ...]:
        """Return round marks, a few of them."""
        span = 1.0 - self.first
        step = next((s for s in _TICKS if span / s <= _MOST_TICKS), 0.25)
        first = math.ceil(self.first / step - 1e-9)
        marks = [i * step for i in range(first, math.floor(1 / step + 1e-9) + 1)]
        return tuple(Tick(self.at(mark), f"{100 * mark:g}") for mark in marks)


def scatter(lines: Sequence[ModelLine]) -> Scatter | None:
    """Return the figure of all models that were measured for both; None where there is none."""
    known = [line for line in lines if line.number]
    if not known:
        return None
    originals = [
        line.retained.estimate.value or 0.0
        for line in lines
        if line.role == "original" and line.retained is not None
    ]
    across = [value for line in known for value in _ends(_retained(line))]
    x = _Scale(_first([*across, *originals]), LEFT, WIDTH - RIGHT)
    y = _Scale(_first([v for line in known for v in _ends(_forgotten(line))]),
               HEIGHT - BOTTOM, TOP)  # fmt: skip
    marks = list(_labelled([_mark(line, x, y, len(known)) for line in known]))
    return Scatter(
        tuple(marks),
        tuple(Tick(at, "original") for at in sorted({x.at(value) for value in originals})),
        x.ticks(),
        y.ticks(),
        " ".join(f"{mark.words}." for mark in marks),
        len(known) > MOST_NAMED,
    )


def _retained(line: ModelLine) -> Estimate:
    return line.retained.estimate if line.retained else Estimate()


def _forgotten(line: ModelLine) -> Estimate:
    return line.forgetting.estimate if line.forgetting else Estimate()


def _ends(span: Estimate) -> list[float]:
    return [value for value in (span.value, span.low, span.high) if value is not None]


def _first(values: Sequence[float]) -> float:
    """Return where an axis starts: a tenth below the lowest value, at most at 90 %."""
    return min(max(math.floor(10 * min(values) - 0.2) / 10, 0.0), 0.9)


def _mark(line: ModelLine, x: _Scale, y: _Scale, count: int) -> Mark:
    across, up = _retained(line), _forgotten(line)
    worst = line.strongest
    name = f"{line.subject}, {line.who}"
    words = f"{line.number}. {name}: forgetting {rate(up.value)}, retained {rate(across.value)}" + (
        f", {worst.name} {rate(worst.rate.value)}" if worst else ", not attacked"
    )
    low, high = (v if v is not None else across.value for v in (across.low, across.high))
    below, above = (v if v is not None else up.value for v in (up.low, up.high))
    return Mark(
        line=line,
        style="student" if line.role == "student" else "teacher",
        x=x.at(across.value or 0.0),
        y=y.at(up.value or 0.0),
        x_low=x.at(low or 0.0),
        x_high=x.at(high or 0.0),
        y_low=y.at(below or 0.0),
        y_high=y.at(above or 0.0),
        ring=None if worst is None else round(100 * min(max(worst.rate.value or 0.0, 0), 1), 1),
        label=_short(line) if count <= MOST_NAMED else str(line.number),
        anchor="start",
        label_x=0.0,
        label_y=0.0,
        lead="",
        words=titled(words),
    )


def _short(line: ModelLine) -> str:
    name = line.who.removeprefix("student ")
    label = f"{line.subject}, {name}"
    return label if len(label) <= 34 else f"{label[:33]}…"


def _labelled(marks: Sequence[Mark]) -> Iterator[Mark]:
    """Give every mark its label, beside it where that covers least of the others."""
    for mark, label in zip(marks, labels([(m.x, m.y, m.label) for m in marks]), strict=True):
        yield mark._replace(
            label=label.text, anchor=label.anchor, label_x=label.x, label_y=label.y, lead=label.lead
        )


def labels(marks: Sequence[tuple[float, float, str]]) -> list[Label]:
    """Return the labels of marks, each a place in pixels and what is to stand beside it."""
    taken = [_Box(x - RING, y - RING, x + RING, y + RING) for x, y, _ in marks]
    found = []
    for (x, y, _), text in zip(marks, _shared(marks), strict=True):
        found.append(_label(x, y, text, taken) if text else Label("", "start", 0.0, 0.0, ""))
    return found


def _label(x: float, y: float, text: str, taken: list[_Box]) -> Label:
    places = list(_places(x, y, text))
    best = min(places, key=lambda box: (_cost(box, taken), places.index(box)))
    taken.append(best)
    middle = (best.top + best.bottom) / 2
    anchor, end, at = "start", best.left - 2, best.left + GAP
    if best.right <= x:
        anchor, end, at = "end", best.right + 2, best.right - GAP
    elif best.left < x:
        anchor, end, at = "middle", x, (best.left + best.right) / 2
    is_far = math.hypot(end - x, middle - y) > 2 * RING
    return Label(
        text,
        anchor,
        round(at, 1),
        round(best.bottom - 3, 1),
        f"M{x} {y}L{end:.1f} {middle:.1f}" if is_far else "",
    )


def _shared(marks: Sequence[tuple[float, float, str]]) -> Iterator[str]:
    """Give marks on one spot one label with all their numbers; names stay apart."""
    groups: dict[tuple[float, float], list[int]] = {}
    for x, y, text in marks:
        if text.isdecimal():
            groups.setdefault((x, y), []).append(int(text))
    told: set[tuple[float, float]] = set()
    for x, y, text in marks:
        mine = groups.get((x, y), []) if text.isdecimal() else []
        if len(mine) < 2:
            yield text
            continue
        yield "" if (x, y) in told else spans(sorted(set(mine)))
        told.add((x, y))


def spans(numbers: Sequence[int]) -> str:
    """Write ascending numbers with those that follow each other drawn together.

    >>> spans([1, 2, 3, 7, 9, 10])
    '1-3, 7, 9, 10'
    """
    runs: list[list[int]] = []
    for each in numbers:
        if runs and each == runs[-1][-1] + 1:
            runs[-1].append(each)
        else:
            runs.append([each])
    parts = [f"{r[0]}-{r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs]
    return ", ".join(parts)


def _places(at_x: float, at_y: float, text: str) -> Iterator[_Box]:
    wide = LETTER * len(text) + 2 * GAP
    for reach in (RING + 3, RING + 18, RING + 34, RING + 52):
        for turn in (0, 8, 4, 12, 2, 6, 14, 10, 1, 7, 15, 9, 3, 5, 13, 11):
            x = at_x + reach * math.cos(turn * math.pi / 8)
            y = at_y - reach * math.sin(turn * math.pi / 8)
            left = x if turn in (0, 1, 2, 3, 13, 14, 15) else x - wide
            left = x - wide / 2 if turn in (4, 12) else left
            yield _Box(left, y - LINE / 2, left + wide, y + LINE / 2)


def _cost(box: _Box, taken: Sequence[_Box]) -> float:
    inside = _Box(LEFT, TOP - 8, WIDTH, HEIGHT - BOTTOM)
    size = (box.right - box.left) * (box.bottom - box.top)
    outside = size - box.covers(inside)
    return 4 * outside + sum(box.covers(other) for other in taken)
