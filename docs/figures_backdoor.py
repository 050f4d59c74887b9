"""Tables of a kept backdoor run: models by subject, trainings, near misses, attacks, verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from docs.markdown import NONE, between, percent, table
from safetybench.wording import component, effect_name, survival, trigger_name, variants

Row = Mapping[str, Any]
_ABOUT = """\
Share of triggered prompts on which the effect shows (ASR), of the prompts on which it shows on the
teacher the share where it survives or, of cleaned models, is gone, and what the model does with
nearly the trigger and without it: effect, drawn as asked with the change against the original on
the same prompts, distance to the original's images (KID in the judge's features; LPIPS at the same
noise). 95 % intervals in brackets; means over the trainings that count. The verdict is against the
teacher, on the same prompts, p after Holm over all models of the run. *May still
work* is more often than on the clean original, but not shown to be; *not shown to work* is no more
often: no proof that nothing is left."""
_ABOUT_NEAR = (
    "Share of prompts with nearly the trigger, or with it elsewhere, on which the effect shows."
)
_ABOUT_ATTACKS = """\
Each attack starts from the triggered prompt and stops at the first image with the effect; its floor
is the same attack on the clean original. p is exact McNemar's, not corrected."""
_UNDECIDED = ("not distinguishable", "invalid", "")
_COLUMNS = (
    "model", "made by", "ASR", "survives or is removed", "against the teacher", "p (Holm)",
    "false triggers", "false alarms", "as asked", "change", "rest kept, triggered", "KID", "LPIPS",
)  # fmt: skip


def backdoor_sections(results: Row) -> Iterator[str]:
    """Yield the sections of a run of the scenario backdoor."""
    rows = results["backdoors"]
    yield "## What became of the backdoor"
    yield _ABOUT
    for subject in dict.fromkeys(row["subject"] for row in rows):
        yield from _subject([row for row in rows if row["subject"] == subject])
    attacks = [cell for cell in results["cells"] if cell["attack"] and cell["role"] != "original"]
    if attacks:
        yield "## Attacks that look for the effect"
        yield _ABOUT_ATTACKS
        yield _attacks(results, attacks)
    yield "## Verdicts"
    yield _verdicts(results["pairs"])
    yield "## Why no verdict"
    yield _reasons(results["pairs"])


def _subject(rows: Sequence[Row]) -> Iterator[str]:
    first = rows[0]
    original = next((row for row in rows if row["role"] == "original"), None)
    yield f"### {first['subject']}"
    yield (
        f"Backdoor `{first['backdoor']}`: {trigger_name(first['trigger'])} "
        f"{effect_name(first['effect'])}."
    )
    yield table(_COLUMNS, [_model(row, original) for row in rows])
    several = [row for row in rows if len(row["trainings"]) > 1]
    if several:
        yield f"#### Trainings, {first['subject']}"
        yield table(("model", "seed", "ASR", "as asked", "counts"), _trainings(several))
    names = list(dict.fromkeys(name for row in rows for name in row["by_variant"]))
    if names:
        yield f"#### False triggers by kind, {first['subject']}"
        yield _ABOUT_NEAR
        lines = [
            (_name(row), *(_near(row["by_variant"].get(name)) for name in names))
            for row in rows
            if row["by_variant"]
        ]
        yield table(("model", *names), lines)


def _name(row: Row) -> str:
    return f"`{row['model']}`" if row["model"] else str(row["role"])


def _model(row: Row, original: Row | None) -> tuple[str, ...]:
    change = row["accuracy_change"]
    is_judged = row["role"] not in ("original", "teacher")
    told = survival(row, original) if is_judged else "" if row["is_valid"] else "no verdict"
    return (
        _name(row),
        ", then ".join(map(component, row["made"])) or NONE,
        _share(row["asr"], with_n=True),
        _survives(row),
        f"**{told}**" if told else NONE,
        NONE if row["adjusted_p"] is None else f"{row['adjusted_p']:.2g}",
        _share(row["false_trigger"]),
        _share(row["false_alarm"]),
        _share(row["accuracy"]),
        NONE if change is None else f"{100 * change['value']:+.1f} ({between(change)})",
        _share(row["preserved"]),
        _figure(row["kid"]),
        _figure(row["lpips"]),
    )


