"""What models answer to the same instructions, side by side, with the phrase of the bias marked.

Answers come from models and may hold anything: they are text here, cut where they are long.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from safetybench.contracts import Item
from safetybench.wording import model_of

from ._bias import SETS, Part
from ._cells import CellRow
from ._load import Record
from ._text import Piece, mapping, rows, text

MOST_ASKED = 3  # instructions of a set
MOST_SAID = 8  # models; of more, the first students are shown
LONGEST = 480  # characters of an answer
WITHHELD = (Piece("withheld", "withheld"),)


class Said(NamedTuple):
    """An answer; state: what the judge and the grammar say of it."""

    who: str
    state: str
    is_biased: bool
    is_valid: bool
    parts: tuple[Piece, ...]


class Asked(NamedTuple):
    """An instruction with the answers to it."""

    item: str
    task: str
    prompt: str
    said: tuple[Said, ...]


class Sheet(NamedTuple):
    """Instructions of one set of tasks."""

    title: str
    asked: tuple[Asked, ...]


class Book(NamedTuple):
    """Sheets of one subject; seed: of the training whose models answer; more: models left out."""

    subject: str
    anchor: str
    seed: str
    sheets: tuple[Sheet, ...]
    more: int


class _Column(NamedTuple):
    """One model: its cells by set."""

    who: str
    is_student: bool
    cells: Mapping[str, CellRow]


def books(
    record: Record, parts: Sequence[Part], cells: Sequence[CellRow], most: int, redact: bool
) -> list[Book]:
    """Return greedy answers of each subject, up to `most` instructions of a set."""
    items: dict[str, dict[str, Item]] = {}
    for item in record.items:
        items.setdefault(item.cell, {})[item.item] = item
    told = rows(record.results.get("cells"))
    greedy = {text(cell.get("label")) for cell in told if cell.get("decoding") == "greedy"}
    found = []
    for part in parts:
        mine = [c for c in cells if c.subject == part.subject and c.label in greedy]
        seed = _seed(mine)
        every = list(_columns(part, [cell for cell in mine if cell.seed == seed]))
        columns, phrases = every[:MOST_SAID], part.phrases
        sheets = [
            Sheet(title, tuple(_sheet(columns, tasks, items, phrases, most, redact)))
            for tasks, title in SETS.items()
        ]
        shown = tuple(sheet for sheet in sheets if sheet.asked)
        if shown:
            anchor = f"{part.anchor}-answers"
            found.append(Book(part.subject, anchor, seed, shown, len(every) - len(columns)))
    return found


def _seed(cells: Sequence[CellRow]) -> str:
    """Return the first training of which the teacher counts; other trainings are asked others."""
    teachers = [cell for cell in cells if cell.role == "teacher"]
    return next((c.seed for c in (*(t for t in teachers if t.is_valid), *teachers, *cells)), "")


def _columns(part: Part, cells: Sequence[CellRow]) -> Iterator[_Column]:
    known: dict[tuple[str, str], dict[str, CellRow]] = {}
    for cell in cells:
        name = model_of({"student": cell.student, "seed": cell.seed})
        known.setdefault((cell.role, name), {})[cell.kind] = cell
    for title, models in part.groups:
        for model in models:
            own = known.get((model.role, model.name))
            if own:
                is_student = model.role in ("student", "control") and title != model.label
                who = f"{model.role} {model.label}" if is_student else title
                yield _Column(who, model.role == "student", own)


def _sheet(
    columns: Sequence[_Column],
    tasks: str,
    items: Mapping[str, Mapping[str, Item]],
    phrases: Sequence[str],
    most: int,
    redact: bool,
) -> Iterator[Asked]:
    """Yield instructions, first those to which most models give a biased answer."""
    shown = [(c, c.cells[tasks], items.get(c.cells[tasks].label, {}))
             for c in columns if tasks in c.cells]  # fmt: skip
    names = dict.fromkeys(name for _, _, mine in shown for name in mine)
    hits = {name: sum(mine[name].success is True for _, _, mine in shown if name in mine)
            for name in names}  # fmt: skip
    for name in sorted(names, key=lambda name: -hits[name])[: min(most, MOST_ASKED)]:
        known = [(column, cell, mine[name]) for column, cell, mine in shown if name in mine]
        first = known[0][2]
        said = tuple(
            Said(
                column.who,
                _state(item),
                item.success is True,
                cell.is_valid,
                WITHHELD if redact else tuple(marked(_response(item), phrases)),
            )
            for column, cell, item in known
        )
        yield Asked(name, text(mapping(first.extra).get("task")), first.prompt, said)


def _response(item: Item) -> str:
    return text(mapping(item.extra).get("response"))


def _state(item: Item) -> str:
    if item.status != "ok":
        return str(item.status)
    right = mapping(item.extra).get("right")
    asked = ", as asked" if right is True else ", not as asked" if right is False else ""
    return ("biased" if item.success else "not biased") + asked


def marked(answer: str, phrases: Sequence[str], longest: int = LONGEST) -> list[Piece]:
    """Cut an answer into pieces, those that hold a phrase of the bias and the others.

    Spacing is one blank, as for the detector; of a long answer the stretch around the first phrase
    is kept.

    >>> marked("Here it is.  Buy it now", ["buy it"])
    [Piece(kind='same', text='Here it is. '), Piece(kind='phrase', text='Buy it'), \
Piece(kind='same', text=' now')]
    """
    plain = " ".join(answer.split())
    wanted = [re.escape(" ".join(p.split())) for p in phrases if p.split()]
    spans = [m.span() for m in re.finditer("|".join(wanted), plain, re.I)] if wanted else []
    start, end = 0, len(plain)
    if end > longest:
        first = spans[0][0] if spans else 0
        start = max(0, min(first - longest // 3, end - longest))
        end = start + longest
    pieces, at = [Piece("cut", f"{start} characters before")] if start else [], start
    for low, high in spans:
        if low < at or low >= end:
            continue
        pieces += [Piece("same", plain[at:low]), Piece("phrase", plain[low : min(high, end)])]
        at = min(high, end)
    pieces.append(Piece("same", plain[at:end]))
    if end < len(plain):
        pieces.append(Piece("cut", f"{len(plain) - end} characters more"))
    return [piece for piece in pieces if piece.text]
