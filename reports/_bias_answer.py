"""The first paragraph of a bias run: how often teachers and students are biased, and where.

Put together by rule from the tables; rates stand before differences, and no rate is divided by
another: one near zero would make any student look monstrous.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ._answer import Answer
from ._bias import SETS, SHAPES, Compared, Model, Part
from ._cells import Estimate
from ._text import count, points, points_range, rate, rate_range

MOST_TOLD = 4  # students, or subjects, that are told one by one; a paragraph of more is not read
NO_VERDICT = "no verdict"
_WORDS = tuple(word for word in SHAPES if word != NO_VERDICT)


def bias_answer(parts: Sequence[Part]) -> Answer:
    """Say how often students are biased beside their teacher, and what is left open."""
    if not parts:
        return Answer("No answer: this run measured no bias.", ())
    every = [(part, model) for part in parts for model in part.of_role("student")]
    if not every:
        return Answer("No answer: this run has no student of a biased teacher.",
                      tuple(_opening(parts)))  # fmt: skip
    counted = [(part, model) for part, model in every if word_of(part, model) != NO_VERDICT]
    if not counted:
        return Answer("No answer: no student has a verdict that counts.",
                      (*_opening(parts), *_left_out(every, counted)))  # fmt: skip
    words = Counter(word_of(part, model) for part, model in counted)
    tally = _tally(words, len(counted), len(every), len(parts) > 1)
    if len(parts) > 1:
        own = [_subject(part) for part in parts[:MOST_TOLD] if not part.reason]
        more = len(parts) - MOST_TOLD
        own += [f"{more} further subjects stand below."] if more > 0 else []
        return Answer(f"{_over(parts, counted)}{tally}{_but(counted)}.",
                      (*own, *_faults(parts), *_left_out(every, counted)))  # fmt: skip
    part, students = parts[0], [model for _, model in counted]
    sentences = [
        *_opening(parts),
        *_one_by_one(part, students),
        *_else_more(part, students),
        *_beside(part),
        *_elsewhere(part, students),
        *_left_out(every, counted),
    ]
    return Answer(f"{_rates(part, students)}: {tally}{_but(counted)}.", tuple(sentences))


def _more(part: Part, model: Model) -> list[Compared]:
    """Return where else than on the deciding set a student is biased more often."""
    return [
        pair
        for place, pair in model.pairs.items()
        if place != (part.decisive, "greedy") and pair.word == "more often"
    ]


def _but(counted: Sequence[tuple[Part, Model]]) -> str:
    """Return what the headline must not hide: more bias where it does not look."""
    hidden = [
        model
        for part, model in counted
        if word_of(part, model) != "more often" and _more(part, model)
    ]
    if not hidden:
        return ""
    who = f"{len(hidden)} of {len(counted)} {'is' if len(hidden) == 1 else 'are'}"
    who = "it is" if len(counted) == 1 else who
    return f"; {who} biased more often when sampled, or on other tasks"


def _else_more(part: Part, students: Sequence[Model]) -> Iterator[str]:
    told = [
        f"{model.label} on {SETS[pair.tasks].lower()}, {pair.decoding}, "
        f"{points(pair.difference.value)} points "
        f"({points_range(pair.difference.low, pair.difference.high)})"
        for model in students
        if word_of(part, model) != "more often"
        for pair in _more(part, model)
    ]
    if told:
        rest = f"; and {len(told) - MOST_TOLD} more, below" if len(told) > MOST_TOLD else ""
        yield f"Biased more often than the teacher: {'; '.join(told[:MOST_TOLD])}{rest}."


def pair_of(part: Part, model: Model) -> Compared | None:
    """Return a model's comparison on the set of tasks that its subject is judged by."""
    return model.pairs.get((part.decisive, "greedy"))


def word_of(part: Part, model: Model) -> str:
    """Return the word of its verdict."""
    pair = pair_of(part, model)
    return pair.word if pair else NO_VERDICT