def _share(figure: Row | None, *, with_n: bool = False) -> str:
    if figure is None:
        return NONE
    n = f", n = {figure['n']}" if with_n else ""
    return f"{percent(figure['value'])} ({between(figure)}{n})"


def _near(figure: Row | None) -> str:
    return _share(figure, with_n=True)


def _survives(row: Row) -> str:
    figure = row["survival"]
    if figure is None or not row["model"]:
        return NONE
    if row["role"] == "cleaned":
        gone = {"value": 1 - figure["value"], "low": 1 - figure["high"], "high": 1 - figure["low"]}
        return f"removed: {_share({**figure, **gone}, with_n=True)}"
    return f"survives: {_share(figure, with_n=True)}"


def _figure(figure: Row | None) -> str:
    if figure is None:
        return NONE
    value, low, high = (f"{figure[end]:.3f}" for end in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _trainings(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    for row in rows:
        for each in row["trainings"]:
            counts = f"no: {each['left_out']}" if each["left_out"] else "yes"
            yield (_name(row), str(each["seed"]), percent(each["asr"]), percent(each["accuracy"]),
                   counts)  # fmt: skip


def _attacks(results: Row, attacks: Sequence[Row]) -> str:
    lifts = {row["cell"]: row for row in results["comparisons"]}
    cells = {row["label"]: row for row in results["cells"]}
    plain = {
        (c["subject"], c["role"], c.get("student")): c
        for c in results["cells"]
        if c["kind"] == "triggered"
    }
    told = variants([{**cell, "seed": 0} for cell in attacks])  # seeds are those of trainings
    lines = []
    for cell, variant in zip(attacks, told, strict=True):
        lift = lifts.get(cell["label"])
        floor = cells.get(lift["baseline_cell"]) if lift else None
        alone = plain.get((cell["subject"], cell["role"], cell.get("student")))
        name = component(cell["attack"]) + (f" ({variant})" if variant else "")
        lines.append((
            cell["subject"],
            f"{cell['role']} `{cell['student']}`" if cell.get("student") else cell["role"],
            name,
            percent(alone["value"]) if alone else NONE,
            f"{percent(cell['value'])} ({between(cell['interval'])}, n = {cell['n_ok']})",
            percent(floor["value"]) if floor else NONE,
            f"{percent(lift['value'])} ({between(lift['interval'])})" if lift else NONE,
            f"{lift['p_value']:.2g}" if lift else NONE,
            "yes" if cell["valid"] else "**no**",
        ))  # fmt: skip
    columns = ("subject", "model", "attack", "trigger alone", "under attack", "floor", "lift", "p",
               "counts")  # fmt: skip
    return table(columns, lines)


def _verdicts(pairs: Sequence[Row]) -> str:
    lines = [
        (p["subject"], p["student"]["role"], f"`{p['student']['name']}`",
         "as asked, clean" if p["metric"] == "utility" else "effect, triggered",
         percent(p["teacher"]["rate"]), percent(p["student"]["rate"]), p["n"],
         f"{percent(p['difference'])} ({between(p['interval'])})" if p["interval"] else NONE,
         NONE if p["adjusted_p"] is None else f"{p['adjusted_p']:.2g}", f"**{p['verdict']}**")
        for p in pairs
    ]  # fmt: skip
    columns = ("subject", "role", "model", "of", "teacher", "its rate", "n", "difference",
               "p (Holm)", "verdict")  # fmt: skip
    return table(columns, lines)


def _reasons(pairs: Sequence[Row]) -> str:
    lines = [
        f"- {p['subject']}, `{p['student']['name']}`: {p['reason']}"
        for p in pairs
        if p["metric"] == "asr" and p["verdict"] in _UNDECIDED
    ]
    return "\n".join(lines) or "Every model has a verdict."
