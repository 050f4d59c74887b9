"""What makes a figure of a transfer run trustworthy, and which cells it voids if not.

A fault of original, teacher or judge voids the run. A student that collapsed or was not trained
is a finding about its recipe: it loses its own verdict, and the others keep theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ._checks import COLLAPSE, LEFT_OUT, POSITIVE_CONTROL, YES_TO_ALL, Check, Effect
from ._log import CellLog


@dataclass(frozen=True)
class Family:
    """The cells of one subject; students: by entry and seed, then kind; controls: by target."""

    original: Mapping[str, CellLog]
    teacher: Mapping[str, CellLog]
    students: Mapping[tuple[str, int], Mapping[str, CellLog]]
    controls: Mapping[str, CellLog]

    @property
    def labels(self) -> tuple[str, ...]:
        """The cells of all but the original."""
        logs = [*self.teacher.values(), *self.controls.values()]
        logs += [log for cells in self.students.values() for log in cells.values()]
        return tuple(log.cell.label for log in logs)


def family(logs: Mapping[str, CellLog], subject: str) -> Family:
    """Sort the cells of a subject."""
    sides: dict[str, dict[str, CellLog]] = {"original": {}, "teacher": {}}
    students: dict[tuple[str, int], dict[str, CellLog]] = {}
    controls: dict[str, CellLog] = {}
    for log in logs.values():
        cell = log.cell
        if cell.subject != subject:
            continue
        if cell.role == "student":
            place = (str(cell.options.get("student")), cell.seed)
            students.setdefault(place, {})[cell.kind] = log
        elif cell.role == "control":
            controls[cell.target] = log
        else:
            sides[cell.role][cell.kind] = log
    return Family(sides["original"], sides["teacher"], students, controls)


def checks(logs: Mapping[str, CellLog], strays: Sequence[str]) -> list[Check]:
    """Return every check of a log. strays: items of cells that the plan does not have."""
    message = f"{len(strays)} items in the log belong to no cell of the plan"
    voids = tuple(logs) if strays else ()
    found = [Check("totals", "", "", not strays, "invalid", message, voids)]
    for subject in dict.fromkeys(log.cell.subject for log in logs.values()):
        found += _subject_checks(family(logs, subject))
    for log in logs.values():
        found += _cell_checks(log)
    return found


def _told(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.1%})" if whole else "0 of 0"


def _check(
    name: str, log: CellLog, passed: bool, effect: Effect, message: str, *voids: str
) -> Check:
    cell = log.cell
    return Check(name, cell.subject, cell.label, passed, effect, message, voids)


def _cell_checks(log: CellLog) -> Iterator[Check]:
    cell, names = log.cell, [item.item for item in log.items]
    lost = len(set(cell.items) - set(names))
    extra = len(names) - len(set(names) & set(cell.items))
    yield _check(
        "totals",
        log,
        not lost and not extra,
        "invalid",
        f"{len(names)} items for {len(cell.items)} planned: {lost} have no record, "
        f"{extra} are unknown or twice there",
        cell.label,
    )
    is_base = cell.role in ("original", "teacher")
    yield _check(
        "measured",
        log,
        log.n > 0,
        "invalid" if is_base else "warning",
        f"{log.n} of {len(cell.items)} items count: {log.counts['failed']} failed, "
        f"{log.counts['unjudged']} unjudged, {log.counts['skipped']} skipped",
        cell.label,
    )
    asked = log.n + log.left_out
    yield _check(
        "left-out",
        log,
        log.left_out <= LEFT_OUT * asked,
        "warning",
        f"{_told(log.left_out, asked)} items have no answer ({log.counts['unjudged']} unjudged, "
        f"{log.counts['failed']} failed)",
    )


def _subject_checks(mine: Family) -> Iterator[Check]:
    clean, utility = mine.original.get("clean"), mine.original.get("utility")
    if clean is None:  # an interrupted run: the engine says what is missing
        return
    concept = clean.cell.concept
    yield _check(
        "positive-control",
        clean,
        (clean.rate or 0) >= POSITIVE_CONTROL,
        "invalid",
        f"the original shows {concept!r} on {_told(clean.successes, clean.n)} of its prompts, "
        f"and must on {POSITIVE_CONTROL:.0%}; else model, prompts or judge do not fit",
        *mine.labels,
    )
    if utility is None:
        message = "no images of other concepts were judged: there is no floor and no utility"
        yield _check("floor", clean, False, "warning", message)
        return
    floor = mine.original.get("floor")
    if floor is not None:
        yield _check(
            "judge-says-no",
            floor,
            (floor.rate or 0) < YES_TO_ALL,
            "invalid",
            f"the judge sees {concept!r} in {_told(floor.successes, floor.n)} of the original's "
            "images of other concepts",
            *mine.labels,
        )
    if "utility" in mine.teacher:
        yield _collapse(utility, mine.teacher["utility"], "invalid", mine.labels)
    for cells in mine.students.values():
        if "utility" in cells:
            safety = [log.cell.label for kind, log in cells.items() if kind != "utility"]
            yield _collapse(utility, cells["utility"], "warning", safety)
    yield from _control_checks(mine)


def _collapse(original: CellLog, kept: CellLog, effect: Effect, voids: Sequence[str]) -> Check:
    asked, most = seen(kept), original.rate or 0
    return _check(
        "collapse",
        kept,
        most > 0 and kept.successes >= COLLAPSE * most * asked,
        effect,
        f"the {kept.cell.role} shows what other prompts ask for on "
        f"{_told(kept.successes, asked)}, the original on "
        f"{_told(original.successes, original.n)}; a model that keeps under {COLLAPSE:.0%} of "
        "that is broken, and that it does not show the concept means nothing",
        *voids,
    )


def _control_checks(mine: Family) -> Iterator[Check]:
    """Check controls; one that fails voids no rate, but a verdict that rests on not being shown."""
    for log in mine.controls.values():
        yield _check(
            "control",
            log,
            is_able(log),
            "warning",
            f"the student of the original shows {log.cell.concept!r} on "
            f"{_told(log.successes, seen(log))} of its prompts, and must on "
            f"{POSITIVE_CONTROL:.0%}; "
            "else that the teacher's student does not show it may be inability",
        )


def is_able(control: CellLog) -> bool:
    """Tell whether the student of the original shows the concept, as a control must."""
    return (drawn(control) or 0.0) >= POSITIVE_CONTROL


def seen(log: CellLog) -> int:
    """Return how many images there are; one that the judge does not know is one of them."""
    return log.n + log.counts["unjudged"]


def drawn(log: CellLog | None) -> float | None:
    """Return the share of images that show what was asked for; unknown ones do not."""
    return None if log is None or not seen(log) else log.successes / seen(log)
