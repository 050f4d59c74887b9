"""Suite files: what to evaluate, as YAML that is checked whole before anything is loaded.

Every error names the file and line, says the rule, what was found, and the nearest right word.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from safetybench import (
    registry,
    suite_backdoors,
    suite_bias,
    suite_evasion,
    suite_made,
    suite_students,
)
from safetybench.contracts import Budget, SafetyBenchError
from safetybench.suite_backdoors import BackdoorEntry, EffectEntry, Removal
from safetybench.suite_classify import ClassData, Masking, Member, Threat
from safetybench.suite_errors import sentences
from safetybench.suite_faults import faults
from safetybench.suite_file import read
from safetybench.suite_images import ImageEntry, ImageSet, Protection
from safetybench.suite_labels import label_targets
from safetybench.suite_language import (
    BiasEntry,
    Cleaning,
    FilterEntry,
    Instructions,
    Mix,
    Tuning,
    Tunings,
)
from safetybench.suite_mimicry import AlbumSet, MimicryEntry
from safetybench.suite_schema import MODELS, Portable, Share, Strict, TargetSpec, Word, read_budget
from safetybench.suite_students import Images, Made, Poison, Student, Training

SCHEMA = "safetybench.suite/1"
ROLES = ("original", "teacher", "student")


class Subject(Strict):
    """The models that are compared, and the concept erased from them; targets: labels or specs.

    concept, original: of a scenario on something erased; protection has neither. synonyms: other
    words for the concept, which an attacker may know; neighbours: concepts near it, of which the
    utility prompts on them are told apart. backdoor: of the suite's `backdoors`, the one that the
    teacher holds; is_dose: that it may be too weak to work is what the suite asks about. blur: the
    report veils its images until asked for one. bias: of the suite's `biases`; without a teacher
    of its own, the run tunes the subject's models.
    """

    name: Word
    concept: str = ""
    original: str = ""
    teacher: str = ""
    student: str = ""
    synonyms: tuple[Word, ...] = ()
    neighbours: tuple[Word, ...] = ()
    backdoor: str = ""
    is_dose: bool = False
    bias: str = ""
    blur: bool = False

    @property
    def roles(self) -> dict[str, str]:
        """The target of each role that this subject has, in order."""
        return {role: getattr(self, role) for role in ROLES if getattr(self, role)}


class AttackEntry(Strict):
    """An attack of a suite: component name, constructor options and budget.

    models: only on these: "teacher", "student" (any), a student's name, "cleaned" (any) or the name
    of a removal, "dmd2-1.skd_cag" where it was done to a student; all by default.
    subjects: only on these, all by default.
    """

    name: Word
    options: dict[str, Any] = Field(default_factory=dict)
    budget: Annotated[Budget, BeforeValidator(read_budget)] = Budget()
    models: tuple[Word, ...] = ()
    subjects: tuple[Word, ...] = ()


class Gate(Strict):
    """A limit on a rate; passes when the whole interval of level is below it.

    role, attack, subject, student: which cells it looks at; attack "" is the prompt as it is,
    and an empty subject or student means every one. Each cell is held to the limit by itself.
    metric "came-back" looks at pairs: by how much a student shows what its teacher does not.
    """

    metric: Word = "asr"
    role: Literal["original", "teacher", "student", "cleaned"] = "student"
    attack: str = ""
    subject: str = ""
    student: str = ""
    below: Annotated[float, Field(gt=0, le=1)]
    level: Share = 0.95


class Suite(Strict):
    """A checked suite. base: folder that relative paths start from; never written to a report.

    blur: as if every subject said so.
    """

    schema_: Literal["safetybench.suite/1"] = Field(alias="schema")
    name: Portable
    title: str = ""
    scenario: Word
    judge: Word
    judge_options: dict[str, Any] = Field(default_factory=dict)
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    prompts: dict[str, Any] = Field(default_factory=dict)
    targets: dict[Word, TargetSpec] = Field(default_factory=dict)
    subjects: Annotated[tuple[Subject, ...], Field(min_length=1)]
    attacks: tuple[AttackEntry, ...] = ()
    students: tuple[Student, ...] = ()
    training: Training = Training()
    images: ImageSet = ImageSet()
    protections: tuple[Protection, ...] = ()
    edits: tuple[ImageEntry, ...] = ()
    purifiers: tuple[ImageEntry, ...] = ()
    mimicries: tuple[MimicryEntry, ...] = ()
    albums: AlbumSet = AlbumSet()
    backdoors: dict[Word, BackdoorEntry] = Field(default_factory=dict)
    removals: tuple[Removal, ...] = ()
    instructions: Instructions = Instructions()
    tuning: Tunings = Tunings()
    biases: dict[Word, BiasEntry] = Field(default_factory=dict)
    filters: tuple[FilterEntry, ...] = ()
    data: ClassData | None = None
    threat: Threat | None = None
    masking: Masking = Masking()
    cards: dict[Word, Word] = Field(default_factory=dict)
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    gates: tuple[Gate, ...] = ()
    reports: tuple[Word, ...] = ("reports/html",)
    blur: bool = False
    base: str = Field(default=".", exclude=True)

    @cached_property
    def distilled(self) -> tuple[Made, ...]:
        """The targets that the students stand for."""
        return tuple(suite_students.expand(self))

    @cached_property
    def made(self) -> tuple[Made, ...]:
        """The targets that students and removals stand for."""
        others = (suite_backdoors.expand, suite_bias.expand, suite_evasion.expand)
        return (*self.distilled, *(made for expand in others for made in expand(self)))

    def new_judge(self) -> Any:
        """Construct the judge with its options; a relative path starts from the suite's folder."""
        options = dict(self.judge_options)
        if isinstance(options.get("path"), str):
            options["path"] = _whole(options["path"], Path(self.base))
        return registry.create(self.judge, options)

    def told(self, label: str) -> TargetSpec:
        """Return what stands behind a target's label, as the suite says it."""
        specs = {made.label: made.spec for made in self.made if made.spec is not None}
        told = self.targets.get(label, specs.get(label, label))
        if isinstance(told, dict) and suite_made.is_unlearned(told):
            return {**suite_made.DEFAULTS, **told}
        if isinstance(told, dict) and suite_backdoors.is_poisoned(told):
            return suite_backdoors.told_in_full(self, told)
        if isinstance(told, dict) and suite_evasion.is_told(self, told):
            return suite_evasion.told_in_full(self, told)
        return told

    def spec(self, label: str) -> TargetSpec:
        """Return what the loader gets for a target's label, relative paths made whole."""
        told = self.told(label)
        if isinstance(told, dict) and self.base_of(label):
            return self._derived(told)
        return _whole(told, Path(self.base))

    def base_of(self, label: str) -> str:
        """Return the label of the target that this one is made from in the run, "" if it is not."""
        told = self.told(label)
        return str(told.get("teacher", "")) if isinstance(told, dict) else ""

    def _derived(self, told: dict[str, Any]) -> dict[str, Any]:
        """Return what makes a target of its teacher: a training, or the teacher with a plug."""
        teacher = self.spec(told["teacher"])
        if "distilled" in told:
            partner = self.spec(told["partner"]) if told["partner"] else ""
            return {**told, "teacher": teacher, "partner": partner}
        if suite_evasion.is_class_training(told):
            return {**told, "teacher": teacher}
        if "options" in told:  # a component may read further models
            told = {**told, "options": self._placed_options(told["options"])}
        if "unlearning" in told or "poisoning" in told:
            return {**told, "teacher": teacher}
        if "recipe" in told:
            prompts = told["prompts"]
            prompts = self.path(prompts) if isinstance(prompts, str) else prompts
            return {**told, "teacher": teacher, "prompts": prompts}
        plug = {key: value for key, value in told.items() if key != "teacher"}
        plug = {key: _placed(value, Path(self.base)) for key, value in plug.items()}
        if self.base_of(told["teacher"]) or suite_evasion.is_member(
            told
        ):  # where that is, is known when the run has made it
            return {"teacher": teacher, **plug}
        return {**(teacher if isinstance(teacher, dict) else {"path": teacher}), **plug}

    def _placed_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return a component's options with the models that they name made whole."""
        named = {k: v for k, v in options.items() if k in MODELS and isinstance(v, str)}
        return {**options, **{k: _whole(v, Path(self.base)) for k, v in named.items()}}

    def placed(self, spec: TargetSpec) -> TargetSpec:
        """Return a target's specification, relative paths from the suite's folder."""
        return _whole(spec, Path(self.base))

    def path(self, file: str) -> str:
        """Return a file's path, relative ones from the suite's folder."""
        return str(Path(self.base) / Path(file).expanduser())

    def subject(self, name: str) -> Subject:
        """Return the subject of this name; KeyError if there is none."""
        return {subject.name: subject for subject in self.subjects}[name]

    def to_json(self) -> dict[str, Any]:
        """Return the suite as plain data, without `base`; see `from_json`."""
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], base: str = ".") -> Suite:
        """Rebuild a suite from `to_json`; components and targets are not looked up again."""
        return cls.model_validate_json(json.dumps({**data, "base": base}))


