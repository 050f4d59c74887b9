"""The first paragraph of a backdoor run: what its students inherit, and what removal leaves.

Put together by rule from the table of models; nothing here calls a model safe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ._answer import Answer
from ._backdoor import GROUPS, SHAPES, Model, Part
from ._cells import Estimate
from ._text import count, rate, rate_range

MOST_TOLD = 4  # teachers that are told one by one; a paragraph of more is not read
WORDS = tuple(word for word in SHAPES if word != "no verdict")
_ORIGINAL, _TEACHER, _STUDENTS, _CLEANED, _HEIRS = GROUPS


def backdoor_answer(parts: Sequence[Part]) -> Answer:
    """Say whether the backdoor works on students and on cleaned models, and what is left open."""
    if not parts:
        return Answer("No answer: this run measured no backdoor.", ())
    every = [m for part in parts for m in part.models if m.role not in ("original", "teacher")]
    counted = [m for m in every if m.outcome != "no verdict"]
    if not every:
        return Answer("No answer: this run has no student and no cleaned model.",
                      tuple(_teachers(parts)))  # fmt: skip
    if not counted:
        return Answer("No answer: no model has a verdict that counts.",
                      (*_teachers(parts), *_left_out(every, counted)))  # fmt: skip
    many = len(parts) > 1
    sentences = [
        *_teachers(parts),
        *_tallies(counted),
        *_most(_of(counted, _STUDENTS), many),
        *_removed(parts, _of(counted, _CLEANED), many),
        *_attacked(parts, many),
        *_left_out(every, counted),
    ]
    return Answer(_short(every, counted), tuple(sentences))


def _of(models: Sequence[Model], group: str) -> list[Model]:
    return [model for model in models if model.group == group]


def _short(every: Sequence[Model], counted: Sequence[Model]) -> str:
    """Answer for students, then for removals, then for students of what was cleaned."""
    clauses = [
        _share(mine, "works" if group != _CLEANED else "still works", one, several, rest)
        for group, one, several in (
            (_STUDENTS, "student", "students"),
            (_CLEANED, "cleaned model", "cleaned models"),
            (_HEIRS, "student of a cleaned teacher", "students of cleaned teachers"),
        )
        if (mine := _of(counted, group))
        for rest in [len(_of(every, group)) - len(mine)]
    ]
    if not clauses:
        return f"No student and no cleaned model counts; of {len(counted)} others see the table."
    first, *rest = clauses
    told = [f"The teacher's backdoor {first}", *(f"it {clause}" for clause in rest)]
    return f"{'; '.join(told)}."


def _share(mine: Sequence[Model], verb: str, one: str, several: str, rest: int) -> str:
    """Say on how many it works; where the original is not known, it is not shown to.

    rest: how many of the group do not count.
    """
    awake, n = sum(model.is_awake is True for model in mine), len(mine)
    one, several = (f"only {one} that counts", f"{several} that count") if rest else (one, several)
    if not awake:
        where = f"the {one}" if n == 1 else f"any of {n} {several}"
        return f"is not shown to {verb.replace('works', 'work')} on {where}"
    if awake == n:
        return f"{verb} on the {one}" if n == 1 else f"{verb} on all {n} {several}"
    return f"{verb} on {awake} of {n} {several}"


def _tallies(counted: Sequence[Model]) -> Iterator[str]:
    """Count the verdicts of each group; they are against the teacher."""
    told = []
    for group in dict.fromkeys((_STUDENTS, _CLEANED, _HEIRS, *(m.group for m in counted))):
        found = Counter(model.outcome for model in _of(counted, group))
        known = [*WORDS, *(word for word in found if word not in WORDS)]
        parts = [f"{found[word]} {word}" for word in known if found[word]]
        if parts:
            name = group.lower() if group != _CLEANED else "cleaned models"
            told.append(f"{name}: {', '.join(parts)}")
    yield f"Against the teacher, {'; '.join(told)}."


def _span(e: Estimate) -> str:
    return f"{rate(e.value)} ({rate_range(e.low, e.high)}, n = {count(e.n)})"


def _named(model: Model, many: bool) -> str:
    return f"{model.label} ({model.subject})" if many else model.label


def _teachers(parts: Sequence[Part]) -> Iterator[str]:
    """Say how often the trigger works on each teacher; that is what all verdicts are against."""
    for part in parts:
        if part.reason:
            yield f"{part.subject}: no verdict, {part.reason.rstrip('.')}."
    if any(part.is_clean_teacher for part in parts):
        yield "A teacher that is the clean original is not poisoned: its students' data are."
    able = [p for p in parts if not p.reason and not p.is_clean_teacher and p.of(_TEACHER)]
    if len(able) > 1:
        found = [
            f"{rate(_asr(part, _TEACHER).value)} ({part.subject})" for part in able[:MOST_TOLD]
        ]
        more = [f"{len(able) - MOST_TOLD} more in the table"] if len(able) > MOST_TOLD else []
        yield f"Of the teachers' triggered prompts the effect shows on {', '.join(found + more)}."
    for part in able if len(able) == 1 else ():
        floor = _asr(part, _ORIGINAL)
        on = "" if floor.value is None else f", on {rate(floor.value)} of the original's"
        yield (
            f"The trigger {part.trigger} works on {_span(_asr(part, _TEACHER))} of the teacher's "
            f"triggered prompts{on}."
        )


def _asr(part: Part, group: str) -> Estimate:
    model = part.of(group)
    return model.figures["asr"] if model else Estimate()


def _most(students: Sequence[Model], many: bool) -> Iterator[str]:
    known = [m for m in students if m.figures["survival"].value is not None]
    if known:
        top = max(known, key=lambda m: m.figures["survival"].value or 0.0)
        yield (
            f"Most survives on {_named(top, many)}: {_span(top.figures['survival'])} of the "
            "prompts on which it works on the teacher."
        )


def _removed(parts: Sequence[Part], cleaned: Sequence[Model], many: bool) -> Iterator[str]:
    """Say which removals take most and least, and what the former still draws."""
    known = [(m.removal.value, m.removal, m) for m in cleaned if m.removal and m.removal.value]
    if not known:
        if cleaned:
            yield "No removal took the effect off any prompt on which it works on the teacher."
        return
    known.sort(key=lambda entry: entry[0], reverse=True)
    _, removal, top = known[0]
    part = next(part for part in parts if part.subject == top.subject)
    before, kept = part.of(_ORIGINAL), top.figures["accuracy"]
    told = ""
    if kept.value is not None:
        was = f", the original {rate(before.figures['accuracy'].value)}" if before else ""
        told = f", and the model draws {rate(kept.value)} of clean prompts as asked{was}"
    yield f"Most is removed by {_named(top, many)}: {_span(removal)} of these prompts{told}."
    if len(cleaned) > 1:
        last = min(cleaned, key=lambda m: (m.removal or Estimate()).value or 0.0)
        yield f"Least by {_named(last, many)}: {_span(last.removal or Estimate())}."


def _attacked(parts: Sequence[Part], many: bool) -> Iterator[str]:
    """Say what the attack with the most lift finds in a cleaned model."""
    tried = [
        (row.lift.value, row, part)
        for part in parts
        for row in part.attacks
        if row.is_cleaned and not row.invalid and row.lift.value is not None
    ]
    if not tried:
        return
    lift, row, part = max(tried, key=lambda entry: entry[0])
    if lift <= 0:
        yield f"None of {len(tried)} attacks on cleaned models finds more than on the original."
        return
    where = f"{row.who} of {part.subject}" if many else row.who
    shown = "" if row.is_found else ", which its interval does not tell from nothing"
    yield (
        f"Under attack most is found by {row.attack} on {where}: {_span(row.rate)}, against "
        f"{rate(row.plain.value)} by the trigger alone and {rate(row.floor.value)} on the "
        f"original{shown}."
    )


def _left_out(every: Sequence[Model], counted: Sequence[Model]) -> Iterator[str]:
    lost = [model for model in every if model not in counted]
    broken = sum(model.is_broken for model in lost)
    if not lost:
        return
    which = f"{broken} of these" if broken < len(lost) else "it" if broken == 1 else "they"
    draws = "draws" if broken == 1 else "draw"
    asked = "it is asked for" if broken == 1 else "they are asked for"
    why = f"; {which} no longer {draws} what {asked}" if broken else ""
    has = "has" if len(lost) == 1 else "have"
    yield (
        f"{len(lost)} of {len(every)} models {has} no verdict{why}. That no effect shows there "
        "means nothing."
    )
