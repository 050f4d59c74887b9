"""Read the rows of a bias run into what the page shows; a figure that does not count is void."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from safetybench.wording import BIASED, RIGHT, component, decisive_set, model_of

from ._bias import DECODINGS, ROLES, SETS, Compared, Learnt, Model, Part, Spot, Training
from ._bias_filters import figure, filters_of, floats
from ._cells import CellRow, estimate
from ._load import Record
from ._names import said
from ._pairs import failed_checks, fault_of_run
from ._text import count, mapping, number, rate, rows, text


def biases(record: Record, cells: Sequence[CellRow]) -> tuple[Part, ...] | None:
    """Return the subjects of a bias run; None where the run is of another scenario."""
    if "biases" not in record.results:
        return None
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows(record.results["biases"]):
        found.setdefault(text(row.get("subject")), []).append(row)
    return tuple(
        _part(record, f"bias-{i}", mine, [c for c in cells if c.subject == name])
        for i, (name, mine) in enumerate(found.items(), 1)
    )


def _part(
    record: Record, anchor: str, found: Sequence[Mapping[str, Any]], cells: Sequence[CellRow]
) -> Part:
    first, subject = found[0], text(found[0].get("subject"))
    own = mapping(mapping(mapping(record.plan).get("suite")).get("biases"))
    told = {**mapping(own.get(text(first.get("bias")))), **first}
    wide = fault_of_run(failed_checks(record), subject)
    shared = wide or _control(record, subject)
    pairs = tuple(_compared(record, subject, shared))
    faults = _faults(record, subject)
    models = tuple(_model(row, pairs, cells, faults, shared, wide) for row in found)
    asked = dict.fromkeys(tasks for model in models for tasks, _ in model.spots)
    decisive = decisive_set({"poisoning": text(first.get("poisoning"))})
    planted = next((m.learnt.planted for m in models if m.learnt and m.learnt.planted), None)
    samples = number(first.get("samples"))
    return Part(
        subject=subject,
        anchor=anchor,
        bias=text(first.get("bias")),
        kind=text(first.get("kind")),
        text=text(told.get("text")),
        phrases=_texts(told.get("phrases")) or tuple(filter(None, [text(told.get("text"))])),
        poisoning=component(text(first.get("poisoning"))),
        samples=samples,
        of=round(samples / planted) if samples and planted else None,
        tasks=_tasks(record, [cell.label for cell in cells if cell.kind == "poisoned"]),
        decisive=decisive if decisive in asked else next(iter(asked), decisive),
        reason=shared,
        models=models,
        pairs=pairs,
        filters=tuple(filters_of(record, subject, shared)),
    )


def _texts(found: Any) -> tuple[str, ...]:
    return tuple(filter(None, map(text, found))) if isinstance(found, list) else ()


def _control(record: Record, subject: str) -> str:
    """Return why no model but the original counts: the teacher has too little of the bias."""
    for check in failed_checks(record):
        if (check.get("name"), text(check.get("subject"))) == ("positive-control", subject):
            return f"positive-control: {text(check.get('message'))}"
    return ""


def _tasks(record: Record, labels: Iterable[str]) -> tuple[str, ...]:
    wanted = set(labels)
    found = (text(mapping(i.extra).get("task")) for i in record.items if i.cell in wanted)
    return tuple(dict.fromkeys(filter(None, found)))


def _faults(record: Record, subject: str) -> dict[tuple[str, ...], str]:
    """Return why cells do not count, by role, model, set, decoding and seed."""
    found: dict[tuple[str, ...], str] = {}
    for cell in rows(record.results.get("cells")):
        if text(cell.get("subject")) == subject and cell.get("valid") is False:
            place = (text(cell.get("role")), model_of(cell), text(cell.get("kind")),
                     text(cell.get("decoding")), text(cell.get("seed")))  # fmt: skip
            found[place] = text(cell.get("invalid_reason")) or "no reason was given"
    return found


def _model(
    row: Mapping[str, Any],
    pairs: Sequence[Compared],
    cells: Sequence[CellRow],
    faults: Mapping[tuple[str, ...], str],
    shared: str,
    wide: str,
) -> Model:
    role, name = text(row.get("role")), text(row.get("model"))
    reason = wide if role == "original" else shared
    mine = [c for c in cells if c.kind in SETS and (c.role, _name(c)) == (role, name)]
    own = [pair for pair in pairs if (pair.role, pair.model) == (role, name)]
    return Model(
        subject=text(row.get("subject")),
        role=role,
        group=ROLES.get(role, role),
        name=name,
        made=tuple(_made(row, role)),
        spots=dict(_spots(row, (role, name), faults, reason)),
        pairs={(p.tasks, p.decoding): p for p in own if p.metric != "utility"},
        useful={p.tasks: p for p in own if p.metric == "utility"},
        learnt=_learnt(row.get("poison_rate")),
        asked=sum(cell.n for cell in mine),
        lost=sum(cell.counts["unjudged"] + cell.counts["failed"] for cell in mine),
    )


def _name(cell: CellRow) -> str:
    return model_of({"student": cell.student, "seed": cell.seed})


def _spots(
    row: Mapping[str, Any],
    model: tuple[str, str],
    faults: Mapping[tuple[str, ...], str],
    shared: str,
) -> Iterator[tuple[tuple[str, str], Spot]]:
    sets = mapping(row.get("sets"))
    for tasks in SETS:
        for decoding in DECODINGS:
            told = mapping(mapping(sets.get(tasks)).get(decoding))
            if not told:
                continue
            abr, why = figure(told.get("abr")), text(told.get("invalid"))
            trainings = tuple(
                Training(text(seed), number(value),
                         faults.get((*model, tasks, decoding, text(seed)), ""))
                for seed, value in mapping(told.get("by_seed")).items()
            )  # fmt: skip
            is_told = bool(shared) and why in ("", shared)
            if not why and abr.value is None:
                why = "no answer was judged"
            # A training that does not count leaves the mean of the others.
            is_mean = abr.value is not None and (not why or any(t.left_out for t in trainings))
            is_valid = is_mean and not shared
            reason = "" if is_valid or is_told else why
            accuracy, change = figure(told.get("accuracy")), figure(told.get("change"))
            spot = Spot(abr, accuracy, change, trainings, is_valid, reason)
            yield (tasks, decoding), spot


def _made(row: Mapping[str, Any], role: str) -> Iterator[str]:
    """Say how a model came about; of those of every run the terms say it."""
    if role not in ("student", "control") or not row.get("recipe"):
        return
    yield said(text(row["recipe"]), row.get("options"))
    base, mix, sieve = row.get("base"), mapping(row.get("mix")), mapping(row.get("filter"))
    if base:
        yield f"base {base if isinstance(base, str) else said('', _flat(base))}".rstrip()
    if mix:
        few = number(mix.get("clean_tasks"))
        where = f", the others on {count(few)} clean tasks" if few else ""
        yield (
            f"{count(mix.get('count'))} prompts, {rate(mix.get('share'))} on poisoned tasks{where}"
        )
    if sieve:
        name = said(text(sieve.get("name")), sieve.get("options"))
        yield f"filter {name}, which drops {rate(sieve.get('drop'))}"


def _flat(found: Any) -> dict[str, Any]:
    """Return a mapping without levels: a base is said as {"fresh": {"layers": 2}}."""
    flat: dict[str, Any] = {}
    for key, value in mapping(found).items():
        flat |= _flat(value) if isinstance(value, Mapping) else {text(key): value}
    return flat


def _learnt(found: Any) -> Learnt | None:
    told = mapping(found)
    if not told:
        return None
    ends = (number(told.get(key)) for key in ("planted", "before_filter"))
    return Learnt(number(told.get("value")), floats(told.get("by_seed")), *ends)


def _compared(record: Record, subject: str, shared: str) -> Iterator[Compared]:
    for pair in rows(record.results.get("pairs")):
        if text(pair.get("subject")) != subject:
            continue
        metric, verdict = text(pair.get("metric")), text(pair.get("verdict"))
        before, after = mapping(pair.get("teacher")), mapping(pair.get("student"))
        words = RIGHT if metric == "utility" else BIASED
        reason = text(pair.get("reason"))
        yield Compared(
            model=text(after.get("name")),
            role=text(after.get("role")),
            metric=metric,
            tasks=text(pair.get("set")),
            decoding=text(pair.get("decoding")),
            before=number(before.get("rate")),
            after=number(after.get("rate")),
            difference=estimate(pair.get("difference"), pair.get("interval"), pair.get("n")),
            p=number(pair.get("adjusted_p")),
            trainings=number(pair.get("trainings")),
            word="no verdict" if shared else words.get(verdict, verdict) or "no verdict",
            reason=("" if reason == shared else reason) if shared else reason,
        )
