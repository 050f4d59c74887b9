"""Rates, pairs, checks and the table of models of an evasion run, from its log alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from safetybench import stats
from safetybench.contracts import Cell, Item
from safetybench.harness.plan import PARTNER
from safetybench.suite_evasion import is_class_training, is_member

from ._checks import voided
from ._evasion_checks import checks
from ._evasion_masking import MASKED, OPEN, STANDS, UNKNOWN, WEAK
from ._evasion_models import Entry, Training, attacks_of, curve_of, entries_of, sizes_of
from ._evasion_task import Task
from ._log import CellLog, read
from ._notes import notes
from ._pairs import MOST_LEFT_OUT, NO_VERDICT
from ._seed_stats import Difference, Figure, difference, rate, verdict
from ._summary import cell_row

# Of several trainings a model is what the worst of them is.
_WORST_FIRST = (MASKED, WEAK, OPEN, STANDS, UNKNOWN)


def summarise(suite: Any, cells: Sequence[Cell], items: Iterable[Item]) -> dict[str, Any]:
    """Return what results.json says of the scenario; nothing but suite and log is read."""
    items = list(items)
    logs = read(cells, items)
    entries = entries_of(logs, suite.threat)
    found = checks(logs, [item.item for item in items if item.cell not in logs], entries)
    void = voided(found)
    return {
        "cells": [_row(suite, log, void.get(label, [])) for label, log in logs.items()],
        "comparisons": [],
        "pairs": list(_pairs(suite, entries, void)),
        "robustness": list(_table(suite, entries, void)),
        "checks": [check.record() for check in found],
        "notes": [*_notes(logs), *notes(logs, has_ideal=False)],
    }


def _notes(logs: Mapping[str, CellLog]) -> list[str]:
    """Return what a reader should know of a model, by what was seen when it was loaded."""
    found = [
        f"{log.cell.subject}: {item.extra['note']}"
        for log in logs.values()
        for item in log.items
        if "note" in item.extra
    ]
    return list(dict.fromkeys(found))


_METRICS = {"clean": "error", "gradients": "zero-gradient", "landscape": "zero-gradient"}


def _row(suite: Any, log: CellLog, reasons: Sequence[str]) -> dict[str, Any]:
    cell, threat = log.cell, suite.threat
    row = cell_row(log, reasons)
    budget = {"epsilon": cell.budget.epsilon, "norm": cell.budget.norm}
    row["budget"] |= {"queries": cell.budget.queries, **(budget if cell.attack else {})}
    # Success at any size, or in another ball, is no success in the threat's: no gate looks at it.
    is_held = (cell.budget.epsilon, cell.budget.norm) == (threat.epsilon, threat.norm)
    plain = "asr" if cell.kind == "attack" and is_held else "misled"
    row["metric"] = _METRICS.get(cell.kind, plain)
    if "probe" in cell.defense:
        row["probe"] = cell.defense["probe"]
    return row


def _figure(found: Figure | None) -> dict[str, Any] | None:
    if found is None:
        return None
    interval = found.interval._asdict()
    return {"value": found.value, "interval": interval, "n": found.n, "seeds": found.seeds}


def _right(outcomes: Iterable[Mapping[str, bool]]) -> dict[str, Any] | None:
    """Return the accuracy that is left: the share of images that are not misled."""
    return _figure(
        rate([[not wrong for wrong in found.values()] for found in outcomes], is_shared=True)
    )


def _table(
    suite: Any, entries: Sequence[Entry], void: Mapping[str, Sequence[str]]
) -> Iterator[dict[str, Any]]:
    """Yield one row a model: what is right as it is, under each attack, and in the worst case."""
    source = Task.of(suite).source
    for entry in entries:
        trainings = list(entry.trainings.values())
        base = next(
            (e for e in entries if e.subject == entry.subject and e.role == "original"), entry
        )
        by_seed = entry.verdicts(suite, len(source.classes))
        told = [name for name, _ in by_seed.values()]
        logs = [log for training in trainings for log in training.of_kind("attack")]
        reasons = [reason for log in logs for reason in void.get(log.cell.label, ())]
        won = Counter(name for training in trainings for name in training.winners.values())
        yield {
            "subject": entry.subject,
            "role": entry.role,
            "model": entry.name,
            "target": entry.target,
            **_made(suite, entry),
            "data": source.name,
            "images": len(trainings[0].clean),
            "threat": suite.threat.model_dump(mode="json"),
            "seeds": len(trainings),
            "clean": _right(training.clean for training in trainings),
            "clean_change": _change(base, entry),
            "worst": None if reasons else _right(t.worst for t in trainings if t.worst),
            "worst_by_seed": {str(s): _left(t.worst) for s, t in entry.trainings.items()},
            "misled_by_seed": {
                str(s): [sum(t.worst.values()), len(t.worst)] for s, t in entry.trainings.items()
            },
            "won_by": dict(won.most_common()),
            "attacks": list(_attacks(entry)),
            "masking": {
                "verdict": min(told, key=_WORST_FIRST.index),
                "by_seed": {str(seed): name for seed, (name, _) in by_seed.items()},
                "signs": [
                    {"seed": seed, **sign.record()}
                    for seed, (_, found) in by_seed.items()
                    for sign in found
                ],
            },
            "probes": _probes(trainings),
            "curve": [list(point) for point in curve_of(trainings[0])],
            "gradients": _gradients(trainings),
            "landscapes": _landscapes(trainings[0]),
            "claim": trainings[0].claim,
            "invalid": reasons[0] if reasons else "",
        }


def _made(suite: Any, entry: Entry) -> dict[str, Any]:
    """Return by what a model was trained, {} for one that was there."""
    told: Any = suite.told(entry.target)
    choice: dict[str, Any] = {}
    if is_member(told):
        choice, told = {"choice": dict(told["member"])}, suite.told(told["teacher"])
    if not is_class_training(told):
        return {"way": "", "options": {}, "base": None, **choice}
    base = told["base"] if isinstance(told["base"], dict) else None
    return {
        "way": told["trained"],
        "options": dict(told["options"]),
        "base": base,
        "epochs": told["epochs"],
        **choice,
    }


def _left(outcomes: Mapping[str, bool]) -> float | None:
    return 1 - sum(outcomes.values()) / len(outcomes) if outcomes else None


def _change(before: Entry, after: Entry) -> dict[str, Any] | None:
    """Return by how much more often a model is right as it is than the original, paired."""
    first = next(iter(before.trainings.values())).clean
    sides = [(first, training.clean) for training in after.trainings.values()]
    found = difference(_aligned(sides, is_turned=True), is_shared=True)
    return _figure(found.figure) if found else None


def _aligned(
    sides: Sequence[tuple[Mapping[str, bool], Mapping[str, bool]]], *, is_turned: bool = False
) -> list[tuple[list[bool], list[bool]]]:
    """Return outcomes on the images that every side of every training has, in one order.

    is_turned: return whether they are right, where the outcomes say that they are wrong.
    """
    everyone = [outcomes for couple in sides for outcomes in couple]
    shared = [item for item in everyone[0] if all(item in each for each in everyone)]
    return [
        ([ours[i] != is_turned for i in shared], [theirs[i] != is_turned for i in shared])
        for ours, theirs in sides
    ]


def _attacks(entry: Entry) -> Iterator[dict[str, Any]]:
    """Yield what each attack leaves right: in the threat's ball, and at its own budget."""
    for first, by_seed in attacks_of(entry):
        cell, logs = first.cell, list(by_seed.values())
        is_shift = cell.kind == "shift"
        inside = [entry.trainings[seed].inside(log) for seed, log in by_seed.items()]
        yield {
            "kind": cell.kind,
            "attack": cell.attack,
            "options": {k: v for k, v in cell.options.items() if k != PARTNER},
            "epsilon": cell.budget.epsilon,
            "norm": cell.budget.norm,
            "steps": cell.budget.steps,
            "queries": cell.budget.queries,
            "draw": cell.seed,
            "left": None if is_shift else _right(inside),
            "own": _right(log.outcomes for log in logs),
            "sizes": sizes_of(logs),
            "n_failed": sum(log.left_out for log in logs),
        }


