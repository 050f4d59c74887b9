"""Read the rows of an evasion run into what the page shows; a figure that is void is not shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from safetybench.harness.plan import PARTNER
from safetybench.stats import wilson
from safetybench.wording import EVADED, MASKING, RIGHT, component, radius, variants

from ._bias_filters import figure
from ._cells import Estimate
from ._evasion import (
    PROBES,
    ROLES,
    Column,
    Compared,
    Gradients,
    Hit,
    Landscape,
    Model,
    Part,
    Point,
    Sign,
    Training,
    Who,
)
from ._load import Record
from ._names import said
from ._pairs import failed_checks, fault_of_run
from ._text import count, mapping, number, rows, text

MOST_POINTS = 101  # of a landscape each way: a picture of a stranger's log may not fill the page
MOST = 1e30  # a greater loss is as good as infinite, and would overflow a scale
Row = Mapping[str, Any]


def evasions(record: Record) -> tuple[Part, ...] | None:
    """Return the subjects of an evasion run; None where the run is of another scenario."""
    if "robustness" not in record.results:
        return None
    found: dict[str, list[Row]] = {}
    for row in rows(record.results["robustness"]):
        found.setdefault(text(row.get("subject")), []).append(row)
    return tuple(_part(record, f"evasion-{i}", mine) for i, mine in enumerate(found.values(), 1))


def _part(record: Record, anchor: str, found: Sequence[Row]) -> Part:
    first, subject = found[0], text(found[0].get("subject"))
    threat = mapping(first.get("threat"))
    epsilon, norm = number(threat.get("epsilon")), text(threat.get("norm"))
    wide = fault_of_run(failed_checks(record), subject)
    shared = wide or _control(record, subject)
    columns = tuple(_columns(found, epsilon, norm))
    faults = _faults(record, subject)
    pairs = list(_compared(record, subject, shared, wide))
    models = [
        _model(row, columns, faults, pairs, wide if row.get("role") == "original" else shared)
        for row in found
    ]
    if wide:  # and then nothing was measured
        models = [replace(model, clean=Estimate(), change=Estimate()) for model in models]
    return Part(
        subject=subject,
        anchor=anchor,
        data=text(first.get("data")),
        images=number(first.get("images")),
        ball=ball(epsilon, norm),
        epsilon=epsilon,
        norm=norm,
        reason=shared,
        models=tuple(models),
        columns=columns,
    )


def ball(epsilon: float | None, norm: str) -> str:
    """Return the size of a ball in words, "" for an attack that has none.

    >>> ball(8 / 255, "linf"), ball(None, "l2")
    ('Linf 8/255', '')
    """
    if not epsilon:
        return ""
    return radius(epsilon, norm) if norm in ("linf", "l2") else f"{norm} {epsilon:g}".strip()


def _control(record: Record, subject: str) -> str:
    """Return why no worst case counts: the attacks do not even mislead the original."""
    for check in failed_checks(record):
        if (check.get("name"), text(check.get("subject"))) == ("positive-control", subject):
            return f"positive-control: {text(check.get('message'))}"
    return ""


def _key(told: Row, kind: str, draw: Any, budget: Row) -> str:
    """Return what is the same for one attack on every model and of every training."""
    options = {k: v for k, v in mapping(told.get("options")).items() if k != PARTNER}
    spent = [budget.get(key) for key in ("epsilon", "norm", "steps", "queries")]
    parts = [kind, told.get("attack"), options, *spent, draw]
    return json.dumps(parts, sort_keys=True, default=str)


def _attacks(row: Row) -> Iterator[tuple[str, Row]]:
    for told in rows(row.get("attacks")):
        yield _key(told, text(told.get("kind")), told.get("draw"), told), told


def _columns(found: Sequence[Row], epsilon: float | None, norm: str) -> Iterator[Column]:
    every = {key: told for row in found for key, told in _attacks(row)}
    twins = [
        {
            "attack": text(told.get("attack")),
            "kind": text(told.get("kind")),
            "options": told.get("options"),
            "seed": told.get("draw"),
            "budget": {
                **{k: number(told.get(k)) or 0 for k in ("epsilon", "steps", "queries")},
                "norm": text(told.get("norm")),
            },
        }
        for told in every.values()
    ]
    for (key, told), variant in zip(every.items(), variants(twins), strict=True):
        size, own = number(told.get("epsilon")), text(told.get("norm"))
        name = component(text(told.get("attack")))
        spends = {
            "step": number(told.get("steps")),
            "query": number(told.get("queries")),
        }
        plural = {"step": "steps", "query": "queries"}
        yield Column(
            key=key,
            kind=text(told.get("kind")),
            attack=text(told.get("attack")),
            name=f"{name} ({variant})" if variant else name,
            size=ball(size, own),
            spend=", ".join(f"{count(n)} {k if n == 1 else plural[k]}" for k, n in spends.items()
                            if n),
            is_own=not size or (size, own) != (epsilon, norm),
        )  # fmt: skip


def _faults(record: Record, subject: str) -> dict[tuple[str, str, str], str]:
    """Return why cells do not count, by role, model and attack."""
    found: dict[tuple[str, str, str], str] = {}
    for cell in rows(record.results.get("cells")):
        if text(cell.get("subject")) == subject and cell.get("valid") is False:
            name, _, _ = text(cell.get("student")).rpartition("seed")
            key = _key(cell, text(cell.get("kind")), cell.get("seed"), mapping(cell.get("budget")))
            place = (text(cell.get("role")), name.rstrip("."), key)
            found.setdefault(place, text(cell.get("invalid_reason")) or "no reason was given")
    return found


def _model(
    row: Row,
    columns: Sequence[Column],
    faults: Mapping[tuple[str, str, str], str],
    pairs: Sequence[Compared],
    shared: str,
) -> Model:
    role, name = text(row.get("role")), text(row.get("model"))
    threat = mapping(row.get("threat"))
    hits = {key: _hit(told, faults.get((role, name, key), "")) for key, told in _attacks(row)}
    own = [pair for pair in pairs if role == "student" and pair.model == name]
    noises = [
        hits[c.key].left
        for c in columns
        if c.kind == "control" and c.key in hits and not (c.is_own or hits[c.key].reason)
    ]
    counted = [noise for noise in noises if noise.value is not None]
    reason = text(row.get("invalid")) or shared
    worst = figure(row.get("worst"))
    if not reason and worst.value is None:
        reason = "no attack of the suite has an answer here"
    return Model(
        subject=text(row.get("subject")),
        role=role,
        group=ROLES.get(role, role or "Model"),
        name=name,
        made=tuple(_made(row)),
        clean=figure(row.get("clean")),
        change=figure(row.get("clean_change")),
        worst=worst,
        trainings=tuple(
            Training(text(seed), number(left))
            for seed, left in mapping(row.get("worst_by_seed")).items()
        ),
        noise=min(counted, key=lambda noise: noise.value or 0.0, default=Estimate()),
        hits=hits,
        won=tuple(_won(row, columns)),
        gradients=_gradients(row, reason, number(threat.get("epsilon"))),
        pair=next((pair for pair in own if pair.metric == "worst-case"), None),
        useful=next((pair for pair in own if pair.metric == "utility"), None),
        reason=reason,
    )


def _won(row: Row, columns: Sequence[Column]) -> Iterator[tuple[str, float]]:
    """Yield which attack misled how many images first, in the suite's order of attacks."""
    won = {text(attack): number(told) for attack, told in mapping(row.get("won_by")).items()}
    for attack in dict.fromkeys((*(column.attack for column in columns), *won)):
        n = won.get(attack)
        if n is not None:
            yield component(attack), n


