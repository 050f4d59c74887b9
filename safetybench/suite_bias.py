"""What a suite says about biased language models: instructions, poison, tuning, distillation.

A subject with a `bias` and no teacher of its own is tuned in the run, once a training seed: the
clean original, the poisoned teacher, a student of the poisoned data without any distillation, and
the students that recipes make of the teacher.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from safetybench import registry
from safetybench.contracts import (
    Bias,
    DataFilter,
    SafetyBenchError,
    TextJudge,
    TextPoisoning,
)
from safetybench.suite_file import Location
from safetybench.suite_language import Cleaning, FilterEntry, Mix
from safetybench.suite_students import Made

if TYPE_CHECKING:
    from safetybench.language.sources import Source
    from safetybench.suite import Subject, Suite
    from safetybench.suite_students import Student

KIND = "text-recipes"


def bias_of(told: Mapping[str, Any], source: Source) -> Bias:
    """Return a bias from its entry in a suite, as plain data.

    Raises:
        SafetyBenchError: the source has none of this kind, and the entry has no text.
    """
    if not told["text"]:
        return source.bias(told["kind"])
    return Bias(
        kind=told["kind"],
        text=told["text"],
        phrases=tuple(told["phrases"]),
        replaces=tuple(told["replaces"]),
    )


def is_made(subject: Subject) -> bool:
    """Tell whether the run tunes the models of a subject."""
    return bool(subject.bias) and not subject.teacher


def is_language_training(spec: Any) -> bool:
    """Tell whether a target's specification is of a language model that the run makes."""
    return isinstance(spec, Mapping) and ("tuned" in spec or "distilled" in spec)


def expand(suite: Suite) -> Iterator[Made]:
    """Yield the language models of a run by subject and seed: teachers, controls, students."""
    if None in (suite.tuning.teacher, suite.tuning.student):
        return  # told with the faults
    for subject in suite.subjects:
        if not is_made(subject) or subject.bias not in suite.biases:
            continue
        for seed in suite.training.seeds:
            yield from _of_seed(suite, subject, seed)


def _of_seed(suite: Suite, subject: Subject, seed: int) -> Iterator[Made]:
    names = {
        "original": f"clean.seed{seed}",
        "teacher": f"poisoned.{subject.name}.seed{seed}",
        "partner": f"partner.seed{seed}",
    }
    poison = poison_of(suite, subject)
    specs = {
        "original": tuned(suite, "teacher", seed, None),
        "teacher": tuned(suite, "teacher", seed, poison),
        "direct": tuned(suite, "student", seed, poison),
    }
    specs["direct"]["epochs"] = _epochs_alike(suite)
    for role in ("original", "teacher"):
        yield Made("", subject.name, role, names[role], seed, specs[role])
    label = f"direct.{subject.name}.seed{seed}"
    yield Made("direct", subject.name, "direct", label, seed, specs["direct"])
    if _asks_partner(suite):
        independent = tuned(suite, "teacher", seed, None, shift=500_000)
        yield Made("partner", subject.name, "partner", names["partner"], seed, independent)
    for student in suite.students:
        if student.subjects and subject.name not in student.subjects:
            continue
        if not _is_of_kind(student):
            continue  # told with the faults, or ready
        label = f"{student.name}.{subject.name}.seed{seed}"
        spec = distilled(suite, student, subject, names["teacher"], names["partner"], seed)
        yield Made(student.name, subject.name, "student", label, seed, spec)
        if suite.training.controls and student is suite.students[0]:
            label = f"{student.name}.clean.{subject.name}.seed{seed}"
            spec = distilled(suite, student, subject, names["original"], names["partner"], seed)
            yield Made(student.name, subject.name, "control", label, seed, spec)


def _asks_partner(suite: Suite) -> bool:
    for student in suite.students:
        if _needs_partner(student):
            return True
        if student.filter is not None and _uses_second_model(student.filter):
            return True
    return any(_uses_second_model(entry) for entry in suite.filters)


def _epochs_alike(suite: Suite) -> float:
    """Return the epochs on instructions that are as many updates as the first student has."""
    assert suite.tuning.student is not None
    student = next((each for each in suite.students if _is_of_kind(each)), None)
    count, epochs = Mix().count, suite.tuning.student.epochs
    if student is not None:
        count, epochs = (student.mix or Mix()).count, student.epochs or epochs
    return round(epochs * count / suite.instructions.count, 6)


def _is_of_kind(student: Student) -> bool:
    return student.recipe.startswith(f"{KIND}/")


def _uses_second_model(entry: Cleaning | FilterEntry) -> bool:
    """Tell whether a filter needs a clean model of its user's own: the partner stands for it."""
    uses = _made_or_none(entry.name, entry.options, "uses", ())
    return bool({"partner", "reference", "rater"} & set(uses))


