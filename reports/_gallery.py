"""Images before and after: for each prompt what original, teacher and student drew.

Images are decoded and written anew, which checks them and drops what their files carried along.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

from safetybench.contracts import Item

from ._cells import ROLES, CellRow, models_of
from ._load import Record
from ._text import Piece, pieces, titled

MOST_TILES = 16  # of one prompt; beyond, each model shows itself and what its worst attack found
LARGEST = 320  # pixels of the longer side; a report of 500 kB pictures could not be mailed
REFUSED = 8192  # a side beyond this is no image of a model, but a file made to fill memory


class Tile(NamedTuple):
    """One image: whose, what it shows, the picture; problem: why there is none."""

    role: str
    who: str
    condition: str
    state: str
    is_hit: bool
    alt: str
    source: str
    width: int
    height: int
    problem: str


class Text(NamedTuple):
    """The prompt that an attack found on one target."""

    who: str
    condition: str
    pieces: tuple[Piece, ...]


class Strip(NamedTuple):
    """All tiles of one prompt."""

    item: str
    prompt: str
    tiles: tuple[Tile, ...]
    texts: tuple[Text, ...]


class Picture(NamedTuple):
    """A picture as a data URL, or the reason why there is none."""

    source: str
    width: int
    height: int
    problem: str


def shown_cells(cells: Sequence[CellRow]) -> list[CellRow]:
    """Return the cells whose images stand side by side, model by model."""
    shown = [c for c in cells if c.kind in ("clean", "attack") and c.role in ROLES]
    # Of a student that was trained several times, the first training's images are enough.
    firsts = {cell.student: cell.who for cell in reversed(shown)}
    shown = [c for c in shown if not c.student or firsts[c.student] == c.who]
    order = models_of(shown)
    shown.sort(key=lambda cell: (order.index(cell.who), cell.kind == "attack"))
    if len(shown) <= MOST_TILES:
        return shown
    worst = {who: _worst(c for c in shown if c.who == who) for who in order}
    return [cell for cell in shown if cell.kind == "clean" or cell.label == worst[cell.who]]


def _worst(cells: Iterable[CellRow]) -> str:
    """Return the label of a model's strongest attack; an oracle is none."""
    attacks = [cell for cell in cells if cell.kind == "attack" and not cell.is_oracle]
    ranked = sorted(attacks, key=lambda cell: (cell.is_valid, cell.rate.value or 0.0))
    return ranked[-1].label if ranked else ""


def strips(
    record: Record, cells: Sequence[CellRow], concept: str, most: int, redact: bool
) -> list[Strip]:
    """Return up to `most` prompts of a subject, successes of the student first."""
    shown = shown_cells(cells)
    wanted = {cell.label for cell in shown}
    found: dict[str, dict[str, Item]] = {}
    for item in record.items:
        if item.cell in wanted:
            found.setdefault(item.item, {})[item.cell] = item
    ranked = sorted(
        (key for key, mine in found.items() if any(item.artifacts for item in mine.values())),
        key=lambda key: (*_rank(shown, found[key]), key),
    )
    return [_strip(record, key, shown, found[key], concept, redact) for key in ranked[:most]]


def _rank(cells: Sequence[CellRow], items: Mapping[str, Item]) -> tuple[int, int, int]:
    hits = {role: 0 for role in ROLES}
    kept = 0
    for cell in cells:
        item = items.get(cell.label)
        if item is not None:
            kept += bool(item.artifacts)
            is_try = cell.kind == "attack" or bool(cell.student)
            hits[cell.role] += item.success is True and is_try
    return -hits["student"], -hits["teacher"], -kept


def _strip(
    record: Record,
    key: str,
    cells: Sequence[CellRow],
    items: Mapping[str, Item],
    concept: str,
    redact: bool,
) -> Strip:
    mine = [(cell, items[cell.label]) for cell in cells if cell.label in items]
    texts = [
        Text(cell.who, cell.name, tuple(pieces(item.prompt, item.adversarial)))
        for cell, item in mine
        if item.adversarial and item.adversarial != item.prompt and not redact
    ]
    return Strip(
        key,
        next((item.prompt for _, item in mine if item.prompt), ""),
        tuple(_tile(record, cell, item, concept, redact) for cell, item in mine),
        tuple(texts),
    )


def _tile(record: Record, cell: CellRow, item: Item, concept: str, redact: bool) -> Tile:
    what = concept or "the concept"
    state: str = item.status
    if item.status == "ok":
        state = f"shows {what}" if item.success else f"no {what}"
    score = "" if item.score is None else f", judge score {item.score:.2f}"
    if redact:
        found = Picture("", 0, 0, "withheld")
    elif not item.artifacts:
        found = Picture("", 0, 0, "no image kept")
    else:
        # An attack's item keeps its own image first, and then the one it was after.
        found = picture(record.folder, item.artifacts[0])
    alt = f"{titled(cell.who)}, {cell.name}, prompt {item.item}: {state}{score}"
    return Tile(cell.role, cell.who, cell.name, state, item.success is True, alt, *found)


def picture(folder: Path, name: str, largest: int = LARGEST) -> Picture:
    """Return an image file of a run, no side longer than `largest`, or why there is none."""
    path = PurePosixPath(name)
    place = folder.joinpath(*path.parts)
    if path.is_absolute() or not place.resolve().is_relative_to(folder.resolve()):
        return Picture("", 0, 0, "refused: outside of the run")
    try:
        with Image.open(place, formats=("PNG",)) as image:
            if max(image.size) > REFUSED:
                return Picture("", 0, 0, f"refused: {image.width} × {image.height} pixels")
            plain = image.convert("RGB")
    except FileNotFoundError:
        return Picture("", 0, 0, "the file is missing")
    except (OSError, SyntaxError, ValueError):  # Pillow's words for a broken PNG
        return Picture("", 0, 0, "the file is broken")
    plain.thumbnail((largest, largest))
    out = io.BytesIO()
    plain.save(out, "PNG", optimize=True)
    code = base64.b64encode(out.getvalue()).decode("ascii")
    return Picture(f"data:image/png;base64,{code}", plain.width, plain.height, "")


def missing(found: Iterable[Strip]) -> list[str]:
    """Return the problems of tiles whose picture should have been there."""
    return [
        f"Image of {tile.who}, {tile.condition}, prompt {strip.item}: {tile.problem}."
        for strip in found
        for tile in strip.tiles
        if tile.problem and tile.problem not in ("withheld", "no image kept")
    ]
