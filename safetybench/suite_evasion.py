"""What a suite says about classifiers: their data, the threat, and what the run trains of them.

A subject has an original (undefended), a teacher and students; each is there already, or is
trained in the run by a way of `defenses/evasion`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from safetybench import registry
from safetybench.class_contracts import ClassJudge, Evasion, Hardening
from safetybench.component import SafetyBenchError
from safetybench.model_cards import Claim, read_claim
from safetybench.suite_classify import SOURCES, Trained
from safetybench.suite_file import Location
from safetybench.suite_students import Made

if TYPE_CHECKING:
    from safetybench.suite import Subject, Suite
    from safetybench.suite_students import Student


def is_class_training(spec: Any) -> bool:
    """Tell whether a target's specification is of a classifier that the run trains."""
    return isinstance(spec, Mapping) and "trained" in spec


def is_told(suite: Suite, spec: Any) -> bool:
    """Tell whether a target is a classifier to train, and the suite says all that this takes."""
    return is_class_training(spec) and suite.data is not None and suite.threat is not None


def is_member(spec: Any) -> bool:
    """Tell whether a target is one network out of a family that another target holds."""
    return isinstance(spec, Mapping) and "member" in spec and "teacher" in spec


def source_told(suite: Suite) -> str:
    """Return the suite's source of images: its name, or the path of a folder made whole."""
    assert suite.data is not None, "checked with the faults"
    told = suite.data.source
    return told if told in SOURCES else suite.path(told)


def told_in_full(suite: Suite, told: Mapping[str, Any]) -> dict[str, Any]:
    """Return a training as the run needs it: with its defaults, data and ball."""
    given = {key: value for key, value in told.items() if key in Trained.model_fields}
    defaults = {"options": {}, "epochs": 6.0, "seed": 1, "teacher": ""}
    assert suite.data is not None, "checked with the faults"
    assert suite.threat is not None, "checked with the faults"
    return {
        **defaults,
        **given,
        "base": suite.placed(given["base"]),
        "data": {
            "source": source_told(suite),
            "train": suite.data.train,
            "seed": suite.data.seed,
        },
        "threat": suite.threat.model_dump(mode="json"),
    }


def expand(suite: Suite) -> Iterator[Made]:
    """Yield the students that a run trains, by student, subject and seed."""
    if suite.data is None or suite.threat is None:
        return
    for student in suite.students:
        if student.way != "recipe" or student.base is None:
            continue  # ready ones are expanded with those of other scenarios; faults are told
        for subject in suite.subjects:
            if student.subjects and subject.name not in student.subjects:
                continue
            for seed in suite.training.seeds:
                yield from _of_seed(suite, student, subject, seed)


def _of_seed(suite: Suite, student: Student, subject: Subject, seed: int) -> Iterator[Made]:
    label = f"{student.name}.{subject.name}.seed{seed}"
    spec = told_in_full(
        suite,
        {
            "trained": student.recipe,
            "base": student.base,
            "options": dict(student.options),
            "epochs": student.epochs or 6.0,
            "seed": seed,
            "teacher": subject.teacher if _needs_teacher(student) else "",
        },
    )
    role = "family" if student.members else "student"
    yield Made(student.name, subject.name, role, label, seed, spec)
    for member in student.members:
        name = f"{student.name}-{member.name}"
        told = {"teacher": label, "member": dict(member.choice)}
        mine = f"{name}.{subject.name}.seed{seed}"
        yield Made(name, subject.name, "student", mine, seed, told)


def _loaded(name: str) -> Any:
    try:
        return registry.load(name)
    except SafetyBenchError:
        return None  # told with the components


def _needs_teacher(student: Student) -> bool:
    return bool(getattr(_loaded(student.recipe), "needs_teacher", False))


def claim_of(suite: Suite, label: str, dataset: str) -> Claim | None:
    """Return what a target's model card claims, None where the suite names none.

    Raises:
        SafetyBenchError: see `safetybench.model_cards.read_claim`.
    """
    card = suite.cards.get(label)
    if not card or suite.threat is None:
        return None
    return read_claim(Path(suite.path(card)), suite.threat.epsilon, suite.threat.norm, dataset)


def names_of(suite: Suite) -> list[str]:
    """Return the names by which `attacks.models` may choose students: families' members too."""
    if suite.data is None:
        return []
    return [f"{s.name}-{member.name}" for s in suite.students for member in s.members]


