"""What a suite says about mimicry: who learns whose albums, and what is asked of the learnt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from safetybench import registry
from safetybench.contracts import Budget, SafetyBenchError
from safetybench.suite_file import Location
from safetybench.suite_schema import Strict, TargetSpec, Word, read_budget

if TYPE_CHECKING:
    from safetybench.suite import Suite

Kind = Literal["subject", "artist"]
Learner = Literal["self", "teacher"]
RESERVED = ("learner", "steps", "seed", "kinds")  # stand beside a mimicry's options in its cells


class AlbumSet(Strict):
    """Albums that are protected whole and learnt whole; see `safetybench.zoo.personal`.

    kinds: of what is in them: a subject, or pictures in an artist's style. count: albums of each
    kind; size: pictures of an album; prompts: drawn by the model that learnt one album.
    seed: of the first album of a kind; the next ones have the next seeds.
    """

    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = ("subject", "artist")
    count: Annotated[int, Field(ge=1)] = 3
    size: Annotated[int, Field(ge=1)] = 8
    prompts: Annotated[int, Field(ge=1)] = 16
    seed: Annotated[int, Field(ge=0)] = 0


class MimicryEntry(Strict):
    """A mimicry: component name, options, and a budget of training steps and seed.

    learner: who learns an album: each model for itself ("self"), or the teacher, whose LoRA is
    then plugged on every model. models: that draw what was learnt, all by default. kinds: of the
    suite's albums that it learns, all by default; each entry has its own rows.
    """

    name: Word
    options: dict[str, Any] = Field(default_factory=dict)
    budget: Annotated[Budget, BeforeValidator(read_budget)] = Budget()
    models: tuple[Word, ...] = ()
    learner: Learner = "self"
    kinds: tuple[Kind, ...] = ()


def components(suite: Suite) -> Iterable[tuple[Location, str, str]]:
    """Yield where a mimicry is named, its name and the kind that it must have."""
    for i, entry in enumerate(suite.mimicries):
        yield ("mimicries", i, "name"), entry.name, "attacks"


def faults(suite: Suite) -> Iterable[tuple[Location, str]]:
    """Find what only the registry and the suite as a whole can tell; no model is loaded."""
    if "albums" in suite.model_fields_set and not suite.mimicries:
        yield ("albums",), "albums are read by mimicries, of which the suite has none"
    models = {"teacher": [subject.teacher for subject in suite.subjects]}
    for student in suite.students:
        models[student.name] = list(student.targets.values())
    for i, entry in enumerate(suite.mimicries):
        yield from _entry_faults(suite, entry, ("mimicries", i), models)
    for i, protection in enumerate(suite.protections):
        try:
            made = registry.create(protection.name, protection.options)
        except SafetyBenchError:
            continue  # told with the protections
        if suite.mimicries and getattr(made, "uses_masks", False):
            yield ("protections", i), f"{protection.name} needs masks, and albums have none"
        named = protection.surrogates
        yield from _unfit(suite, made, ("protections", i, "surrogates"), named, models)


def _entry_faults(
    suite: Suite, entry: MimicryEntry, at: Location, models: Mapping[str, Sequence[TargetSpec]]
) -> Iterable[tuple[Location, str]]:
    from safetybench.contracts import Mimicry

    for key in (key for key in entry.options if key in RESERVED):
        yield (*at, "options", key), f"{key} is a key of the entry or its budget, and no option"
    try:
        made = registry.create(entry.name, entry.options)
    except SafetyBenchError as error:
        yield (*at, "name"), str(error)
        return
    if not isinstance(made, Mimicry):
        yield (*at, "name"), f"{entry.name} is no Mimicry, as mimicries are"
        return
    if entry.learner == "teacher" and not hasattr(made, "lora"):
        yield (
            (*at, "learner"),
            f"{entry.name} learns nothing that can be plugged on another model, having no method "
            "lora; let each model learn by 'self'",
        )
    if entry.budget.steps < 1:
        yield (*at, "budget"), f"{entry.name} needs a budget of steps, 1 or more"
    for kind in (kind for kind in entry.kinds if kind not in suite.albums.kinds):
        told = ", ".join(suite.albums.kinds)
        yield (*at, "kinds"), f"the suite has no albums of kind {kind!r}, but of {told}"
    for name in (name for name in entry.models if name not in models):
        near = registry.suggestion(name, models)
        yield (*at, "models"), f"the suite has no model {name!r}{near}"
    learners = entry.models or tuple(models) if entry.learner == "self" else ("teacher",)
    yield from _unfit(suite, made, at, learners, models)


def _unfit(
    suite: Suite,
    made: Any,
    at: Location,
    names: Sequence[str],
    models: Mapping[str, Sequence[TargetSpec]],
) -> Iterable[tuple[Location, str]]:
    """Find targets of other packages that lack what a component needs; others meet every need."""
    wanted = list(models) if "self" in names else names
    for name in wanted:
        for label in models.get(name, ()):
            target = _built(suite.spec(label) if isinstance(label, str) else label)
            lacking = [need.__name__ for need in made.needs if not isinstance(target, need)]
            if target is not None and lacking:
                yield (
                    at,
                    f"{type(made).__name__} needs a model that is {', '.join(lacking)}, got "
                    f"{name!r}",
                )


def _built(spec: TargetSpec) -> Any:
    """Return a target that is a component, which costs nothing to make; None for all others."""
    try:
        if isinstance(spec, str):
            return registry.create(spec) if spec.startswith("targets/") else None
        if "component" in spec:
            return registry.create(str(spec["component"]), dict(spec.get("options", {})))
    except SafetyBenchError:
        pass  # told with the targets
    return None