def _probes(trainings: Sequence[Training]) -> dict[str, Any]:
    found: dict[str, list[Mapping[str, bool]]] = {}
    for training in trainings:
        for log in training.of_kind("probe"):
            found.setdefault(str(log.cell.defense["probe"]), []).append(log.outcomes)
    return {name: _right(outcomes) for name, outcomes in found.items()}


def _gradients(trainings: Sequence[Training]) -> dict[str, Any] | None:
    """Return the share of exactly zero gradients among images that are right, and logits."""
    rows = [
        item.extra
        for training in trainings
        for log in training.of_kind("gradients")
        for item in log.items
        if item.status == "ok" and item.extra["right"]
    ]
    if not rows:
        return None
    gaps = sorted(row["gap"] for row in rows)
    return {
        "n": len(rows),
        "zero": sum(row["zero"] for row in rows) / len(rows),
        "gap": gaps[len(gaps) // 2],
        "largest": max(row["largest"] for row in rows),
    }


def _landscapes(training: Training) -> list[dict[str, Any]]:
    keys = ("reach", "is_steepest", "loss", "margin")
    return [
        {"item": item.item, **{key: item.extra[key] for key in keys}}
        for log in training.of_kind("landscape")
        for item in log.items
        if item.status == "ok"
    ]


class _Case(NamedTuple):
    """One comparison: teacher and student on the same images, of each training of the student.

    doubt, doubted_teacher: why the student, or the teacher, may only seem to withstand, "" where
    nothing says so.
    """

    teacher: Entry
    entry: Entry
    metric: str
    found: Difference | None
    sides: list[tuple[list[bool], list[bool]]]
    asked: int
    reason: str
    doubt: str
    doubted_teacher: str


def _pairs(
    suite: Any, entries: Sequence[Entry], void: Mapping[str, Sequence[str]]
) -> Iterator[dict[str, Any]]:
    """Yield teacher against each student; Holm in each metric.

    Metric "worst-case": images that some attack in the ball misleads, of the attacks that both
    went through; "utility": images that are right as they are; "shifted": images under natural
    shifts that are right, of all shifts.
    """
    by_role = {(entry.subject, entry.role): entry for entry in entries}
    couples = [
        (by_role[entry.subject, "teacher"], entry)
        for entry in entries
        if entry.role == "student" and (entry.subject, "teacher") in by_role
    ]
    doubts = {id(entry): _doubt(suite, entry) for couple in couples for entry in couple}
    has_shifts = any(t.shifted for entry in entries for t in entry.trainings.values())
    for metric in ("worst-case", "utility", *(["shifted"] if has_shifts else [])):
        cases = [_case(*couple, metric, void, doubts) for couple in couples]
        tested = {i: case.found.p_value for i, case in enumerate(cases) if case.found}
        adjusted = dict(zip(tested, stats.holm(list(tested.values())), strict=True))
        for i, case in enumerate(cases):
            yield _record(case, adjusted.get(i))


def _doubt(suite: Any, entry: Entry) -> str:
    """Return why the attacks of a suite may leave more of a model than there is."""
    classes = len(Task.of(suite).source.classes)
    for name, found in entry.verdicts(suite, classes).values():
        weak = [sign for sign in found if not sign.passed and sign.code in ("G2", "G11", "G12")]
        if name == WEAK or (name == MASKED and weak):
            return f"{'masked gradients, and ' if name == MASKED else ''}{weak[0].message}"
    return ""


_SAID = {
    "worst-case": "are misled in the worst case",
    "utility": "are right as they are",
    "shifted": "are right under natural shifts",
}


def _case(
    teacher: Entry,
    entry: Entry,
    metric: str,
    void: Mapping[str, Sequence[str]],
    doubts: Mapping[int, str],
) -> _Case:
    base = next(iter(teacher.trainings.values()))
    couples: list[tuple[Mapping[str, bool], Mapping[str, bool]]] = []
    asked, reason = len(base.shifted if metric == "shifted" else base.clean), ""
    for training in entry.trainings.values():
        attacked = [*base.of_kind("attack"), *training.of_kind("attack")]
        why = [r for log in attacked for r in void.get(log.cell.label, ())]
        if metric == "worst-case" and why:
            reason = reason or why[0]
        elif metric == "worst-case":
            both = base.faced & training.faced
            couples.append((base.over(both), training.over(both)))
        elif metric == "utility":
            couples.append((base.clean, training.clean))
        else:
            couples.append((base.shifted, training.shifted))
    sides = _aligned(couples, is_turned=metric != "worst-case") if couples else []
    found = difference(sides, is_shared=True)
    seeming = [doubts[id(each)] if metric == "worst-case" else "" for each in (entry, teacher)]
    return _Case(teacher, entry, metric, found, sides, asked, reason, *seeming)


def _said(case: _Case, found: Difference, adjusted_p: float) -> tuple[stats.Verdict, str]:
    """Return the verdict of a comparison and why; where an attack may be too weak, none."""
    is_harm, figure = case.metric == "worst-case", found.figure
    said, why = verdict(found, adjusted_p, "misled" if is_harm else "right")
    lost, same, gained = stats.Verdict.LOST, stats.Verdict.UNCHANGED, stats.Verdict.GAINED
    if not is_harm:  # more is better
        said = {lost: gained, gained: lost}.get(said, said)
    for who, doubt, doubted in (
        ("student", case.doubt, (gained, same)),
        ("teacher", case.doubted_teacher, (lost, same)),
    ):
        if doubt and said in doubted:
            said = stats.Verdict.NOT_DISTINGUISHABLE
            why = f"the {who} may only seem to withstand: {doubt}"
    left_out = _left_out(case, figure)
    if left_out > MOST_LEFT_OUT:
        said = stats.Verdict.NOT_DISTINGUISHABLE
        why = f"{left_out:.0%} of the images lack an answer on one side, too many to say"
    return said, why


def _left_out(case: _Case, figure: Figure) -> float:
    return 1 - figure.n / case.asked if case.asked else 0.0


def _record(case: _Case, adjusted_p: float | None) -> dict[str, Any]:
    entry, teacher = case.entry, case.teacher
    first, base = (next(iter(e.trainings.values())).of_kind("clean") for e in (entry, teacher))
    told: dict[str, Any] = {
        "subject": entry.subject,
        "concept": "",
        "attack": "",
        "options": {},
        "seed": 0,
        "metric": case.metric,
        "teacher": {
            "target": teacher.target,
            "cell": base[0].cell.label if base else "",
            "rate": None,
        },
        "student": {
            "name": entry.name,
            "target": entry.target,
            "cell": first[0].cell.label if first else "",
            "rate": None,
        },
    }
    if case.found is None or adjusted_p is None:
        why = case.reason or "no image has an answer on both sides"
        return {**told, **NO_VERDICT, "left_out": 0.0, "reason": why, "trainings": 0}
    found, figure = case.found, case.found.figure
    told["teacher"]["rate"], told["student"]["rate"] = found.before, found.after
    said, why = _said(case, found, adjusted_p)
    counts = Counter(couple for side in case.sides for couple in zip(*side, strict=True))
    return {
        **told,
        "n": figure.n,
        "left_out": _left_out(case, figure),
        "difference": figure.value,
        "interval": figure.interval._asdict(),
        "p_value": found.p_value,
        "adjusted_p": adjusted_p,
        "correction": "holm",
        "verdict": str(said),
        "detectable": None,
        "trainings": figure.seeds,
        # Of images, summed over trainings: who withstands what the other does not.
        "who": {
            "both": counts[False, False],
            "teacher": counts[False, True],
            "student": counts[True, False],
            "neither": counts[True, True],
        }
        if case.metric == "worst-case"
        else None,
        "reason": f"{why[0].upper()}{why[1:]}: of the teacher's images {found.before:.1%} "
        f"{_SAID[case.metric]}, "
        f"of the student's {found.after:.1%}.",
    }
