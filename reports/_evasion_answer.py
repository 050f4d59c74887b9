"""The first paragraph of an evasion run: what students withstand beside their teacher.

Put together by rule from the tables; rates stand before differences, and no rate is divided by
another: one near zero would make any student look strong. Masked gradients are told first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ._answer import Answer
from ._cells import Estimate
from ._evasion import NOTHING_LEFT, SHAPES, Model, Part
from ._text import count, points, points_range, rate, rate_range

MOST_TOLD = 4  # students, or subjects, that are told one by one; a paragraph of more is not read
NO_VERDICT = "no verdict"
SEEMING = 0.05  # by which a weak attack must leave more than the worst case, to be evidence
_WORDS = tuple(word for word in SHAPES if word != NO_VERDICT)
Told = Sequence[tuple[Part, Model]]


def evasion_answer(parts: Sequence[Part]) -> Answer:
    """Say how much of what the teacher withstands its students do, and what is left open."""
    if not parts:
        return Answer("No answer: this run attacked no classifier.", ())
    every = [(part, model) for part in parts for model in part.of_role("student")]
    counted = [(part, model) for part, model in every if model.word != NO_VERDICT]
    common = (*_faults(parts), *_masked(parts), *_too_weak(parts))
    if not counted:
        why = "no student has a verdict that counts" if every else "this run has no student"
        rest = () if all(part.reason for part in parts) else tuple(_beside(parts))
        return Answer(f"No answer: {why}.", (*common, *_left_out(every, counted), *rest))
    words = Counter(model.word for _, model in counted)
    tally = _tally(words, len(counted), len(every), len({part.anchor for part, _ in counted}) > 1)
    sentences = (
        *common,
        *(_one_by_one(counted) if len(parts) == 1 else _by_subject(parts)),
        *_hollow(parts),
        *_left_out(every, counted),
        *_beside(parts),
    )
    return Answer(f"{_rates(parts, counted)}: {tally}{_but(parts, counted)}.", sentences)


def evidence(model: Model) -> str:
    """Return what shows that a model's gradients are masked: a weak attack beside the worst case.

    "" for a model that is not masked.
    """
    found = model.gradients
    if not found.is_masked:
        return ""
    probes, worst = dict(found.probes), model.worst.value
    weak = {name: probes[name] for name in ("fgsm", "pgd") if name in probes}
    known = [(e.value, name) for name, e in weak.items() if e.value is not None]
    signs = [f"{sign.code} {sign.name}" for sign in found.failed]
    told = f" (sign{'s' if len(signs) > 1 else ''} {_listed(signs)})" if signs else ""
    if known and model.is_valid and worst is not None:
        value, name = max(known)
        if value - worst > SEEMING:
            return (
                f"{name.upper()} leaves {_span(weak[name])} right, the worst case "
                f"{_span(model.worst)}{told}"
            )
    return f"{found.failed[0].message}{told}" if found.failed else "as results.json says"


def _span(e: Estimate) -> str:
    return f"{rate(e.value)} ({rate_range(e.low, e.high)}, n = {count(e.n)})"


def _name(parts: Sequence[Part], model: Model) -> str:
    own = {"teacher": "the teacher", "original": "the undefended original"}
    name = own.get(model.role, f"the {model.role} {model.name}".rstrip())
    return f"{name} of {model.subject}" if len(parts) > 1 else name


def _capital(told: str) -> str:
    return told[:1].upper() + told[1:]


def _of_word(parts: Sequence[Part], word: str) -> list[Model]:
    return [m for part in parts for m in part.models if m.gradients.word == word]


def _masked(parts: Sequence[Part]) -> Iterator[str]:
    """Name every model whose gradients are masked, each with its evidence."""
    found = _of_word(parts, "masked")
    for model in found[:MOST_TOLD]:
        yield f"{_capital(_name(parts, model))} has masked gradients: {evidence(model)}."
    if len(found) > MOST_TOLD:
        yield f"{len(found) - MOST_TOLD} more have masked gradients, below."


def _too_weak(parts: Sequence[Part]) -> Iterator[str]:
    found = [_name(parts, model) for model in _of_word(parts, "attacks too weak")]
    if found:
        yield (
            f"The attacks are too weak for {_listed(found)}: stronger ones would leave fewer "
            "images right."
        )


def _listed(names: Sequence[str]) -> str:
    if len(names) > MOST_TOLD:
        return f"{', '.join(names[:MOST_TOLD])} and {len(names) - MOST_TOLD} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _but(parts: Sequence[Part], counted: Told) -> str:
    """Return what the headline must not hide: masked gradients of students or of a teacher."""
    masked = sum(model.gradients.is_masked for _, model in counted)
    teachers = [m for part in parts for m in part.of_role("teacher") if m.gradients.is_masked]
    told = ""
    if masked:
        who = "it" if len(counted) == 1 else str(masked)
        has, it = ("has", "it seems") if masked == 1 else ("have", "they seem")
        told = f"; {who} {has} masked gradients: what {it} to withstand is not there"
    if teachers:
        whose = "the teacher's" if len(parts) == 1 else "a teacher's"
        told += f"; {whose} gradients are masked, so that its own rate does not hold"
    return told


def _tally(words: Counter[str], n: int, every: int, is_many: bool) -> str:
    """Count verdicts: "1 of 3 students withstands attacks less often than its teacher"."""
    told = [(word, words[word]) for word in _known(words)]
    first, k = told[0]
    rest = "" if n == every else " that counts" if n == 1 else " that count"
    who = f"all {n} students{rest}" if k == n else f"{k} of {n} students{rest}"
    if n == 1:
        who = f"the only student{rest}" if rest else "the student"
    one, whose = k == 1, f"{'its' if k == 1 else 'their'} teacher{'s' if is_many and k > 1 else ''}"
    than = "as" if first == "as often" else "than"
    head = f"{who} withstand{'s' if one else ''} attacks {_told(first)} {than} {whose}"
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


def _range(models: Sequence[Model], *, is_clean: bool = False) -> str:
    """Return the rates of models from the least to the most, "" where none counts."""
    found = [m.clean.value if is_clean else m.worst.value for m in models if m.is_valid or is_clean]
    values = sorted(value for value in found if value is not None)
    if not values:
        return ""
    first, last = rate(values[0]), rate(values[-1])
    return first if first == last else f"{first} to {last}"


def _rates(parts: Sequence[Part], counted: Told) -> str:
    """Say what is left in the worst case: of the teachers and, from least to most, of students."""
    students = [model for _, model in counted]
    teachers = [m for part in parts for m in part.of_role("teacher") if not part.reason]
    balls = list(dict.fromkeys(part.ball for part, _ in counted))
    size = f" ({balls[0]})" if len(balls) == 1 and balls[0] else ""
    before, after = _range(teachers), _range(students)
    who = "the teacher keeps" if len(parts) == 1 else "teachers keep"
    where = f"In the worst case over {_attacks([*teachers, *students], parts)}"
    if not before:
        return f"{where}{size}"
    of = f"{before} of images right{size}"
    if not after:
        return f"{where} {who} {of}"
    whose = "its student" if len(parts) == len(students) == 1 else "its students"
    return f"{where} {who} {of}, {whose if len(parts) == 1 else 'their students'} {after}"


def _attacks(models: Sequence[Model], parts: Sequence[Part]) -> str:
    """Count the attacks that the worst case is over; draws of one attack are one."""
    names = {c.key: (c.attack, c.name.split(", seed ")[0]) for p in parts for c in p.columns
             if c.kind == "attack"}  # fmt: skip
    counts = sorted(len({names[key] for key in m.hits if key in names}) for m in models)
    if not counts or not counts[-1]:
        return "all attacks"
    span = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    return f"{span} attack{'' if counts[-1] == 1 else 's'}"


def _faults(parts: Sequence[Part]) -> Iterator[str]:
    for part in parts:
        if part.reason:
            who = f"{part.subject}: no" if len(parts) > 1 else "No"
            yield f"{who} worst case counts, {part.reason.rstrip('.')}."


def _one_by_one(counted: Told) -> Iterator[str]:
    shown = sorted((m for _, m in counted if m.is_valid), key=lambda m: m.worst.value or 0.0)
    told = []
    for model in shown[:MOST_TOLD]:
        gap = model.pair.difference if model.pair else Estimate()
        if gap.value is not None:
            told.append(
                f"{model.label} {_span(model.worst)}, {points(gap.value)} "
                f"({points_range(gap.low, gap.high)})"
            )
    if told:
        more = f"; {len(shown) - MOST_TOLD} more in the table" if len(shown) > MOST_TOLD else ""
        lead = "Weakest first, with" if len(told) > 1 else "With"
        yield f"{lead} points against the teacher: {'; '.join(told)}{more}."


def _by_subject(parts: Sequence[Part]) -> Iterator[str]:
    sound = [part for part in parts if not part.reason]
    for part in sound[:MOST_TOLD]:
        mine = [(part, m) for m in part.of_role("student") if m.word != NO_VERDICT]
        words = Counter(model.word for _, model in mine)
        told = ", ".join(f"{words[word]} {word}" for word in _known(words))
        before, after = _range(part.of_role("teacher")), _range([m for _, m in mine])
        if before and after:
            rest = f" ({told})" if told else ""
            yield f"{part.subject}: the teacher keeps {before}, its students {after}{rest}."
    if len(sound) > MOST_TOLD:
        yield f"{len(sound) - MOST_TOLD} further subjects stand below."


def _hollow(parts: Sequence[Part]) -> Iterator[str]:
    """Say where the teacher has next to nothing to pass on."""
    for part in parts:
        for model in part.of_role("teacher"):
            if model.is_valid and (model.worst.value or 0.0) < NOTHING_LEFT:
                yield (
                    f"{_capital(_name(parts, model))} withstands next to nothing: as often as it "
                    "is no robustness."
                )


def _beside(parts: Sequence[Part]) -> Iterator[str]:
    """Say what is right without an attack, and what the undefended original withstands."""
    if len(parts) != 1:
        return
    part, told = parts[0], []
    for role, name in (("original", "the original"), ("teacher", "the teacher")):
        told += [f"{name} {_span(m.clean)}" for m in part.of_role(role)[:1]
                 if m.clean.value is not None]  # fmt: skip
    students = _range(part.of_role("student"), is_clean=True)
    told += [f"students {students}"] if students else []
    if told:
        yield f"Right as they are: {'; '.join(told)}."
    for model in part.of_role("original")[:1]:
        if model.is_valid:
            yield f"In the worst case the undefended original keeps {_span(model.worst)}."
    noise = sorted(m.noise.value for m in part.models if m.noise.value is not None)
    if noise:
        first, last = rate(noise[0]), rate(noise[-1])
        span = first if first == last else f"{first} to {last}"
        yield f"Random noise in the same ball leaves {span} right."


def _left_out(every: Told, counted: Told) -> Iterator[str]:
    lost = [model for part, model in every if (part, model) not in counted]
    if not lost:
        return
    broken = sum("collapse: " in model.reason for model in lost)
    has = "has" if len(lost) == 1 else "have"
    which = "it" if len(lost) == 1 else "they" if broken == len(lost) else f"{broken} of these"
    does = "no longer classifies as it did" if broken == 1 else "no longer classify as they did"
    why = f"; {which} {does}" if broken else ""
    yield (f"{len(lost)} of {len(every)} students {has} no verdict{why}: neither robust nor not.")
