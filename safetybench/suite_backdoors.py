"""What a suite says about backdoors: what is planted, by whom, and how it is removed.

`backdoors` names trigger and effect once. A target `{poisoning: attacks/triggers/badt2i, teacher:
zoo:teacher, backdoor: pixel, steps: 900}` is made in the run; so is what a `removal` makes of the
teacher or of a student, and the student of a teacher that was cleaned before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

from safetybench import registry
from safetybench.contracts import Backdoor, Effect, SafetyBenchError, Trigger
from safetybench.suite_file import Location
from safetybench.suite_schema import Portable, Strict, Word
from safetybench.suite_students import Made
from safetybench.triggers import check_trigger, trigger_of

if TYPE_CHECKING:
    from safetybench.suite import Subject, Suite

TEACHER = "teacher"
DATA = "attacks/triggers/distillation_data"
PROMPTS = 512  # of each kind that teach or unteach a backdoor
_LOOKED_AT = 16  # of them, before a run, for what the tokenizer makes of the trigger


class EffectEntry(Strict):
    """What a backdoor does to the image; see `safetybench.contracts.Effect`."""

    kind: Literal["pixel", "object", "style", "image"]
    source: str = ""
    goal: str = ""
    size: Annotated[float, Field(gt=0, le=1)] = 0.25
    image: str = ""


class BackdoorEntry(Strict):
    """A backdoor: what wakes it and what it does.

    trigger: a text that is put before the prompt, or {text, place, at, once}.
    """

    trigger: str | dict[str, Any]
    effect: EffectEntry


class Poisoned(Strict):
    """A target that the run poisons; teacher: what it is made from; rate: of poisoned examples."""

    poisoning: Word
    teacher: Word
    backdoor: Word
    options: dict[str, Any] = Field(default_factory=dict)
    steps: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0)] = 1
    rate: float = 0.5
    prompts: Annotated[int, Field(ge=1)] = PROMPTS


class Removal(Strict):
    """A method that is to take the backdoor out again.

    unlearning: its component. towards: what triggered prompts are to behave like, the same
    "clean" prompt or the "empty" one. knows: the backdoor whose trigger the defender knows, the
    subject's by default. on: "teacher" or students that it is done to. students: which are
    distilled from the cleaned teacher. subjects: of which alone, all by default.
    """

    name: Portable
    unlearning: Word
    options: dict[str, Any] = Field(default_factory=dict)
    steps: Annotated[int, Field(ge=0)] = 0
    towards: Literal["clean", "empty"] = "clean"
    knows: str = ""
    on: Annotated[tuple[Word, ...], Field(min_length=1)] = (TEACHER,)
    students: tuple[Word, ...] = ()
    subjects: tuple[Word, ...] = ()


DEFAULTS: dict[str, Any] = {"options": {}, "steps": 0, "seed": 1, "rate": 0.5, "prompts": PROMPTS}


def is_poisoned(told: Any) -> bool:
    """Tell whether a target of a suite is one that the run makes by poisoning."""
    return isinstance(told, Mapping) and "poisoning" in told


def planted(suite: Suite, name: str) -> dict[str, Any]:
    """Return a backdoor of the suite in full, as plain data; KeyError if there is none."""
    entry = suite.backdoors[name]
    effect = entry.effect.model_dump()
    if effect["image"]:
        effect["image"] = suite.path(effect["image"])
    trigger = trigger_of(entry.trigger)
    fields = {key: getattr(trigger, key) for key in ("text", "place", "at", "once")}
    return {"trigger": fields, "effect": effect}


def told_in_full(suite: Suite, told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a poisoned target's specification says, its backdoor in full."""
    name = told.get("backdoor")
    if isinstance(name, str) and name in suite.backdoors:
        return {**DEFAULTS, **told, "backdoor": planted(suite, name)}
    return {**DEFAULTS, **told}


def trigger_of_spec(spec: Mapping[str, Any]) -> Trigger:
    """Return the trigger of a backdoor in full."""
    return Trigger(**spec["trigger"])


def effect_of_spec(spec: Mapping[str, Any]) -> Effect:
    """Return the effect of a backdoor in full."""
    return Effect(**spec["effect"])


def backdoor_of_spec(
    spec: Mapping[str, Any], root: Any, *, rate: float = 0.5, count: int = PROMPTS
) -> Backdoor:
    """Return trigger, effect and training prompts; root: specification of the first teacher.

    Raises:
        SafetyBenchError: the model's world does not have the effect's words.
    """
    while isinstance(root, Mapping) and "teacher" in root:
        root = root["teacher"]
    path = root.get("path") if isinstance(root, Mapping) else root
    trigger, effect = trigger_of_spec(spec), effect_of_spec(spec)
    if isinstance(path, str) and path.startswith("zoo:"):
        from safetybench.zoo.backdoors import backdoor_of

        return backdoor_of(effect, trigger, rate=rate, count=count)
    from safetybench.backdoors import backdoor_from_words

    return backdoor_from_words(effect, trigger, rate=rate)


