"""Geometry of two figures: displacement against net effect, and net effect by epsilon.

Hand-made SVG, as `_figures`: see there why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ._cells import Estimate
from ._figures import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Series, Tick, Whisker, spread
from ._protection import Net, Protections
from ._protection_names import Place
from ._scatter import Label, labels
from ._text import points

MOST_LABELLED = 48  # marks with a label or an interval; of more, neither could be read
MOST_NAMED = 8  # marks that are named in the figure; of more, each has its protection's number
MOST_LETTERS = 34
_PLOT = (52.0, 700.0, 416.0, 16.0)  # left, right, bottom and top of the scatter, as the style has
_ROUND = (1.0, 2.0, 5.0)
_MOST_TICKS = 7
# What an edit is moved by: figure, its sign, and the words of its axis.
_MOVED = (
    (
        "lpips",
        1,
        "displacement beyond noise: LPIPS to the edit of the clean image, less that of noise",
    ),
    ("psnr", -1, "displacement beyond noise: PSNR to the edit of the clean image, decibels lost"),
)


class Axis(NamedTuple):
    """A straight axis; first and last value, and where they are in pixels."""

    first: float
    last: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the place of a value, at the edge where it lies outside."""
        part = (min(max(value, self.first), self.last) - self.first) / (self.last - self.first)
        return round(self.start + (self.end - self.start) * part, 1)

    def ticks(self, percent: bool) -> tuple[Tick, ...]:
        """Return round marks, a few of them."""
        step = _step((self.last - self.first) / _MOST_TICKS)
        marks = range(math.ceil(self.first / step - 1e-9), math.floor(self.last / step + 1e-9) + 1)
        return tuple(
            Tick(self.at(i * step), _minus(i * step * (100 if percent else 1))) for i in marks
        )


class Mark(NamedTuple):
    """One net effect in the figure. tone: class of its verdict; low and high ends in pixels."""

    is_teacher: bool
    tone: str
    x: float
    y: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    label: str
    anchor: str
    label_x: float
    label_y: float
    lead: str
    words: str


