"""Geometry of three figures: what stays right of each model, by radius, and the loss around images.

Hand-made SVG, as `_figures`: see there why. The loss is a small PNG inside the page: as rectangles
of SVG it would weigh ten times as much.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from safetybench.wording import fraction, radius

from ._cells import Estimate
from ._evasion import Gradients, Landscape, Model, Part, Who
from ._text import brief, rate

WIDTH, HEIGHT = 328, 200  # of the curve: fits a 360 px phone unscaled
LEFT, RIGHT, TOP, BOTTOM = 36, 10, 12, 34
TICK_GAP = 27.0  # px between two numbers below an axis
GREY = (140, 140, 140)  # where there is no number
LOSS = ((247, 244, 236), (242, 180, 130), (196, 60, 60), (64, 10, 52))
MARGIN = ((24, 78, 148), (150, 190, 226), (246, 245, 240), (236, 160, 140), (160, 28, 22))


class Mark(NamedTuple):
    """A rate on a scale from 0 to 100 %; kind: "clean", "noise", "attack" or "worst"."""

    kind: str
    name: str
    estimate: Estimate
    at: str
    low: str
    high: str


class Line(NamedTuple):
    """One model; marks: those that count, the worst case last; told: all of them in words."""

    model: Model
    marks: tuple[Mark, ...]
    told: str


class Chart(NamedTuple):
    """The figure of one subject, models by group; before: where the teacher's worst case is."""

    groups: tuple[tuple[str, tuple[Line, ...]], ...]
    before: str


class Tick(NamedTuple):
    """A mark on an axis, in pixels."""

    at: float
    text: str


class Step(NamedTuple):
    """One radius of a curve, in pixels, and in words."""

    x: float
    y: float
    low: float
    high: float
    size: str
    estimate: Estimate


class Curve(NamedTuple):
    """What stays right under PGD by radius; threat: where the threat's radius is."""

    points: str
    steps: tuple[Step, ...]
    threat: float | None
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    unit: str
    summary: str


class Picture(NamedTuple):
    """The loss or margin on a plane; url: of the PNG; told: its range in words."""

    name: str
    url: str
    told: str


class Plane(NamedTuple):
    """All pictures around one image; reach, edge: of the outermost points, in words and short.

    inner: from where to where the threat's radius is, as shares of the width.
    """

    item: str
    across: str
    reach: str
    edge: str
    inner: tuple[float, float] | None
    pictures: tuple[Picture, ...]


class Slice(NamedTuple):
    """One part of a stacked bar; positions in percent of the width."""

    kind: str
    at: str
    width: str
    n: float


def chart(part: Part) -> Chart:
    """Return the figure of a subject, its models by group."""
    groups = tuple((title, tuple(_line(part, m) for m in mine)) for title, mine in part.groups)
    teachers = [m for m in part.of_role("teacher") if m.is_valid]
    before = _mark("worst", "worst case", teachers[0].worst).at if teachers else ""
    return Chart(groups, before)


def _line(part: Part, model: Model) -> Line:
    told = [("clean", "right as it is", model.clean), ("noise", "random noise", model.noise)]
    for column in part.of_kind("attack"):
        hit = model.hits.get(column.key)
        if hit and not hit.reason and not part.reason:
            told.append(("attack", column.name, hit.left))
    told += [("worst", "worst case", model.worst)] if model.is_valid else []
    marks = tuple(_mark(*each) for each in told if each[2].value is not None)
    words = "; ".join(f"{mark.name} {rate(mark.estimate.value)}" for mark in marks)
    return Line(model, marks, words if model.is_valid else f"{words}; no worst case counts")


def _mark(kind: str, name: str, e: Estimate) -> Mark:
    value = e.value or 0.0
    ends = (value, *(value if end is None else end for end in (e.low, e.high)))
    return Mark(kind, name, e, *map(place, ends))


def place(share: float | None) -> str:
    """Return where a share is on a scale, in percent of its width.

    >>> place(0.125), place(None)
    ('12.5%', '0.0%')
    """
    share = share or 0.0
    return f"{100 * min(max(share, 0.0), 1.0):.1f}%"


