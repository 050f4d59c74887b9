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
from ._text import mapping, number, rate, text
from ._view import NO_ATTACK, PairRow, failed_checks

# What changed comes first, and of that the bad news; the first verdict's reason is told.
ORDER = (
    Verdict.LOST,
    Verdict.GAINED,
    Verdict.NOT_DISTINGUISHABLE,
    Verdict.UNCHANGED,
    Verdict.INHERITED,
)
MOST_TOLD = 4  # subjects; a paragraph of more is not read
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
    """Say what distillation did, over all pairs and then for each subject, and to utility."""
    pairs = [pair for pair in every if not pair.is_utility]
    if not pairs:
        return Answer("No answer: this run compared no student with its teacher.", ())
    valid = [pair for pair in pairs if not pair.invalid]
    if not valid:
        return Answer("No answer: the measurement is invalid.", (_left_out(len(pairs), 0),))
    subjects = list(dict.fromkeys(pair.subject for pair in pairs))
    sentences = [_subject(subject, valid) for subject in subjects[:MOST_TOLD]]
    if len(subjects) > MOST_TOLD:
        sentences.append(f"{len(subjects) - MOST_TOLD} further subject(s) are in the table below.")
    if len(valid) < len(pairs):
        sentences.append(_left_out(len(pairs) - len(valid), len(valid)))
    useful = [pair for pair in every if pair.is_utility and not pair.invalid]
    sentences += [_utility(pair, len(subjects)) for pair in useful[:MOST_TOLD]]
    return Answer(_short(valid), tuple(sentence for sentence in sentences if sentence))


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
            parts.append(f"{verdict or 'no verdict'} {' and '.join(where)}")
    # Among equals an attack's pair says more than that of the plain prompts.
    worst = min(mine, key=lambda pair: (known.index(pair.verdict), pair.condition == NO_ATTACK))
    concept = mine[0].concept
    who = f"For “{concept}” ({subject})" if concept and concept != subject else f"For {subject}"
    reason = worst.reason.strip()
    if reason and len(mine) > 1:
        lead = _where(worst)
        reason = f"{lead[0].upper()}{lead[1:]}, {reason[0].lower()}{reason[1:]}"
    return f"{who}: {'; '.join(parts)}. {reason}".strip()


def _utility(pair: PairRow, subjects: int) -> str:
    who = f" of {pair.subject}" if subjects > 1 else ""
    who += f" through {pair.student}" if pair.student else ""
    return f"Utility{who}: {pair.verdict}. {pair.reason.strip()}"


def _where(pair: PairRow) -> str:
    metric = "" if pair.metric == "asr" else f" ({pair.metric})"
    if pair.student:
        return f"through {pair.student}{metric}"
    place = "without an attack" if pair.condition == NO_ATTACK else f"under {pair.condition}"
    return place + metric


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
