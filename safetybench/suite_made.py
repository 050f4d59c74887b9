"""Targets that a run makes by unlearning: what `targets` may say of one, checked before it runs.

A suite names them like any target: `{unlearning: unlearning/esd, teacher: zoo:teacher, concept:
fish, anchor: circle, steps: 300}`. They are made once a run and kept with its students.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

from safetybench import registry
from safetybench.contracts import SafetyBenchError
from safetybench.suite_file import Location
from safetybench.suite_schema import Strict, Word

if TYPE_CHECKING:
    from safetybench.suite import Suite


class Unlearned(Strict):
    """A target that an unlearning method makes of another in the run.

    teacher: label or specification of the model that it is made from; anchor: what is to be drawn
    where the concept is asked for; prompts: how many training prompts of each kind; steps: of the
    method, 0 for one that trains nothing.
    """

    unlearning: Word
    teacher: Word
    concept: Word
    anchor: Word
    options: dict[str, Any] = Field(default_factory=dict)
    steps: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0)] = 1
    prompts: Annotated[int, Field(ge=1)] = 512


DEFAULTS: dict[str, Any] = {"options": {}, "steps": 0, "seed": 1, "prompts": 512}


def is_unlearned(told: Any) -> bool:
    """Tell whether a target of a suite is one that the run makes by unlearning."""
    return isinstance(told, Mapping) and "unlearning" in told


def faults(suite: Suite, offline: bool) -> Iterable[tuple[Location, str]]:
    """Find what is wrong with the targets that a run is to make."""
    from safetybench.harness.models import check

    for label, told in suite.targets.items():
        if not (isinstance(told, dict) and ("unlearning" in told or "teacher" in told)):
            continue
        if "poisoning" in told:
            continue  # suite_backdoors looks at these
        at: Location = ("targets", label)
        try:
            made = Unlearned.model_validate(told)
        except ValidationError as error:
            for fault in error.errors():
                where = [part for part in fault["loc"] if isinstance(part, str | int)]
                name = ".".join(map(str, where)) or "it"
                yield (*at, *where[:1]), f"target {label!r}: {name}: {fault['msg'].lower()}"
            continue
        try:
            if registry.kind_of(made.unlearning) != "unlearning":
                raise SafetyBenchError(f"{made.unlearning!r} is no component of kind unlearning")
            method: Any = registry.create(made.unlearning, made.options)
            if method.trains and not made.steps:
                raise SafetyBenchError(f"{made.unlearning} trains, so it needs steps, 1 or more")
        except SafetyBenchError as error:
            yield (*at, "unlearning"), str(error)
        if made.teacher == label or label in bases_of(suite, made.teacher):
            yield (*at, "teacher"), f"target {label!r} would be made from itself"
            continue
        if suite.base_of(made.teacher):
            continue
        try:
            check(suite.spec(made.teacher), offline=offline)
        except SafetyBenchError as error:
            yield (*at, "teacher"), str(error)
        try:
            erasure_of_spec({**DEFAULTS, **told}, suite.spec(made.teacher))
        except SafetyBenchError as error:
            yield (*at, "concept"), str(error)


def bases_of(suite: Suite, label: str) -> list[str]:
    """Return a target's label and those of all that it is made from in the run."""
    found: list[str] = []
    while label and label not in found:
        found.append(label)
        label = suite.base_of(label)
    return found


def erasure_of_spec(told: Mapping[str, Any], root: Any) -> Any:
    """Return the training prompts of a target; root: specification of the model at its root.

    Raises:
        SafetyBenchError: the concept and the anchor do not go together.
    """
    if "backdoor" in told:  # what is to be unlearned is what a trigger does
        from safetybench.suite_backdoors import backdoor_of_spec
        from safetybench.trigger_removal import erasure_of as trigger_erasure_of

        return trigger_erasure_of(
            backdoor_of_spec(told["backdoor"], root, count=told["prompts"]), told["towards"]
        )
    while isinstance(root, Mapping) and "teacher" in root:
        root = root["teacher"]
    path = root.get("path") if isinstance(root, Mapping) else root
    if isinstance(path, str) and path.startswith("zoo:"):
        from safetybench.zoo.prompts import erasure_of

        return erasure_of(told["concept"], told["anchor"], told["prompts"])
    from safetybench.erasure import erasure_from_words

    return erasure_from_words(told["concept"], told["anchor"])