def curve(part: Part, found: Gradients) -> Curve | None:
    """Return what stays right by radius, None where there are no two radii."""
    points = found.curve
    sizes = [point.radius for point in points if point.radius > 0]
    if len(points) < 2 or not sizes:
        return None
    unit, most = min(sizes), max(sizes)
    longest = math.log1p(most / unit)

    def across(size: float) -> float:
        share = math.log1p(size / unit) / longest
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    steps = []
    for radius_, e in points:
        value = e.value or 0.0
        low, high = (value if end is None else end for end in (e.low, e.high))
        words = "none" if not radius_ else _size(radius_, part.norm)
        steps.append(Step(across(radius_), _y(value), _y(low), _y(high), words, e))
    is_inside = part.epsilon is not None and part.epsilon <= most
    threat = across(part.epsilon) if part.epsilon and is_inside else None
    every = [Tick(across(p.radius), _short(p.radius, part.norm)) for p in points]
    summary = "; ".join(f"{step.size} {rate(step.estimate.value)}" for step in steps)
    return Curve(
        " ".join(f"{step.x},{step.y}" for step in steps),
        tuple(steps),
        threat,
        tuple(_apart(every, threat)),
        tuple(Tick(_y(mark / 100), str(mark)) for mark in (0, 25, 50, 75, 100)),
        "radius Linf, of 255" if part.norm == "linf" else f"radius {part.norm.upper()}",
        f"{summary}.",
    )


def _y(share: float) -> float:
    return round(TOP + (1 - min(max(share, 0.0), 1.0)) * (HEIGHT - TOP - BOTTOM), 1)


def _size(size: float, norm: str) -> str:
    return radius(size, norm) if norm in ("linf", "l2") else f"{size:g}"


def _short(size: float, norm: str) -> str:
    return f"{255 * size:.3g}" if norm == "linf" else f"{size:.3g}"


def _apart(ticks: Sequence[Tick], threat: float | None) -> list[Tick]:
    """Return the ticks whose numbers do not touch: the ends and the threat's before others."""
    first = [ticks[0], *(t for t in ticks if t.at == threat), ticks[-1]]
    kept: list[Tick] = []
    for tick in dict.fromkeys((*first, *ticks)):
        if all(abs(tick.at - other.at) >= TICK_GAP for other in kept):
            kept.append(tick)
    return sorted(kept)


def slices(who: Who) -> tuple[Slice, ...]:
    """Return the parts of a stacked bar, as wide as their share of the images."""
    whole, at, found = sum(who), 0.0, []
    for kind, n in who._asdict().items():
        found.append(Slice(kind, place(at / whole), place(n / whole), n))
        at += n
    return tuple(found)


def plane(part: Part, found: Landscape) -> Plane:
    """Return the pictures of the loss around one image."""
    inner = None
    if part.epsilon and part.epsilon < found.reach:
        half = part.epsilon / found.reach / 2
        inner = (round(0.5 - half, 4), round(0.5 + half, 4))
    pictures = [_picture("Loss", found.loss, is_around_zero=False)]
    if found.margin:
        pictures.append(_picture("Margin", found.margin, is_around_zero=True))
    across = "the steepest direction of the loss" if found.is_steepest else (
        "a random direction, for the gradient is 0"
    )  # fmt: skip
    edge = fraction(found.reach) if part.norm == "linf" else f"{found.reach:.3g}"
    reach = _size(found.reach, part.norm)
    return Plane(found.item, across, reach, edge, inner, tuple(pictures))


def _picture(name: str, grid: Sequence[Sequence[float | None]], *, is_around_zero: bool) -> Picture:
    values = [value for line in grid for value in line if value is not None]
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    odd = sum(map(len, grid)) - len(values)
    lost = f"; no number at {odd} points, gray" if odd else ""
    if is_around_zero:
        end = max(abs(low), abs(high)) or 1.0
        url = _png(grid, -end, end, MARGIN)
        return Picture(name, url, f"{brief(low)} to {brief(high)}; blue: right, red: misled{lost}")
    told = f"{brief(low)}, light, to {brief(high)}, dark" if high > low else (
        f"{brief(low)} everywhere"
    )  # fmt: skip
    return Picture(name, _png(grid, low, high, LOSS), f"{told}{lost}")


def _png(
    grid: Sequence[Sequence[float | None]],
    low: float,
    high: float,
    colours: Sequence[tuple[int, int, int]],
) -> str:
    pixels = bytearray()
    for line in grid:
        for value in line:
            share = (value - low) / (high - low) if value is not None and high > low else 0.0
            pixels += bytes(GREY if value is None else _colour(share, colours))
    image = Image.frombytes("RGB", (len(grid[0]), len(grid)), bytes(pixels))
    held = io.BytesIO()
    image.save(held, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode('ascii')}"


def _colour(share: float, colours: Sequence[tuple[int, int, int]]) -> tuple[int, ...]:
    place = min(max(share, 0.0), 1.0) * (len(colours) - 1)
    first = min(int(place), len(colours) - 2)
    rest = place - first
    ends = zip(colours[first], colours[first + 1], strict=True)
    return tuple(round(a + (b - a) * rest) for a, b in ends)