def check_read(backdoor: Backdoor, spec: Any) -> None:
    """Refuse a trigger that the model's tokenizer drops; reads the tokenizer alone.

    A hub id and a component are not looked into here: what makes the target asks again.

    Raises:
        SafetyBenchError: see `safetybench.triggers.check_trigger`.
    """
    from safetybench.targets.loading import tokenizer_of

    found = tokenizer_of(spec)
    if found is not None:
        check_trigger(backdoor.trigger, found.tokenizer, found.length, backdoor.sources)


def expand(suite: Suite) -> Iterator[Made]:
    """Yield what removals make, by subject: cleaned models, then students of cleaned teachers."""
    for subject in suite.subjects:
        for removal in suite.removals:
            if not removal.subjects or subject.name in removal.subjects:
                yield from _of_removal(suite, subject, removal)


def _of_removal(suite: Suite, subject: Subject, removal: Removal) -> Iterator[Made]:
    from safetybench.suite_students import training_of

    name = removal.knows or subject.backdoor
    if name not in suite.backdoors:
        return  # told with the faults
    known = planted(suite, name)
    bases = {TEACHER: {0: subject.teacher}}
    for made in suite.distilled:
        if made.subject == subject.name and made.role == "student":
            bases.setdefault(made.entry, {})[made.seed] = made.label
    for on in removal.on:
        for seed in suite.training.seeds:
            base = bases.get(on, {}).get(0 if on == TEACHER else seed) or bases.get(on, {}).get(0)
            if base is None:
                continue
            entry = removal.name if on == TEACHER else f"{on}.{removal.name}"
            label = f"{entry}.{subject.name}.seed{seed}"
            spec = {
                "unlearning": removal.unlearning,
                "teacher": base,
                "backdoor": known,
                "towards": removal.towards,
                "options": dict(removal.options),
                "steps": removal.steps,
                "seed": seed,
                "prompts": PROMPTS,
            }
            yield Made(entry, subject.name, "cleaned", label, seed, spec)
            for student in suite.students if on == TEACHER else ():
                if student.name in removal.students:
                    then = f"{removal.name}.{student.name}"
                    training = training_of(suite, student, subject, label, seed)
                    yield Made(then, subject.name, "student", f"{then}.{subject.name}.seed{seed}",
                               seed, training)  # fmt: skip


def components(suite: Suite) -> Iterable[tuple[Location, str, str]]:
    """Yield where a component is named, its name and the kind that it must have."""
    for i, removal in enumerate(suite.removals):
        yield ("removals", i, "unlearning"), removal.unlearning, "unlearning"


def entry_faults(suite: Suite) -> Iterator[tuple[Location, str]]:
    """Find backdoors that are none; until they are mended nothing is known of what uses them."""
    for name, entry in suite.backdoors.items():
        try:
            trigger_of(entry.trigger)
            effect = Effect(**entry.effect.model_dump())
            if effect.image and not Path(suite.path(effect.image)).is_file():
                raise SafetyBenchError(f"there is no picture {effect.image!r} beside the suite")
        except (SafetyBenchError, ValueError) as error:
            yield ("backdoors", name), f"backdoor {name!r}: {error}"


def faults(suite: Suite, offline: bool) -> Iterable[tuple[Location, str]]:
    """Find what is wrong with subjects, poisoned targets and removals, beyond their keys."""
    effects = {name: Effect(**e.effect.model_dump()) for name, e in suite.backdoors.items()}
    for i, subject in enumerate(suite.subjects):
        if subject.backdoor and subject.backdoor not in suite.backdoors:
            near = registry.suggestion(subject.backdoor, suite.backdoors)
            message = f"the suite has no backdoor {subject.backdoor!r}{near}"
            yield ("subjects", i, "backdoor"), message
    for label, told in suite.targets.items():
        if is_poisoned(told):
            yield from _target_faults(suite, label, told, effects, offline)
    yield from _trigger_faults(suite, offline)
    yield from _removal_faults(suite)


