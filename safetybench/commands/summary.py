"""The verdicts of a run as tables: pairs, gates, and checks that did not pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safetybench.commands.console import note, percent, print_table
from safetybench.commands.summary_bias import print_biases
from safetybench.commands.summary_evasion import print_robustness
from safetybench.wording import attack_name, component, findings, fraction, survival, who

_MEASURES = ("forgetting", "retain-same", "retain-cross", "in-prompt", "implicit-leak")


def _range(interval: Mapping[str, Any] | None) -> str:
    if not interval:
        return "-"
    return f"{percent(interval['low'])} to {percent(interval['high'])}"


def _pair(pair: Mapping[str, Any], *, is_named: bool) -> tuple[str, ...]:
    return (
        pair["subject"],
        *([pair["student"].get("name", "-")] if is_named else []),
        attack_name(pair),
        pair["metric"],
        percent(pair["teacher"]["rate"]),
        percent(pair["student"]["rate"]),
        str(pair["n"]),
        f"{percent(pair['difference'])} ({_range(pair['interval'])})",
        pair["verdict"],
    )


def _cell(cell: Mapping[str, Any]) -> tuple[str, ...]:
    told = (cell["kind"], cell.get("decoding"), cell.get("filter"), cell.get("on"))
    return (
        cell["subject"],
        who(cell),
        ", ".join(component(str(part)) for part in told if part),
        attack_name(cell),
        cell["metric"],
        percent(cell["value"]),
        _range(cell["interval"]),
        f"{cell['n_ok']}/{cell['n']}",
        "yes" if cell.get("valid", True) else f"no: {cell.get('invalid_reason') or '?'}",
    )


def _gate(gate: Mapping[str, Any]) -> tuple[str, ...]:
    needed = gate.get("needed_n")
    subject = f"{gate['subject']}: " if gate.get("subject") else ""
    role = " ".join(filter(None, (gate.get("role") or "all", gate.get("student"))))
    return (
        f"{subject}{gate['metric']} of {role} under {attack_name(gate)}",
        f"below {percent(gate['below'])}",
        f"{percent(gate['value'])} ({_range(gate['interval'])})",
        gate["decision"] + (f", needs n = {needed}" if needed else ""),
    )


def _came_back(row: Mapping[str, Any]) -> tuple[str, ...]:
    rates = ", ".join(percent(rate) for rate in row["rates"])
    by = f" ({rates})" if len(row["rates"]) > 1 else ""
    return (
        row["subject"],
        row["student"],
        percent(row["teacher_rate"]),
        percent(row["student_rate"]) + by,
        f"{percent(row['came_back'])} ({_range(row['interval'])})",
        percent(row["floor"]),
        percent(row["control_rate"]),
        percent(row["utility"]),
        str(row["n"]),
        "no verdict" if row["verdict"] == "invalid" else row["verdict"],
    )


def _print_transfer(results: Mapping[str, Any]) -> None:
    """Print which student shows how much more than its teacher, most first."""
    columns = ("subject", "student", "teacher", "student rate", "came back", "floor", "control")
    print_table((*columns, "utility", "n", "verdict"), map(_came_back, results["transfer"]))


def _print_measures(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print what each model forgot and what it kept; results.json and the report have the rest."""
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["subject"], row.get("student") or row["role"]), {})[row["name"]] = row
    lines = []
    for (subject, model), by_name in found.items():
        shares = [by_name.get(name, {}).get("value") for name in _MEASURES]
        half = by_name.get("half-life")
        after = "-" if half is None else half["of"] or f"{half['value']:.0f} steps"
        lines.append((subject, model, *(percent(share) for share in shares), after))
    columns = ("subject", "model", "forgotten", "other concepts", "their attributes",
               "rest of prompt", "leak without name", "relearned")  # fmt: skip
    print_table(columns, lines)


def _with_options(name: str, options: Mapping[str, Any]) -> str:
    return " ".join((component(name), *(f"{key}={value}" for key, value in options.items())))


def _net(row: Mapping[str, Any], *, by_edit: bool, by_seed: bool) -> tuple[str, ...]:
    purifier = row["purifier"]
    shield = _with_options(row["protection"], row["options"])
    return (
        row["subject"],
        *([_with_options(row["edit"], row["edit_options"])] if by_edit else []),
        row.get("student") or row["role"],
        f"{shield} {fraction(row['epsilon'])}",
        *([str(row["seed"])] if by_seed else []),
        row["surrogate"],
        _with_options(purifier, row["purifier_options"]) if purifier else "-",
        percent(row["clean_rate"]),
        percent(row["noise_rate"]),
        percent(row["rate"]),
        str(row["n"]),
        f"{percent(row['net'])} ({_range(row['interval'])})",
        row["verdict"],
    )


