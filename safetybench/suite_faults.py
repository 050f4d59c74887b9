"""Faults of a suite whose keys are right: components, targets, and what does not go together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from safetybench import (
    registry,
    suite_backdoors,
    suite_bias,
    suite_evasion,
    suite_images,
    suite_made,
    suite_mimicry,
    suite_students,
)
from safetybench.contracts import Judge, SafetyBenchError
from safetybench.suite_file import Location

if TYPE_CHECKING:
    from safetybench.suite import Suite

CAME_BACK = "came-back"  # the metric of a gate on pairs
_MOST_NAMED = 12  # concepts of a judge, which may see a thousand


def faults(suite: Suite, offline: bool) -> Iterable[tuple[Location, str]]:
    """Yield each fault with its place in the file; offline: fetched targets are faults."""
    for where, name, kind in _components(suite):
        try:
            if registry.kind_of(name) != kind:
                raise SafetyBenchError(f"{name!r} is no component of kind {kind}")
            registry.check(name)
            if where[0] == "attacks":
                registry.create(name, suite.attacks[int(where[1])].options)
            if where[0] == "judge":
                suite.new_judge()
        except SafetyBenchError as error:
            yield where, str(error)
    lists = [*_list_faults(suite), *suite_backdoors.entry_faults(suite)]
    if lists:
        yield from lists
        return
    yield from _subject_faults(suite, offline)
    yield from suite_images.faults(suite)
    yield from suite_mimicry.faults(suite)
    yield from suite_made.faults(suite, offline)
    yield from suite_students.faults(suite, offline)
    yield from suite_backdoors.faults(suite, offline)
    yield from suite_bias.faults(suite, offline)
    yield from suite_evasion.faults(suite, offline)
    attacks = {"", *(e.name for e in suite.attacks), *(e.name for e in suite.protections)}
    subjects = {"", *(subject.name for subject in suite.subjects)}
    students = [student.name for student in suite.students]
    students += suite_evasion.names_of(suite)
    chains = dict.fromkeys(made.entry for made in suite.made if made.role == "cleaned")
    for i, attack in enumerate(suite.attacks):
        known = ("teacher", "student", *students, *(("cleaned", *chains) if chains else ()))
        for name in (name for name in attack.models if name not in known):
            near = registry.suggestion(name, known)
            yield ("attacks", i, "models"), f"the suite has no model {name!r} to attack{near}"
        for name in (name for name in attack.subjects if name not in subjects):
            near = registry.suggestion(name, subjects)
            yield ("attacks", i, "subjects"), f"the suite has no subject {name!r}{near}"
    for i, gate in enumerate(suite.gates):
        if gate.attack not in attacks:
            near = registry.suggestion(gate.attack, attacks)
            yield ("gates", i, "attack"), f"the suite has no attack {gate.attack!r}{near}"
        if gate.subject not in subjects:
            near = registry.suggestion(gate.subject, subjects)
            yield ("gates", i, "subject"), f"the suite has no subject {gate.subject!r}{near}"
        if gate.student and gate.student not in students:
            near = registry.suggestion(gate.student, students)
            yield ("gates", i, "student"), f"the suite has no student {gate.student!r}{near}"
        if gate.metric == CAME_BACK and gate.level != 0.95:
            yield ("gates", i, "level"), f"a gate on {CAME_BACK} has level 0.95, got {gate.level}"


def _list_faults(suite: Suite) -> Iterable[tuple[Location, str]]:
    """Hold the suite to what its scenario reads; nothing that nobody reads may stand there.

    A scenario reads attacks, unless its class says other lists by `reads`; the first of them must
    not be empty.
    """
    try:
        scenario = registry.load(suite.scenario)
    except SafetyBenchError:
        return  # told with the components
    wanted = getattr(scenario, "reads", ("attacks",))
    said = suite.model_fields_set
    if not getattr(suite, wanted[0]):
        empty = (wanted[0],), f"{wanted[0]} must not be empty"
        yield empty if wanted[0] in said else ((), f"suite needs {wanted[0]!r}")
    lists = ("attacks", "protections", "edits", "purifiers", "images")
    others: dict[str, tuple[str, ...]] = {name: (name,) for name in lists}
    others["students"] = ("students", "training")
    others["mimicries"] = ("mimicries", "albums")
    others["backdoors"] = ("backdoors", "removals")
    others["biases"] = ("biases", "filters", "instructions", "tuning")
    others["data"] = ("data", "threat", "masking", "cards")
    for key in (key for name, keys in others.items() if name not in wanted for key in keys):
        if key in said and getattr(suite, key):
            yield (key,), f"{suite.scenario} reads {' and '.join(wanted)} and no {key}"
    for i, subject in enumerate(suite.subjects):
        if subject.student and "attacks" not in wanted and wanted[0] != "biases":
            yield ("subjects", i, "student"), f"{suite.scenario} reads students, not this"
        needed = {
            "protections": ("teacher",),
            "backdoors": ("teacher", "original", "backdoor"),
            "biases": ("bias",),
            "data": ("teacher", "original"),
        }
        for key in needed.get(wanted[0], ("teacher", "concept", "original")):
            if not getattr(subject, key):
                yield ("subjects", i), f"subjects[{i}] needs {key!r}"
        if subject.backdoor and wanted[0] != "backdoors":
            yield ("subjects", i, "backdoor"), f"{suite.scenario} reads no backdoors"
        if subject.bias and wanted[0] != "biases":
            yield ("subjects", i, "bias"), f"{suite.scenario} reads no biases"


def _components(suite: Suite) -> Iterable[tuple[Location, str, str]]:
    yield ("scenario",), suite.scenario, "scenarios"
    yield ("judge",), suite.judge, "judges"
    for i, attack in enumerate(suite.attacks):
        yield ("attacks", i, "name"), attack.name, "attacks"
    yield from suite_images.components(suite)
    yield from suite_mimicry.components(suite)
    yield from suite_backdoors.components(suite)
    yield from suite_bias.components(suite)
    for i, report in enumerate(suite.reports):
        yield ("reports", i), report, "reports"


def _subject_faults(suite: Suite, offline: bool) -> Iterable[tuple[Location, str]]:
    from safetybench.harness.models import check

    seen: dict[str, int] = {}
    refused: dict[str, str] = {}
    visible: tuple[str, ...] | None = None
    try:
        judge = suite.new_judge()
        visible = judge.concepts() if isinstance(judge, Judge) else None
    except SafetyBenchError as error:
        yield ("judge",), str(error)
    for i, subject in enumerate(suite.subjects):
        named = [("concept", subject.concept), *(("neighbours", n) for n in subject.neighbours)]
        for key, name in (each for each in named if each[1]):
            if visible is not None and name not in visible:
                shown = ", ".join(visible[:_MOST_NAMED]) + (", ..." * (len(visible) > _MOST_NAMED))
                near = registry.suggestion(name, visible) or ";"
                yield (
                    ("subjects", i, key),
                    f"{suite.judge} cannot see {name!r}{near} it sees {shown}",
                )
        if subject.name in seen:
            yield ("subjects", i, "name"), f"the subject name {subject.name!r} stands twice"
        seen[subject.name] = i
        for role, label in subject.roles.items():
            is_made = suite.base_of(label) or suite_evasion.is_class_training(suite.told(label))
            if label not in refused and is_made:
                refused[label] = ""  # made in the run; what makes it is looked at by itself
            if label not in refused:
                try:
                    check(suite.spec(label), offline=offline)
                    refused[label] = ""
                except SafetyBenchError as error:
                    refused[label] = str(error)
            if refused[label]:
                yield ("subjects", i, role), refused[label]