def faults(suite: Suite, offline: bool) -> Iterable[tuple[Location, str]]:
    """Find what is wrong with a suite of classifiers, beyond its keys."""
    if suite.data is None:
        for label in (label for label, spec in suite.targets.items() if is_class_training(spec)):
            yield (
                ("targets", label),
                f"target {label!r} is trained, and {suite.scenario} trains none",
            )
        return
    for label, spec in suite.targets.items():
        if is_class_training(spec):
            yield from _trained_faults(suite, label, spec, offline)
    if suite.threat is None:
        yield (), "suite needs 'threat', the ball in which attacks must stay, as it has data"
        return
    if not suite.attacks:
        yield (), "suite needs 'attacks', over which the worst case is taken"
    from safetybench.vision.data import source_of

    judge = _loaded(suite.judge)
    if judge is not None and not issubclass(judge, ClassJudge):
        yield ("judge",), f"{suite.judge} judges no classifiers; judges/label does"
    try:
        source = source_of(source_told(suite))
        source.test(suite.data.count, suite.data.seed)
        if _trains(suite):
            source.train(suite.data.train, suite.data.seed)
    except SafetyBenchError as error:
        yield ("data",), str(error)
        return
    for i, entry in enumerate(suite.attacks):
        attack = _loaded(entry.name)
        if attack is None:
            continue
        if not issubclass(attack, Evasion):
            yield ("attacks", i, "name"), f"{entry.name} attacks no classifier"
        elif entry.budget.epsilon and entry.budget.norm not in attack.norms:
            why = f"{entry.name} is held to {' or '.join(attack.norms)}"
            yield ("attacks", i, "budget"), f"{why}, got {entry.budget.norm}"
    evaluated = {label for subject in suite.subjects for label in subject.roles.values()}
    evaluated |= {made.label for made in suite.made if made.role == "student"}
    for label in suite.cards:
        if label not in evaluated:
            near = registry.suggestion(label, evaluated)
            yield ("cards", label), f"no model of the suite is called {label!r}{near}"
            continue
        try:
            claim_of(suite, label, source.name)
        except SafetyBenchError as error:
            yield ("cards", label), str(error)
    for i, student in enumerate(suite.students):
        if student.way == "recipe":
            yield from _student_faults(student, ("students", i), suite, offline)


def _trains(suite: Suite) -> bool:
    is_any = any(student.way == "recipe" for student in suite.students)
    return is_any or any(map(is_class_training, suite.targets.values()))


def _trained_faults(
    suite: Suite, label: str, spec: Any, offline: bool
) -> Iterator[tuple[Location, str]]:
    at: Location = ("targets", label)
    try:
        told = Trained.model_validate(spec)
    except ValidationError as error:
        for fault in error.errors():
            where = [part for part in fault["loc"] if isinstance(part, str | int)]
            name = ".".join(map(str, where)) or "it"
            yield (*at, *where[:1]), f"target {label!r}: {name}: {fault['msg'].lower()}"
        return
    yield from _way_faults(suite, told.trained, told.options, told.base, at, "trained", offline)
    way = _loaded(told.trained)
    if way is None or not issubclass(way, Hardening):
        return
    if way.needs_teacher and not told.teacher:
        yield at, f"{told.trained} distils a teacher, and target {label!r} names none"
    if told.teacher and not way.needs_teacher:
        yield (*at, "teacher"), f"{told.trained} distils no teacher"
    seen, here = {label}, told.teacher
    while here:
        if here in seen:
            yield (*at, "teacher"), f"target {label!r} would be made from itself"
            return
        seen.add(here)
        here = suite.base_of(here)


def _student_faults(
    student: Student, at: Location, suite: Suite, offline: bool
) -> Iterator[tuple[Location, str]]:
    if student.base is None:
        yield (*at, "base"), f"{student.name} needs a base, the network to train, e.g. {{net: cnn}}"
        return
    told = (student.recipe, student.options, student.base)
    yield from _way_faults(suite, *told, at, "recipe", offline)
    way = _loaded(student.recipe)
    if way is None or not issubclass(way, Hardening):
        return
    if way.is_family and not student.members:
        yield at, f"{student.recipe} trains a family of networks: name its members"
    if student.members and not way.is_family:
        yield (*at, "members"), f"{student.recipe} trains one network, and no family of them"
    seen: set[str] = set()
    for i, member in enumerate(student.members):
        if member.name in seen:
            yield (*at, "members", i), f"the member {member.name!r} stands twice"
        seen.add(member.name)
    yield from _member_faults(student, at)
    for key in ("steps", "prompts", "images", "poison", "mix", "filter", "control", "plug"):
        if getattr(student, key):
            yield (*at, key), f"students[{at[1]}].{key} is for models of text and images"


def _member_faults(student: Student, at: Location) -> Iterator[tuple[Location, str]]:
    """Find choices that the family's network does not offer."""
    from safetybench.vision import nets

    if not (student.members and isinstance(student.base, Mapping) and "net" in student.base):
        return
    try:
        family = nets.build(student.base, classes=2, shape=(1, 16, 16), seed=0)
    except SafetyBenchError:
        return  # told with the base
    for i, member in enumerate(student.members):
        try:
            nets.member(family, member.choice)
        except SafetyBenchError as error:
            yield (*at, "members", i), str(error)


def _way_faults(
    suite: Suite,
    name: str,
    options: Mapping[str, Any],
    base: Any,
    at: Location,
    key: str,
    offline: bool,
) -> Iterator[tuple[Location, str]]:
    from safetybench.targets.classifier_loading import check_base, is_classifier

    try:
        if registry.kind_of(name) != "defenses" or not issubclass(registry.load(name), Hardening):
            raise SafetyBenchError(f"{name!r} trains no classifier; see defenses/evasion")
        registry.create(name, options)
    except SafetyBenchError as error:
        yield (*at, key), str(error)
    try:
        placed = suite.placed(base)
        if not is_classifier(placed):
            raise SafetyBenchError(f"base must be a classifier or a network, got {base!r:.60}")
        check_base(placed, offline=offline)
    except SafetyBenchError as error:
        yield (*at, "base"), str(error)
