"""The first paragraph and the banner: what the pairs say, in plain words.

Everything is put together from the verdicts and reasons in results.json.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from safetybench.stats import Verdict
from safetybench.wording import findings

from ._ledger import gates
from ._load import Record
from ._pairs import NO_ATTACK, PairRow, failed_checks
from ._text import mapping, number, rate, text

# What changed comes first, and of that the bad news; the first verdict's reason is told.
ORDER = (
    Verdict.LOST,
    Verdict.GAINED,
    Verdict.NOT_DISTINGUISHABLE,
    Verdict.UNCHANGED,
    Verdict.INHERITED,
)
MOST_TOLD = 4  # subjects; a paragraph of more is not read
MOST_REASONED = 12  # comparisons; of more, the paragraph counts and the table tells
MOST_PLACES = 3  # comparisons of one verdict and subject that are named
MOST_POINTS = 8  # lines of the banner; the rest stands below


class Answer(NamedTuple):
    """A short answer and the sentences that carry it."""

    short: str
    sentences: tuple[str, ...]


class Banner(NamedTuple):
    """State of the run; tone: "good", "warn" or "bad"."""

    tone: str
    title: str
    points: tuple[str, ...]


# Exit codes of the command line, see `safetybench run --help`.
STATES = {
    0: ("good", "The run is complete"),
    1: ("warn", "A gate failed"),
    4: ("warn", "The run is incomplete, or a gate is undecided"),
    5: ("warn", "Nothing was selected"),
    6: ("bad", "The measurement is invalid"),
    130: ("warn", "The run was interrupted: the figures cover what was finished"),
}


def answer(every: Sequence[PairRow]) -> Answer:
    """Say what distillation did, over all pairs and then for each subject, and to utility.

    What an oracle finds is no finding of an attack, and stands in the tables alone.
    """
    pairs = [pair for pair in every if not pair.is_utility and not pair.is_oracle]
    if not pairs:
        return Answer("No answer: this run compared no student with its teacher.", ())
    valid = [pair for pair in pairs if not pair.invalid]
    if not valid:
        return Answer("No answer: the measurement is invalid.", (_left_out(len(pairs), 0),))
    useful = [pair for pair in every if pair.is_utility and not pair.invalid]
    subjects = list(dict.fromkeys(pair.subject for pair in pairs))
    if len(pairs) > MOST_REASONED:
        sentences = [*_counted(valid), *([_left_out(len(pairs) - len(valid), len(valid))]
                                         if len(valid) < len(pairs) else []),
                     *([f"Utility: {_tally(useful)}."] if useful else [])]  # fmt: skip
        return Answer(_short(valid), tuple(sentences))
    sentences = [_subject(subject, valid) for subject in subjects[:MOST_TOLD]]
    if len(subjects) > MOST_TOLD:
        sentences.append(f"{len(subjects) - MOST_TOLD} further subject(s) are in the table below.")
    if len(valid) < len(pairs):
        sentences.append(_left_out(len(pairs) - len(valid), len(valid)))
    sentences += [_utility(pair, len(subjects)) for pair in useful[:MOST_TOLD]]
    return Answer(_short(valid), tuple(sentence for sentence in sentences if sentence))


def _counted(pairs: Sequence[PairRow]) -> list[str]:
    """Say how often each verdict fell, and on which subjects the bad ones are."""
    lost = Counter(pair.subject for pair in pairs if pair.verdict == Verdict.LOST)
    shown = [f"{subject} ({count})" for subject, count in lost.most_common(MOST_TOLD)]
    more = len(lost) - len(shown)
    rest = f" and {more} more" if more > 0 else ""
    where = [f"Most were lost in {', '.join(shown)}{rest}."] if len(lost) > 1 else []
    where = [f"All of these are in {shown[0]}."] if len(lost) == 1 else where
    subjects = len({pair.subject for pair in pairs})
    return [f"Over {subjects} subject{'s' if subjects > 1 else ''}: {_tally(pairs)}.", *where]


def _tally(pairs: Sequence[PairRow]) -> str:
    told = Counter(pair.verdict for pair in pairs)
    known = [*ORDER, *(verdict for verdict in told if verdict not in ORDER)]
    return ", ".join(f"{told[v]} {v or 'no verdict'}" for v in known if told[v])


def _left_out(count: int, rest: int) -> str:
    which = "comparison rests" if count == 1 else "comparisons rest"
    return f"{count} {which} on an invalid measurement and " + (
        "is not counted here." if count == 1 and rest else "are not counted here."
        if rest
        else "cannot be read as safe or unsafe."
    )  # fmt: skip


def _short(pairs: Sequence[PairRow]) -> str:
    told = Counter(pair.verdict for pair in pairs)
    n = len(pairs)
    of = "the only comparison" if n == 1 else f"{{}} of {n} comparisons"

    def share(verdict: Verdict) -> str:
        return of.format(told[verdict])

    if told[Verdict.LOST]:
        return f"Distillation lost safety in {share(Verdict.LOST)}."
    if told[Verdict.NOT_DISTINGUISHABLE] == n:
        return "This run cannot tell: no comparison was decided."
    kept = told[Verdict.INHERITED] + told[Verdict.GAINED]
    if kept == n:
        where = "the only comparison" if n == 1 else f"all {n} comparisons"
        return f"Distillation kept the safety of the teacher in {where}."
    if told[Verdict.UNCHANGED] == n:
        return "Nothing changed, and nothing shows that there was safety to keep."
    return f"No loss of safety was shown; {of.format(n - kept)} left it open."


def _subject(subject: str, pairs: Sequence[PairRow]) -> str:
    mine = [pair for pair in pairs if pair.subject == subject]
    if not mine:
        return ""
    parts = []
    known = [*ORDER, *dict.fromkeys(p.verdict for p in mine if p.verdict not in ORDER)]
    for verdict in known:
        where = [_where(pair) for pair in mine if pair.verdict == verdict]
        if where:
            parts.append(f"{verdict or 'no verdict'} {_listed(where)}")
    # Among equals an attack's pair says more than that of the plain prompts.
    worst = min(mine, key=lambda pair: (known.index(pair.verdict), pair.condition == NO_ATTACK))
    concept = mine[0].concept
    who = f"For “{concept}” ({subject})" if concept and concept != subject else f"For {subject}"
    reason = worst.reason.strip()
    if reason and len(mine) > 1:
        lead = _where(worst)
        reason = f"{lead[0].upper()}{lead[1:]}, {reason[0].lower()}{reason[1:]}"
    return f"{who}: {'; '.join(parts)}. {reason}".strip()


def _listed(places: Sequence[str]) -> str:
    if len(places) <= MOST_PLACES + 1:
        return " and ".join(places)
    shown = ", ".join(places[:MOST_PLACES])
    return f"in {len(places)} comparisons ({shown} and {len(places) - MOST_PLACES} more)"


def _utility(pair: PairRow, subjects: int) -> str:
    who = f" of {pair.subject}" if subjects > 1 else ""
    who += f" through {pair.student}" if pair.student else ""
    return f"Utility{who}: {pair.verdict}. {pair.reason.strip()}"


def _where(pair: PairRow) -> str:
    metric = "" if pair.metric == "asr" else f" ({pair.metric})"
    if pair.is_pooled:
        return f"through {pair.student}{metric}"
    place = "without an attack" if pair.condition == NO_ATTACK else f"under {pair.condition}"
    return place + (f" through {pair.through}" if pair.through else "") + metric


def banner(record: Record) -> Banner:
    """Say whether the figures below can be relied on, and which checks failed."""
    run = mapping(record.results.get("run"))
    code = number(record.results.get("exit_code"))
    tone, title = STATES.get(
        -1 if code is None else int(code),
        ("bad", f"The run ended with exit code {text(record.results.get('exit_code')) or '?'}"),
    )
    points = [text(record.results.get("exit_reason"))] if record.results.get("exit_reason") else []
    invalid, warned = failed_checks(record), failed_checks(record, warnings=True)
    if invalid and tone != "bad":
        tone, title = "bad", f"Part of the measurement is invalid. {title}"
    if warned and tone == "good":
        tone, title = "warn", f"{title}, with warnings"
    points += [str(finding) for finding in findings([*invalid, *warned])]
    points += [
        f"Gate {gate.decision}: {gate.metric} of the {gate.role} {gate.place}, below "
        f"{rate(gate.below)}."
        for gate in gates(record)
        if gate.decision != "passed"
    ]
    if len(points) > MOST_POINTS:
        rest = len(points) - MOST_POINTS
        points[MOST_POINTS:] = [f"{rest} more under gates and checks."]
    status = text(run.get("status"))
    is_told = status in ("", "complete")
    return Banner(tone, f"{title}." if is_told else f"{title} ({status}).", tuple(points))
