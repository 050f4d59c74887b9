"""All subjects side by side: verdicts by attack, attack success by method, every model in a line.

With many subjects and models these tables are what a reader meets first; all else opens on demand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ._cells import ROLES, CellRow, Estimate, models_of
from ._measures import Figure, MeasureTable
from ._pairs import PairRow
from ._text import titled
from ._view import AttackRow, Lift, SubjectView


class Column(NamedTuple):
    """An attack as the head of a column."""

    name: str
    is_oracle: bool


class MatrixRow(NamedTuple):
    """The verdicts of one subject through one student, by condition."""

    subject: str
    anchor: str
    student: str
    pairs: Mapping[str, PairRow]


class Matrix(NamedTuple):
    """Verdicts by subject and condition."""

    columns: tuple[Column, ...]
    rows: tuple[MatrixRow, ...]


class HeatCell(NamedTuple):
    """Success of one attack on one model; heat: tenths of the rate, for its colour."""

    rate: Estimate
    heat: int
    lift: Lift | None
    is_valid: bool


class HeatRow(NamedTuple):
    """One subject, or one model of one, under every attack; anchor: "" where it leads nowhere."""

    name: str
    anchor: str
    cells: Mapping[str, HeatCell]


class HeatTable(NamedTuple):
    """Attack success on the models of one role, or on one student, by subject and attack."""

    who: str
    columns: tuple[Column, ...]
    rows: tuple[HeatRow, ...]


class ModelLine(NamedTuple):
    """One model of a subject in one line; number: of its mark in the figure, 0 for none."""

    subject: str
    anchor: str
    who: str
    role: str
    forgetting: Figure | None
    retained: Figure | None
    leak: Figure | None
    half_life: Figure | None
    strongest: CellRow | None
    number: int


def matrix(pairs: Sequence[PairRow], subjects: Iterable[SubjectView]) -> Matrix:
    """Return the verdicts of pairs, a row for each student of a subject."""
    anchors = {subject.name: subject.anchor for subject in subjects}
    columns = {pair.condition: Column(pair.condition, pair.is_oracle) for pair in pairs}
    found: dict[tuple[str, str], dict[str, PairRow]] = {}
    for pair in pairs:
        found.setdefault((pair.subject, pair.through), {})[pair.condition] = pair
    ordered = sorted(columns.values(), key=lambda column: column.is_oracle)
    return Matrix(
        tuple(ordered),
        tuple(MatrixRow(subject, anchors.get(subject, ""), student, mine)
              for (subject, student), mine in found.items()),
    )  # fmt: skip


def subject_heat(subject: SubjectView) -> HeatTable:
    """Return attack success on one subject, a row for each model."""
    rows = (*subject.attacks, *subject.relearned)
    columns = {_name(row): Column(_name(row), row.cell.is_oracle) for row in rows}
    ordered = sorted(columns.values(), key=lambda column: column.is_oracle)
    models = models_of(row.cell for row in rows)
    found = [
        HeatRow(
            titled(who), "", {_name(row): _heat_cell(row) for row in rows if row.cell.who == who}
        )
        for who in models
    ]
    return HeatTable(subject.name, tuple(ordered), tuple(found))


def heat_tables(subjects: Sequence[SubjectView]) -> list[HeatTable]:
    """Return a table for each model that was attacked, teachers first."""
    rows = [row for subject in subjects for row in (*subject.attacks, *subject.relearned)]
    place = {role: i for i, role in enumerate(ROLES)}
    ordered = sorted(rows, key=lambda row: place.get(row.cell.role, len(ROLES)))
    return [_heat_table(who, subjects) for who in dict.fromkeys(row.cell.who for row in ordered)]


def _heat_table(who: str, subjects: Iterable[SubjectView]) -> HeatTable:
    columns: dict[str, Column] = {}
    found = []
    for subject in subjects:
        mine = [r for r in (*subject.attacks, *subject.relearned) if r.cell.who == who]
        columns |= {_name(row): Column(_name(row), row.cell.is_oracle) for row in mine}
        if mine:
            cells = {_name(row): _heat_cell(row) for row in mine}
            found.append(HeatRow(subject.name, subject.anchor, cells))
    ordered = sorted(columns.values(), key=lambda column: column.is_oracle)
    return HeatTable(who, tuple(ordered), tuple(found))


def _name(row: AttackRow) -> str:
    return row.cell.name


def _heat_cell(row: AttackRow) -> HeatCell:
    value = row.cell.rate.value or 0.0
    heat = round(10 * min(max(value, 0.0), 1.0))
    return HeatCell(row.cell.rate, heat, row.over_random, row.cell.is_valid)


def strongest(cells: Iterable[CellRow]) -> CellRow | None:
    """Return the attack with the highest success; an oracle is none, nor is an invalid cell."""
    known = [
        cell
        for cell in cells
        if cell.kind == "attack" and cell.is_valid and not cell.is_oracle
        and cell.rate.value is not None
    ]  # fmt: skip
    return max(known, key=lambda cell: cell.rate.value or 0.0, default=None)


def model_lines(
    subjects: Iterable[SubjectView], tables: Mapping[str, MeasureTable]
) -> list[ModelLine]:
    """Return every model that has measures; those with both figures of the plot get a number."""
    found: list[ModelLine] = []
    numbered = 0
    for subject in subjects:
        table = tables.get(subject.name)
        for who in table.models if table else ():
            assert table is not None
            mine = [cell for cell in subject.cells if cell.who == who]
            forgetting, retained, leak, half_life = (
                table.first(name, who)
                for name in ("forgetting", "retain-same", "implicit-leak", "half-life")
            )
            has_both = is_known(forgetting) and is_known(retained)
            numbered += has_both
            found.append(
                ModelLine(
                    subject=subject.name,
                    anchor=subject.anchor,
                    who=who,
                    role=next((cell.role for cell in mine), ""),
                    forgetting=forgetting,
                    retained=retained,
                    leak=leak,
                    half_life=half_life,
                    strongest=strongest(mine),
                    number=numbered if has_both else 0,
                )
            )
    return found


def is_known(figure: Figure | None) -> bool:
    """Tell whether a figure was measured, on a model that is not broken."""
    return figure is not None and figure.is_valid and figure.estimate.value is not None
