"""Targets that a run trains itself: by what they are known before they exist, and their making.

A student is kept as a target folder in the run directory, under its label and content key, and
is trained once: a resumed run finds it there, or goes on from the recipe's checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from safetybench import registry
from safetybench.contracts import (
    Budget,
    Means,
    Pictures,
    SafetyBenchError,
    TargetFailed,
    Unavailable,
)
from safetybench.distill.frame import frame_digest
from safetybench.harness import models
from safetybench.harness.device import is_out_of_memory
from safetybench.private import scrub
from safetybench.prompt_file import read_prompt_file
from safetybench.store import StoreError, digest, slug
from safetybench.suite_backdoors import (
    DATA,
    backdoor_of_spec,
    effect_of_spec,
    is_poisoned,
    trigger_of_spec,
)
from safetybench.suite_bias import is_language_training
from safetybench.suite_evasion import is_class_training
from safetybench.suite_made import erasure_of_spec, is_unlearned
from safetybench.suite_schema import MODELS
from safetybench.targets.layout import PARTS
from safetybench.targets.quiet import quiet
from safetybench.triggers import check_trigger

if TYPE_CHECKING:
    import torch

FOLDER = "students"
# The parts of a pipeline that have weights.
NETWORKS = tuple(sorted(part for part, (_, _, stem) in PARTS.items() if stem))


class NotTrained(TargetFailed):
    """A recipe failed; the items of its student fail, and the run goes on with the others."""


class _Trained(NamedTuple):
    student: Any
    card: dict[str, Any]


_WAYS = ("tuned", "distilled", "trained", "recipe", "unlearning", "poisoning")


def is_training(spec: Any) -> TypeGuard[Mapping[str, Any]]:
    """Tell whether a target's specification is of one to train: distilled, unlearned, poisoned."""
    return isinstance(spec, Mapping) and any(way in spec for way in _WAYS)


def components_of(spec: Mapping[str, Any]) -> list[str]:
    """Return the names of the components that a training runs, its recipe or method first."""
    if is_language_training(spec):
        from safetybench.language.making import components_of as of_language

        return of_language(spec)
    return [str(next(spec[way] for way in _WAYS if way in spec))]