class Displacement(NamedTuple):
    """The figure; zero_x, zero_y: where no more than noise is; moved, working: rows it counts.

    is_bare: there are too many marks for labels and intervals; their titles tell them.
    """

    marks: tuple[Mark, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_words: str
    zero_x: float
    zero_y: float
    summary: str
    is_numbered: bool
    is_bare: bool
    moved: int
    working: int


class EpsilonPanel(NamedTuple):
    """Net effect of one protection by its radius, a line an editor."""

    name: str
    place: Place
    series: tuple[Series, ...]
    levels: tuple[str, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    zero: float
    summary: str


def _step(least: float) -> float:
    size = 10.0 ** math.floor(math.log10(least))
    return next((f * size for f in _ROUND if f * size >= least), 10 * size)


def _minus(value: float) -> str:
    return f"{value + 0.0:.6g}".replace("-", "−")


def _axis(values: Sequence[float], start: float, end: float) -> Axis:
    """Return an axis around all values and 0, with a little room."""
    low, high = min(0.0, *values), max(0.0, *values)
    room = 0.06 * (high - low or 1.0)
    return Axis(low - room if low < 0 else -room / 2, high + room, start, end)


def _ends(e: Estimate) -> tuple[float, float, float]:
    """Return value, low and high, the value itself where there is no interval."""
    value = e.value or 0.0
    return value, value if e.low is None else e.low, value if e.high is None else e.high


def displacement(found: Protections) -> Displacement | None:
    """Return the figure over all rows without purifier; None where nothing was measured."""
    nets = [n for n in found.nets("none") if not n.invalid and n.net.value is not None]
    for name, sign, words in _MOVED:
        known = [n for n in nets if name in n.moved and n.moved[name].difference.value is not None]
        if known:
            return _displacement(known, name, sign, words, len(found.parts) > 1)
    return None


def _signed(net: Net, name: str, sign: int) -> tuple[float, float, float]:
    value, low, high = _ends(net.moved[name].difference)
    return sign * value, min(sign * low, sign * high), max(sign * low, sign * high)


def _displacement(
    nets: Sequence[Net], name: str, sign: int, words: str, has_parts: bool
) -> Displacement:
    left, right, bottom, top = _PLOT
    spans = [(_signed(net, name, sign), _ends(net.net)) for net in nets]
    x = _axis([v for across, _ in spans for v in across], left, right)
    y = _axis([v for _, up in spans for v in up], bottom, top)
    is_bare = len(nets) > MOST_LABELLED
    is_numbered = len(nets) > MOST_NAMED and not is_bare
    has_radii = len({net.shield.epsilon for net in nets}) > 1
    names = [_name(net, is_numbered, has_radii) for net in nets]
    places = [(x.at(across[0]), y.at(up[0])) for across, up in spans]
    beside = [Label("", "", 0.0, 0.0, "")] * len(nets)
    if not is_bare:
        beside = labels([(*at, text) for at, text in zip(places, names, strict=True)])
    marks = []
    for net, (across, up), at, label in zip(nets, spans, places, beside, strict=True):
        where = f", {net.place.edit}" if has_parts else ""
        marks.append(
            Mark(
                is_teacher=net.editor == "teacher",
                tone=net.tone.replace(" ", "-"),
                x=at[0],
                y=at[1],
                x_low=x.at(across[1]),
                x_high=x.at(across[2]),
                y_low=y.at(up[1]),
                y_high=y.at(up[2]),
                label=label.text,
                anchor=label.anchor,
                label_x=label.x,
                label_y=label.y,
                lead=label.lead,
                words=f"{net.shield.label} on {net.editor}{where}: displacement "
                f"{_minus(across[0])}, net {points(up[0])} points, {net.shown}",
            )
        )
    far = [net for net, (across, _) in zip(nets, spans, strict=True) if across[1] > 0]
    return Displacement(
        tuple(marks),
        x.ticks(percent=False),
        y.ticks(percent=True),
        words,
        x.at(0.0),
        y.at(0.0),
        " ".join(f"{mark.words}." for mark in marks),
        is_numbered,
        is_bare,
        len(far),
        sum(net.verdict == "protects" for net in far),
    )


def _name(net: Net, is_numbered: bool, has_radii: bool) -> str:
    if is_numbered:
        return str(net.shield.number)
    name = f"{net.shield.label if has_radii else net.shield.name}, {net.editor}"
    return name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…"


def epsilon_panels(found: Protections) -> list[EpsilonPanel]:
    """Return a panel for each protection that was made at several radii, without purifier."""
    groups: dict[tuple[Place, str, str], dict[str, list[Net]]] = {}
    for net in found.nets("none"):
        if not net.invalid and net.net.value is not None and net.shield.level is not None:
            key = (net.place, net.shield.name, net.shield.made_on)
            groups.setdefault(key, {}).setdefault(net.editor, []).append(net)
    return [
        _panel(place, f"{name}, made on {made_on}" if made_on else name, lines)
        for (place, name, made_on), lines in groups.items()
        if len({n.shield.level for mine in lines.values() for n in mine}) > 1
    ]


def _panel(place: Place, name: str, lines: dict[str, list[Net]]) -> EpsilonPanel:
    every = [net for mine in lines.values() for net in mine]
    levels = sorted({net.shield.level or 0.0 for net in every})
    x = Axis(0.0, levels[-1], LEFT, WIDTH - RIGHT)
    y = _axis([v for net in every for v in _ends(net.net)], HEIGHT - BOTTOM, TOP)
    for mine in lines.values():
        mine.sort(key=lambda net: net.shield.level or 0.0)
    last = spread([y.at(_ends(mine[-1].net)[0]) for mine in lines.values()])
    series = tuple(_series(lines, x, y, last))
    shown = {net.shield.level or 0.0: net.shield.epsilon for net in every}
    return EpsilonPanel(
        name,
        place,
        series,
        tuple(shown[level] for level in levels),
        tuple(Tick(x.at(level), f"{level:.4g}") for level in levels),
        y.ticks(percent=True),
        y.at(0.0),
        " ".join(
            f"{editor}: "
            + ", ".join(f"{n.shield.epsilon} {points(n.net.value)}" for n in mine)
            + "."
            for editor, mine in lines.items()
        ),
    )


def _series(
    lines: dict[str, list[Net]], x: Axis, y: Axis, last: Iterable[float]
) -> Iterator[Series]:
    turn = 0
    for i, ((editor, mine), label_y) in enumerate(zip(lines.items(), last, strict=True)):
        is_teacher = editor == "teacher"
        # Intervals at one radius would cover each other: each line's steps aside a little.
        aside = 2.5 * (i - (len(lines) - 1) / 2)
        dots = [(x.at(n.shield.level or 0.0), y.at(_ends(n.net)[0])) for n in mine]
        whiskers = [
            Whisker(round(at + aside, 1), y.at(_ends(n.net)[1]), y.at(_ends(n.net)[2]))
            for n, (at, _) in zip(mine, dots, strict=True)
            if n.net.low is not None
        ]
        yield Series(
            name=editor,
            label=editor,
            style=f"{'control' if is_teacher else 'attack'} dash-{0 if is_teacher else turn % 3}",
            points=" ".join(f"{a},{b}" for a, b in dots),
            dots=tuple(dots),
            whiskers=tuple(whiskers),
            label_y=label_y,
            values=tuple(_ends(n.net)[0] for n in mine),
            n=int(mine[-1].net.n or 0),
        )
        turn += not is_teacher
