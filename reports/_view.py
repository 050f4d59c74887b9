"""What the page shows, worked out from the record: pairs, attacks, utility, counts, cost.

Nothing here decides a verdict; rows that rest on an invalid measurement are marked as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from safetybench.stats import wilson
from safetybench.wording import component

from ._load import COSTS, STATUSES, Record
from ._names import cell_names
from ._text import budget, mapping, number, rows, text

ROLES = ("original", "teacher", "student")
NO_ATTACK, OTHERS = "no attack", "other concepts"


class Estimate(NamedTuple):
    """A figure with its interval; None where it was not measured."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: float | None = None
    level: float | None = None


@dataclass(frozen=True, kw_only=True)
class CellRow:
    """One cell: who, what, how many items ended how, the figure, the cost."""

    label: str
    anchor: str
    subject: str
    role: str
    target: str
    kind: str
    attack: str
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
    cost: Mapping[str, Any]
    is_higher_safer: bool
    is_valid: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """Teacher and student on the same prompts; invalid: why the verdict does not hold.

    student: its name, where a run has several of one teacher.
    """

    subject: str
    concept: str
    condition: str
    student: str
    metric: str
    teacher: Estimate
    student_rate: Estimate
    difference: Estimate
    p: float | None
    correction: str
    verdict: str
    detectable: float | None
    reason: str
    invalid: str

    @property
    def shown(self) -> str:
        """Return the verdict that the page may show."""
        return "invalid" if self.invalid else self.verdict or "no verdict"

    @property
    def is_utility(self) -> bool:
        """Whether it is about other concepts, where a higher rate is better."""
        return self.metric == "utility"


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