def _hit(told: Row, reason: str) -> Hit:
    sizes = mapping(told.get("sizes"))
    return Hit(
        figure(told.get("left")),
        figure(told.get("own")),
        number(sizes.get("linf")),
        number(sizes.get("l2")),
        number(told.get("n_failed")),
        reason,
    )


def _made(row: Row) -> Iterator[str]:
    """Say how a model was trained, a phrase each; of one that was there already nothing."""
    if row.get("way"):
        yield said(text(row["way"]), row.get("options"))
    for key, told in (("base", row.get("base")), ("member", row.get("choice"))):
        if told:
            yield f"{key} {said('', told) if isinstance(told, Mapping) else text(told)}".rstrip()
    epochs = number(row.get("epochs"))
    if epochs:
        yield f"{epochs:g} epochs"


def _gradients(row: Row, reason: str, epsilon: float | None) -> Gradients:
    told, looked = mapping(row.get("masking")), mapping(row.get("gradients"))
    verdict = text(told.get("verdict"))
    word = MASKING.get(verdict, verdict) or "not checked"
    # Without a worst case that counts nothing says that it holds; that it is masked stays true.
    word = word if not reason or word in ("masked", "not checked") else "no verdict"
    probes = {text(name): figure(found) for name, found in mapping(row.get("probes")).items()}
    return Gradients(
        word=word,
        by_seed=tuple(
            (text(seed), MASKING.get(text(found), text(found)))
            for seed, found in mapping(told.get("by_seed")).items()
        ),
        signs=tuple(_signs(rows(told.get("signs")))),
        probes=tuple(
            (name, probes[name])
            for name in dict.fromkeys((*PROBES, *probes))
            if name in probes and not name.startswith("pgd-at-")  # those are the curve
        ),
        curve=tuple(_curve(row.get("curve"), _probed(row))),
        zero=number(looked.get("zero")),
        gap=number(looked.get("gap")),
        largest=number(looked.get("largest")),
        n=number(looked.get("n")),
        landscapes=tuple(_landscapes(row.get("landscapes"))) if epsilon else (),
    )


