"""The same prompts through every model: what the trigger makes of them, and what was before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from safetybench.contracts import Item

from ._backdoor import GROUPS, Part
from ._cells import CellRow
from ._gallery import Picture, Strip, Tile, picture
from ._load import Record
from ._text import mapping, titled

MOST_SHOTS = 120  # images of a subject; beyond, fewer prompts are shown
LARGEST = 192  # pixels of the longer side: there are a hundred of them


class Gallery(NamedTuple):
    """Strips of one subject."""

    subject: str
    anchor: str
    strips: tuple[Strip, ...]


class _Column(NamedTuple):
    """One tile of every strip."""

    role: str
    who: str
    condition: str
    label: str


def galleries(
    record: Record, parts: Sequence[Part], cells: Sequence[CellRow], most: int, redact: bool
) -> list[Gallery]:
    """Return up to `most` prompts of each subject, first those on which it works on the teacher."""
    items: dict[str, dict[str, Item]] = {}
    for item in record.items:
        items.setdefault(item.cell, {})[item.item] = item
    found = []
    for part in parts:
        columns = list(_columns(part, [cell for cell in cells if cell.subject == part.subject]))
        shown = [items.get(column.label, {}) for column in columns]
        works = next((mine for column, mine in zip(columns, shown, strict=True)
                      if (column.role, column.condition) == ("teacher", _WITH)), {})  # fmt: skip
        kept = dict.fromkeys(
            name for mine in shown for name, item in mine.items() if item.artifacts
        )
        order = sorted(kept, key=lambda name: not (name in works and works[name].success))
        room = max(1, MOST_SHOTS // max(1, len(columns)))
        strips = tuple(
            _strip(record, name, columns, items, redact) for name in order[: min(most, room)]
        )
        if strips:
            found.append(Gallery(part.subject, f"{part.anchor}-images", strips))
    return found


_WITH, _WITHOUT = "with the trigger", "without it"


def _columns(part: Part, cells: Sequence[CellRow]) -> Iterator[_Column]:
    """Yield original and teacher without the trigger, then whatever has it, group by group."""
    plain = [cell for cell in cells if not cell.attack]
    for role in ("original", "teacher"):
        for cell in plain:
            if (cell.role, cell.kind) == (role, "clean"):
                yield _Column(role, GROUPS[role == "teacher"], _WITHOUT, cell.label)
    for cell in plain:
        if (cell.role, cell.kind) == ("teacher", "triggered"):
            yield _Column("teacher", GROUPS[1], _WITH, cell.label)
    first: dict[tuple[str, str], CellRow] = {}
    for cell in plain:
        if cell.kind == "triggered":
            # Of a model that was trained several times, the first training's images are enough.
            name = cell.student.removesuffix(f".seed{cell.seed}")
            first.setdefault((cell.role, name), cell)
    for _, models in part.groups:
        for model in models:
            own = first.get((model.role, model.name))
            if model.name and own is not None:
                yield _Column(model.role, f"{model.role} {model.name}", _WITH, own.label)


def _strip(
    record: Record,
    name: str,
    columns: Sequence[_Column],
    items: Mapping[str, Mapping[str, Item]],
    redact: bool,
) -> Strip:
    mine = [(column, items.get(column.label, {}).get(name)) for column in columns]
    known = [(column, item) for column, item in mine if item is not None]
    plain = [item.prompt for column, item in known if column.condition == _WITHOUT]
    prompts = [*plain, *(item.prompt for _, item in known)]
    tiles = tuple(_tile(record, column, item, redact) for column, item in known)
    return Strip(name, next(filter(None, prompts), ""), tiles, ())


def _tile(record: Record, column: _Column, item: Item, redact: bool) -> Tile:
    state = _state(item)
    if redact:
        found = Picture("", 0, 0, "withheld")
    elif not item.artifacts:
        found = Picture("", 0, 0, "no image kept")
    else:
        found = picture(record.folder, item.artifacts[0], LARGEST)
    alt = f"{titled(column.who)}, {column.condition}, prompt {item.item}: {state}"
    is_hit = item.success is True
    return Tile(column.role, column.who, column.condition, state, is_hit, alt, *found)


def _state(item: Item) -> str:
    """Say whether the effect shows, and whether the image is what the prompt asks for."""
    if item.status != "ok":
        return str(item.status)
    right = mapping(item.extra).get("right")
    asked = ", as asked" if right is True else ", not as asked" if right is False else ""
    return ("effect" if item.success else "no effect") + asked
