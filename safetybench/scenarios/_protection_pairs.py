"""Does what was made on one model protect against another: teacher and student, image by image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from safetybench import stats
from safetybench.stats import Verdict

from ._log import LEVEL
from ._mimicry_stats import Clusters, clusters

if TYPE_CHECKING:
    from ._protection_summary import Net

_SHIELD = ("protection", "options", "budget")
_REST = ("mask", "purifier", "purifier_options")
ALPHA = 0.05
MARGIN = 0.1


def pairs(nets: Sequence[Net]) -> list[dict[str, Any]]:
    """Return teacher against student for every protection; p corrected by Holm over all.

    difference: the student's net effect less the teacher's, on images whose clean edit succeeds
    on both; below 0, protection holds less well on the student.
    """
    matches = list(_matches(nets))
    sides = [_effects(teacher, student) for teacher, student in matches]
    albums = [clusters(t.clean, _shared_names(t, s)) for t, s in matches]
    p_values = [
        home.p_value(sign_flip(change), change)
        for home, change in zip(albums, map(_change, sides), strict=True)
    ]
    valid = [
        i
        for i, (teacher, student) in enumerate(matches)
        if sides[i][0] and not teacher.voided and not student.voided
    ]
    adjusted = dict(zip(valid, stats.holm([p_values[i] for i in valid]), strict=True))
    return [
        _pair(teacher, student, sides[i], p_values[i], adjusted.get(i), albums[i])
        for i, (teacher, student) in enumerate(matches)
    ]


def _matches(nets: Sequence[Net]) -> Iterator[tuple[Net, Net]]:
    teachers = {_shared(net): net for net in nets if net.log.cell.role == "teacher"}
    for net in nets:
        teacher = teachers.get(_shared(net))
        if net.log.cell.role == "student" and teacher is not None:
            yield teacher, net


def _shared(net: Net) -> tuple[str, ...]:
    cell, defense = net.log.cell, net.log.cell.defense
    keys = (*_SHIELD, "surrogate", *_REST)
    told = tuple(str(defense.get(key, "")) for key in keys)
    return (cell.subject, cell.attack, str(cell.options), str(cell.seed), *told)


def _effects(teacher: Net, student: Net) -> tuple[list[int], list[int]]:
    """Return by shared image what protection took off success beyond noise: 1, 0 or -1."""
    names = _shared_names(teacher, student)
    return tuple(  # type: ignore[return-value]
        [net.noise.outcomes[name] - net.log.outcomes[name] for name in names]
        for net in (teacher, student)
    )


def _shared_names(teacher: Net, student: Net) -> list[str]:
    wanted = set(student.counted)
    return [name for name in teacher.counted if name in wanted]


def _change(sides: tuple[list[int], list[int]]) -> list[int]:
    return [student - teacher for teacher, student in zip(*sides, strict=True)]


def sign_flip(differences: Sequence[int]) -> float:
    """Return the exact two-sided p that paired whole-number differences have mean 0.

    Under the null each difference is as likely with either sign; the sum's distribution is the
    product of theirs (Fisher's randomisation test). No differences give 1.

    >>> sign_flip([1, 1, 1, 1, 0])
    0.125
    """
    sizes = Counter(abs(d) for d in differences if d)
    if not sizes:
        return 1.0
    total = sum(size * count for size, count in sizes.items())
    chances = np.array([1.0])
    for size, count in sizes.items():
        step = np.zeros(2 * size + 1)
        step[0] = step[-1] = 0.5
        for _ in range(count):
            chances = np.convolve(chances, step)
    sums = np.arange(-total, total + 1)
    return min(1.0, float(chances[np.abs(sums) >= abs(sum(differences))].sum()))


def _pair(
    teacher: Net,
    student: Net,
    sides: tuple[list[int], list[int]],
    p_value: float,
    adjusted: float | None,
    albums: Clusters,
) -> dict[str, Any]:
    before, after = sides
    n, cell, defense = len(before), teacher.log.cell, teacher.log.cell.defense
    row: dict[str, Any] = {
        "subject": cell.subject,
        "concept": "",
        "attack": defense["protection"],
        "options": dict(defense["options"]),
        "surrogate": defense["surrogate"],
        "purifier": defense.get("purifier", ""),
        "purifier_options": dict(defense.get("purifier_options", {})),
        "epsilon": defense["budget"]["epsilon"],
        "edit": cell.attack,
        "edit_options": {**cell.options, **_mask(cell.defense)},
        "seed": cell.seed,
        "metric": "net protection",
        "teacher": {"target": cell.target, "cell": cell.label, "rate": _mean(before)},
        "student": {
            "name": student.log.cell.student,
            "target": student.log.cell.target,
            "cell": student.log.cell.label,
            "rate": _mean(after),
        },
        "n": n,
        "left_out": 0.0,
        "difference": None,
        "interval": None,
        "p_value": p_value,
        "adjusted_p": adjusted,
        "correction": "holm",
        "verdict": "invalid",
        "detectable": None,
        "reason": "; ".join(dict.fromkeys((*teacher.voided, *student.voided)))
        or "no image whose clean edit succeeds on both",
    }
    if adjusted is None:
        return row
    change = _change(sides)
    interval = _interval(change, LEVEL, albums)
    verdict, why = _verdict(before, after, change, adjusted, albums)
    told = f"net effect {_mean(before):.1%} on the teacher, {_mean(after):.1%} on the student"
    return {
        **row,
        "difference": sum(change) / n,
        "interval": interval._asdict(),
        "verdict": str(verdict),
        "reason": f"{why}: {told}.",
    }


def _verdict(
    before: Sequence[int],
    after: Sequence[int],
    change: Sequence[int],
    adjusted: float,
    albums: Clusters,
) -> tuple[Verdict, str]:
    if adjusted < ALPHA:
        weaker = sum(change) < 0
        if weaker:
            return Verdict.LOST, "The protection does less on the student"
        return Verdict.GAINED, "The protection does more on the student"
    # The two one-sided tests of equivalence at ALPHA are the interval of level 1 - 2 * ALPHA.
    inside = _interval(change, 1 - 2 * ALPHA, albums)
    if -MARGIN < inside.low and inside.high < MARGIN:
        p_values = [albums.p_value(sign_flip(side), side) for side in (before, after)]
        if max(p_values) < ALPHA and min(sum(before), sum(after)) > 0:
            return Verdict.INHERITED, f"It protects both, within {MARGIN:.0%} of each other"
        return Verdict.UNCHANGED, f"Both effects are within {MARGIN:.0%}, and one or none is shown"
    return Verdict.NOT_DISTINGUISHABLE, "Neither a difference nor its absence is shown"


def _interval(change: Sequence[int], level: float, albums: Clusters) -> stats.Interval:
    values, span = list(map(float, change)), stats.Span(-2.0, 2.0)
    return albums.interval(
        stats.bootstrap_mean(values, seed=0, level=level, span=span), values, span
    )


def _mean(values: Sequence[int]) -> float | None:
    return sum(values) / len(values) if values else None


def transfers(nets: Sequence[Net]) -> list[dict[str, Any]]:
    """Return T = net(victim | surrogate) / net(victim | victim), where both were measured.

    The interval resamples images; there is no ratio over an effect whose interval holds 0.
    """
    own = {(_on(net), _who(net)): net for net in nets if _made_on(net) == _who(net)}
    found = []
    for net in nets:
        direct = own.get((_on(net), _who(net)))
        if direct is None or direct is net:
            continue
        wanted = set(direct.counted)
        names = [name for name in net.counted if name in wanted]
        over = [float(n.noise.outcomes[i] - n.log.outcomes[i]) for n in (net,) for i in names]
        under = [float(direct.noise.outcomes[i] - direct.log.outcomes[i]) for i in names]
        cell = net.log.cell
        row: dict[str, Any] = {
            "subject": cell.subject,
            "victim": _who(net),
            "surrogate": _made_on(net),
            "protection": cell.defense["protection"],
            "options": dict(cell.defense["options"]),
            "epsilon": cell.defense["budget"]["epsilon"],
            "edit": cell.attack,
            "edit_options": {**cell.options, **_mask(cell.defense)},
            "steps": cell.defense["budget"]["steps"],
            "purifier": cell.defense.get("purifier", ""),
            "purifier_options": dict(cell.defense.get("purifier_options", {})),
            "cleaner": cell.defense.get("cleaner", ""),
            "seed": cell.seed,
            "n": len(names),
            "net": sum(over) / len(names) if names else None,
            "direct": sum(under) / len(names) if names else None,
            "ratio": None,
            "interval": None,
        }
        span, albums = stats.Span(-1.0, 1.0), clusters(net.clean, names)
        if len(names) > 1:
            shown = stats.bootstrap_mean(under, seed=0, level=LEVEL, span=span)
            if albums.interval(shown, under, span).low > 0:
                row["ratio"] = sum(over) / sum(under)
                # A handful of albums gives no copies of a ratio to take an interval of.
                row["interval"] = None if albums.albums else _ratio_interval(over, under)
        found.append(row)
    return found


def _ratio_interval(over: Sequence[float], under: Sequence[float]) -> dict[str, Any] | None:
    """Return the percentile interval of a ratio of means; None where copies divide by nothing."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(over), (2000, len(over)))
    above, below = np.array(over)[picks].sum(1), np.array(under)[picks].sum(1)
    if (below <= 0).any():
        return None
    low, high = np.quantile(above / below, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"low": float(low), "high": float(high), "level": LEVEL, "method": "percentile"}


def _mask(defense: Mapping[str, Any]) -> dict[str, Any]:
    return {"mask": defense["mask"]} if "mask" in defense else {}


def _who(net: Net) -> str:
    return net.log.cell.student or net.log.cell.role


def _made_on(net: Net) -> str:
    return str(net.log.cell.defense["surrogate"])


def _on(net: Net) -> tuple[str, ...]:
    cell, defense = net.log.cell, net.log.cell.defense
    keys = (*_SHIELD, *_REST)
    told = tuple(str(defense.get(key, "")) for key in keys)
    return (cell.subject, cell.attack, str(cell.options), str(cell.seed), *told)
