"""What the page shows of a subject, worked out from the record: its models, attacks, utility."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from safetybench.wording import component

from ._cells import ROLES, CellRow, Estimate, estimate, models_of
from ._load import Record
from ._pairs import PairRow
from ._text import number, rows, text

CONTROLS = ("control", "relearn-control")


class Lift(NamedTuple):
    """How far an attack is above a baseline: a control, or the floor."""

    baseline: str
    difference: Estimate
    p: float | None


@dataclass(frozen=True, kw_only=True)
class AttackRow:
    """One attack on one target, beside all that it must be compared with."""

    cell: CellRow
    clean: CellRow | None
    controls: Mapping[str, CellRow]
    floors: tuple[CellRow, ...]
    lifts: Mapping[str, Lift]

    @property
    def over_random(self) -> Lift | None:
        """Return the lift over the control that is made as the attack is, but without its aim."""
        named = component("attacks/prompts/random_prefix")
        found = self.lifts.get(named) or self.lifts.get(component(self.cell.attack))
        return found


class UtilityRow(NamedTuple):
    """One figure without attack, for each model that has it."""

    name: str
    direction: str
    cells: Mapping[str, CellRow]
    by_model: Mapping[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class SubjectView:
    """Everything about one subject except its figures and images.

    targets: by the name of the model. relearned: attacks that train the weights.
    """

    name: str
    concept: str
    anchor: str
    targets: Mapping[str, str]
    cells: tuple[CellRow, ...]
    pairs: tuple[PairRow, ...]
    attacks: tuple[AttackRow, ...]
    relearned: tuple[AttackRow, ...]
    controls: tuple[str, ...]
    baselines: tuple[str, ...]
    utility: tuple[UtilityRow, ...]


def subject_views(record: Record, cells: list[CellRow], pairs: list[PairRow]) -> list[SubjectView]:
    """Return the subjects in the order in which results.json names them first."""
    names = dict.fromkeys([c.subject for c in cells] + [p.subject for p in pairs])
    compared: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows(record.results.get("comparisons")):
        compared.setdefault(text(row.get("cell")), []).append(row)
    # A transfer run trains each student several times, and tells of all trainings in its table.
    is_pooled = "transfer" in record.results
    return [
        _subject_view(name, f"subject-{i}", cells, pairs, compared, is_pooled)
        for i, name in enumerate(names, 1)
    ]


def _subject_view(
    name: str,
    anchor: str,
    cells: Sequence[CellRow],
    pairs: Sequence[PairRow],
    compared: Mapping[str, Sequence[Mapping[str, Any]]],
    is_pooled: bool,
) -> SubjectView:
    mine = [cell for cell in cells if cell.subject == name]
    ours = tuple(pair for pair in pairs if pair.subject == name)
    attacks, relearned = (
        tuple(_attack_row(cell, mine, compared) for cell in mine if cell.kind == kind)
        for kind in ("attack", "relearn")
    )
    controls = dict.fromkeys(control for row in attacks for control in row.controls)
    single = [c for c in mine if c.role in ROLES and not (is_pooled and c.student)]
    by_model = {cell.who: cell.target for cell in single}
    return SubjectView(
        name=name,
        concept=next(
            (c for c in [*(c.concept for c in mine), *(p.concept for p in ours)] if c), ""
        ),
        anchor=anchor,
        targets={who: by_model[who] for who in models_of(single)},
        cells=tuple(mine),
        pairs=ours,
        attacks=attacks,
        relearned=relearned,
        controls=tuple(controls),
        baselines=tuple(dict.fromkeys(name for row in attacks for name in row.lifts)),
        utility=tuple(_utility_rows(single)),
    )


def _attack_row(
    cell: CellRow,
    cells: Sequence[CellRow],
    by_cell: Mapping[str, Sequence[Mapping[str, Any]]],
) -> AttackRow:
    nameless = [row for row in by_cell.get("", ()) if _is_about(row, cell)]
    compared = [*by_cell.get(cell.label, ()), *nameless]
    baselines = {text(row.get("baseline_cell")) for row in compared}
    beside = [c for c in cells if c.who == cell.who]
    found = [c for c in beside if c.label in baselines] or _likely_controls(cell, beside)
    return AttackRow(
        cell=cell,
        clean=next((c for c in beside if c.kind == "clean"), None),
        controls={component(c.attack): c for c in found if c.kind in CONTROLS},
        floors=tuple(c for c in found if c.kind == "floor"),
        lifts={lift.baseline: lift for lift in map(_lift, compared)},
    )


def _likely_controls(cell: CellRow, beside: Iterable[CellRow]) -> list[CellRow]:
    """Return what an attack without a comparison is to be held against."""
    mine = (cell.seed, cell.images)
    if cell.kind == "relearn":
        twins = (c for c in beside if c.kind == "relearn-control" and c.attack == cell.attack)
        return [c for c in twins if (c.seed, c.spend) == (cell.seed, cell.spend)]
    return [c for c in beside if c.kind in ("control", "floor") and (c.seed, c.images) == mine]


def _is_about(row: Mapping[str, Any], cell: CellRow) -> bool:
    place = tuple(text(row.get(key)) for key in ("subject", "role", "student", "attack"))
    return place == (cell.subject, cell.role, cell.student, cell.attack)


def _lift(row: Mapping[str, Any]) -> Lift:
    is_floor = row.get("kind") == "over-floor"
    return Lift(
        "the floor" if is_floor else component(text(row.get("baseline"))),
        estimate(row.get("value"), row.get("interval"), row.get("n")),
        number(row.get("p_value")),
    )


def _utility_rows(some: Iterable[CellRow]) -> Iterable[UtilityRow]:
    """Yield what models do without attack: show the concept, keep the rest."""
    cells = list(some)
    for kind, name, direction in (
        ("clean", "Shows the concept", "lower is safer"),
        ("utility", "Draws other concepts as asked", "higher is better"),
    ):
        mine = {cell.who: cell for cell in cells if cell.kind == kind}
        if mine:
            yield UtilityRow(name, direction, mine, {r: c.rate for r, c in mine.items()})
        alike = {r: Estimate(c.similarity) for r, c in mine.items() if c.similarity is not None}
        if alike:
            where = "the prompts on the concept" if kind == "clean" else "prompts on others"
            yield UtilityRow("Keeps the rest of the prompt", f"on {where}", mine, alike)
