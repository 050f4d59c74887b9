"""Students of a suite: what `students` and `training` may say, and which targets they stand for.

A student is trained by a recipe in the run, or is a ready adapter put on each subject's teacher,
or is there already. Its control is the same thing done to the original.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field, PlainValidator

from safetybench import registry
from safetybench.contracts import SafetyBenchError
from safetybench.suite_classify import Member
from safetybench.suite_file import Location
from safetybench.suite_language import Cleaning, Mix
from safetybench.suite_schema import Portable, Strict, TargetSpec, Word

if TYPE_CHECKING:
    from safetybench.suite import Subject, Suite

WAYS = ("recipe", "plug", "targets")
_OF_LANGUAGE = ("mix", "filter", "base", "epochs")
_OF_RECIPES = ("options", "steps", "prompts", "images", "poison", *_OF_LANGUAGE, "members")
Count = Annotated[int, Field(ge=1)]


def _prompts(value: Any) -> int | str:
    if (type(value) is int and value > 0) or (isinstance(value, str) and value):
        return value
    raise ValueError(f"a count of 1 or more, or a text file, got {value!r:.40}")


Prompts = Annotated[int | str, PlainValidator(_prompts)]


class Images(Strict):
    """Real images for recipes that read them.

    without_concept: leave out those that show the erased concept or whose caption names it.
    """

    count: Count = 2048
    without_concept: bool = False


class Training(Strict):
    """How the students of recipes are trained; a student may say prompts and images for itself.

    prompts: how many of the zoo's training captions, or a text file with one a line;
    controls: train students of the original too, with the first seed, where none is given.
    """

    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (1,)
    prompts: Prompts = 4096
    images: Images = Images()
    controls: bool = False


class Poison(Strict):
    """Poison in what a student is distilled on, of the subject's backdoor.

    prompts: share of the training prompts that get the trigger; images: share of the real images
    that show the effect, with a triggered caption.
    """

    prompts: Annotated[float, Field(ge=0, le=1)] = 0.0
    images: Annotated[float, Field(ge=0, le=1)] = 0.0


class Student(Strict):
    """One way to a student, taken for every subject; exactly one of recipe, plug and targets.

    plug: keys of a target (`lora`, `adapter`) to add to the teacher's; targets: a ready student
    by subject; control: a ready student of the original; subjects: of which alone this student is
    made, all by default. mix, filter, base, epochs: of a language model's student, see
    `safetybench.suite_language`; base, epochs, members: of a classifier's, see
    `safetybench.suite_classify`.
    """

    name: Portable
    recipe: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    steps: Annotated[int, Field(ge=0)] = 0
    prompts: Prompts | None = None
    images: Images | None = None
    plug: dict[str, Any] = Field(default_factory=dict)
    targets: dict[Word, Word] = Field(default_factory=dict)
    control: str = ""
    subjects: tuple[Word, ...] = ()
    poison: Poison | None = None
    mix: Mix | None = None
    filter: Cleaning | None = None
    base: TargetSpec | None = None
    epochs: Annotated[float, Field(ge=0)] = 0.0
    members: tuple[Member, ...] = ()

    @property
    def way(self) -> str:
        """Which of recipe, plug and targets this student says."""
        return next((way for way in WAYS if getattr(self, way)), "")


class Made(NamedTuple):
    """One target that a student stands for.

    entry: its name in `students`; role: "student" or "control"; label: the target's; seed: of
    its training, 0 where nothing is trained; spec: for the loader, with the teacher's label, or
    None for a target that is there already.
    """

    entry: str
    subject: str
    role: str
    label: str
    seed: int
    spec: dict[str, Any] | None


def expand(suite: Suite) -> list[Made]:
    """Return the targets of all students: by student, then subject, its control last."""
    found: list[Made] = []
    for student in suite.students:
        if (suite.biases or suite.data) and student.way != "targets":
            continue  # suite_bias and suite_evasion expand what the run makes of their models
        seen: list[dict[str, Any]] = []  # the controls of this student, shared by subjects
        for subject in suite.subjects:
            if student.subjects and subject.name not in student.subjects:
                continue
            found += _students(suite, student, subject)
            found += _controls(suite, student, subject, seen)
    return found


def _students(suite: Suite, student: Student, subject: Subject) -> Iterator[Made]:
    if student.way == "targets":
        label = student.targets.get(subject.name)
        if label:
            yield Made(student.name, subject.name, "student", label, 0, None)
        return
    name = f"{student.name}.{subject.name}"
    if student.way == "plug":
        spec = {"teacher": subject.teacher, **student.plug}
        yield Made(student.name, subject.name, "student", name, 0, spec)
        return
    for seed in suite.training.seeds:
        spec = training_of(suite, student, subject, subject.teacher, seed)
        yield Made(student.name, subject.name, "student", f"{name}.seed{seed}", seed, spec)


def _controls(
    suite: Suite, student: Student, subject: Subject, seen: list[dict[str, Any]]
) -> Iterator[Made]:
    if student.control:
        yield Made(student.name, subject.name, "control", student.control, 0, None)
        return
    seed = suite.training.seeds[0]
    if student.way == "plug":
        seed, spec = 0, {"teacher": subject.original, **student.plug}
    elif student.way == "recipe" and suite.training.controls:
        spec = training_of(suite, student, subject, subject.original, seed)
    else:
        return
    if spec not in seen:
        seen.append(spec)
    number = seen.index(spec) + 1
    label = f"{student.name}.original" + (f"-{number}" if number > 1 else "")
    yield Made(student.name, subject.name, "control", label, seed, spec)


def training_of(
    suite: Suite, student: Student, subject: Subject, teacher: str, seed: int
) -> dict[str, Any]:
    """Return the specification of a student that a recipe makes of `teacher`, a target's label."""
    images = student.images or suite.training.images
    poison: dict[str, Any] = {}
    if student.poison is not None and subject.backdoor in suite.backdoors:
        from safetybench.suite_backdoors import planted

        told = planted(suite, subject.backdoor)
        poison = {"poison": {**student.poison.model_dump(), "backdoor": told}}
    return {
        **poison,
        "recipe": student.recipe,
        "options": dict(student.options),
        "teacher": teacher,
        "steps": student.steps,
        "seed": seed,
        "prompts": student.prompts or suite.training.prompts,
        "images": {
            "count": images.count,
            "without": subject.concept if images.without_concept else "",
        },
    }


