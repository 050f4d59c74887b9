"""Rates, comparisons, pairs and checks of an unlearning run, from its log alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from safetybench import registry, stats
from safetybench.contracts import Cell, Item

from ._checks import Check, checks
from ._controls import controls_of
from ._log import LEVEL, CellLog, paired, read, unlike
from ._measures import measures
from ._notes import notes
from ._pairs import pairs

_METRICS = {"utility": "utility", "floor": "floor", "plain": "floor"}


def summarise(
    cells: Sequence[Cell],
    items: Iterable[Item],
    neighbours: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Return what results.json says of the scenario; nothing but the log is read.

    neighbours: concepts near the erased one, by subject.
    """
    items = list(items)
    logs = read(cells, items)
    found = checks(logs, [item.item for item in items if item.cell not in logs])
    voided = _voided(found)
    return {
        "cells": [cell_row(log, voided.get(label, [])) for label, log in logs.items()],
        "comparisons": [c for log in logs.values() for c in _comparisons(log, logs, cells)],
        "pairs": pairs(logs, cells, voided),
        "checks": [check.record() for check in found],
        "measures": measures(logs, _neighbours(cells, neighbours or {})),
        "notes": list(notes(logs)),
    }


def _neighbours(
    cells: Sequence[Cell], given: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[str]]:
    return {name: given.get(name, ()) for name in dict.fromkeys(cell.subject for cell in cells)}


def _voided(found: Sequence[Check]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for check in found:
        if not check.passed and check.effect == "invalid":
            for label in check.voids:
                reasons.setdefault(label, []).append(f"{check.name}: {check.message}")
    return reasons


def cell_row(log: CellLog, reasons: Sequence[str]) -> dict[str, Any]:
    """Return the row of results.json of one cell; reasons: why it is not valid."""
    cell = log.cell
    likeness = [i.extra["similarity"] for i in log.items if "similarity" in i.extra]
    record = {
        "label": cell.label,
        "subject": cell.subject,
        "concept": cell.concept,
        "role": cell.role,
        **({"student": cell.student} if cell.student else {}),
        "target": cell.target,
        "kind": cell.kind,
        "attack": cell.attack,
        "options": dict(cell.options) if cell.attack else {},
        "seed": cell.seed,
        "metric": _METRICS.get(cell.kind, "asr"),
        "n": len(cell.items),
        "n_ok": log.n,
        "n_unjudged": log.counts["unjudged"],
        "n_failed": log.counts["failed"],
        "n_skipped": log.counts["skipped"],
        "successes": log.successes,
        "value": log.rate,
        "interval": stats.wilson(log.successes, log.n, LEVEL)._asdict(),
        "worst_case": log.worst_case,
        "higher_is_safer": cell.kind == "utility",
        "budget": {"steps": cell.budget.steps, "images": cell.budget.images},
        "images_used": sum(item.images for item in log.items),
        "steps_used": sum(item.steps for item in log.items),
        "curve": log.curve(),
        **({"curve_at": log.curve_at()} if log.curve_at() else {}),
        "similarity": sum(likeness) / len(likeness) if likeness else None,
        "valid": not reasons,
        "invalid_reason": "; ".join(reasons),
    }
    if cell.attack:
        attack: Any = registry.load(cell.attack)
        sees = [i.extra["sees_defense"] for i in log.items if "sees_defense" in i.extra]
        record |= {"sees": attack.sees, "sees_defense": all(sees) if sees else None}
        if getattr(attack, "is_oracle", False):
            record["is_oracle"] = True
    return record


def _comparisons(
    log: CellLog, logs: Mapping[str, CellLog], cells: Sequence[Cell]
) -> Iterator[dict[str, Any]]:
    if log.cell.kind not in ("attack", "relearn"):
        return
    for name, control in controls_of(log.cell, cells).items():
        other = logs[control.label]
        if not log.n or not other.n:
            continue
        yield {
            "subject": log.cell.subject,
            "role": log.cell.role,
            **({"student": log.cell.student} if log.cell.student else {}),
            "attack": log.cell.attack,
            "cell": log.cell.label,
            "seed": log.cell.seed,
            "kind": "over-floor" if name == "floor" else "lift",
            "baseline": control.attack,
            "baseline_cell": control.label,
            **(_unpaired(other, log) if name == "floor" else _lift(other, log)),
        }


def _lift(control: CellLog, log: CellLog) -> dict[str, Any]:
    before, after = paired(control, log)
    n = len(before)
    only_before, only_after = unlike(before, after)
    return {
        "value": (only_after - only_before) / n if n else None,
        "interval": stats.paired_rate_difference(before, after, LEVEL)._asdict(),
        "p_value": stats.mcnemar_exact(only_before, only_after),
        "n": n,
    }


def _unpaired(floor: CellLog, log: CellLog) -> dict[str, Any]:
    interval = stats.rate_difference(floor.successes, floor.n, log.successes, log.n, LEVEL)
    return {
        "value": log.successes / log.n - floor.successes / floor.n,
        "interval": interval._asdict(),
        "p_value": fisher_exact(floor.successes, floor.n, log.successes, log.n),
        "n": log.n,
    }


def fisher_exact(s1: int, n1: int, s2: int, n2: int) -> float:
    """Return Fisher's (1922) two-sided exact p that two independent rates are one.

    >>> round(fisher_exact(1, 12, 9, 12), 4)
    0.0028
    """
    total, ways = s1 + s2, math.comb(n1 + n2, s1 + s2)
    tables = [
        math.comb(n1, s) * math.comb(n2, total - s)
        for s in range(max(0, total - n2), min(n1, total) + 1)
    ]
    seen = math.comb(n1, s1) * math.comb(n2, s2)
    return min(1.0, sum(table for table in tables if table <= seen) / ways)