def _whole(spec: TargetSpec, base: Path) -> TargetSpec:
    if isinstance(spec, dict):
        places = ("path", "language", "lora", "adapter")
        files = {key: str(base / Path(v).expanduser()) for key, v in spec.items()
                 if key in ("module", "weights") and isinstance(v, str)}  # fmt: skip
        placed = {key: _placed(v, base) if key in places else v for key, v in spec.items()}
        return {**placed, **files}
    is_path = spec.startswith(("./", "../", "/", "~")) or spec in (".", "..")
    if is_path or (":" not in spec and (base / spec).is_dir()):
        return str(base / Path(spec).expanduser())
    return spec


def _placed(value: Any, base: Path) -> Any:
    """Make the path of a plug whole: it stands for itself, or under `path` of a mapping."""
    return _whole(value, base) if isinstance(value, str | dict) else value


def builtin_suites() -> list[str]:
    """Return the names of the suites that come with the package."""
    return registry.names("suites")


def load_suite(
    name_or_path: str | Path,
    *,
    offline: bool = False,
    overrides: Mapping[str, Any] | None = None,
    is_draft: bool = False,
) -> Suite:
    """Read and check a suite, by built-in name or from a .yaml file.

    offline: refuse targets that would be fetched; overrides: top-level keys that replace those
    of the file, for command-line options; is_draft: check the keys alone, and no component,
    target or file that they name.

    Raises:
        SafetyBenchError: one line for each fault: `file:line: what is wrong, got what; hint`.
    """
    place = _find(str(name_or_path))
    document = read(place.file, place.shown)
    if not isinstance(document.data, dict):
        raise SafetyBenchError(
            f"{document.at(())}: a suite is a mapping of keys, got {document.data!r:.40}"
        )
    data = {**copy.deepcopy(document.data), **(overrides or {})}
    if "base" in data:
        raise SafetyBenchError(f"{document.at(('base',))}: unknown key 'base'")
    label_targets(data, ROLES)
    data["base"] = str(place.file.resolve().parent)
    try:
        suite = Suite.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise SafetyBenchError("\n".join(sentences(error, document, _MODELS, Suite))) from error
    if is_draft:
        return suite
    told = [f"{document.at(where)}: {what}" for where, what in faults(suite, offline)]
    if told:
        raise SafetyBenchError("\n".join(told))
    return suite