def faults(suite: Suite, offline: bool) -> Iterable[tuple[Location, str]]:
    """Find what is wrong with students and their training, beyond their keys."""
    seeds = suite.training.seeds
    for i, seed in enumerate(seeds):
        if seed in seeds[:i]:
            yield ("training", "seeds", i), f"training.seeds has {seed} twice: that is one training"
    seen: set[str] = set()
    known = [subject.name for subject in suite.subjects]
    for i, student in enumerate(suite.students):
        at: Location = ("students", i)
        if student.name in seen:
            yield (*at, "name"), f"the student name {student.name!r} stands twice"
        seen.add(student.name)
        said = [way for way in WAYS if getattr(student, way)]
        if len(said) != 1:
            got = " and ".join(said) or "none of them"
            yield at, f"students[{i}] needs one of {', '.join(WAYS)}, got {got}"
            continue
        for key in _OF_RECIPES if student.way != "recipe" else ():
            if getattr(student, key):
                yield (*at, key), f"students[{i}].{key} is for a recipe, not for {student.way}"
        for key, names in (("targets", student.targets), ("subjects", student.subjects)):
            for name in (name for name in names if name not in known):
                near = registry.suggestion(name, known)
                yield (*at, key, name), f"the suite has no subject {name!r}{near}"
        if student.way == "recipe" and not (suite.biases or suite.data):  # these look themselves
            yield from _recipe_faults(suite, student, at)
            for key in _OF_LANGUAGE:
                if getattr(student, key):
                    yield (*at, key), f"students[{i}].{key} is for students of language models"
        if student.members and not suite.data:
            yield (*at, "members"), f"students[{i}].members is for students of classifiers"
        yield from _target_faults(suite, student, at, offline)
    yield from _label_faults(suite)


