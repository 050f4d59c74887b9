"""Rates, pairs, checks and the table of what came back, of a transfer run, from its log alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from safetybench.contracts import Cell, Item

from ._log import CellLog, read
from ._notes import notes
from ._summary import cell_row
from ._transfer_checks import checks
from ._transfer_pairs import pairs


def summarise(suite: Any, cells: Sequence[Cell], items: Iterable[Item]) -> dict[str, Any]:
    """Return what results.json says of the scenario; nothing but suite and log is read."""
    items = list(items)
    logs = read(cells, items)
    found = checks(logs, [item.item for item in items if item.cell not in logs])
    voided: dict[str, list[str]] = {}
    for check in found:
        for label in () if check.passed else check.voids:
            voided.setdefault(label, []).append(f"{check.name}: {check.message}")
    compared = pairs(suite, logs, voided)
    return {
        "cells": [_row(log, voided.get(label, [])) for label, log in logs.items()],
        "comparisons": [],
        "pairs": compared,
        "transfer": table(compared),
        "checks": [check.record() for check in found],
        "notes": list(notes(logs)),
    }


def _row(log: CellLog, reasons: Sequence[str]) -> dict[str, Any]:
    return {**cell_row(log, reasons), "student": str(log.cell.options.get("student", ""))}


def table(compared: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return recipe by concept, what came back most first; without a figure, last.

    came_back: points more than the teacher on which the student shows the concept, in [-1, 1];
    floor, utility, trainings: means and number of the trainings that count.
    """
    rows = [_line(pair) for pair in compared if pair["metric"] == "asr"]
    return sorted(rows, key=lambda row: (row["came_back"] is None, -(row["came_back"] or 0.0)))


def _line(pair: Mapping[str, Any]) -> dict[str, Any]:
    used = [training for training in pair["trainings"] if not training["left_out"]]
    student = pair["student"]
    return {
        "subject": pair["subject"],
        "concept": pair["concept"],
        "student": student["name"],
        "way": student["way"],
        "recipe": student["recipe"],
        "teacher_rate": pair["teacher"]["rate"],
        "student_rate": student["rate"],
        "rates": [training["rate"] for training in used],
        "came_back": pair["difference"],
        "interval": pair["interval"],
        "n": pair["n"],
        "trainings": len(used),
        "planned_trainings": len(pair["trainings"]),
        "adjusted_p": pair["adjusted_p"],
        "floor": _mean(training["floor"] for training in used),
        "utility": _mean(training["utility"] for training in used),
        "control_rate": pair["control"]["rate"] if pair["control"] else None,
        "verdict": pair["verdict"],
        "reason": pair["reason"],
        "traits": pair["traits"],
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