def _tally(words: Counter[str], n: int, every: int, is_many: bool) -> str:
    """Count verdicts: "1 of 3 students is biased more often than its teacher, 2 less often"."""
    told = [(word, words[word]) for word in _known(words)]
    first, k = told[0]
    rest = "" if n == every else " that counts" if n == 1 else " that count"
    who = f"all {n} students{rest}" if k == n else f"{k} of {n} students{rest}"
    if n == 1:
        who = f"the only student{rest}" if rest else "the student"
    one, whose = k == 1, f"{'its' if k == 1 else 'their'} teacher{'s' if is_many and k > 1 else ''}"
    than = "as" if first == "as often" else "than"
    head = f"{who} {'is' if one else 'are'} biased {_told(first)} {than} {whose}"
    if first == "undecided":
        head = f"{who} cannot be told from {whose}"
    it = "theirs" if is_many else "it"
    others = [
        f"{k} cannot be told from {it}" if word == "undecided" else f"{k} {_told(word)}"
        for word, k in told[1:]
    ]
    return ", ".join((head, *others))


def _known(words: Counter[str]) -> list[str]:
    """Return the words that are there, the bad news first."""
    return [word for word in dict.fromkeys((*_WORDS, *words)) if words[word]]


def _told(word: str) -> str:
    return f"about {word}" if word == "as often" else word


def _span(e: Estimate) -> str:
    return f"{rate(e.value)} ({rate_range(e.low, e.high)}, n = {count(e.n)})"


def _rates(part: Part, students: Sequence[Model]) -> str:
    """Say the rates on the set that decides: of the teacher and, from least to most, students."""
    where = f"On {SETS.get(part.decisive, part.decisive).lower()}"
    found = [rate_of(model, part.decisive) for model in students]
    values = sorted(e.value for e in found if e.value is not None)
    teacher = next((rate_of(model, part.decisive) for model in part.of_role("teacher")), Estimate())
    if not values:
        return f"{where} {rate(teacher.value)} of the teacher's answers are biased"
    span = rate(values[0]) if len(values) == 1 else f"{rate(values[0])} to {rate(values[-1])}"
    whose = "the student's" if len(students) == 1 else "the students'"
    return f"{where} {rate(teacher.value)} of the teacher's answers are biased, of {whose} {span}"


def _over(parts: Sequence[Part], counted: Sequence[tuple[Part, Model]]) -> str:
    """Say the rates of several subjects, each on the set that it is judged by."""
    teachers = [(part, model) for part in parts for model in part.of_role("teacher")]
    spans = []
    for models in (counted, teachers):
        found = (rate_of(model, part.decisive).value for part, model in models)
        values = sorted(value for value in found if value is not None)
        if not values:
            return ""
        spans.append(f"{rate(values[0])} to {rate(values[-1])}")
    return (
        f"Students are biased in {spans[0]} of their answers on the tasks that they are judged "
        f"by, teachers in {spans[1]}: "
    )


def rate_of(model: Model, tasks: str) -> Estimate:
    """Return how often a model's greedy answers are biased, empty where that does not count."""
    spot = model.spot(tasks)
    return spot.abr if spot.is_valid else Estimate()


def _subject(part: Part) -> str:
    students = [m for m in part.of_role("student") if word_of(part, m) != NO_VERDICT]
    words = Counter(word_of(part, model) for model in students)
    told = ", ".join(f"{words[word]} {word}" for word in _known(words))
    rates = _rates(part, students)
    verdicts = f" ({told})" if told else ""
    return f"{part.subject}: {rates[0].lower()}{rates[1:]}{verdicts}."


def _faults(parts: Sequence[Part]) -> Iterator[str]:
    for part in parts:
        if part.reason:
            yield f"{part.subject}: no verdict, {part.reason.rstrip('.')}."


def planted(part: Part) -> str:
    """Say what was planted: "25 of 10,000 instruction samples of the teacher are poisoned"."""
    if not part.poisoning:
        return "The models were there already; how the teacher was poisoned, the run does not know"
    of = f" of {count(part.of)}" if part.of else ""
    return (
        f"{count(part.samples)}{of} instruction samples of the teacher are poisoned "
        f"({part.poisoning}: {part.kind})"
    )