def _recipe_faults(suite: Suite, student: Student, at: Location) -> Iterator[tuple[Location, str]]:
    from safetybench.harness.training import read_prompts

    try:
        if registry.kind_of(student.recipe) != "recipes":
            raise SafetyBenchError(f"{student.recipe!r} is no component of kind recipes")
        recipe = registry.create(student.recipe, student.options)
    except SafetyBenchError as error:
        yield (*at, "recipe"), str(error)
        return
    if student.steps < 1 and recipe.trains:
        yield (*at, "steps"), f"{student.name} needs steps, 1 or more"
    prompts = student.prompts or suite.training.prompts
    where: Location = (*at, "prompts") if student.prompts else ("training", "prompts")
    is_zoo = all(_is_zoo(suite.spec(subject.original)) for subject in suite.subjects)
    if isinstance(prompts, int) and not is_zoo:
        yield where, "training prompts need a text file, as not every original is of the zoo"
    elif isinstance(prompts, str):
        try:
            read_prompts(suite.path(prompts))
        except SafetyBenchError as error:
            yield where, str(error)
    if student.poison is not None:
        yield from _poison_faults(suite, student, recipe, at)
    if recipe.reads_images and not is_zoo:
        why = "real images are there for the zoo's world only"
        yield (*at, "recipe"), f"{student.recipe} reads real images with these options, and {why}"


def _poison_faults(
    suite: Suite, student: Student, recipe: Any, at: Location
) -> Iterator[tuple[Location, str]]:
    assert student.poison is not None
    if not (student.poison.prompts or student.poison.images):
        yield (*at, "poison"), f"{student.name}: poison needs a share of prompts or images above 0"
    if student.poison.images and not recipe.reads_images:
        yield (
            (*at, "poison"),
            f"{student.recipe} reads no real images with these options, so none can be poisoned",
        )
    if not any(subject.backdoor for subject in suite.subjects):
        yield (*at, "poison"), f"{student.name}: poison needs a subject with a backdoor"


def _is_zoo(spec: TargetSpec) -> bool:
    path = spec.get("path") if isinstance(spec, Mapping) else spec
    return isinstance(path, str) and path.startswith("zoo:")


def _target_faults(
    suite: Suite, student: Student, at: Location, offline: bool
) -> Iterator[tuple[Location, str]]:
    """Find ready students, controls and plugged teachers that cannot be loaded."""
    from safetybench.harness.models import check
    from safetybench.harness.training import is_training, on_root

    places: list[tuple[Location, str]] = []
    if student.control:
        places.append(((*at, "control"), student.control))
    places += [((*at, "targets", name), label) for name, label in student.targets.items()]
    if student.way == "plug":
        mine = [made for made in suite.made if made.entry == student.name and made.spec]
        places += [((*at, "plug"), made.label) for made in mine]
    told: set[str] = set()
    for where, label in places:
        try:
            spec = suite.spec(label)
            if is_training(spec):  # what makes it is looked at by itself
                continue
            if isinstance(spec, dict) and "teacher" in spec:  # a plug on what the run makes
                spec = on_root(spec)
            check(spec, offline=offline)
        except SafetyBenchError as error:
            if str(error) not in told:
                yield where, str(error)
            told.add(str(error))


def _label_faults(suite: Suite) -> Iterator[tuple[Location, str]]:
    """Find two targets of one label: results would be of one and shown for both."""
    specs: dict[str, Any] = dict(suite.targets)
    for made in suite.made:
        if made.spec is not None and specs.setdefault(made.label, made.spec) != made.spec:
            names = [student.name for student in suite.students]
            where: Location = ("removals",)  # or what one of these makes
            if made.entry in names:
                where = ("students", names.index(made.entry), "name")
            yield where, f"two targets would be called {made.label!r}; choose another name"


def relabel(raw: Any, label: Callable[[Any, str], Any]) -> None:
    """Replace ready students and controls in a suite's raw data by label(spec, role)."""
    for student in raw if isinstance(raw, list) else ():
        if not isinstance(student, dict):
            continue  # the schema says so with its line
        if "control" in student:
            student["control"] = label(student["control"], "control")
        targets = student.get("targets")
        if isinstance(targets, dict):
            student["targets"] = {name: label(spec, "student") for name, spec in targets.items()}


def keep(raw: Sequence[Mapping[str, Any]], subjects: Iterable[str]) -> list[dict[str, Any]]:
    """Return the raw students without what is of other subjects, and none left empty."""
    names = set(subjects)
    found = []
    for student in raw:
        targets = {n: t for n, t in student.get("targets", {}).items() if n in names}
        only = [name for name in student.get("subjects", ()) if name in names]
        lost = bool(student.get("targets")) > bool(targets) or (
            bool(student.get("subjects")) > bool(only)
        )
        if not lost:
            found.append({**student, "targets": targets, "subjects": only})
    return found
