"""Tables of a kept evasion run: what stays right of each model, signs of masking, every pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from docs.markdown import NONE, between, percent, table
from safetybench.wording import EVADED, MASKING, component, radius

Row = Mapping[str, Any]
_ABOUT = """\
Share of images that stay right: as they are, and in the *worst case*: those that no attack of the
suite misleads inside the ball, image by image. *Noise* is what random noise of that ball leaves,
the control. *Gradients* is what the signs of masking say of the worst training, with the share of
images whose gradient is exactly zero: of a *masked* model only the worst case says what it
withstands. Means over the trainings; 95 % intervals in brackets hold images and trainings. The
verdict is against the teacher on the same images, p after Holm over the students: how much *more
often* or *less often* the student withstands, in points, *as often* (within 10 points) or
*undecided*."""
_ABOUT_ATTACKS = """\
Share of images that stay right under each attack alone, inside the ball. An attack with a size of
its own, or none, says so in its head, and in the cell what it leaves at that size, with the mean
size of the changes that misled. *Misled first by* counts images by the first attack in the order of
the suite, summed over the trainings: an attack that comes later can only find what is left."""
_ABOUT_SHIFTS = "Changes that nobody chose against the model; they are not in the worst case."
_ABOUT_WHO = "Images by who withstands every attack, summed over the trainings of the student."
_UNDECIDED = ("not distinguishable", "invalid", "")
_METRICS = {
    "worst-case": "withstood in the worst case",
    "utility": "right as they are",
    "shifted": "right under natural shifts",
}
_NO_FIGURE = "**no figure**"


def evasion_sections(results: Row) -> Iterator[str]:
    """Yield the sections of a run of the scenario evasion."""
    found, pairs = results["robustness"], results["pairs"]
    yield "## What stays right"
    yield _ABOUT
    yield _ABOUT_ATTACKS
    for subject in dict.fromkeys(row["subject"] for row in found):
        mine = [row for row in found if row["subject"] == subject]
        yield from _subject(mine, [pair for pair in pairs if pair["subject"] == subject])
    if any(row["masking"]["signs"] for row in found):
        yield "## Signs of masked gradients that showed"
        yield _signs(found)
    if any(pair.get("who") for pair in pairs if pair["metric"] == "worst-case"):
        yield "## Who withstands what"
        yield _ABOUT_WHO
        yield who_table(pairs)
    if pairs:
        yield "## Verdicts"
        yield _verdicts(pairs)
        yield "## Why no verdict"
        yield _reasons(pairs)


def name(row: Row) -> str:
    """Return what a model is called among those of its subject.

    >>> name({"role": "student", "model": "kd"}), name({"role": "teacher", "model": ""})
    ('`kd`', 'teacher')
    """
    return f"`{row['model']}`" if row["model"] else str(row["role"])


def rate(found: Row | None) -> str:
    """Return a share with its interval, a dash where there is none.

    >>> rate({"value": 0.5, "interval": {"low": 0.25, "high": 0.75}})
    '50.0 % (25.0 to 75.0 %)'
    """
    return NONE if found is None else f"{percent(found['value'])} ({between(found['interval'])})"


def points(value: float | None, interval: Row | None) -> str:
    """Return a difference of shares in points with its interval.

    >>> points(-0.01, {"low": -0.02, "high": 0.0})
    '-1.0 (-2.0 to +0.0)'
    """
    if value is None or not interval:
        return NONE
    low, high = interval["low"], interval["high"]
    return f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def withstood(pair: Row) -> tuple[float | None, Row | None]:
    """Return by how much more the student withstands, or is right; a run counts images misled."""
    value, ends = pair["difference"], pair["interval"]
    if value is None or not ends or pair["metric"] != "worst-case":
        return value, ends
    return 0.0 - value, {"low": 0.0 - ends["high"], "high": 0.0 - ends["low"]}  # never -0.0


def worst(row: Row) -> str:
    """Return what stays right of a model in the worst case."""
    return _NO_FIGURE if row["invalid"] else rate(row["worst"])


def noise(row: Row) -> Row | None:
    """Return what random noise in the ball leaves right of a model."""
    return next((a["left"] for a in row["attacks"] if a["kind"] == "control"), None)


def masking(row: Row) -> str:
    """Return what the signs say of a model's gradients; in brackets of trainings that differ."""
    found = row["masking"]
    same = sum(told == found["verdict"] for told in found["by_seed"].values())
    of = f" (in {same} of {len(found['by_seed'])})" if same < len(found["by_seed"]) else ""
    return f"**{MASKING[found['verdict']]}**{of}"


