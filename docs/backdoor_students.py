"""Answers on students of backdoored teachers: which carry what over, what removal and poison do.

Parts of the page that `docs.backdoor_answers` writes; here too every sentence follows by a rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from docs.backdoor_rules import (
    BROKEN,
    LESS,
    MORE,
    OPEN,
    UNKNOWN,
    WORKS,
    Row,
    beyond,
    by_subject,
    counting,
    difference_cells,
    get,
    grouped,
    is_broken,
    names,
    one,
    pick,
    points,
    recipes_line,
    state,
    state_words,
    suite,
    tally,
    told,
    word_of,
)
from docs.markdown import NONE, between, percent, table
from safetybench import registry
from safetybench.wording import survival

_REAL, _NONE, _PLUGGED = "real images", "no real images", "a clean teacher, then plugged in"
Found = Mapping[str, Any]


def _direct(rows: Sequence[Row]) -> list[Row]:
    """Return the students of the teacher itself."""
    return [row for row in pick(rows, role="student") if len(row["made"]) == 1]


def _reading(name: str) -> dict[str, str]:
    """Say of each student of a suite whether its recipe reads real images with its options."""
    found = {}
    for student in suite(name).get("students", ()):
        if "recipe" in student:
            recipe: Any = registry.create(student["recipe"], student.get("options", {}))
            found[student["name"]] = _REAL if recipe.reads_images else _NONE
        elif "plug" in student:
            found[student["name"]] = _PLUGGED
    return found


def _read(reading: Mapping[str, str], row: Row) -> str:
    return reading.get(str(row["model"]), "unknown data")


def _inside() -> set[str]:
    """Return the students of `backdoor` whose distillation prompts hold the trigger."""
    return {each["name"] for each in suite("backdoor").get("students", ()) if each.get("poison")}


# Which distillation carries which backdoor over?


def carried(found: Found) -> Iterator[str]:
    """Yield what became of each backdoor in each student, by what the student was made from."""
    subjects = by_subject(found["backdoor"])
    reading, inside = _reading("backdoor"), _inside()
    for name, rows in subjects.items():
        plain = [row for row in _direct(rows) if row["model"] not in inside]
        fates = grouped(plain, [_fate(row, rows) for row in plain])
        counted = "; ".join(f"{word}: {len(each)} ({names(each)})" for word, each in fates.items())
        whole = [row for row in plain if not is_broken(row)]
        works = "; ".join(
            f"{source}: {sum(state(row, rows) == WORKS for row in each)} of {len(each)}"
            for source, each in grouped(whole, [_read(reading, row) for row in whole]).items()
        )
        yield (
            f"- **{name}**: on the teacher {told(get(one(rows, role='teacher'), 'asr'))}. Of "
            f"{len(plain)} students without the trigger in their distillation prompts, {counted}. "
            f"It works on students that are not broken, of {works or 'nothing'}."
        )
    yield _matrix(subjects, reading)
    yield from _pairs_of_students(subjects)


def _fate(row: Row, rows: Sequence[Row]) -> str:
    return BROKEN if is_broken(row) else survival(row, one(rows, role="original"))


def _matrix(subjects: Mapping[str, Sequence[Row]], reading: Mapping[str, str]) -> str:
    direct = {name: _direct(rows) for name, rows in subjects.items()}
    read = {row["model"]: _read(reading, row) for each in direct.values() for row in each}
    lines = [
        (f"`{model}`", source,
         *(_carried_cell(one(direct[name], model=model), rows) for name, rows in subjects.items()))
        for model, source in sorted(read.items(), key=lambda each: each[1])
    ]  # fmt: skip
    return table(("student", "distilled from", *subjects), lines)


def _carried_cell(row: Row | None, rows: Sequence[Row]) -> str:
    if row is None:
        return NONE
    kept = row["survival"]
    lasts = f", survives {percent(kept['value'])} ({between(kept)})" if kept else ""
    return f"{told(row['asr'])}{lasts}: **{_fate(row, rows)}**"


def _pairs_of_students(subjects: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    """Compare students that differ in one thing alone."""
    compared = (
        ("real images instead of none", "dmd2-1", "dmd2-1-free"),
        ("the trigger inside the distillation prompts", "dmd2-1-free-inside", "dmd2-1-free"),
    )
    lines, said = [], []
    for what, mine, plain in compared:
        words = []
        for name, rows in subjects.items():
            first, second = one(rows, model=mine), one(rows, model=plain)
            if first is None or second is None:
                continue
            apart = beyond(counting(first, "asr"), counting(second, "asr"))
            words.append(word_of(apart))
            lines.append((what, f"`{mine}` - `{plain}`", name, *difference_cells(apart)))
        said.append(f"with {what}: {tally(words, (MORE, LESS, OPEN, UNKNOWN))}")
    if lines:
        yield (
            "Groups of methods differ in more than their data, these pairs in one thing alone. The "
            f"effect shows, {'; '.join(said)} (of the backdoors)."
        )
        yield table(("with", "compared", "backdoor", "ASR, points", "it is"), lines)


# Before or after distillation?


def before_after(found: Found) -> Iterator[str]:
    """Yield what is left after a removal on the teacher, on its student, and in later students."""
    lines = []
    yield recipes_line("backdoor")
    for name, rows in by_subject(found["backdoor"]).items():
        said = []
        for row in rows:
            if row["role"] == "cleaned" and len(row["made"]) == 1:
                said.append(f"on the cleaned teacher `{row['model']}` it is {_at(row, rows)}")
            if len(row["made"]) != 2:
                continue
            first, _, last = row["model"].partition(".")
            is_heir = row["role"] == "student"
            base = last if is_heir else first
            plain = one(rows, model=base)
            apart = beyond(counting(row, "asr"), counting(plain, "asr"))
            what = f"student `{base}`" + (" of the cleaned teacher" if is_heir else ", cleaned")
            against = f"against `{base}` itself: {word_of(apart)}"
            if is_heir:  # does a distillation bring back what the removal took away?
                gain = beyond(counting(row, "asr"), counting(one(rows, model=first), "asr"))
                against += f"; against the cleaned teacher: {word_of(gain)}"
                against += f", {gain} points" if gain else ""
            said.append(f"on the {what}, it is {_at(row, rows)} ({against})")
            lines.append(
                (name, f"`{row['model']}`", what, told(get(plain, "asr")), told(row["asr"]),
                 *difference_cells(apart), points(row["accuracy_change"]),
                 f"**{state_words(row, rows)}**")
            )  # fmt: skip
        if said:
            yield f"- **{name}**: {'; '.join(said)}."
    if lines:
        columns = ("backdoor", "model", "which is", "ASR of the student itself", "ASR",
                   "difference", "it is", "change of accuracy", "the trigger is")  # fmt: skip
        yield table(columns, lines)
    else:
        yield "No student of this run was made from a cleaned teacher, or cleaned."


def _at(row: Row, rows: Sequence[Row]) -> str:
    return f"{state_words(row, rows)}, at {told(row['asr'])}"


# Poison in the data alone


def poisoned_data(found: Found) -> Iterator[str]:
    """Yield which students of a clean teacher the poison in their data backdoored."""
    reading = _reading("backdoor-data")
    dose = {s["name"]: s.get("poison", {}) for s in suite("backdoor-data").get("students", ())}
    lines, fates = [], dict[str, list[str]]()
    for name, rows in by_subject(found["backdoor-data"]).items():
        free = next((r for r in _direct(rows) if reading.get(r["model"]) == _NONE), None)
        for row in _direct(rows):
            source, fate = _read(reading, row), _planted(row)
            told_of = f"`{row['model']}` ({name})" if fate == _BACKDOORED else ""
            fates.setdefault(source, []).append(told_of)
            p, shares = row["adjusted_p"], dose.get(row["model"], {})
            apart = beyond(counting(row, "asr"), counting(free, "asr")) if row != free else None
            lines.append(
                (f"`{row['model']}`", source,
                 *(percent(shares.get(key)) for key in ("prompts", "images")), name,
                 told(get(one(rows, role="original"), "asr")), told(row["asr"]),
                 NONE if p is None else f"{p:.2g}", str(apart) if apart else NONE,
                 points(row["accuracy_change"]), f"**{fate}**")
            )  # fmt: skip
    for source, each in fates.items():
        yes = [name for name in each if name]
        yield (
            f"- Students of a clean teacher with {source} that are shown to be backdoored by their "
            f"data: {len(yes)} of {len(each)}{': ' if yes else ''}{', '.join(yes)}."
        )
    columns = ("student", "reads", "prompts poisoned", "real images poisoned", "backdoor",
               "ASR of the clean teacher", "ASR", "p (Holm)", "beside no real images, points",
               "change of accuracy", "it is")  # fmt: skip
    yield table(columns, lines)


_BACKDOORED = "backdoored"


def _planted(row: Row) -> str:
    """Say whether a student does more than its clean teacher; the verdict is the run's."""
    if is_broken(row):
        return BROKEN
    said = {
        "lost": _BACKDOORED,
        "unchanged": "within 10 points of the clean teacher",
        "gained": "less than the clean teacher",
    }
    return said.get(row["verdict"], "undecided")


