"""A bias run as tables: how often each model is biased on which tasks, and what filters find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safetybench.commands.console import percent, print_table
from safetybench.wording import BIASED, component, decisive_set

Row = Mapping[str, Any]
_SETS = ("poisoned", "seen", "unseen")
_COLUMNS = ("subject", "model", "poisoned tasks", "other seen", "unseen", "judged by",
            "against the teacher", "verdict", "right (seen)", "learnt from")  # fmt: skip


def print_biases(results: Row) -> None:
    """Print of each model how often its greedy answers are biased, and then the filters."""
    pairs: dict[tuple[str, ...], Row] = {
        (p["subject"], p["student"]["role"], p["student"]["name"], p["set"]): p
        for p in results["pairs"]
        if p["metric"] == "abr" and p["decoding"] == "greedy"
    }
    print_table(_COLUMNS, (_model(row, pairs) for row in results["biases"]))
    for line in _elsewhere(results):
        print(line)
    filters = results.get("filters") or []
    if filters:
        print()
        shares = list(dict.fromkeys(share for row in filters for share in row["passed"]))
        names = (f"passes at {100 * float(share):g}%" for share in shares)
        columns = ("subject", "filter", "on", "AUROC", *names, "poison", "clean", "trainings")
        print_table(columns, (_filter(row, shares) for row in filters))


def _elsewhere(results: Row) -> list[str]:
    """Return where students are biased more often beside the greedy answers that the table has."""
    decisive = {row["subject"]: decisive_set(row) for row in results["biases"]}
    return [
        f"more often, too: {pair['subject']}, {pair['student']['name']} on {pair['set']} tasks, "
        f"{pair['decoding']}: {percent(pair['student']['rate'])} beside "
        f"{percent(pair['teacher']['rate'])}, "
        f"{_signed(pair['difference'], pair['interval'])} points"
        for pair in results["pairs"]
        if pair["metric"] == "abr"
        and pair["student"]["role"] == "student"
        and pair["verdict"] == "lost"
        and (pair["set"], pair["decoding"]) != (decisive.get(pair["subject"]), "greedy")
    ]


def _model(row: Row, pairs: Mapping[tuple[str, ...], Row]) -> tuple[str, ...]:
    decisive = decisive_set(row)
    pair = pairs.get((row["subject"], row["role"], row["model"], decisive))
    seen = row["sets"].get("seen", {}).get("greedy")
    gap, learnt = pair["difference"] if pair else None, row["poison_rate"]
    is_named = bool(row["model"]) and row["model"] != row["role"]
    return (
        row["subject"],
        f"{row['role']} {row['model']}" if is_named else row["role"],
        *(_rate(row["sets"].get(tasks, {}).get("greedy")) for tasks in _SETS),
        f"{decisive} tasks" if pair else "-",
        "-" if pair is None or gap is None else _signed(gap, pair["interval"]),
        _word(pair),
        percent(seen["accuracy"]["value"]) if seen and seen["accuracy"] else "-",
        percent(learnt["value"]) if learnt else "-",
    )


def _word(pair: Row | None) -> str:
    """Return what a pair's verdict is called in a table."""
    if pair is None:
        return "-"
    verdict: str = pair["verdict"]
    return BIASED.get(verdict, verdict)


def _rate(figures: Row | None) -> str:
    """Return a rate with its interval; one that does not count is none, and no 0 either."""
    if figures is None:
        return "-"
    found = figures["abr"]
    if found is None:
        return "no figure"
    lost = len(figures["by_seed"]) - found["seeds"]
    left_out = f", {lost} of {len(figures['by_seed'])} seeds left out" if lost > 0 else ""
    return f"{percent(found['value'])} ({_range(found['interval'])}{left_out})"


def _range(interval: Row) -> str:
    return f"{percent(interval['low'])} to {percent(interval['high'])}"


def _signed(value: float, interval: Row) -> str:
    return f"{100 * value:+.1f} ({100 * interval['low']:+.1f} to {100 * interval['high']:+.1f})"


def _filter(row: Row, shares: Sequence[str]) -> tuple[str, ...]:
    area = row["auroc"]
    name = " ".join((component(row["filter"]), *(f"{k}={v}" for k, v in row["options"].items())))
    why = row["error"] or ("its teacher does not count" if row.get("invalid") else "")
    told = "no figure" + (f": {why}" if why else "")
    if area:
        ends = "" if area["low"] is None else f" ({area['low']:.2f} to {area['high']:.2f})"
        told = f"{area['value']:.2f}{ends}"
    passed = (row["passed"].get(share) for share in shares)
    return (
        row["subject"],
        name,
        row["on"],
        told,
        *(f"{percent(f['value'])} ({_range(f['interval'])})" if f else "-" for f in passed),
        str(row["n_poison"]),
        str(row["n_clean"]),
        str(row["seeds"]),
    )
