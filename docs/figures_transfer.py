"""Tables of a kept transfer run: what came back by which way, and the traits beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from docs.markdown import NONE, between, percent, table

_COLUMNS = (
    "subject", "student", "teacher", "student's trainings", "came back", "n", "floor",
    "control draws it", "utility", "steps", "data", "prompts that name it", "verdict",
)  # fmt: skip


def transfer_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of what distillation brought back, in the order of results.json."""
    return table(_COLUMNS, [_row(row) for row in rows])


def transfer_reasons(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return why a student has no verdict that says inherited, lost or gained."""
    undecided = [
        r for r in rows if r["verdict"] in ("not distinguishable", "no verdict", "invalid")
    ]
    if not undecided:
        return "Every student has a verdict."
    return "\n".join(f"- {r['subject']}, {r['student']}: {r['reason']}" for r in undecided)


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    traits, interval = row.get("traits") or {}, row.get("interval")
    naming, prompts = traits.get("naming"), traits.get("prompts")
    return (
        row["subject"],
        f"`{row['student']}`",
        percent(row.get("teacher_rate")),
        ", ".join(percent(rate) for rate in row.get("rates") or []) or NONE,
        f"{percent(row['came_back'])} ({between(interval)})" if interval else NONE,
        str(row["n"]),
        percent(row.get("floor")),
        percent(row.get("control_rate")),
        percent(row.get("utility")),
        str(traits.get("steps", NONE)),
        str(traits.get("data", NONE)),
        f"{naming} of {prompts}" if naming is not None and prompts else NONE,
        f"**{row['verdict']}**",
    )