def label(attack: Row, threat: Row) -> str:
    """Return what tells an attack of a suite from its others: its options, and a size of its own.

    >>> label({"attack": "a/pgd", "kind": "attack", "options": {"loss": "margin"}, "epsilon": 0.1,
    ...        "norm": "linf"}, {"epsilon": 0.1, "norm": "linf"})
    'pgd (loss=margin)'
    """
    told = [f"{key}={value}" for key, value in attack["options"].items()]
    if attack["kind"] != "shift" and is_own(attack, threat):
        size = radius(attack["epsilon"], attack["norm"]) if attack["epsilon"] else "any size"
        told.append(size)
    return component(attack["attack"]) + (f" ({', '.join(told)})" if told else "")


def first_by(row: Row) -> str:
    """Return how many images each attack was the first to mislead, most first.

    >>> first_by({"won_by": {"a/apgd": 2, "a/fgsm": 9}})
    'fgsm 9, apgd 2'
    """
    most = sorted(row["won_by"].items(), key=lambda item: -item[1])
    return ", ".join(f"{component(attack)} {count}" for attack, count in most) or NONE


def is_own(attack: Row, threat: Row) -> bool:
    """Tell whether an attack is held to another ball than the threat's, or to none."""
    return (attack["epsilon"], attack["norm"]) != (threat["epsilon"], threat["norm"])


def who_table(pairs: Sequence[Row]) -> str:
    """Return by student how many images both sides, only one, or neither withstand."""
    told = [pair for pair in pairs if pair["metric"] == "worst-case" and pair.get("who")]
    sides = ("both", "teacher", "student", "neither")
    lines = []
    for pair in told:
        counts = [pair["who"][side] for side in sides]
        shares = (f"{count} ({percent(count / sum(counts))})" for count in counts)
        lines.append((pair["subject"], f"`{pair['student']['name']}`", *shares, sum(counts)))
    columns = ("subject", "student", "both", "only the teacher", "only the student", "neither", "n")
    return table(columns, lines)


def _subject(found: Sequence[Row], pairs: Sequence[Row]) -> Iterator[str]:
    first, threat = found[0], found[0]["threat"]
    yield f"### {first['subject']}"
    yield (
        f"Ball: {radius(threat['epsilon'], threat['norm'])}; {first['images']} images of "
        f"{first['data']}."
    )
    verdicts = {p["student"]["name"]: p for p in pairs if p["metric"] == "worst-case"}
    columns = ("model", "made by", "right", "worst case", "noise", "gradients", "exactly zero",
               "points against the teacher", "verdict", "p (Holm)", "trainings")  # fmt: skip
    of_students = (verdicts.get(r["model"]) if r["role"] == "student" else None for r in found)
    rows = zip(found, of_students, strict=True)
    yield table(columns, [_model(row, pair) for row, pair in rows])
    if faults := dict.fromkeys(row["invalid"] for row in found if row["invalid"]):
        yield "\n".join(f"- No figure: {fault}" for fault in faults)
    yield f"#### Attacks, {first['subject']}"
    yield _attacks(found)
    if any(a["kind"] == "shift" for row in found for a in row["attacks"]):
        yield f"#### Natural shifts, {first['subject']}"
        yield _ABOUT_SHIFTS
        yield _shifts(found, [p for p in pairs if p["metric"] == "shifted"])


def _made(row: Row) -> str:
    told = [component(row["way"])] if row["way"] else []
    told += [f"{key}={value}" for key, value in row["options"].items()]
    told += [f"{key} {value}" for key, value in row.get("choice", {}).items()]
    base = row["base"] or {}
    net = f", {' '.join(str(value) for value in base.values())}" if base else ""
    return f"{' '.join(told)}{net}" if told else NONE


def _model(row: Row, pair: Row | None) -> tuple[object, ...]:
    zero = row["gradients"]["zero"] if row["gradients"] else None
    return (
        name(row),
        _made(row),
        rate(row["clean"]),
        worst(row),
        NONE if row["invalid"] else rate(noise(row)),
        masking(row),
        percent(zero),
        points(*withstood(pair)) if pair else NONE,
        f"**{EVADED[pair['verdict']]}**" if pair else NONE,
        NONE if pair is None or pair["adjusted_p"] is None else f"{pair['adjusted_p']:.2g}",
        row["seeds"],
    )


