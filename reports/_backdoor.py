"""What the page shows of a backdoor run: the models of each subject, side by side.

Every figure, interval and verdict is that of results.json; here they are only put together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from safetybench.wording import (
    MAY_WORK,
    NOT_SHOWN,
    component,
    effect_name,
    is_awake,
    survival,
    trigger_name,
    variants,
)

from ._cells import CellRow, Estimate, estimate
from ._load import Record
from ._pairs import failed_checks, fault_of_run
from ._text import mapping, number, rows, text

GROUPS = ("Clean original", "Teacher", "Students", "Cleaned", "Students of a cleaned teacher")
SHAPES = {  # words of an outcome, and the badge whose shape and colour each has
    "works more often": "lost",
    "works as often": "unchanged",
    "works less often": "gained",
    MAY_WORK: "not distinguishable",
    NOT_SHOWN: "gained",
    "undecided": "not distinguishable",
    "no verdict": "invalid",
}
FIGURES = (
    "asr", "survival", "false_alarm", "false_trigger", "accuracy", "accuracy_change",
    "triggered_accuracy", "other_accuracy", "preserved", "preserved_clean", "lpips",
    "triggered_lpips", "mse", "triggered_mse", "kid",
)  # fmt: skip


class Training(NamedTuple):
    """One training of a model; left_out: why it does not count, "" where it does."""

    seed: str
    asr: float | None
    accuracy: float | None
    left_out: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model of a subject. figures: by name, see `scenarios._backdoor_figures.figures`.

    outcome: what became of the teacher's backdoor, in words, "" of original and teacher. reason:
    why there is no verdict or what it rests on. is_broken: it no longer draws what it is asked
    for. is_awake: the trigger works above what the original shows. original: its accuracy.
    """

    subject: str
    role: str
    group: str
    name: str
    target: str
    made: tuple[str, ...]
    figures: Mapping[str, Estimate]
    variants: Mapping[str, Estimate]
    trainings: tuple[Training, ...]
    outcome: str
    reason: str
    is_valid: bool
    is_broken: bool
    is_awake: bool | None
    p: float | None
    difference: Estimate
    unjudged: int

    @property
    def label(self) -> str:
        """Return what the model is called among those of its subject."""
        return self.name or self.group

    @property
    def shape(self) -> str:
        """Return the badge that the outcome has the shape and colour of."""
        return SHAPES.get(self.outcome, "undecided")

    @property
    def removal(self) -> Estimate | None:
        """Return the share of the teacher's working prompts on which the effect is gone."""
        e = self.figures["survival"]
        if self.role != "cleaned" or e.value is None:
            return None
        low, high = (None if end is None else 1 - end for end in (e.high, e.low))
        return Estimate(1 - e.value, low, high, e.n)

    @property
    def counted(self) -> list[Training]:
        """Return the trainings that the figures are means of."""
        return [t for t in self.trainings if not t.left_out] or list(self.trainings)

    @property
    def left_out(self) -> int:
        """Return how many trainings do not count beside those that do."""
        return len(self.trainings) - len(self.counted)


class Attacked(NamedTuple):
    """An attack on one model, and the same attack on the clean original, its floor.

    plain: share on which the triggered prompt alone shows the effect; lift: rate over floor.
    """

    attack: str
    spend: str
    sees: str
    who: str
    is_cleaned: bool
    rate: Estimate
    plain: Estimate
    floor: Estimate
    lift: Estimate
    p: float | None
    invalid: str

    @property
    def is_found(self) -> bool:
        """Tell whether it finds more than on the original, by the interval of the lift."""
        return not self.invalid and self.lift.low is not None and self.lift.low > 0


class Part(NamedTuple):
    """All about one subject; reason: why none of its verdicts counts, "" if they do."""

    subject: str
    anchor: str
    backdoor: str
    trigger: str
    effect: str
    is_clean_teacher: bool
    reason: str
    models: tuple[Model, ...]
    attacks: tuple[Attacked, ...]

    @property
    def groups(self) -> list[tuple[str, list[Model]]]:
        """Return the models by group, original and teacher first."""
        known = (*GROUPS, *(m.group for m in self.models))
        found = {name: [m for m in self.models if m.group == name] for name in known}
        return [(name, mine) for name, mine in found.items() if mine]

    @property
    def variants(self) -> list[str]:
        """Return the kinds of near misses that some model was asked."""
        return list(dict.fromkeys(name for m in self.models for name in m.variants))

    def of(self, group: str) -> Model | None:
        """Return the first model of a group."""
        return next((m for m in self.models if m.group == group), None)


class Across(NamedTuple):
    """One model on every subject, by the subject's anchor."""

    label: str
    models: Mapping[str, Model]


def overview(parts: Sequence[Part]) -> list[Across]:
    """Return the models of all subjects, group by group."""
    found: dict[tuple[str, str], dict[str, Model]] = {}
    for part in parts:
        for group, models in part.groups:
            for model in models:
                found.setdefault((group, model.label), {}).setdefault(part.anchor, model)
    order = {name: i for i, name in enumerate(GROUPS)}
    ranked = sorted(found.items(), key=lambda entry: order.get(entry[0][0], len(GROUPS)))
    return [Across(label, models) for (_, label), models in ranked]


def backdoors(record: Record, cells: Sequence[CellRow]) -> tuple[Part, ...] | None:
    """Return the subjects of a backdoor run; None where the run is of another scenario."""
    if "backdoors" not in record.results:
        return None
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows(record.results["backdoors"]):
        found.setdefault(text(row.get("subject")), []).append(row)
    return tuple(
        _part(record, f"backdoor-{i}", mine, [c for c in cells if c.subject == name])
        for i, (name, mine) in enumerate(found.items(), 1)
    )