# Dose and stage


def doses(found: Found) -> Iterator[str]:
    """Yield at which poison rates the trigger works, stage by stage."""
    subjects = by_subject(found["backdoor-dose"])
    rates = _rates()
    order = sorted(subjects, key=lambda name: -rates.get(name, 0.0))
    called = {name: percent(rates[name]) if name in rates else name for name in order}
    stages: dict[str, dict[str, Row]] = {}
    for name in order:
        for row in subjects[name]:
            if row["role"] != "original":
                stages.setdefault(row["model"] or row["role"], {})[name] = row
    for stage, rows in stages.items():
        states = [state_words(row, subjects[name]) for name, row in rows.items()]
        said = grouped(rows, states).items()
        parts = [f"{word} at {', '.join(called[name] for name in each)}" for word, each in said]
        yield f"- On {_stage(stage)}, by poison rate: {'; '.join(parts)}."
    lines = [
        (called[name], *(_dose_cell(rows.get(name), subjects[name]) for rows in stages.values()))
        for name in order
    ]
    yield table(("poison rate", *map(_stage, stages)), lines)


def _rates() -> dict[str, float]:
    """Return the poison rate of each subject's teacher, from the suite."""
    told_by = suite("backdoor-dose")
    targets = told_by.get("targets", {})
    teachers = {each["name"]: each["teacher"] for each in told_by.get("subjects", ())}
    return {
        name: float(targets[teacher]["rate"])
        for name, teacher in teachers.items()
        if "rate" in targets.get(teacher, {})
    }


def _stage(name: str) -> str:
    return "the teacher" if name == "teacher" else f"`{name}`"


def _dose_cell(row: Row | None, rows: Sequence[Row]) -> str:
    return NONE if row is None else f"{told(row['asr'])}: {state_words(row, rows)}"