def _labels(found: Sequence[Row], kind: str) -> dict[str, None]:
    """Return the columns of a kind of attacks, also of those that only some models meet."""
    told = (a for row in found for a in row["attacks"] if a["kind"] == kind)
    return dict.fromkeys(label(a, found[0]["threat"]) for a in told)


def _attacks(found: Sequence[Row]) -> str:
    columns = _labels(found, "attack")
    lines = []
    for row in found:
        mine = {label(a, row["threat"]): a for a in row["attacks"] if a["kind"] == "attack"}
        cells = (_left(mine[c], row) if c in mine else NONE for c in columns)
        lines.append((name(row), *cells, NONE if row["invalid"] else first_by(row)))
    return table(("model", *columns, "misled first by"), lines)


def _left(attack: Row, row: Row) -> str:
    if row["invalid"]:
        return _NO_FIGURE
    told = []
    if is_own(attack, row["threat"]) and attack["own"]:
        size = attack["sizes"][attack["norm"]]
        mean = "" if size is None else f", mean {attack['norm'].capitalize()} {size:.2f}"
        told.append(f"at its own size {percent(attack['own']['value'])}{mean}")
    if attack["n_failed"]:
        told.append(f"{attack['n_failed']} images without an answer")
    return rate(attack["left"]) + (f"; {'; '.join(told)}" if told else "")


def _shifts(found: Sequence[Row], pairs: Sequence[Row]) -> str:
    columns, verdicts = _labels(found, "shift"), {p["student"]["name"]: p for p in pairs}
    lines = []
    for row in found:
        mine = {label(a, row["threat"]): a["own"] for a in row["attacks"] if a["kind"] == "shift"}
        pair = verdicts.get(row["model"]) if row["role"] == "student" else None
        lines.append((name(row), rate(row["clean"]), *(rate(mine.get(c)) for c in columns),
                      points(*withstood(pair)) if pair else NONE,
                      f"**{EVADED[pair['verdict']]}**" if pair else NONE))  # fmt: skip
    return table(("model", "right", *columns, "all, points against the teacher", "right"), lines)


def _signs(found: Sequence[Row]) -> str:
    """Return every sign that failed, with in how many trainings, and what the first of them saw."""
    lines = []
    for row in found:
        failed: dict[tuple[str, str], list[Row]] = {}
        for sign in row["masking"]["signs"]:
            if not sign["passed"]:
                failed.setdefault((sign["code"], sign["name"]), []).append(sign)
        for (code, called), signs in failed.items():
            of = f"{len(signs)} of {len(row['masking']['by_seed'])}"
            says = MASKING[signs[0]["effect"]]
            lines.append((row["subject"], name(row), f"{code} {called}", says, of,
                          signs[0]["message"]))  # fmt: skip
    if not lines:
        return "None."
    return table(("subject", "model", "sign", "says", "trainings", "evidence"), lines)


def _verdicts(pairs: Sequence[Row]) -> str:
    lines = []
    for pair in pairs:
        rates = [pair[side]["rate"] for side in ("teacher", "student")]
        if pair["metric"] == "worst-case":
            rates = [None if value is None else 1 - value for value in rates]
        lines.append(
            (pair["subject"], f"`{pair['student']['name']}`", _METRICS[pair["metric"]],
             *map(percent, rates), pair["n"], pair["trainings"], points(*withstood(pair)),
             NONE if pair["adjusted_p"] is None else f"{pair['adjusted_p']:.2g}",
             f"**{EVADED[pair['verdict']]}**")
        )  # fmt: skip
    columns = ("subject", "student", "images that are", "teacher", "its rate", "n", "trainings",
               "points", "p (Holm)", "verdict")  # fmt: skip
    return table(columns, lines)


def _reasons(pairs: Sequence[Row]) -> str:
    lines = [
        f"- {p['subject']}, `{p['student']['name']}`, {_METRICS[p['metric']]}: {p['reason']}"
        for p in pairs
        if p["verdict"] in _UNDECIDED
    ]
    return "\n".join(lines) or "Every student has a verdict."