def _signs(found: Sequence[Row]) -> Iterator[Sign]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for sign in found:
        groups.setdefault((text(sign.get("code")), text(sign.get("name"))), []).append(sign)
    for (code, name), mine in groups.items():
        failed = [sign for sign in mine if sign.get("passed") is not True]
        shown = (failed or mine)[0]
        lead = f"seed {text(shown.get('seed'))}: " if len(mine) > 1 else ""
        message = lead + text(shown.get("message"))
        yield Sign(code, name, text(shown.get("effect")), message, len(failed), len(mine))


def _probed(row: Row) -> int:
    """Return how many images of one training were probed."""
    told = mapping(mapping(row.get("probes")).get("pgd"))
    n, seeds = number(told.get("n")), number(told.get("seeds"))
    return round(n / seeds) if n and seeds and n > 0 and seeds >= 1 else 0


def _curve(found: Any, n: int) -> Iterator[Point]:
    for point in found if isinstance(found, list) else []:
        if not isinstance(point, list) or len(point) != 2:
            continue
        at, left = map(number, point)
        if at is None or left is None or at < 0 or not 0 <= left <= 1:
            continue
        span = wilson(round(left * n), n, 0.95) if n else None
        low, high = (span.low, span.high) if span else (None, None)
        yield Point(at, Estimate(left, low, high, n or None))


def _landscapes(found: Any) -> Iterator[Landscape]:
    for told in rows(found):
        reach = number(told.get("reach"))
        loss, margin = _grid(told.get("loss")), _grid(told.get("margin"))
        if reach and reach > 0 and loss:
            item = text(told.get("item"))
            yield Landscape(item, reach, told.get("is_steepest") is True, loss, margin)


def _grid(found: Any) -> tuple[tuple[float | None, ...], ...]:
    """Return a square of values, () where the file has none."""
    lines = found if isinstance(found, list) else []
    side = len(lines)
    is_square = all(isinstance(line, list) and len(line) == side for line in lines)
    if not is_square or side > MOST_POINTS:
        return ()
    return tuple(tuple(map(_level, line)) for line in lines)


def _level(found: Any) -> float | None:
    value = number(found)
    return None if value is None else min(max(value, -MOST), MOST)


def _compared(record: Record, subject: str, shared: str, wide: str) -> Iterator[Compared]:
    for pair in rows(record.results.get("pairs")):
        if text(pair.get("subject")) != subject:
            continue
        metric, verdict = text(pair.get("metric")), text(pair.get("verdict"))
        is_harm = metric == "worst-case"
        words = EVADED if is_harm else RIGHT
        reason = text(pair.get("reason"))
        sides = [number(mapping(pair.get(side)).get("rate")) for side in ("teacher", "student")]
        told = figure({**mapping(pair), "value": pair.get("difference")})
        span = mapping(pair.get("interval"))
        gap = told._replace(low=number(span.get("low")), high=number(span.get("high")))
        if is_harm:  # of images misled: to be told as images withstood
            sides = [None if side is None else 1 - side for side in sides]
            gap = gap._replace(value=_minus(gap.value), low=_minus(gap.high), high=_minus(gap.low))
        is_void = bool(shared) and (is_harm or bool(wide))
        yield Compared(
            model=text(mapping(pair.get("student")).get("name")),
            metric=metric,
            before=sides[0],
            after=sides[1],
            difference=gap,
            p=number(pair.get("adjusted_p")),
            trainings=number(pair.get("trainings")),
            word="no verdict" if is_void else words.get(verdict, verdict) or "no verdict",
            reason="" if is_void and reason == shared else reason,
            who=None if is_void else _who(pair.get("who")),
        )


def turned(e: Estimate) -> Estimate:
    """Return the share that is misled from the share that stays right.

    >>> turned(Estimate(0.75, 0.5, 1.0, 8))
    Estimate(value=0.25, low=0.0, high=0.5, n=8, level=None)
    """
    value, high, low = (None if x is None else 1 - x for x in (e.value, e.low, e.high))
    return e._replace(value=value, low=low, high=high)


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def _who(found: Any) -> Who | None:
    told = mapping(found)
    counts = [number(told.get(key)) for key in Who._fields]
    known = [n for n in counts if n is not None and n >= 0]
    return Who(*known) if len(known) == len(counts) and sum(known) > 0 else None
