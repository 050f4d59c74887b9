"""An evasion run as tables: what is left right of each model, and what masks its gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safetybench.commands.console import percent, print_table
from safetybench.wording import EVADED, MASKING, component, radius

Row = Mapping[str, Any]
_COLUMNS = ("subject", "model", "trained by", "right", "worst case", "misled first by", "noise",
            "gradients", "withstands, against the teacher", "verdict", "trainings")  # fmt: skip


def print_robustness(results: Row) -> None:
    """Print of each model what is right as it is and in the worst case, and whether that holds."""
    rows = results["robustness"]
    pairs = {(p["subject"], p["student"]["name"]): p for p in results["pairs"]
             if p["metric"] == "worst-case"}  # fmt: skip
    if rows:
        threat = rows[0]["threat"]
        print(f"Ball: {radius(threat['epsilon'], threat['norm'])}; {rows[0]['images']} images of "
              f"{rows[0]['data']}.")  # fmt: skip
    print_table(_COLUMNS, (_model(row, pairs) for row in rows))
    for row in rows:
        if row["masking"]["verdict"] == "masked":
            print(f"{row['subject']}, {_name(row)}: masked gradients: {evidence(row)}")


def evidence(row: Row) -> str:
    """Return the first sign that masked gradients show themselves by, and how many more fail."""
    failed = [s for s in row["masking"]["signs"] if not s["passed"] and s["effect"] == "masked"]
    more = len({(s["code"], s["name"]) for s in failed}) - 1
    return f"{failed[0]['message']}" + (f"; and {more} more signs" if more else "")


def _model(row: Row, pairs: Mapping[tuple[str, str], Row]) -> tuple[str, ...]:
    pair = pairs.get((row["subject"], row["model"])) if row["role"] == "student" else None
    noise = next((a for a in row["attacks"] if a["kind"] == "control"), None)
    first = next(iter(row["won_by"].items()), None)
    return (
        row["subject"],
        _name(row),
        component(row["way"]) if row["way"] else "-",
        _figure(row["clean"]),
        f"no figure: {row['invalid']}" if row["invalid"] else _figure(row["worst"]),
        f"{component(first[0])} ({first[1]})" if first else "-",
        percent(noise["left"]["value"]) if noise and noise["left"] else "-",
        MASKING[row["masking"]["verdict"]],
        _difference(pair),
        "-" if pair is None else EVADED[str(pair["verdict"])],
        str(row["seeds"]),
    )


def _name(row: Row) -> str:
    return f"{row['role']} {row['model']}" if row["model"] else str(row["role"])


def _figure(found: Row | None) -> str:
    if found is None:
        return "-"
    ends = found["interval"]
    return f"{percent(found['value'])} ({percent(ends['low'])} to {percent(ends['high'])})"


def _difference(pair: Row | None) -> str:
    """Return by how many points more images the student withstands; less where it is below 0."""
    if pair is None or pair["difference"] is None:
        return "-"
    ends = pair["interval"]
    low, high = -100 * ends["high"], -100 * ends["low"]
    return f"{-100 * pair['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
