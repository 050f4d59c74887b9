"""The table of what came back: each way to a student, what it did, and what explains it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safetybench.wording import component

from ._load import Record
from ._pairs import PairRow
from ._text import count, mapping, number, rate, rows, text

_WAYS = {"plug": "plugged into the teacher", "targets": "ready"}


@dataclass(frozen=True, kw_only=True)
class TransferRow:
    """One student on one subject, beside what it is compared with.

    rates: of each training that counts; traits: what explains the student, in words.
    """

    pair: PairRow
    made: str
    rates: tuple[float, ...]
    left_out: int
    floor: float | None
    control: float | None
    utility: float | None
    traits: tuple[str, ...]


def transfer_rows(record: Record, pairs: Sequence[PairRow]) -> list[TransferRow]:
    """Return the students in the order of results.json: what came back most comes first."""
    known = {(p.subject, p.student): p for p in pairs if not p.is_utility and p.student}
    found = []
    for row in rows(record.results.get("transfer")):
        pair = known.get((text(row.get("subject")), text(row.get("student"))))
        if pair is not None:
            found.append(_row(row, pair))
    return found


def _row(row: Mapping[str, Any], pair: PairRow) -> TransferRow:
    rates = row.get("rates") if isinstance(row.get("rates"), list) else []
    used, planned = (number(row.get(k)) or 0 for k in ("trainings", "planned_trainings"))
    way = text(row.get("way"))
    return TransferRow(
        pair=pair,
        made=component(text(row.get("recipe"))) or _WAYS.get(way, way),
        rates=tuple(v for v in map(number, rates or []) if v is not None),
        left_out=int(planned - used),
        floor=number(row.get("floor")),
        control=number(row.get("control_rate")),
        utility=number(row.get("utility")),
        traits=tuple(_traits(mapping(row.get("traits")))),
    )


def _traits(found: Mapping[str, Any]) -> Iterator[str]:
    if not found:
        return
    steps = number(found.get("steps"))
    yield f"{count(steps)} step{'' if steps == 1 else 's'}"
    survives = found.get("guidance_survives") is True
    yield "takes guidance" if survives else "takes no guidance"
    yield _data(text(found.get("data")), mapping(found.get("images")))
    named, prompts = number(found.get("naming")), number(found.get("prompts"))
    if named is not None and prompts:
        yield f"{rate(named / prompts)} of {count(prompts)} training prompts name the concept"
    elif text(found.get("trained_on")) not in ("", "unknown"):
        yield f"trained on {text(found.get('trained_on'))}"
    shared = found.get("shared_with_teacher")
    parts = [text(part) for part in shared] if isinstance(shared, list) else []
    if parts:
        yield f"the teacher's {', '.join(part.replace('_', ' ') for part in parts)}"


def _data(data: str, images: Mapping[str, Any]) -> str:
    told = {"none": "no images read", "real": "real images", "synthetic": "synthetic images"}
    found = told.get(data, "data unknown" if data in ("", "unknown") else f"data: {data}")
    if images:
        found = f"{count(images.get('count'))} {found}"
        without = text(images.get("without"))
        found += f" without {without}" if without else ", the concept among them"
    return found
