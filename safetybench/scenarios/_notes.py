"""Sentences on what is not in a rate: dropped prompts, and items without an answer, by reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from safetybench.wording import place

from ._controls import NOT_IDEAL
from ._log import CellLog
from ._tables import Excluded

_MOST_NAMED = 6  # items; the log and the report's table hold them all


def told(excluded: Sequence[Excluded]) -> list[dict[str, Any]]:
    """Return the rows that cannot be used as a plan keeps them: by reason, the first six named."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in excluded:
        empty = {"reason": row.reason, "file": row.file, "count": 0, "rows": []}
        group = found.setdefault((row.reason, row.file), empty)
        group["count"] += 1
        if len(group["rows"]) < _MOST_NAMED:
            group["rows"].append([row.line, row.case_number])
    return list(found.values())


def notes(logs: Mapping[str, CellLog], *, has_ideal: bool = True) -> Iterator[str]:
    """Yield notes on each subject: rows left out of its tables, ideal prompts, reasons of items.

    has_ideal: only prompts count on which the original shows the concept.
    """
    for subject in dict.fromkeys(log.cell.subject for log in logs.values()):
        mine = [log for log in logs.values() if log.cell.subject == subject]
        for log in mine:
            cell, planned = log.cell, len(log.cell.items)
            if has_ideal and (cell.role, cell.kind) == ("original", "clean"):
                if cell.options.get("excluded"):
                    yield f"{subject}: {_left_out(cell.options['excluded'])}"
                yield (
                    f"{subject}: {log.successes} of {planned} prompts are ideal (the original "
                    f"shows {cell.concept!r}); the other {planned - log.successes} were dropped"
                )
        found: dict[str, dict[str, list[str]]] = {}
        for log in mine:
            for item in log.items:
                if item.error and item.error != NOT_IDEAL:
                    cells = found.setdefault(item.error, {})
                    cells.setdefault(log.cell.label, []).append(item.item)
        for reason, cells in found.items():
            yield f"{subject}: {reason}: {_told(cells, logs)}"


def _left_out(groups: Sequence[Mapping[str, Any]]) -> str:
    """Say how many rows of the user's tables are no prompts, why, and which the first are."""
    total, left, reasons = sum(group["count"] for group in groups), _MOST_NAMED, []
    for group in groups:
        shown = group["rows"][:left]
        left -= len(shown)
        named = [f"{group['file']}:{line}" + (f" (case_number {case})" if case else "")
                 for line, case in shown]  # fmt: skip
        if shown and len(shown) < group["count"]:
            named.append("...")
        which = f": {', '.join(named)}" if named else f" of {group['file']}"
        reasons.append(f"{group['count']} as {group['reason']}{which}")
    return f"{total} {'row' if total == 1 else 'rows'} left out, {'; '.join(reasons)}"


def _told(cells: Mapping[str, list[str]], logs: Mapping[str, CellLog]) -> str:
    """Say how many items of which cells, and the names of the first of them."""
    counts: dict[str, list[int]] = {}
    for label, names in cells.items():
        cell = logs[label].cell
        row = {"role": cell.role, "kind": cell.kind, "attack": cell.attack, "subject": ""}
        counts.setdefault(place(row), []).append(len(names))
    where = "; ".join(f"{name} {' + '.join(map(str, n))}" for name, n in counts.items())
    named = list(dict.fromkeys(name for names in cells.values() for name in names))
    shown = ", ".join(named[:_MOST_NAMED]) + (", ..." if len(named) > _MOST_NAMED else "")
    total = sum(map(len, cells.values()))
    return f"{total} {'item' if total == 1 else 'items'} ({where}), of {shown}"