class UtilityRow(NamedTuple):
    """One figure without attack, for each role that has it."""

    name: str
    direction: str
    cells: Mapping[str, CellRow]
    by_role: Mapping[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class SubjectView:
    """Everything about one subject except its figures and images."""

    name: str
    concept: str
    anchor: str
    roles: Mapping[str, str]
    cells: tuple[CellRow, ...]
    pairs: tuple[PairRow, ...]
    attacks: tuple[AttackRow, ...]
    controls: tuple[str, ...]
    baselines: tuple[str, ...]
    utility: tuple[UtilityRow, ...]


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
    curve = cell.get("curve") if isinstance(cell.get("curve"), list) else []
    left_out = counts["unjudged"] + counts["failed"]
    return CellRow(
        label=label,
        anchor=anchor,
        subject=text(cell.get("subject")),
        role=text(cell.get("role")),
        target=text(cell.get("target")),
        kind=kind,
        attack=attack,
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
        curve=tuple(v for v in map(number, curve or []) if v is not None),
        cost=dict.fromkeys(COSTS) | dict(mapping(cell.get("cost")) or costs),
        is_higher_safer=cell.get("higher_is_safer") is True,
        is_valid=cell.get("valid") is not False,
        reason=text(cell.get("invalid_reason")),
    )


def _sees(cell: Mapping[str, Any]) -> str:
    """Say what the attack uses, and whether it knows the defense it is up against."""
    sees = text(cell.get("sees"))
    blind = "not the defense" if cell.get("sees_defense") is False else ""
    found = ", ".join(filter(None, (sees, blind)))
    return f"sees {found}" if found else ""


def failed_checks(record: Record, *, warnings: bool = False) -> list[Mapping[str, Any]]:
    """Return the checks that did not pass and invalidate, or those that only warn."""
    return [
        check
        for check in rows(record.results.get("checks"))
        if check.get("passed") is not True and (check.get("effect") == "warning") is warnings
    ]


def pair_rows(record: Record, cells: Sequence[CellRow]) -> list[PairRow]:
    """Return every pair of results.json in its order."""
    return [_pair_row(record, pair, cells) for pair in rows(record.results.get("pairs"))]


def _pair_row(record: Record, pair: Mapping[str, Any], cells: Sequence[CellRow]) -> PairRow:
    subject, attack, metric = (text(pair.get(key)) for key in ("subject", "attack", "metric"))
    teacher, student = mapping(pair.get("teacher")), mapping(pair.get("student"))
    level = number(mapping(pair.get("interval")).get("level")) or 0.95
    corrected = number(pair.get("adjusted_p"))
    sides, name = _cells_of(pair, cells), text(student.get("name"))
    named = next((cell.name for cell in sides if cell.attack), component(attack))
    reason, invalid = text(pair.get("reason")), _why_invalid(record, subject, sides)
    if text(pair.get("verdict")) == "invalid":
        invalid = reason or invalid or "no reason was given"
    return PairRow(
        subject=subject,
        concept=text(pair.get("concept")),
        condition=name or (named if attack else OTHERS if metric == "utility" else NO_ATTACK),
        student=name,
        metric=metric or "asr",
        teacher=_side(teacher, pair.get("n"), level, metric),
        student_rate=_side(student, pair.get("n"), level, metric),
        difference=estimate(pair.get("difference"), pair.get("interval"), pair.get("n")),
        p=number(pair.get("p_value")) if corrected is None else corrected,
        correction="" if corrected is None else text(pair.get("correction")),
        verdict=text(pair.get("verdict")),
        detectable=number(pair.get("detectable")),
        reason=reason,
        invalid=invalid,
    )


def _cells_of(pair: Mapping[str, Any], cells: Sequence[CellRow]) -> list[CellRow]:
    """Return the two cells of a pair, by label or else by what they have in common."""
    # A student of several trainings has a cell of each, and its verdict says which of them count.
    roles = ("teacher",) if mapping(pair.get("student")).get("name") else ("teacher", "student")
    labels = {text(mapping(pair.get(role)).get("cell")) for role in roles}
    named = [cell for cell in cells if cell.label in labels - {""}]
    subject, attack, metric = (text(pair.get(key)) for key in ("subject", "attack", "metric"))
    return named or [
        cell
        for cell in cells
        if (cell.subject, cell.attack, cell.metric) == (subject, attack, metric or "asr")
        and cell.role in ("teacher", "student")
        and cell.kind in ("attack", "clean", "utility")
    ]


def _side(side: Mapping[str, Any], n: Any, level: float, metric: str) -> Estimate:
    """Return one side's rate; its interval is Wilson's where the file gives none."""
    given = estimate(side.get("rate"), side.get("interval"), n)
    if given.low is not None or given.value is None or given.n is None:
        return given
    hits = given.value * given.n
    is_share = metric in ("", "asr", "utility") and 0 <= given.value <= 1
    if not is_share or given.n < 1 or abs(hits - round(hits)) > 1e-6:
        return given
    span = wilson(round(hits), int(given.n), level)
    return given._replace(low=span.low, high=span.high, level=level)


def _why_invalid(record: Record, subject: str, sides: Iterable[CellRow]) -> str:
    for check in failed_checks(record):
        is_wide = not text(check.get("cell")) and text(check.get("subject")) in ("", subject)
        if is_wide:
            return f"{text(check.get('name'))}: {text(check.get('message'))}"
    broken = (cell for cell in sides if not cell.is_valid)
    return next((f"{c.role}: {c.reason or 'the cell is not valid'}" for c in broken), "")


def subject_views(record: Record, cells: list[CellRow], pairs: list[PairRow]) -> list[SubjectView]:
    """Return the subjects in the order in which results.json names them first."""
    names = dict.fromkeys([c.subject for c in cells] + [p.subject for p in pairs])
    return [
        _subject_view(record, name, position, cells, pairs) for position, name in enumerate(names)
    ]


def _subject_view(
    record: Record, name: str, position: int, cells: list[CellRow], pairs: list[PairRow]
) -> SubjectView:
    mine = [cell for cell in cells if cell.subject == name]
    stated = [text(c.get("concept")) for c in rows(record.results.get("cells"))
              if text(c.get("subject")) == name]  # fmt: skip
    ours = tuple(pair for pair in pairs if pair.subject == name)
    attacks = tuple(_attack_row(record, cell, mine) for cell in mine if cell.kind == "attack")
    controls = dict.fromkeys(control for row in attacks for control in row.controls)
    return SubjectView(
        name=name,
        concept=next((c for c in [*stated, *(p.concept for p in ours)] if c), ""),
        anchor=f"subject-{position + 1}",
        roles={cell.role: cell.target for cell in mine if cell.role in ROLES and not cell.student},
        cells=tuple(mine),
        pairs=ours,
        attacks=attacks,
        controls=tuple(controls),
        baselines=tuple(dict.fromkeys(name for row in attacks for name in row.lifts)),
        utility=tuple(_utility_rows(cell for cell in mine if not cell.student)),
    )


def _attack_row(record: Record, cell: CellRow, cells: Sequence[CellRow]) -> AttackRow:
    compared = [row for row in rows(record.results.get("comparisons")) if _is_about(row, cell)]
    baselines = {text(row.get("baseline_cell")) for row in compared}
    beside = [c for c in cells if c.role == cell.role]
    found = [c for c in beside if c.label in baselines] or [
        c
        for c in beside
        if c.kind in ("control", "floor") and (c.seed, c.images) == (cell.seed, cell.images)
    ]
    return AttackRow(
        cell=cell,
        clean=next((c for c in beside if c.kind == "clean"), None),
        controls={component(c.attack): c for c in found if c.kind == "control"},
        floors=tuple(c for c in found if c.kind == "floor"),
        lifts={lift.baseline: lift for lift in map(_lift, compared)},
    )


def _is_about(row: Mapping[str, Any], cell: CellRow) -> bool:
    if row.get("cell"):
        return text(row["cell"]) == cell.label
    place = tuple(text(row.get(key)) for key in ("subject", "role", "attack"))
    return place == (cell.subject, cell.role, cell.attack)


def _lift(row: Mapping[str, Any]) -> Lift:
    is_floor = row.get("kind") == "over-floor"
    return Lift(
        "the floor" if is_floor else component(text(row.get("baseline"))),
        estimate(row.get("value"), row.get("interval"), row.get("n")),
        number(row.get("p_value")),
    )


def _utility_rows(some: Iterable[CellRow]) -> Iterable[UtilityRow]:
    """Yield what targets do without attack: show the concept, keep the rest."""
    cells = list(some)
    for kind, name, direction in (
        ("clean", "Shows the concept", "lower is safer"),
        ("utility", "Draws other concepts as asked", "higher is better"),
    ):
        mine = {cell.role: cell for cell in cells if cell.kind == kind}
        if mine:
            yield UtilityRow(name, direction, mine, {r: c.rate for r, c in mine.items()})
        alike = {r: Estimate(c.similarity) for r, c in mine.items() if c.similarity is not None}
        if alike:
            where = "the prompts on the concept" if kind == "clean" else "prompts on others"
            yield UtilityRow("Keeps the rest of the prompt", f"on {where}", mine, alike)


def total_counts(cells: Iterable[CellRow]) -> dict[str, int]:
    """Sum the items of cells by status; nothing is left out."""
    known = list(cells)
    return {status: sum(cell.counts[status] for cell in known) for status in STATUSES}
