"""The cells of results.json as the page shows them: who, what, the figure, the counts, the cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ._load import COSTS, STATUSES, Record
from ._names import cell_names, is_oracle, model_name
from ._text import budget, mapping, number, rows, text

ROLES = ("original", "teacher", "student")


class Estimate(NamedTuple):
    """A figure with its interval; None where it was not measured."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: float | None = None
    level: float | None = None


@dataclass(frozen=True, kw_only=True)
class CellRow:
    """One cell: who, what, how many items ended how, the figure, the cost.

    who: name of its model; curve_at: training steps of each value of the curve, if it has any.
    """

    label: str
    anchor: str
    subject: str
    concept: str
    role: str
    who: str
    target: str
    kind: str
    attack: str
    is_oracle: bool
    name: str
    seed: str
    student: str
    metric: str
    images: float | None
    spend: str
    sees: str
    counts: Mapping[str, int]
    n: int
    rate: Estimate
    worst: float | None
    similarity: float | None
    images_used: float | None
    curve: tuple[float, ...]
    curve_at: tuple[float, ...]
    cost: Mapping[str, Any]
    is_higher_safer: bool
    is_valid: bool
    reason: str


def estimate(value: Any, interval: Any, n: Any = None) -> Estimate:
    """Read a figure and its interval from their JSON."""
    span = mapping(interval)
    return Estimate(
        number(value),
        number(span.get("low")),
        number(span.get("high")),
        number(n),
        number(span.get("level")),
    )


def cell_rows(record: Record) -> list[CellRow]:
    """Return every cell of results.json in its order."""
    cells = rows(record.results.get("cells"))
    return [
        _cell_row(cell, name, record.costs.get(text(cell.get("label")), {}), f"cell-{position}")
        for position, (cell, name) in enumerate(zip(cells, cell_names(cells), strict=True), 1)
    ]


def _cell_row(
    cell: Mapping[str, Any], name: str, costs: Mapping[str, float], anchor: str
) -> CellRow:
    label, attack, kind = (text(cell.get(key)) for key in ("label", "attack", "kind"))
    counts = {status: int(number(cell.get(f"n_{status}")) or 0) for status in STATUSES}
    left_out = counts["unjudged"] + counts["failed"]
    return CellRow(
        label=label,
        anchor=anchor,
        subject=text(cell.get("subject")),
        concept=text(cell.get("concept")),
        role=text(cell.get("role")),
        who=model_name(cell),
        target=text(cell.get("target")),
        kind=kind,
        attack=attack,
        is_oracle=is_oracle(cell),
        name=name,
        seed=text(cell.get("seed")),
        student=text(cell.get("student")),
        metric=text(cell.get("metric")) or "asr",
        images=number(mapping(cell.get("budget")).get("images")),
        spend=budget(cell.get("budget")) if attack else "",
        sees=_sees(cell),
        counts=counts,
        n=int(number(cell.get("n")) or 0),
        rate=estimate(cell.get("value"), cell.get("interval"), counts["ok"]),
        worst=number(cell.get("worst_case")) if left_out else None,
        similarity=number(cell.get("similarity")),
        images_used=number(cell.get("images_used")),
        curve=_numbers(cell.get("curve")),
        curve_at=_numbers(cell.get("curve_at")),
        cost=dict.fromkeys(COSTS) | dict(mapping(cell.get("cost")) or costs),
        is_higher_safer=cell.get("higher_is_safer") is True,
        is_valid=cell.get("valid") is not False,
        reason=text(cell.get("invalid_reason")),
    )


def _numbers(found: Any) -> tuple[float, ...]:
    values = map(number, found if isinstance(found, list) else [])
    return tuple(value for value in values if value is not None)


def _sees(cell: Mapping[str, Any]) -> str:
    """Say what the attack uses, and whether it knows the defense it is up against."""
    sees = text(cell.get("sees"))
    blind = "not the defense" if cell.get("sees_defense") is False else ""
    found = ", ".join(filter(None, (sees, blind)))
    return f"sees {found}" if found else ""


def models_of(cells: Iterable[CellRow]) -> list[str]:
    """Return the names of models, the original first, each once."""
    place = {role: i for i, role in enumerate(ROLES)}
    ordered = sorted(cells, key=lambda cell: place.get(cell.role, len(ROLES)))
    return list(dict.fromkeys(cell.who for cell in ordered))


def total_counts(cells: Iterable[CellRow]) -> dict[str, int]:
    """Sum the items of cells by status; nothing is left out."""
    known = list(cells)
    return {status: sum(cell.counts[status] for cell in known) for status in STATUSES}