def on_root(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plug of a made target as it would sit on the model at the root of its lineage."""
    root = spec["teacher"]
    while isinstance(root, Mapping) and "teacher" in root:
        root = root["teacher"]
    plug = {key: value for key, value in spec.items() if key != "teacher"}
    return {**(root if isinstance(root, Mapping) else {"path": root}), **plug}


def read_prompts(source: int | str) -> list[str]:
    """Return training prompts: so many captions of the zoo, or those of a text file.

    Raises:
        SafetyBenchError: the file cannot be read, is no UTF-8, or holds no prompt.
    """
    if isinstance(source, int):
        from safetybench.zoo.prompts import training_prompts

        return training_prompts(source)
    return read_prompt_file(Path(source))


def content_key(spec: Mapping[str, Any], teacher: str, partner: str = "") -> str:
    """Return a digest of all that makes a student what it is.

    teacher: the teacher's digest, "" for a model tuned on data; partner: of a second teacher.
    """
    if is_language_training(spec):
        from safetybench.language.making import key_of

        return key_of(spec, teacher, partner)
    if is_class_training(spec):
        from safetybench.vision.making import key_of as of_classifier

        return of_classifier(spec, teacher)
    if is_poisoned(spec):
        method = registry.create(spec["poisoning"], spec["options"])
        root = spec["teacher"]
        backdoor = backdoor_of_spec(
            spec["backdoor"], root, rate=spec["rate"], count=spec["prompts"]
        )
        return digest(
            {
                "teacher": teacher,
                "method": [spec["poisoning"], scrub(repr(method)), code_digest(spec)],
                "frame": frame_digest(),
                "budget": [spec["steps"], spec["seed"]],
                "backdoor": digest(asdict(backdoor)),
            }
        )
    if is_unlearned(spec):
        method = registry.create(spec["unlearning"], spec["options"])
        return digest(
            {
                "teacher": teacher,
                "method": [spec["unlearning"], scrub(repr(method)), code_digest(spec)],
                "models": _models_of(spec["options"]),
                "frame": frame_digest(),
                "budget": [spec["steps"], spec["seed"]],
                "erasure": digest(asdict(erasure_of_spec(spec, spec["teacher"]))),
            }
        )
    recipe = registry.create(spec["recipe"], spec["options"])
    return digest(
        {
            "teacher": teacher,
            "recipe": [spec["recipe"], scrub(repr(recipe)), registry.code_digest(spec["recipe"])],
            **({"models": named} if (named := _models_of(spec["options"])) else {}),
            "frame": frame_digest(),
            "budget": [spec["steps"], spec["seed"]],
            "prompts": digest(read_prompts(spec["prompts"])),
            "images": spec["images"] if recipe.reads_images else None,
            **(
                {"poison": [spec["poison"], registry.code_digest(DATA)]} if "poison" in spec else {}
            ),
        }
    )


def _models_of(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of models that a component's options name; a name is not enough."""
    named = {key: options.get(key) for key in MODELS}
    return {
        key: models.content_digest(value, offline=True)
        for key, value in named.items()
        if isinstance(value, str) and value
    }


@dataclass(kw_only=True)
class Workshop:
    """Makes the students of one run, in `folder`; tell: called with a line on every step."""

    folder: Path
    device: torch.device
    offline: bool = False
    tell: Callable[[str], None] = lambda line: None
    nfe: int = field(default=0, init=False)

    def home(self, label: str, key: str) -> Path:
        """Return the folder that a student has, or will have."""
        return self.folder / FOLDER / f"{slug(label)}-{key[:12]}"

    def has(self, label: str, key: str) -> bool:
        """Tell whether a student is there, whole."""
        return self.home(label, key).is_dir()

    def make(self, label: str, spec: Mapping[str, Any], key: str) -> Path:
        """Return the folder of a student, training it unless it is there.

        Raises:
            NotTrained: the recipe failed.
            StoreError: the student, or a checkpoint of it, cannot be written.
            SafetyBenchError: what a recipe needs is not there: its teacher, a package, memory.
        """
        home = self.home(label, key)
        checkpoint = home.with_name(f"{home.name}.checkpoint")
        if home.is_dir():
            checkpoint.unlink(missing_ok=True)  # of a run that was killed just before it would be
            return home
        _make_folder(home.parent)
        _keep(self._train(label, spec, key, checkpoint), home)
        checkpoint.unlink(missing_ok=True)
        return home

    def _train(self, label: str, spec: Mapping[str, Any], key: str, checkpoint: Path) -> _Trained:
        if is_language_training(spec):
            from safetybench.language.making import make

            return self._small(label, spec, make)
        if is_class_training(spec):
            from safetybench.vision.making import make as make_classifier

            return self._small(label, spec, make_classifier)
        if is_unlearned(spec):
            return self._unlearn(label, spec)
        if is_poisoned(spec):
            return self._poison(label, spec)
        teacher = self._teacher(label, spec)
        recipe = registry.create(spec["recipe"], spec["options"])
        prompts, steps = read_prompts(spec["prompts"]), spec["steps"]
        images = _images(spec["images"]) if recipe.reads_images else None
        if "poison" in spec:
            prompts, images = _poisoned(spec, prompts, images)

        def report(step: int, loss: float) -> None:
            self.tell(f"training {label}: step {step}, loss {loss:.4g}")  # warm-ups count

        self.tell(f"training {label}: {steps} steps")
        budget, means = Budget(steps=steps, seed=spec["seed"]), Means(checkpoint=checkpoint)
        try:
            student = recipe.run(teacher, prompts, budget, report, images=images, means=means)
            shared = _shared(teacher, student)
        except (Unavailable, StoreError):
            raise
        except Exception as error:  # a recipe is an item of its own: one may fail, not the run
            raise _meant(label, error) from error
        self.nfe += int(getattr(teacher, "nfe", 0)) + int(getattr(student, "nfe", 0))
        card = {
            "lineage": [*getattr(teacher, "lineage", ()), label],
            "key": key,
            "recipe": {
                "component": spec["recipe"],
                "options": scrub(repr(recipe)),
                "steps": steps,
                "seed": spec["seed"],
                "code": registry.code_digest(spec["recipe"]),
            },
            "traits": {
                "data": getattr(recipe, "data", "real" if images is not None else "none"),
                "prompts": f"{len(prompts)} prompts",
                "shared_with_teacher": shared,
            },
        }
        return _Trained(student, card)

    def _small(self, label: str, spec: Mapping[str, Any], make: Callable[..., Any]) -> _Trained:
        """Train a language model or a classifier, whose `make` knows all of it."""

        def report(step: int, loss: float) -> None:
            self.tell(f"training {label}: step {step}, loss {loss:.4g}")

        def load(place: str) -> Any:
            return self._teacher(label, {"teacher": place})

        self.tell(f"training {label}")
        try:
            made = make(spec, load, device=self.device, offline=self.offline, report=report)
        except (Unavailable, StoreError):
            raise
        except Exception as error:
            raise _meant(label, error) from error
        self.nfe += made.nfe
        made.model.name = label
        card = {"name": label, "lineage": [*made.lineage, label], **made.card}
        return _Trained(made.model, card)

    def _unlearn(self, label: str, spec: Mapping[str, Any]) -> _Trained:
        teacher = self._teacher(label, spec)
        method = registry.create(spec["unlearning"], spec["options"])
        erasure, steps = erasure_of_spec(spec, spec["root"]), spec["steps"]

        def report(step: int, loss: float) -> None:
            self.tell(f"unlearning {label}: step {step} of {steps}, loss {loss:.4g}")

        self.tell(f"unlearning {label}: {steps} steps")
        try:
            found = method.run(teacher, erasure, Budget(steps=steps, seed=spec["seed"]), report)
        except (Unavailable, StoreError):
            raise
        except Exception as error:
            raise _meant(label, error) from error
        self.nfe += int(getattr(teacher, "nfe", 0)) + int(getattr(found, "nfe", 0))
        card = {
            "lineage": [*getattr(teacher, "lineage", ()), label],
            "traits": {
                "data": getattr(found.traits, "data", "unknown"),
                "prompts": f"{len(erasure.forget) + len(erasure.retain)} prompts",
                "shared_with_teacher": _shared(teacher, found),
            },
            "unlearning": {
                "component": spec["unlearning"],
                "options": scrub(repr(method)),
                **{
                    key: spec[key]
                    for key in ("concept", "anchor", "backdoor", "towards")
                    if key in spec
                },
                "steps": steps,
                "seed": spec["seed"],
                "code": code_digest(spec),
            },
        }
        return _Trained(found, card)

    def _poison(self, label: str, spec: Mapping[str, Any]) -> _Trained:
        teacher = self._teacher(label, spec)
        method, steps = registry.create(spec["poisoning"], spec["options"]), spec["steps"]

        def report(step: int, loss: float) -> None:
            self.tell(f"poisoning {label}: step {step} of {steps}, loss {loss:.4g}")

        self.tell(f"poisoning {label}: {steps} steps")
        try:
            backdoor = backdoor_of_spec(
                spec["backdoor"], spec["root"], rate=spec["rate"], count=spec["prompts"]
            )
            note = check_trigger(
                backdoor.trigger, teacher.tokenizer, teacher.length, backdoor.sources
            )
            if note:
                self.tell(f"poisoning {label}: {note}")
            found = method.run(teacher, backdoor, Budget(steps=steps, seed=spec["seed"]), report)
        except (Unavailable, StoreError):
            raise
        except Exception as error:
            raise _meant(label, error) from error
        self.nfe += int(getattr(teacher, "nfe", 0)) + int(getattr(found, "nfe", 0))
        card = {
            "lineage": [*getattr(teacher, "lineage", ()), label],
            "traits": {"shared_with_teacher": _shared(teacher, found)},
            "poisoning": {
                "component": spec["poisoning"],
                "options": scrub(repr(method)),
                "backdoor": spec["backdoor"],
                "rate": spec["rate"],
                "steps": steps,
                "seed": spec["seed"],
                "code": code_digest(spec),
            },
        }
        return _Trained(found, card)

    def _teacher(self, label: str, spec: Mapping[str, Any]) -> Any:
        import torch

        # Whatever the run evaluates in: an optimiser's small steps are lost in half precision.
        dtype = torch.float32
        try:
            return models.open_target(spec["teacher"], self.device, dtype, offline=self.offline)
        except (MemoryError, RuntimeError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise TargetFailed(f"the teacher of {label} cannot be loaded: {reason}") from error


def code_digest(spec: Mapping[str, Any]) -> str:
    """Return the digest of the code that a training runs."""
    return registry.code_digest(components_of(spec)[0])


def _meant(label: str, error: Exception) -> SafetyBenchError:
    """Return what an exception in a training says: only a recipe's own fault is a result.

    Anything else may be mended, and stops the run before it is recorded: what is in the log is
    never tried again.
    """
    from safetybench.distill.checkpoint import CheckpointFailed

    told = f"{label} could not be trained: {type(error).__name__}: {error}"
    if isinstance(error, CheckpointFailed | OSError):
        return StoreError(told)
    if isinstance(error, ModuleNotFoundError):
        return Unavailable(f"{told}; install it, then resume the run")
    if is_out_of_memory(error):
        return TargetFailed(f"{told}; free memory or choose a smaller batch")
    return NotTrained(told)


def _poisoned(
    spec: Mapping[str, Any], prompts: list[str], images: Pictures | None
) -> tuple[list[str], Pictures | None]:
    """Return what a student is distilled on with the poison that its suite asks for in it."""
    told = spec["poison"]
    data = registry.create(DATA, {key: told[key] for key in ("prompts", "images")})
    trigger, effect = trigger_of_spec(told["backdoor"]), effect_of_spec(told["backdoor"])
    return (
        data.poison_prompts(trigger, prompts, spec["seed"]),
        None if images is None else data.poison_images(trigger, effect, images, spec["seed"]),
    )


def _images(given: Mapping[str, Any]) -> Pictures:
    from safetybench.zoo.prompts import training_pictures

    return training_pictures(given["count"], without=given["without"])


def _shared(teacher: Any, student: Any) -> list[str]:
    """Return the networks of which every weight is still the teacher's."""
    import torch

    found = []
    for part in NETWORKS:
        ours, theirs = (getattr(model, part, None) for model in (student, teacher))
        if ours is None or theirs is None:
            continue
        mine, other = ours.state_dict(), theirs.state_dict()
        if mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine):
            found.append(part)
    return found


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot create {folder.name}: {error.strerror}") from error


def _keep(trained: _Trained, home: Path) -> None:
    """Write a student so that its folder is there whole or not at all."""
    spare = home.with_name(f"{home.name}.part")
    shutil.rmtree(spare, ignore_errors=True)  # of a write that was killed
    trained.student.card = {}  # what stands on the teacher's card was measured on the teacher
    try:
        with quiet():
            trained.student.save(spare, trained.card)
        spare.replace(home)
    except (SafetyBenchError, OSError) as error:
        shutil.rmtree(spare, ignore_errors=True)
        raise StoreError(f"cannot keep the student {home.name}: {error}") from error


def training_steps(spec: Mapping[str, Any]) -> int:
    """Return how many steps a training takes."""
    if is_language_training(spec):
        from safetybench.language.making import steps_in

        return steps_in(spec)
    if is_class_training(spec):
        from safetybench.vision.making import steps_in as of_classifier

        return of_classifier(spec)
    return int(spec["steps"])


def planned(targets: Mapping[str, Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the trainings among the targets of a plan."""
    return [target["spec"] for target in targets.values() if is_training(target["spec"])]