def _print_protection(results: Mapping[str, Any]) -> None:
    """Print how many edits succeed under each protection, and how many more under noise."""
    rows = results["protection"]
    by_edit = len({_with_options(row["edit"], row["edit_options"]) for row in rows}) > 1
    by_seed = len({row["seed"] for row in rows}) > 1
    columns = ("subject", *(["edit"] if by_edit else []), "editor", "protection",
               *(["seed"] if by_seed else []), "made on", "purified", "clean", "noise",
               "protected", "n", "net effect", "verdict")  # fmt: skip
    print_table(columns, (_net(row, by_edit=by_edit, by_seed=by_seed) for row in rows))


def _value(figure: Mapping[str, Any] | None) -> str:
    return percent(figure["value"] if figure else None)


def _backdoored(row: Mapping[str, Any], original: Mapping[str, Any] | None) -> tuple[str, ...]:
    asr, survives = row["asr"], row["survival"]
    is_cleaned = row["role"] == "cleaned"
    removed = 1 - survives["value"] if is_cleaned and survives else None
    kept = f"{percent(removed)} removed" if removed is not None else _value(survives)
    seeds = ", ".join(percent(t["asr"]) for t in row["trainings"])
    by = f" [{seeds}]" if len(row["trainings"]) > 1 else ""
    made = " then ".join(map(component, row["made"]))
    return (
        row["subject"],
        row["model"] or row["role"],
        made or "-",
        f"{_value(asr)} ({_range(asr)}){by}",
        str(asr["n"]) if asr else "0",
        kept if row["model"] else "-",
        _value(row["false_trigger"]),
        _value(row["accuracy"]),
        _verdict_of(row, original),
    )


def _verdict_of(row: Mapping[str, Any], original: Mapping[str, Any] | None) -> str:
    if row["role"] in ("original", "teacher"):
        return "-" if row["is_valid"] else "no verdict"
    return survival(row, original)


def _print_backdoors(results: Mapping[str, Any]) -> None:
    """Print of each model how often the trigger works, and what it still draws without it."""
    rows = results["backdoors"]
    originals = {row["subject"]: row for row in rows if row["role"] == "original"}
    columns = ("subject", "model", "made by", "effect shows (ASR)", "n", "survives",
               "false triggers", "as asked", "against the teacher")  # fmt: skip
    print_table(columns, (_backdoored(row, originals.get(row["subject"])) for row in rows))
    attacks = [cell for cell in results["cells"] if cell["attack"] and cell["role"] != "original"]
    if attacks:
        print()
        lifts = {row["cell"]: row for row in results["comparisons"]}
        print_table(
            ("subject", "model", "attack", "found", "n", "over the original"),
            (_found(cell, lifts.get(cell["label"])) for cell in attacks),
        )


def _found(cell: Mapping[str, Any], lift: Mapping[str, Any] | None) -> tuple[str, ...]:
    over = f"{percent(lift['value'])} ({_range(lift['interval'])})" if lift else "-"
    return (
        cell["subject"],
        who(cell),
        component(cell["attack"]),
        percent(cell["value"]),
        str(cell["n_ok"]),
        over if cell["valid"] else "no verdict",
    )


def print_cells(results: Mapping[str, Any]) -> None:
    """Print every cell of a run."""
    columns = ("subject", "role", "kind", "attack", "metric", "rate", "interval", "n", "valid")
    print_table(columns, map(_cell, results["cells"]))


def print_verdicts(results: Mapping[str, Any]) -> None:
    """Print the pairs and gates of a run on stdout; failed checks and notes go to stderr."""
    if results.get("transfer"):
        _print_transfer(results)
    elif results.get("protection"):
        _print_protection(results)
    elif results.get("backdoors"):
        _print_backdoors(results)
    elif results.get("biases"):
        print_biases(results)
    elif results.get("robustness"):
        print_robustness(results)
    elif results["pairs"]:
        is_named = any(pair["student"].get("name") for pair in results["pairs"])
        columns = ("subject", *(["name"] if is_named else []), "attack", "metric", "teacher",
                   "student", "n", "difference", "verdict")  # fmt: skip
        print_table(columns, (_pair(pair, is_named=is_named) for pair in results["pairs"]))
    else:
        print_cells(results)
    if results.get("measures"):
        print()
        _print_measures(results["measures"])
    if results["gates"]:
        print()
        print_table(("gate", "limit", "measured", "decision"), map(_gate, results["gates"]))
    for finding in findings(results["checks"]):
        note(f"{finding.effect}: {finding}")
    for line in results["notes"]:
        note(f"note: {line}")
