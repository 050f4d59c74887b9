"""The images of a protection run: what each editor made of the image, of noise, of protection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from safetybench.contracts import Item

from ._gallery import Picture, picture
from ._load import Record
from ._protection import GridRow, Net, Part, Protections
from ._protection_names import Place, editor_of, key_of
from ._text import mapping, number, rows, text, titled

MOST_EDITORS, MOST_SHOTS = 6, 120
NOT_KEPT = "not kept in a run"
LARGEST = 192  # pixels of the longer side: there are a hundred of them
_MADE = ("attack", "options", "epsilon", "surrogate", "seed", "of")
_RADIUS = ("epsilon", "seed")


class Shot(NamedTuple):
    """One image; state: what became of the edit; tone: "through", "stopped" or ""."""

    picture: Picture
    state: str
    tone: str
    alt: str


class ShotRow(NamedTuple):
    """What was given to the editors, and what each made of it."""

    title: str
    given: Shot
    shots: tuple[Shot, ...]


class Sheet(NamedTuple):
    """All of one image."""

    item: str
    prompt: str
    rows: tuple[ShotRow, ...]


class Gallery(NamedTuple):
    """Sheets of one subject under its first edit; editors: the columns."""

    subject: str
    edit: str
    anchor: str
    editors: tuple[str, ...]
    sheets: tuple[Sheet, ...]
    is_cut: bool


class _Line(NamedTuple):
    """A row of a sheet, as labels of cells: of the images given, and of each editor's edits."""

    title: str
    given: str
    cells: Mapping[str, str]
    is_shield: bool


def galleries(record: Record, found: Protections, most: int, redact: bool) -> list[Gallery]:
    """Return the first `most` images of each subject with their edits, in the suite's order."""
    items: dict[str, dict[str, Item]] = {}
    for item in record.items:
        items.setdefault(item.cell, {})[item.item] = item
    shown = []
    firsts = {part.place.subject: part for part in reversed(found.parts)}
    for part in sorted(firsts.values(), key=found.parts.index):
        editors = [editor.name for editor in part.editors][:MOST_EDITORS]
        lines = list(_lines(record, part))
        labels = [label for line in lines for label in line.cells.values()]
        known = (item for label in labels for item in items.get(label, {}).values())
        names = dict.fromkeys(item.item for item in known if item.artifacts)
        room = MOST_SHOTS // max(1, len(lines) * (len(editors) + 1))
        kept = list(names)[: min(most, max(1, room))]
        sheets = [_sheet(record, name, lines, editors, items, redact) for name in kept]
        if sheets:
            shown.append(
                Gallery(
                    *part.place,
                    f"{part.anchor}-images",
                    tuple(editors),
                    tuple(sheets),
                    len(part.editors) > len(editors),
                )
            )
    return shown


def _lines(record: Record, part: Part) -> Iterator[_Line]:
    """Yield the rows of every sheet: nothing, then noise and protection of each that is shown."""
    cells = [
        cell
        for cell in rows(record.results.get("cells"))
        if text(cell.get("subject")) == part.place.subject and not text(cell.get("purifier"))
    ]
    made = {key_of(c, *_MADE): text(c.get("label")) for c in cells if c.get("kind") == "protect"}
    edits = [cell for cell in cells if text(cell.get("edit")) and Place.of(cell) == part.place]
    yield _Line("Unprotected", "", _labels(c for c in edits if c.get("kind") == "clean"), False)
    done: set[tuple[str, ...]] = set()
    for row in _chosen(part):
        wanted = {net.cell for net in row.nets.values()}
        mine = [cell for cell in edits if text(cell.get("label")) in wanted]
        if not mine:
            continue
        radius = key_of(mine[0], *_RADIUS)
        controls = [cell for cell in edits if cell.get("kind") == "control"]
        noise = [cell for cell in controls if key_of(cell, *_RADIUS) == radius]
        if noise and radius not in done:
            given = made.get(key_of(noise[0], *_MADE), "")
            yield _Line(f"Noise {row.shield.epsilon}", given, _labels(noise), False)
        done.add(radius)
        given = made.get(key_of(mine[0], *_MADE), "")
        made_on = f", made on {row.shield.made_on}" if row.shield.made_on else ""
        yield _Line(f"{row.shield.label}{made_on}", given, _labels(mine), True)