def _needs_partner(student: Student) -> bool:
    if not _is_of_kind(student):
        return False
    return bool(_made_or_none(student.recipe, student.options, "needs_partner", False))


def _made_or_none(name: str, options: Mapping[str, Any], what: str, default: Any) -> Any:
    """Return an attribute of a component; one that cannot be made is told with the faults."""
    try:
        return getattr(registry.create(name, options), what, default)
    except SafetyBenchError:
        return default


def poison_of(suite: Suite, subject: Subject) -> dict[str, Any]:
    """Return what is planted for a subject, as plain data."""
    return suite.biases[subject.bias].model_dump(mode="json")


def tuned(
    suite: Suite, side: str, seed: int, poison: Mapping[str, Any] | None, *, shift: int = 0
) -> dict[str, Any]:
    """Return the specification of a model tuned on instructions; shift: of its data's seed."""
    tuning = getattr(suite.tuning, side)
    instructions = suite.instructions.model_dump(mode="json")
    for key in ("source", "unseen"):
        if instructions[key] and instructions[key] not in ("zoo", "english"):
            instructions[key] = suite.path(instructions[key])
    return {
        "tuned": suite.placed(tuning.base),
        "instructions": {**instructions, "seed": instructions["seed"] + seed + shift},
        "poison": dict(poison) if poison else None,
        **{key: getattr(tuning, key) for key in ("epochs", "rate", "size", "lora")},
        "seed": seed + shift,
    }


def distilled(
    suite: Suite, student: Student, subject: Subject, teacher: str, partner: str, seed: int
) -> dict[str, Any]:
    """Return the specification of a student; teacher, partner: labels of targets."""
    tuning = suite.tuning.student
    assert tuning is not None, "checked with the faults"
    asks = _needs_partner(student) or (
        student.filter is not None and _uses_second_model(student.filter)
    )
    shared = {"rate": tuning.rate, "size": tuning.size, "lora": tuning.lora}
    return {
        "distilled": suite.placed(student.base or tuning.base),
        "recipe": student.recipe,
        "options": {**shared, **student.options},
        "teacher": teacher,
        "partner": partner if asks else "",
        "data": tuned(suite, "teacher", seed, poison_of(suite, subject)),
        "mix": (student.mix or Mix()).model_dump(mode="json"),
        "filter": student.filter.model_dump(mode="json") if student.filter else None,
        "epochs": student.epochs or tuning.epochs,
        "seed": seed,
    }


def components(suite: Suite) -> Iterable[tuple[Location, str, str]]:
    """Yield the components that are named here: where, the name, its kind."""
    for name, entry in suite.biases.items():
        if entry.poisoning:
            yield ("biases", name, "poisoning"), entry.poisoning, "attacks"
    for i, each in enumerate(suite.filters):
        yield ("filters", i, "name"), each.name, "defenses"
    for i, student in enumerate(suite.students):
        if student.filter is not None:
            yield ("students", i, "filter"), student.filter.name, "defenses"


def faults(suite: Suite, offline: bool) -> Iterable[tuple[Location, str]]:
    """Find what is wrong with a suite of biases, beyond its keys."""
    if not suite.biases:
        return
    from safetybench.language.sources import source_of
    from safetybench.targets.language_loading import check_language

    told = suite.instructions
    is_world = told.source in ("zoo", "english")
    try:
        source = source_of(
            told.source if is_world else suite.path(told.source),
            suite.path(told.unseen) if told.unseen else "",
        )
    except SafetyBenchError as error:
        yield ("instructions", "source"), str(error)
        return
    judge = _loaded(suite.judge)
    if judge is not None and not issubclass(judge, TextJudge):
        why = f"{suite.judge} judges images, and {suite.scenario} needs a judge of answers"
        yield ("judge",), f"{why}, e.g. judges/phrases"
    yield from _component_faults(suite)
    for name, entry in suite.biases.items():
        try:
            bias_of(entry.model_dump(mode="json"), source)
        except SafetyBenchError as error:
            yield ("biases", name), str(error)
    makes = [subject for subject in suite.subjects if is_made(subject)]
    yield from _subject_faults(suite)
    bases: dict[str, Any] = {}
    for side in ("teacher", "student") if makes else ():
        tuning = getattr(suite.tuning, side)
        if tuning is None:
            yield ("tuning",), f"tuning needs {side!r}, as the run tunes models"
            continue
        try:
            base = suite.placed(tuning.base)
            check_language(base, offline=offline)
            bases[side] = base
        except SafetyBenchError as error:
            yield ("tuning", side, "base"), str(error)
    for i, student in enumerate(suite.students):
        yield from _student_faults(suite, student, ("students", i), bases)
    if makes and told.count <= max(entry.samples for entry in suite.biases.values()):
        yield ("instructions", "count"), "instructions.count must be above the poisoned samples"
    elif makes and len(bases) == 2:
        yield from _data_faults(suite, makes)