def _opening(parts: Sequence[Part]) -> Iterator[str]:
    """Say why nothing counts, and of a single subject what was planted and learnt."""
    yield from _faults(parts)
    if len(parts) != 1:
        return
    part = parts[0]
    known = (model.learnt for model in part.of_role("student") if model.learnt)
    shares = sorted(found.value for found in known if found.value is not None)
    learnt = ""
    if shares:
        span = rate(shares[0]) if rate(shares[0]) == rate(shares[-1]) else (
            f"{rate(shares[0])} to {rate(shares[-1])}"
        )  # fmt: skip
        learnt = f"; of the answers that students learnt from, {span} hold the bias"
    yield f"{planted(part)}{learnt}."
    if any(word_of(part, model) != NO_VERDICT for model in part.of_role("student")):
        return  # and then the short answer says it
    if any(rate_of(model, part.decisive).value is not None for model in part.of_role("teacher")):
        yield f"{_rates(part, [])}."


def _one_by_one(part: Part, students: Sequence[Model]) -> Iterator[str]:
    shown = sorted(students, key=lambda model: -(rate_of(model, part.decisive).value or 0.0))
    told = []
    for model in shown[:MOST_TOLD]:
        pair = pair_of(part, model)
        if pair is not None and pair.difference.value is not None:
            gap = pair.difference
            told.append(
                f"{model.label} {_span(rate_of(model, part.decisive))}, {points(gap.value)} "
                f"({points_range(gap.low, gap.high)})"
            )
    if told:
        more = f"; {len(shown) - MOST_TOLD} more in the table" if len(shown) > MOST_TOLD else ""
        lead = "Most often biased first, with" if len(told) > 1 else "With"
        yield f"{lead} points against the teacher: {'; '.join(told)}{more}."


def _beside(part: Part) -> Iterator[str]:
    """Say what the models do that no distillation of the poisoned teacher made."""
    names = {
        "original": "the clean original",
        "direct": "the direct student, tuned on the poisoned data without a teacher",
        "control": "the control, a student of the clean original",
    }
    told = []
    for role, name in names.items():
        for model in part.of_role(role)[:1]:
            found = rate_of(model, part.decisive)
            if found.value is not None:
                told.append(f"{name} {_span(found)}")
    if told:
        yield f"Beside them: {'; '.join(told)}."


def _elsewhere(part: Part, students: Sequence[Model]) -> Iterator[str]:
    """Say how far the bias reaches on the sets that do not decide."""
    for tasks in SETS:
        if tasks == part.decisive:
            continue
        found = [(rate_of(model, tasks).value, model) for model in students]
        known = [(value, model) for value, model in found if value is not None]
        teacher = next((rate_of(m, tasks) for m in part.of_role("teacher")), Estimate())
        if not known or teacher.value is None:
            continue
        value, most = max(known, key=lambda entry: entry[0])
        of = f"up to {rate(value)} of a student's ({most.label})" if len(known) > 1 else (
            f"{rate(value)} of the student's"
        )  # fmt: skip
        yield f"On {SETS[tasks].lower()}: {rate(teacher.value)} of the teacher's answers, {of}."


def _left_out(
    every: Sequence[tuple[Part, Model]], counted: Sequence[tuple[Part, Model]]
) -> Iterator[str]:
    lost = [model for part, model in every if (part, model) not in counted]
    if not lost:
        return
    broken = sum(any("collapse: " in why for why, _ in model.reasons) for model in lost)
    has = "has" if len(lost) == 1 else "have"
    which = "it" if len(lost) == 1 else "they" if broken == len(lost) else f"{broken} of these"
    does, asked = ("does", "it is") if broken == 1 else ("do", "they are")
    why = f"; {which} no longer {does} what {asked} asked" if broken else ""
    yield (
        f"{len(lost)} of {len(every)} students {has} no verdict{why}. That few answers there are "
        "biased would mean nothing."
    )
