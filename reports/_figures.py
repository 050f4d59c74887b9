"""Geometry of the two figures, small hand-made SVG: success by images, and rates side by side.

No chart library: plotly brings 4 MB of script into every report, and the strict content security
policy of the page allows neither its inline styles nor its evaluation of code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from safetybench.stats import wilson

from ._text import rate
from ._view import ROLES, CellRow, Estimate, PairRow

# A panel fits a 360 px phone unscaled, so that its letters keep their size.
WIDTH, HEIGHT = 328, 210
LEFT, RIGHT, TOP, BOTTOM = 36, 96, 12, 34
LABEL_GAP = 13.0
ORDER = {"attack": 0, "control": 1, "floor": 2}


class Whisker(NamedTuple):
    """An interval at one number of images, in pixels."""

    x: float
    low: float
    high: float


class Series(NamedTuple):
    """One line of a panel; style: class of the page's style sheet, for colour and dashes."""

    name: str
    label: str
    style: str
    points: str
    dots: tuple[tuple[float, float], ...]
    whiskers: tuple[Whisker, ...]
    label_y: float
    values: tuple[float, ...]
    n: int


class Tick(NamedTuple):
    """A mark on an axis, in pixels."""

    at: float
    text: str


class Panel(NamedTuple):
    """Success by number of images on one target; summary: the same in words."""

    role: str
    target: str
    series: tuple[Series, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    images: int
    summary: str


class Bar(NamedTuple):
    """One rate of the side by side figure; positions in percent of the width."""

    role: str
    estimate: Estimate
    at: str
    low: str
    high: str


class Comparison(NamedTuple):
    """The two bars of one pair."""

    pair: PairRow
    bars: tuple[Bar, ...]


def panels(cells: Iterable[CellRow]) -> list[Panel]:
    """Return a panel for each role that has a curve of two images or more."""
    known = [cell for cell in cells if len(cell.curve) > 1 and cell.kind in ORDER]
    roles = sorted(
        dict.fromkeys(cell.role for cell in known),
        key=lambda role: ROLES.index(role) if role in ROLES else len(ROLES),
    )
    most = max((len(cell.curve) for cell in known), default=0)
    found = []
    for role in roles:
        mine = sorted((c for c in known if c.role == role), key=lambda cell: ORDER[cell.kind])
        found.append(_panel(role, mine, most))
    return found


def _x(images: int, most: int) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * (images - 1) / max(most - 1, 1), 1)


def _y(share: float) -> float:
    return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(max(share, 0), 1)), 1)


def _panel(role: str, cells: Sequence[CellRow], most: int) -> Panel:
    places = _spread([_y(cell.curve[-1]) for cell in cells])
    kinds = [cell.kind for cell in cells]
    series = [
        _series(
            cell, f"{cell.kind} dash-{kinds[:i].count(cell.kind) % 3}", i, len(cells), place, most
        )
        for i, (cell, place) in enumerate(zip(cells, places, strict=True))
    ]
    marks = sorted({1, *(round(1 + (most - 1) * part / 4) for part in (1, 2, 3)), most})
    summary = "; ".join(
        f"{s.name} {rate(s.values[0])} after 1 image, {rate(s.values[-1])} after {len(s.values)}"
        for s in series
    )
    return Panel(
        role,
        cells[0].target,
        tuple(series),
        tuple(Tick(_x(mark, most), str(mark)) for mark in marks),
        tuple(Tick(_y(mark / 100), str(mark)) for mark in (0, 25, 50, 75, 100)),
        most,
        f"{summary}.",
    )


def _series(cell: CellRow, style: str, index: int, count: int, label_y: float, most: int) -> Series:
    dots = tuple((_x(i, most), _y(value)) for i, value in enumerate(cell.curve, 1))
    # Whiskers of several lines at one x would cover each other: each line steps aside a little.
    aside = 2.5 * (index - (count - 1) / 2)
    last = len(cell.curve)
    n = cell.counts["ok"]
    whiskers = []
    for images in sorted({(1 + last) // 2, last}) if n else ():
        span = wilson(min(max(round(cell.curve[images - 1] * n), 0), n), n, cell.rate.level or 0.95)
        whiskers.append(Whisker(round(_x(images, most) + aside, 1), _y(span.low), _y(span.high)))
    return Series(
        name=cell.name,
        label=_label(cell),
        style=style,
        points=" ".join(f"{x},{y}" for x, y in dots),
        dots=dots,
        whiskers=tuple(whiskers),
        label_y=label_y,
        values=cell.curve,
        n=n,
    )


def _label(cell: CellRow) -> str:
    """Return what fits beside a line: of two variants of one attack, what tells them apart."""
    if cell.kind == "floor":
        return "floor"
    name, _, variant = cell.name.removeprefix("control: ").partition(", ")
    return variant if variant and cell.kind == "attack" else name


def _spread(places: Sequence[float]) -> list[float]:
    """Move labels apart until none covers another, and keep them inside the panel."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    floor = float(TOP)
    for i in order:
        moved[i] = max(moved[i], floor)
        floor = moved[i] + LABEL_GAP
    ceiling = float(HEIGHT - BOTTOM + 4)
    for i in reversed(order):
        moved[i] = round(min(moved[i], ceiling), 1)
        ceiling = moved[i] - LABEL_GAP
    return moved


def comparisons(pairs: Iterable[PairRow]) -> list[Comparison]:
    """Return the rates of every pair as bars on one scale from 0 to 100 %."""
    found = []
    for pair in pairs:
        sides = (("teacher", pair.teacher), ("student", pair.student_rate))
        bars = [_bar(role, side) for role, side in sides if side.value is not None]
        found.append(Comparison(pair, tuple(bars)))
    return found


def _bar(role: str, side: Estimate) -> Bar:
    value = side.value or 0.0
    low, high = (value if end is None else end for end in (side.low, side.high))
    return Bar(role, side, *(f"{100 * min(max(v, 0), 1):.1f}%" for v in (value, low, high)))