def _labels(cells: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {editor_of(cell): text(cell.get("label")) for cell in cells}


def _chosen(part: Part) -> list[GridRow]:
    """Return the protection with the highest mean net effect, and that with most displacement."""
    every = [row for grid in part.grids if grid.kind == "none" for row in grid.rows]
    best = max(every, key=lambda row: _mean(_net(net) for net in row.nets.values()), default=None)
    far = max(every, key=lambda row: _mean(_moved(net) for net in row.nets.values()), default=None)
    found = [row for row in (best, far) if row is not None]
    return found[:1] if best is far else found


def _net(net: Net) -> float | None:
    return None if net.invalid else net.net.value


def _moved(net: Net) -> float | None:
    if "lpips" in net.moved:
        return net.moved["lpips"].difference.value
    lost = net.moved["psnr"].difference.value if "psnr" in net.moved else None
    return None if lost is None else -lost


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return fmean(known) if known else float("-inf")


def _sheet(
    record: Record,
    name: str,
    lines: Sequence[_Line],
    editors: Sequence[str],
    items: Mapping[str, Mapping[str, Item]],
    redact: bool,
) -> Sheet:
    shown = []
    prompt = ""
    clean = {editor: items.get(label, {}).get(name) for editor, label in lines[0].cells.items()}
    # Where the edit fails without any protection, that it fails under one is no merit of it.
    able = {editor for editor, item in clean.items() if item and item.success}
    for line in lines:
        shots = []
        for editor in editors:
            item = items.get(line.cells.get(editor, ""), {}).get(name)
            prompt = prompt or (item.prompt if item else "")
            told = f"{titled(editor)}, image {name}, {line.title}"
            shots.append(_shot(record, item, told, redact, line.is_shield and editor in able))
        alt = f"Given to the editors, image {name}, {line.title}"
        plain = Picture("", 0, 0, NOT_KEPT)
        if line.given:
            plain = _image(record, items.get(line.given, {}).get(name), redact)
        shown.append(ShotRow(line.title, Shot(plain, "", "", alt), tuple(shots)))
    return Sheet(name, prompt, tuple(shown))


def _image(record: Record, item: Item | None, redact: bool) -> Picture:
    if item is None or not item.artifacts:
        return Picture("", 0, 0, "no image kept")
    if redact:
        return Picture("", 0, 0, "withheld")
    return picture(record.folder, item.artifacts[0], LARGEST)


def _shot(record: Record, item: Item | None, told: str, redact: bool, is_counted: bool) -> Shot:
    state, tone = _state(item)
    return Shot(_image(record, item, redact), state, tone if is_counted else "", f"{told}: {state}")


def _state(item: Item | None) -> tuple[str, str]:
    if item is None:
        return "not in the run", ""
    if item.status != "ok":
        return item.status, ""
    if item.success:
        return "as asked", "through"
    told = mapping(item.extra).get("abstained")
    is_ruined = isinstance(told, list) and bool(told) and bool(number(told[0]))
    return "ruined" if is_ruined else "not as asked", "stopped"


def missing(found: Iterable[Gallery]) -> list[str]:
    """Return the problems of shots whose picture should have been there."""
    return [
        f"Image of {shot.alt}: {shot.picture.problem}."
        for gallery in found
        for sheet in gallery.sheets
        for row in sheet.rows
        for shot in (row.given, *row.shots)
        if shot.picture.problem not in ("", "withheld", "no image kept", NOT_KEPT)
    ]