class _Found(NamedTuple):
    file: Path
    shown: str


def _find(wanted: str) -> _Found:
    file = Path(wanted).expanduser()
    if wanted.endswith((".yaml", ".yml")) or file.is_file():
        if not file.is_file():
            raise SafetyBenchError(f"there is no suite file {wanted}")
        return _Found(file, wanted)
    home, name = registry.folder("suites"), wanted.removeprefix("suites/")
    known = builtin_suites()
    if home is None or name not in known:
        raise SafetyBenchError(
            f"no suite is called {wanted!r}{registry.suggestion(name, known) or ';'} "
            "`safetybench list suites` shows all, and the name of a file ends in .yaml"
        )
    return _Found(home / f"{name}.yaml", f"{name}.yaml")


_MODELS: dict[tuple[str, ...], type[BaseModel]] = {
    (): Suite,
    ("subjects",): Subject,
    ("attacks",): AttackEntry,
    ("gates",): Gate,
    ("students",): Student,
    ("students", "images"): Images,
    ("training",): Training,
    ("training", "images"): Images,
    ("images",): ImageSet,
    ("protections",): Protection,
    ("edits",): ImageEntry,
    ("purifiers",): ImageEntry,
    ("mimicries",): MimicryEntry,
    ("albums",): AlbumSet,
    ("backdoors", "*"): BackdoorEntry,
    ("backdoors", "*", "effect"): EffectEntry,
    ("removals",): Removal,
    ("instructions",): Instructions,
    ("tuning",): Tunings,
    ("tuning", "teacher"): Tuning,
    ("tuning", "student"): Tuning,
    ("biases", "*"): BiasEntry,
    ("filters",): FilterEntry,
    ("data",): ClassData,
    ("threat",): Threat,
    ("masking",): Masking,
    ("students", "members"): Member,
    ("students", "mix"): Mix,
    ("students", "filter"): Cleaning,
    ("students", "poison"): Poison,
}
