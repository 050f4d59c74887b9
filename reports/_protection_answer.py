"""The first paragraph of a protection run: what stops which editor, in plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from safetybench.stats import Verdict

from ._answer import Answer
from ._cells import Estimate
from ._protection import Net, PairLine, Protections
from ._protection_names import ANY, ITSELF, stopped
from ._text import count, points, rate

PROTECTS, HELPS = "protects", "helps the editor"
MADE_ON = "teacher"
MOST_TOLD = 2  # editors that are told with figures; a paragraph of more is not read


def protection_answer(found: Protections) -> Answer:
    """Say which protections stop which editors, what students change, and what purifying leaves.

    A protection counts by its net effect over noise of equal epsilon, never by displacement.
    """
    plain, best = found.nets("none"), found.nets(ANY)
    every = [*plain, *best, *found.nets("one")]
    if not every:
        return Answer("No answer: this run measured no protection.", ())
    valid = [net for net in plain if not net.invalid]
    void = sum(bool(net.invalid) for net in every)
    if not valid:
        return Answer("No answer: the measurement is invalid.", tuple(_left_out(void, len(every))))
    sentences = [
        *_by_editor(found, valid),
        *_students(found.pairs("")),
        *_purified([net for net in best if not net.invalid], valid),
        *_helped([net for net in every if not net.invalid]),
        *_left_out(void, len(every)),
    ]
    return Answer(_short(valid, [net for net in best if not net.invalid]), tuple(sentences))


def _names(nets: Sequence[Net]) -> int:
    return len({net.shield for net in nets})


def _short(plain: Sequence[Net], best: Sequence[Net]) -> str:
    working = [net for net in plain if net.verdict == PROTECTS]
    tried, what = _names(plain), stopped(bool(net.albums) for net in plain)
    if not working:
        who = "The protection was not" if tried == 1 else f"None of the {tried} protections was"
        return f"{who} shown to stop {what} beyond noise of equal ε."
    editors, every = len({net.editor for net in working}), len({net.editor for net in plain})
    where = "the editor" if every == 1 else f"{editors} of {every} editors"
    if every > 1 and len({(net.shield, net.editor) for net in working}) < editors * _names(working):
        where = f"at least one of {every} editors"  # each, and not the same one
    some = _names(working)
    who = f"{some} of {tried} protections {'stops' if some == 1 else 'stop'}"
    who = f"All {tried} protections stop" if some == tried else who
    who = "The protection stops" if tried == 1 else who
    told = f"{who} {what} beyond noise of equal ε on {where}"
    if not best:
        return f"{told}."
    left = _names([net for net in best if net.verdict == PROTECTS])
    rest = f"{left or 'none'} still {'do' if left > 1 else 'does'}"
    if tried == 1:
        rest = "it still does" if left else "it no longer does"
    return f"{told}; after the purifier that serves the editor best, {rest}."


def _it(net: Net) -> str:
    """Name a protection, and where it was made if that is not the teacher."""
    made = f" made on {net.shield.made_on}" if net.shield.made_on not in ("", MADE_ON) else ""
    made = " made on the editor itself" if net.shield.made_on == ITSELF else made
    return f"{net.shield.label}{made}"


def _told(net: Net) -> str:
    """Name a protection with its net effect, interval and n."""
    return f"{_it(net)}, net {_span(net.net)}"


def _span(e: Estimate) -> str:
    return f"{points(e.value)} points ({points(e.low)} to {points(e.high)}, n = {count(e.n)})"


def _on(editor: str) -> str:
    return "the teacher" if editor == "teacher" else editor


def _top(nets: Sequence[Net]) -> Net:
    return max(nets, key=lambda net: (net.verdict == PROTECTS, net.net.value or 0.0))


def _by_editor(found: Protections, valid: Sequence[Net]) -> Iterator[str]:
    """Say how many protect from each editor, the teacher first, and which does most."""
    by_name = {n.editor: [m for m in valid if m.editor == n.editor] for n in valid}
    working = {name: sum(n.verdict == PROTECTS for n in mine) for name, mine in by_name.items()}
    able = [name for name in by_name if working[name]]
    for i, name in enumerate(able[:MOST_TOLD]):
        mine, top = by_name[name], _top(by_name[name])
        lead = f"{working[name]} of {len(mine)} {'protects' if working[name] == 1 else 'protect'}"
        lead = f" {_it(top)} protects: " if len(mine) == 1 else f", {lead}, most {_it(top)}, "
        where = f" under {top.place.edit}" if len(found.parts) > 1 else ""
        tries = "drawings of what was learnt" if top.albums else "edits"
        rates = f"; {tries} succeed on {rate(top.rate)} against {rate(top.noise)} under noise"
        yield f"On {_on(name)}{lead}net {_span(top.net)}{where}{'' if i else rates}."
    rest = [f"{working[name]} of {len(by_name[name])} on {name}" for name in able[MOST_TOLD:]]
    if rest:
        yield f"Further, {_listed(rest)}."
    deaf = [_top(mine) for name, mine in by_name.items() if not working[name]]
    if deaf:
        top = _top(deaf)
        on = f" on {_on(top.editor)}" if len(deaf) > 1 else ""
        names = _listed([_on(net.editor) for net in deaf])
        yield f"None is shown to protect on {names}; the most is {_told(top)}{on}."


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _students(pairs: Sequence[PairLine]) -> Iterator[str]:
    """Yield what becomes of protection made on the teacher when a student edits."""
    mine = [p for p in pairs if p.shield.made_on == MADE_ON and not p.pair.invalid]
    if not mine:
        return
    told = Counter(line.pair.verdict for line in mine)
    tally = ", ".join(f"{told[verdict]} {verdict}" for verdict in Verdict if told[verdict])
    yield (
        f"What was made on the teacher, against students ({len(mine)} "
        f"comparison{'s' if len(mine) > 1 else ''}): {tally}."
    )
    for verdict, sign in ((Verdict.LOST, 1), (Verdict.GAINED, -1)):
        some = [line for line in mine if line.pair.verdict == verdict]
        if some:
            top = min(some, key=lambda line: sign * (line.pair.difference.value or 0.0))
            pair = top.pair
            yield (
                f"Most {verdict}: {top.shield.label} on {top.student or 'the student'}, net "
                f"{points(pair.student_rate.value)} against {points(pair.teacher.value)} on the "
                f"teacher, {_span(pair.difference)}."
            )


def _purified(best: Sequence[Net], plain: Sequence[Net]) -> Iterator[str]:
    """Say what is left of protection; where there was none, nothing can be lost."""
    working = [net for net in best if net.verdict == PROTECTS]
    if not best or not (working or any(net.verdict == PROTECTS for net in plain)):
        return
    top = max(working or best, key=lambda net: net.net.value or 0.0)
    lead = (
        f"{len(working)} of {len(best)} combinations of protection and editor still protect, most"
        if working
        else "no protection is shown on any editor; the most that is left is"
    )
    yield (
        f"Worst case, the best of all purifiers and none for each image: {lead} {_told(top)} on "
        f"{_on(top.editor)}."
    )


def _helped(nets: Sequence[Net]) -> Iterator[str]:
    some = [net for net in nets if net.verdict == HELPS]
    if some:
        worst = min(some, key=lambda net: net.net.value or 0.0)
        yield (
            f"{len(some)} of {len(nets)} rows help the editor, most {_told(worst)} on "
            f"{_on(worst.editor)}."
        )


def _left_out(void: int, every: int) -> Iterator[str]:
    if void:
        rest = "rests" if void == 1 else "rest"
        yield f"{void} of {every} rows {rest} on an invalid measurement and say nothing."
