"""Geometry of figures, small hand-made SVG: success by images or steps, and rates side by side.

No chart library: plotly brings 4 MB of script into every report, and the strict content security
policy of the page allows neither its inline styles nor its evaluation of code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from safetybench.stats import wilson

from ._cells import CellRow, Estimate, models_of
from ._pairs import PairRow
from ._text import rate

# A panel fits a 360 px phone unscaled, so that its letters keep their size.
WIDTH, HEIGHT = 328, 210
LEFT, RIGHT, TOP, BOTTOM = 36, 96, 12, 34
LABEL_GAP = 13.0
TICK_GAP = 26.0
STYLES = {"attack": "attack", "control": "control", "floor": "floor",
          "relearn": "attack", "relearn-control": "control"}  # fmt: skip
ORDER = {kind: i for i, kind in enumerate(STYLES)}
# Lines of one kind in a panel, those that reach highest: more could not be told apart.
MOST_LINES = {"attack": 3, "control": 2, "floor": 1, "relearn": 3, "relearn-control": 3}


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
    """Success by images or steps on one model; summary: the same in words.

    unit: of the axis; rows: what the axis stands for at each value of the lines, all of which
    are in `every`; series: the lines that are drawn.
    """

    who: str
    target: str
    unit: str
    series: tuple[Series, ...]
    every: tuple[Series, ...]
    rows: tuple[str, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    summary: str


class Axis(NamedTuple):
    """The horizontal axis of a panel: where a value of a line is, and what it is called."""

    unit: str
    place: Callable[[int], float]
    rows: tuple[str, ...]
    ticks: tuple[Tick, ...]


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
    """Return a panel for each model that has a curve of two images or more."""
    kinds = ("attack", "control", "floor")
    known = [cell for cell in cells if len(cell.curve) > 1 and cell.kind in kinds]
    axis = _of_images(max((len(cell.curve) for cell in known), default=0))
    return [_panel(who, [c for c in known if c.who == who], axis) for who in models_of(known)]


def relearning(cells: Iterable[CellRow]) -> list[Panel]:
    """Return a panel for each model that was trained again, with the control of its training."""
    kinds = ("relearn", "relearn-control")
    known = [c for c in cells if c.kind in kinds and 1 < len(c.curve) == len(c.curve_at)]
    found = []
    for who in models_of(known):
        mine = [cell for cell in known if cell.who == who]
        # Lines of other stages than the first's would stand at wrong places: they have no panel.
        alike = [cell for cell in mine if cell.curve_at == mine[0].curve_at]
        found.append(_panel(who, alike, _of_steps(mine[0].curve_at)))
    return found


def _of_images(most: int) -> Axis:
    marks = sorted({1, *(round(1 + (most - 1) * part / 4) for part in (1, 2, 3)), most})
    return Axis(
        "images",
        lambda index: _x(index / max(most - 1, 1)),
        tuple(str(i) for i in range(1, most + 1)),
        tuple(Tick(_x((mark - 1) / max(most - 1, 1)), str(mark)) for mark in marks),
    )


def _of_steps(at: Sequence[float]) -> Axis:
    """Return an axis on which ever longer stages stand about equally far apart."""
    unit = next((step for step in at if step > 0), 1.0)
    longest = math.log1p(max(*at, unit) / unit)
    places = [_x(math.log1p(max(step, 0.0) / unit) / longest) for step in at]
    names = tuple(f"{step:g}" for step in at)
    ticks: list[Tick] = []
    for place, name in zip(reversed(places), reversed(names), strict=True):
        if not ticks or ticks[-1].at - place >= TICK_GAP:
            ticks.append(Tick(place, name))
    return Axis("training steps", lambda index: places[index], names, tuple(reversed(ticks)))


def _x(share: float) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * share, 1)


def _y(share: float) -> float:
    return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(max(share, 0), 1)), 1)


def _panel(who: str, cells: Sequence[CellRow], axis: Axis) -> Panel:
    cells = sorted(cells, key=lambda cell: ORDER[cell.kind])
    drawn = _drawn(cells)
    places = dict(zip(drawn, spread([_y(cells[i].curve[-1]) for i in drawn]), strict=True))
    kinds = [cells[i].kind for i in drawn]
    every = []
    for i, cell in enumerate(cells):
        turn = kinds[: drawn.index(i)].count(cell.kind) if i in places else 0
        aside = drawn.index(i) - (len(drawn) - 1) / 2 if i in places else 0.0
        style = f"{STYLES[cell.kind]} dash-{turn % 3}"
        every.append(_series(cell, style, aside, places.get(i, 0.0), axis))
    series = tuple(every[i] for i in drawn)
    summary = "; ".join(
        f"{s.name} {rate(s.values[0])} after {_steps(axis, 0)}, {rate(s.values[-1])} after "
        f"{axis.rows[len(s.values) - 1]}"
        for s in series
    )
    return Panel(
        who,
        cells[0].target,
        axis.unit,
        series,
        tuple(every),
        axis.rows,
        axis.ticks,
        tuple(Tick(_y(mark / 100), str(mark)) for mark in (0, 25, 50, 75, 100)),
        f"{summary}.",
    )


def _steps(axis: Axis, index: int) -> str:
    unit = axis.unit.removesuffix("s") if axis.rows[index] == "1" else axis.unit
    return f"{axis.rows[index]} {unit}"


def _drawn(cells: Sequence[CellRow]) -> list[int]:
    """Return the places of the cells that get a line, in their order; oracles come last."""
    found: list[int] = []
    for kind in dict.fromkeys(cell.kind for cell in cells):
        mine = [i for i, cell in enumerate(cells) if cell.kind == kind]
        mine.sort(key=lambda i: (cells[i].is_oracle, -cells[i].curve[-1]))
        found += mine[: MOST_LINES[kind]]
    return sorted(found)


def _series(cell: CellRow, style: str, aside: float, label_y: float, axis: Axis) -> Series:
    dots = tuple((axis.place(i), _y(value)) for i, value in enumerate(cell.curve))
    last = len(cell.curve)
    n = cell.counts["ok"]
    whiskers = []
    for i in sorted({(1 + last) // 2, last}) if n else ():
        span = wilson(min(max(round(cell.curve[i - 1] * n), 0), n), n, cell.rate.level or 0.95)
        # Whiskers of several lines at one x would cover each other: each steps aside a little.
        at = round(dots[i - 1][0] + 2.5 * aside, 1)
        whiskers.append(Whisker(at, _y(span.low), _y(span.high)))
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
    if cell.kind == "relearn-control":
        return "control"
    name, _, variant = cell.name.removeprefix("control: ").partition(", ")
    if cell.is_oracle:
        return f"oracle: {name}"
    return variant if variant and cell.kind == "attack" else name


def spread(places: Sequence[float]) -> list[float]:
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