def _part(
    record: Record, anchor: str, found: Sequence[Mapping[str, Any]], cells: Sequence[CellRow]
) -> Part:
    first, subject = found[0], text(found[0].get("subject"))
    by_role = {text(row.get("role")): row for row in reversed(found)}
    teacher, original = by_role.get("teacher", {}), by_role.get("original", {})
    reason = fault_of_run(failed_checks(record), subject) or next(
        (t.left_out for t in _trainings(teacher)), ""
    )
    trigger = mapping(first.get("trigger"))
    return Part(
        subject,
        anchor,
        text(first.get("backdoor")),
        trigger_name(trigger) if trigger else "",
        effect_name(mapping(first.get("effect"))),
        bool(teacher) and teacher.get("target") == original.get("target"),
        reason,
        tuple(_model(row, original, reason) for row in found),
        tuple(_attacks(record, cells, reason)),
    )


def _figure(found: Any) -> Estimate:
    told = mapping(found)
    return estimate(told.get("value"), told, told.get("n"))


def _names(found: Any) -> list[str]:
    return [text(name) for name in found] if isinstance(found, list) else []


def _model(row: Mapping[str, Any], original: Mapping[str, Any], shared: str) -> Model:
    role, made = text(row.get("role")), tuple(map(component, _names(row.get("made"))))
    trainings = tuple(_trainings(row))
    plain = {key: mapping(r.get("asr")) for key, r in (("mine", row), ("original", original))}
    verdict = text(row.get("verdict"))
    word = survival({"verdict": verdict, "asr": plain["mine"]}, {"asr": plain["original"]})
    told = "; ".join((text(row.get("reason")), *(t.left_out for t in trainings)))
    is_judged = role not in ("original", "teacher")
    return Model(
        subject=text(row.get("subject")),
        role=role,
        group=_group(role, len(made)),
        name=text(row.get("model")),
        target=text(row.get("target")),
        made=made,
        figures={name: _figure(row.get(name)) for name in FIGURES},
        variants={text(k): _figure(v) for k, v in mapping(row.get("by_variant")).items()},
        trainings=trainings,
        outcome="" if not is_judged else "no verdict" if shared else word or "no verdict",
        reason=_own(text(row.get("reason")), trainings, shared),
        is_valid=row.get("is_valid") is not False and not (shared and role != "original"),
        is_broken="collapse: " in told and row.get("is_valid") is False,
        is_awake=is_awake(plain["mine"], plain["original"]),
        p=number(row.get("adjusted_p")),
        difference=estimate(row.get("difference"), row.get("interval")),
        unjudged=int(number(row.get("unjudged")) or 0),
    )


def _group(role: str, parts: int) -> str:
    if role == "student" and parts > 1:
        return GROUPS[4]
    places = {"original": 0, "teacher": 1, "student": 2, "cleaned": 3}
    return GROUPS[places[role]] if role in places else role


def _trainings(row: Mapping[str, Any]) -> Iterator[Training]:
    for each in rows(row.get("trainings")):
        yield Training(
            text(each.get("seed")),
            number(each.get("asr")),
            number(each.get("accuracy")),
            text(each.get("left_out")),
        )


def _own(reason: str, trainings: Sequence[Training], shared: str) -> str:
    """Return why a row says what it says, without what is said once for its whole subject."""
    left = dict.fromkeys(t.left_out for t in trainings if t.left_out)
    is_all = all(t.left_out for t in trainings)  # and then the row's own reason is theirs
    parts = [reason, *(told for told in left if not (reason and is_all))]
    if shared:
        parts = [part.removeprefix(shared).removeprefix("; ") for part in parts]
    return "; ".join(dict.fromkeys(filter(None, parts)))


def _attacks(record: Record, cells: Sequence[CellRow], shared: str) -> Iterator[Attacked]:
    """Yield the attacks on models, those on cleaned ones first."""
    lifts = {text(r.get("cell")): r for r in rows(record.results.get("comparisons"))}
    # Seeds are those of trainings here, and stand with the model.
    raw = [{**row, "seed": 0} for row in rows(record.results.get("cells")) if row.get("attack")]
    names = dict(zip((text(row.get("label")) for row in raw), variants(raw), strict=True))
    known = {cell.label: cell for cell in cells}
    plain = {(c.role, c.student): c for c in cells if c.kind == "triggered" and not c.attack}
    mine = [cell for cell in cells if cell.attack and cell.role != "original"]
    for cell in sorted(mine, key=lambda cell: cell.role != "cleaned"):
        lift = lifts.get(cell.label, {})
        floor = known.get(text(lift.get("baseline_cell")))
        alone = plain.get((cell.role, cell.student))
        reason = "" if cell.is_valid else cell.reason or "no reason was given"
        yield Attacked(
            ", ".join(filter(None, (component(cell.attack), names.get(cell.label)))),
            cell.spend,
            cell.sees,
            _trained(cell),
            cell.role == "cleaned",
            cell.rate,
            alone.rate if alone else Estimate(),
            floor.rate if floor else Estimate(),
            estimate(lift.get("value"), lift.get("interval"), lift.get("n")),
            number(lift.get("p_value")),
            _own(reason, (), shared) or ("as all of this subject" if reason else ""),
        )


def _trained(cell: CellRow) -> str:
    """Return the model of a cell, and which of its trainings."""
    name, _, seed = cell.student.rpartition(".seed")
    is_told = bool(name) and seed.isdecimal()
    return f"{cell.role} {name} (seed {seed})" if is_told else f"{cell.role} {cell.student}".strip()