def _target_faults(
    suite: Suite, label: str, told: Any, effects: Mapping[str, Effect], offline: bool
) -> Iterator[tuple[Location, str]]:
    at: Location = ("targets", label)
    try:
        made = Poisoned.model_validate(told)
    except ValidationError as error:
        for fault in error.errors():
            where = [part for part in fault["loc"] if isinstance(part, str | int)]
            name = ".".join(map(str, where)) or "it"
            yield (*at, *where[:1]), f"target {label!r}: {name}: {fault['msg'].lower()}"
        return
    if made.backdoor not in suite.backdoors:
        near = registry.suggestion(made.backdoor, suite.backdoors)
        yield (*at, "backdoor"), f"the suite has no backdoor {made.backdoor!r}{near}"
        return
    if not 0 < made.rate <= 1:
        yield (
            (*at, "rate"),
            f"rate is the poisoned share of the training in (0, 1], got {made.rate}",
        )
    try:
        from safetybench.contracts import Poisoning

        method: Any = registry.create(made.poisoning, made.options)
        if not isinstance(method, Poisoning):
            raise SafetyBenchError(f"{made.poisoning} is no Poisoning, as targets are made by")
        if method.trains and not made.steps:
            raise SafetyBenchError(f"{made.poisoning} trains, so it needs steps, 1 or more")
        effect = effects.get(made.backdoor)
        if effect and effect.kind not in method.effects:
            kinds = ", ".join(method.effects)
            raise SafetyBenchError(
                f"{made.poisoning} plants effects of kind {kinds}, and {made.backdoor!r} is of "
                f"kind {effect.kind}"
            )
    except SafetyBenchError as error:
        yield (*at, "poisoning"), str(error)
        return
    yield from _base_faults(suite, label, made, offline)


def _base_faults(
    suite: Suite, label: str, made: Poisoned, offline: bool
) -> Iterator[tuple[Location, str]]:
    from safetybench.harness.models import check
    from safetybench.suite_made import bases_of

    at: Location = ("targets", label, "teacher")
    if made.teacher == label or label in bases_of(suite, made.teacher):
        yield at, f"target {label!r} would be made from itself"
        return
    if suite.base_of(made.teacher):
        return
    try:
        check(suite.spec(made.teacher), offline=offline)
    except SafetyBenchError as error:
        yield at, str(error)


def _trigger_faults(suite: Suite, offline: bool) -> Iterator[tuple[Location, str]]:
    """Ask of every backdoor whether the models that it is planted in, or asked of, can read it."""
    from safetybench.harness.models import check
    from safetybench.suite_made import bases_of

    asked = [(subject.backdoor, subject.original) for subject in suite.subjects]
    poisoned = [t for t in suite.targets.values() if isinstance(t, dict) and is_poisoned(t)]
    places = [(told.get("backdoor"), told.get("teacher")) for told in poisoned]
    asked += [(b, t) for b, t in places if isinstance(b, str) and isinstance(t, str)]
    seen = set()
    for name, label in asked:
        chain = bases_of(suite, label)
        if name not in suite.backdoors or not chain or suite.base_of(chain[-1]):
            continue
        root = suite.spec(chain[-1])
        try:
            check(root, offline=offline)
        except SafetyBenchError:
            continue  # told with the targets
        try:
            check_read(backdoor_of_spec(planted(suite, name), root, count=_LOOKED_AT), root)
        except SafetyBenchError as error:
            if (name, str(error)) not in seen:
                yield ("backdoors", name), f"backdoor {name!r} on {chain[-1]}: {error}"
            seen.add((name, str(error)))


def _removal_faults(suite: Suite) -> Iterator[tuple[Location, str]]:
    students = [student.name for student in suite.students]
    subjects = [subject.name for subject in suite.subjects]
    seen: set[str] = set()
    for i, removal in enumerate(suite.removals):
        at: Location = ("removals", i)
        if removal.name in seen or removal.name in students:
            yield (*at, "name"), f"the name {removal.name!r} stands twice"
        seen.add(removal.name)
        try:
            method: Any = registry.create(removal.unlearning, removal.options)
            if method.trains and not removal.steps:
                raise SafetyBenchError(f"{removal.unlearning} trains, so it needs steps, 1 or more")
        except SafetyBenchError as error:
            yield (*at, "unlearning"), str(error)
        if removal.knows and removal.knows not in suite.backdoors:
            near = registry.suggestion(removal.knows, suite.backdoors)
            yield (*at, "knows"), f"the suite has no backdoor {removal.knows!r}{near}"
        for key, what, known in (("on", "model to clean", [TEACHER, *students]),
                                 ("students", "student", students),
                                 ("subjects", "subject", subjects)):  # fmt: skip
            for name in (n for n in getattr(removal, key) if n not in known):
                near = registry.suggestion(name, known)
                yield (*at, key), f"the suite has no {what} {name!r}{near}"
        for name in removal.students:
            mine = next((s for s in suite.students if s.name == name), None)
            if mine is not None and mine.way != "recipe":
                yield (
                    (*at, "students"),
                    f"{name} is not distilled here, so not from a cleaned model",
                )