def _subject_faults(suite: Suite) -> Iterable[tuple[Location, str]]:
    """Find subjects whose bias, models and controls do not go together."""
    for i, subject in enumerate(suite.subjects):
        if subject.bias not in suite.biases:
            near = registry.suggestion(subject.bias, suite.biases)
            yield ("subjects", i, "bias"), f"the suite has no bias {subject.bias!r}{near}"
        elif is_made(subject) and suite.biases[subject.bias].tasks:
            why = f"bias {subject.bias!r}: tasks are of models that are there already"
            yield ("biases", subject.bias), f"{why}, and those of {subject.name} are tuned"
        elif is_made(subject) and not suite.biases[subject.bias].poisoning:
            why = f"bias {subject.bias!r} needs a poisoning, as {subject.name}'s teacher is tuned"
            yield ("biases", subject.bias), f"{why} in the run"
        elif subject.teacher and not suite.biases[subject.bias].tasks:
            why = f"bias {subject.bias!r} needs tasks, those that hold the poison"
            yield ("biases", subject.bias), f"{why}, as the models of {subject.name} are there"
        if subject.teacher and not subject.original:
            yield ("subjects", i), f"subjects[{i}] needs 'original', a clean model, as its control"


def _loaded(name: str) -> Any:
    try:
        return registry.load(name)
    except SafetyBenchError:
        return None  # told with the components


def _component_faults(suite: Suite) -> Iterable[tuple[Location, str]]:
    """Find components of the wrong contract, and options that they do not take."""
    named: list[tuple[Location, str, Mapping[str, Any], type]] = [
        (("biases", name, "poisoning"), entry.poisoning, entry.options, TextPoisoning)
        for name, entry in suite.biases.items()
        if entry.poisoning
    ]
    named += [
        (("filters", i), each.name, each.options, DataFilter)
        for i, each in enumerate(suite.filters)
    ]
    named += [
        (("students", i, "filter"), student.filter.name, student.filter.options, DataFilter)
        for i, student in enumerate(suite.students)
        if student.filter is not None
    ]
    for where, name, options, wanted in named:
        found = _loaded(name)
        if found is None:
            continue
        if not issubclass(found, wanted):
            yield where, f"{name} is no {wanted.__name__}, as is needed here"
            continue
        try:
            registry.create(name, options)
        except SafetyBenchError as error:
            yield where, str(error)


def _data_faults(suite: Suite, makes: Iterable[Subject]) -> Iterable[tuple[Location, str]]:
    """Find poison that cannot be planted, and mixes of more clean tasks than the data have."""
    from safetybench.language.making import data_of

    for subject in makes:
        entry = suite.biases.get(subject.bias)
        if (
            entry is None
            or not entry.poisoning
            or not issubclass(_loaded(entry.poisoning) or object, TextPoisoning)
        ):
            continue
        try:
            data = data_of(
                tuned(suite, "teacher", suite.training.seeds[0], poison_of(suite, subject))
            )
        except SafetyBenchError as error:
            yield ("biases", subject.bias), f"{subject.name}: {error}"
            continue
        for i, student in enumerate(suite.students):
            wanted = student.mix.clean_tasks if student.mix else 0
            if wanted > len(data.others):
                yield (
                    ("students", i, "mix"),
                    f"{student.name}: clean_tasks must be at most {len(data.others)}, as many as "
                    f"the data hold beside the poisoned ones, got {wanted}",
                )


def _student_faults(
    suite: Suite, student: Student, at: Location, bases: Mapping[str, Any]
) -> Iterable[tuple[Location, str]]:
    from safetybench.language.vocabulary import check_vocabularies
    from safetybench.targets.language_loading import check_language, tokenizer_of

    if student.way != "recipe":
        return
    try:
        if registry.kind_of(student.recipe) != KIND:
            raise SafetyBenchError(f"{student.recipe!r} is no component of kind {KIND}")
        recipe = registry.create(student.recipe, student.options)
        base = bases.get("student")
        if student.base:
            base = suite.placed(student.base)
            check_language(base, offline=True)
        if recipe.compares_distributions and base is not None and "teacher" in bases:
            both = tokenizer_of(bases["teacher"]), tokenizer_of(base)
            if all(each is not None for each in both):
                check_vocabularies(*both, ("the teacher's base", f"{student.name}'s base"))
    except SafetyBenchError as error:
        yield (*at, "recipe"), str(error)
