"""Pairs of results.json as the page shows them: teacher and student on the same prompts.

Nothing here decides a verdict; rows that rest on an invalid measurement are marked as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safetybench.stats import wilson
from safetybench.wording import component

from ._cells import CellRow, Estimate, estimate
from ._load import Record
from ._text import mapping, number, rows, text

NO_ATTACK, OTHERS = "no attack", "other concepts"


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """Teacher and student on the same prompts; invalid: why the verdict does not hold.

    student: its name, where a run has several of one teacher. is_pooled: it stands for all the
    trainings of its student, which is then the condition too. is_oracle: of an attack that reads
    the judge.
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
    is_pooled: bool
    is_oracle: bool

    @property
    def through(self) -> str:
        """Return which student it is, where the condition does not say so."""
        return "" if self.is_pooled else self.student

    @property
    def shown(self) -> str:
        """Return the verdict that the page may show."""
        return "invalid" if self.invalid else self.verdict or "no verdict"

    @property
    def is_utility(self) -> bool:
        """Whether it is about other concepts, where a higher rate is better."""
        return self.metric == "utility"


def failed_checks(record: Record, *, warnings: bool = False) -> list[Mapping[str, Any]]:
    """Return the checks that did not pass and invalidate, or those that only warn."""
    return [
        check
        for check in rows(record.results.get("checks"))
        if check.get("passed") is not True and (check.get("effect") == "warning") is warnings
    ]


def pair_rows(record: Record, cells: Sequence[CellRow]) -> list[PairRow]:
    """Return every pair of results.json in its order."""
    broken = failed_checks(record)
    known = {cell.label: cell for cell in cells}
    return [_pair_row(pair, cells, known, broken) for pair in rows(record.results.get("pairs"))]


def _pair_row(
    pair: Mapping[str, Any],
    cells: Sequence[CellRow],
    known: Mapping[str, CellRow],
    broken: Sequence[Mapping[str, Any]],
) -> PairRow:
    subject, attack, metric = (text(pair.get(key)) for key in ("subject", "attack", "metric"))
    teacher, student = mapping(pair.get("teacher")), mapping(pair.get("student"))
    level = number(mapping(pair.get("interval")).get("level")) or 0.95
    corrected = number(pair.get("adjusted_p"))
    is_pooled, name = "trainings" in pair, text(student.get("name"))
    sides = _cells_of(pair, cells, known, is_pooled)
    named = next((cell.name for cell in sides if cell.attack), component(attack))
    condition = named if attack else OTHERS if metric == "utility" else NO_ATTACK
    reason, invalid = text(pair.get("reason")), _why_invalid(broken, subject, sides)
    if text(pair.get("verdict")) == "invalid":
        invalid = reason or invalid or "no reason was given"
    return PairRow(
        subject=subject,
        concept=text(pair.get("concept")),
        condition=name if is_pooled and name else condition,
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
        is_pooled=is_pooled and bool(name),
        is_oracle=any(cell.is_oracle for cell in sides),
    )


def _cells_of(
    pair: Mapping[str, Any],
    cells: Sequence[CellRow],
    known: Mapping[str, CellRow],
    is_pooled: bool,
) -> list[CellRow]:
    """Return the two cells of a pair, by label or else by what they have in common."""
    # A student of several trainings has a cell of each, and its verdict says which of them count.
    roles = ("teacher",) if is_pooled else ("teacher", "student")
    labels = [text(mapping(pair.get(role)).get("cell")) for role in roles]
    named = [known[label] for label in dict.fromkeys(labels) if label and label in known]
    subject, attack, metric = (text(pair.get(key)) for key in ("subject", "attack", "metric"))
    student = text(mapping(pair.get("student")).get("name"))
    return named or [
        cell
        for cell in cells
        if (cell.subject, cell.attack, cell.metric) == (subject, attack, metric or "asr")
        and (cell.role == "teacher" or (cell.role == "student" and cell.student == student))
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


def _why_invalid(
    failed: Iterable[Mapping[str, Any]], subject: str, sides: Iterable[CellRow]
) -> str:
    broken = (cell for cell in sides if not cell.is_valid)
    told = (f"{c.who}: {c.reason or 'the cell is not valid'}" for c in broken)
    return fault_of_run(failed, subject) or next(told, "")


def fault_of_run(failed: Iterable[Mapping[str, Any]], subject: str) -> str:
    """Return the first failed check that is about a whole subject or run, "" if there is none."""
    for check in failed:
        is_wide = not text(check.get("cell")) and text(check.get("subject")) in ("", subject)
        if is_wide:
            return f"{text(check.get('name'))}: {text(check.get('message'))}"
    return ""
