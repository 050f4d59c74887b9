"""From the words of `safetybench protect` to a checked job; no weights are loaded here."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetybench import registry
from safetybench.commands.protect_pictures import Source, find, with_digests, with_masks
from safetybench.commands.training_checks import choose_device, model_digest
from safetybench.commands.training_inputs import read_options
from safetybench.component import Budget
from safetybench.contracts import Inpaints, SafetyBenchError
from safetybench.naming import full_name
from safetybench.pixels import LEVELS
from safetybench.private import scrub
from safetybench.session import NothingSelected
from safetybench.targets.spec import TargetSpec
from safetybench.wording import fraction

CONTROL = "defenses/images/sign_noise"
WIDE = 0.2  # above which nobody would call the picture unchanged
STRENGTH = 0.5
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_NUMBER = r"\d+(?:\.\d*)?|\.\d+"
_RADIUS = re.compile(rf"({_NUMBER})(?:\s*/\s*({_NUMBER}))?")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The arguments of `safetybench protect`; None where the user said nothing."""

    images: tuple[Path, ...]
    method: str = "sds"
    target: str | None = None
    epsilon: str = "8/255"
    steps: int | None = None
    seed: int = 1
    mask: Path | None = None
    caption: str = ""
    options: tuple[str, ...] = ()
    out: Path = Path("protected")
    size: int | None = None
    edit: str | None = None
    strength: float | None = None
    edit_seeds: int = 3
    batch: int = 4
    recursive: bool = False
    device: str = "auto"
    dtype: str = "auto"
    offline: bool = False
    overwrite: bool = False
    plan_only: bool = False
    as_json: bool = False
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be made; everything in it is checked.

    name: of the method in the registry; target: None for a method that looks at none; digest: of
    the target, "" for a hub id that is not fetched yet; sources: the pictures; notes: for the
    user.
    """

    name: str
    method: Any
    target: TargetSpec | None
    digest: str
    budget: Budget
    sources: tuple[Source, ...]
    strength: float
    device: str
    notes: tuple[str, ...]
    choices: Choices

    @property
    def settings(self) -> dict[str, Any]:
        """Return what a protected picture depends on beside the picture and its mask."""
        chosen = self.choices
        edit = None
        if chosen.edit is not None:
            edit = {"prompt": chosen.edit, "strength": self.strength, "seeds": chosen.edit_seeds}
        return {
            "method": self.name,
            "options": scrub(repr(self.method)),
            "code": registry.code_digest(self.name),
            "target": "none" if self.target is None else self.target.name,
            "target digest": self.digest,
            "dtype": _dtype(chosen.dtype),
            "norm": self.budget.norm,
            "epsilon": self.budget.epsilon,
            "steps": self.budget.steps,
            "seed": self.budget.seed,
            "caption": chosen.caption,
            "size": chosen.size,
            "edit": edit,
        }

    @property
    def command(self) -> str:
        """Return the command line, without the folders of this machine."""
        chosen = self.choices
        words = ["safetybench", "protect", *(path.name or "." for path in chosen.images)]
        words += ["--method", self.name]
        words += ["--target", self.target.name] if self.target is not None else []
        words += ["--epsilon", chosen.epsilon]
        words += ["--steps", str(self.budget.steps)] if self.budget.steps else []
        words += ["--seed", str(chosen.seed)]
        words += ["--mask", chosen.mask.name] if chosen.mask is not None else []
        words += ["--caption", chosen.caption] if chosen.caption else []
        for option in chosen.options:
            words += ["--option", scrub(option)]
        words += ["--size", str(chosen.size)] if chosen.size is not None else []
        if chosen.edit is not None:
            words += ["--edit", chosen.edit, "--strength", f"{self.strength:g}"]
            words += ["--edit-seeds", str(chosen.edit_seeds)]
        words += ["--recursive"] if chosen.recursive else []
        words += ["--dtype", chosen.dtype] if chosen.dtype != "auto" else []
        return shlex.join([*words, "--out", chosen.out.name])


def make_job(choices: Choices) -> Job:
    """Check everything that can be checked without loading a weight.

    Raises:
        SafetyBenchError: one sentence on what is wrong and what to do; NothingSelected: no
            picture was found.
    """
    name = full_name(choices.method.replace("-", "_"), ["defenses"])
    radius = read_epsilon(choices.epsilon)
    strength = _strength(choices)
    if choices.dtype not in _DTYPES:
        raise SafetyBenchError(
            f"--dtype must be one of {', '.join(_DTYPES)}, got {choices.dtype!r}"
        )
    sources, notes = _pictures(choices)
    kind: Any = registry.load(name)
    method = registry.create(name, read_options(name, choices.options))
    target, told = _target(choices, name, method)
    steps, advice = _steps(choices, name, method)
    if kind.uses_masks and choices.mask is None:
        raise SafetyBenchError(
            f"{name} needs --mask FILE|FOLDER: white is the area that an editor redraws"
        )
    digest = ""
    if target is not None:
        digest = model_digest(target, offline=choices.offline, plan_only=choices.plan_only)
    return Job(
        name=name,
        method=method,
        target=target,
        digest=digest,
        budget=Budget(steps=steps, epsilon=radius, seed=choices.seed),
        sources=tuple(map(with_digests, sources)),
        strength=strength,
        device=choose_device(choices.device),
        notes=(*notes, *told, *advice, *_about(radius), *_beside(choices, kind, name)),
        choices=choices,
    )


def read_epsilon(text: str) -> float:
    """Return a radius in [0, 1] from "8/255" or "0.03".

    >>> read_epsilon("51/255")
    0.2

    Raises:
        SafetyBenchError: it is no number, below one level of 255, or 1 and above.
    """
    found = _RADIUS.fullmatch(text.strip())
    below = float(found[2]) if found and found[2] else 1.0
    if not found or not below:
        raise SafetyBenchError(f"--epsilon must be as 8/255, or a number in (0, 1), got {text!r}")
    value = float(found[1]) / below
    if value >= 1:
        meant = float(found[1])
        near = f"; did you mean {meant:g}/255?" if not found[2] and meant < LEVELS else ""
        raise SafetyBenchError(
            f"--epsilon is a share of the range from black to white, below 1, got {text!r}{near}"
        )
    if not math.floor(value * LEVELS + 1e-3):
        raise SafetyBenchError(
            f"--epsilon {text} is below one level of 255, so that no pixel of an 8-bit picture "
            "could move; take 1/255 or more"
        )
    return value


def _about(radius: float) -> list[str]:
    levels = math.floor(radius * LEVELS + 1e-3)
    found = []
    if radius > WIDE:
        found.append(
            f"epsilon is {fraction(radius)}, a visible change of every picture; published "
            "protections take 4/255 to 16/255"
        )
    if abs(levels - radius * LEVELS) > 1e-3:
        found.append(f"epsilon is {fraction(radius)}; of it {levels}/255 are left in 8 bits")
    return found


def _strength(choices: Choices) -> float:
    if choices.strength is None:
        return STRENGTH
    if choices.edit is None:
        raise SafetyBenchError("--strength is of an edit; give its prompt with --edit, or leave it")
    if not 0 < choices.strength <= 1:
        raise SafetyBenchError(f"--strength must be in (0, 1], got {choices.strength:g}")
    return choices.strength


def _pictures(choices: Choices) -> tuple[tuple[Source, ...], list[str]]:
    apart = [choices.out, *([choices.mask] if choices.mask is not None else [])]
    found = find(choices.images, recursive=choices.recursive, apart=apart)
    given = ", ".join(repr(str(path)) for path in choices.images)
    if not found.sources:
        hint = "" if choices.recursive else "; --recursive goes into the folders below"
        raise NothingSelected(f"there is no picture in {given}{hint}")
    notes = []
    if found.others:
        are = "file is" if found.others == 1 else "files are"
        notes.append(f"{found.others} {are} no picture by name and left out")
    return with_masks(found.sources, choices.mask), notes


def _target(choices: Choices, name: str, method: Any) -> tuple[TargetSpec | None, list[str]]:
    from safetybench.targets.finding import find as files_of
    from safetybench.targets.loading import check_target

    if choices.target is None:
        if method.needs or choices.edit is not None:
            what = name if method.needs else "--edit"
            raise SafetyBenchError(
                f"{what} needs --target SPEC: the model that pictures are protected on"
            )
        return None, []
    if not method.needs and choices.edit is None:
        return None, [f"{name} looks at no model; --target is not used"]
    spec = TargetSpec.parse(choices.target)
    if spec.kind == "directory" and choices.out.expanduser().resolve().is_relative_to(
        Path(spec.path).expanduser().resolve()
    ):
        raise SafetyBenchError("--out lies in the target's folder; choose another folder")
    try:
        notes = list(check_target(spec, offline=choices.offline))
        pipeline = "" if spec.kind == "hub" else str(files_of(spec).index.get("_class_name"))
    except SafetyBenchError as error:
        raise SafetyBenchError(f"--target: {error}") from error
    # The rest of what a method needs is seen once the model is loaded.
    if Inpaints in method.needs and pipeline and "Inpaint" not in pipeline:
        raise SafetyBenchError(
            f"{name} needs an inpainting model as its target, and {spec.name} is none"
        )
    if spec.kind == "zoo":
        notes.append(
            "the zoo's models know a made-up world of 64 pixels; what is made on them shows how "
            "this works and protects from no real editor"
        )
    return spec, notes


def _steps(choices: Choices, name: str, method: Any) -> tuple[int, list[str]]:
    if not method.published.steps and method.is_control:
        unused = f"{name} takes no steps; --steps {choices.steps} is not used"
        return 0, [unused] if choices.steps else []
    steps = choices.steps or method.published.steps
    if not steps:
        raise SafetyBenchError(f"{name} says no number of steps; give one with --steps N")
    return steps, []


def _beside(choices: Choices, kind: Any, name: str) -> list[str]:
    found = []
    if kind.is_control:
        found.append(f"{name} is a control that no model had a hand in, and protects nothing")
    if choices.mask is not None and not kind.uses_masks:
        what = "only --edit may use it" if choices.edit is not None else "it is handed on"
        found.append(f"{name} can do without --mask; {what}")
    return found


def _dtype(wanted: str) -> str:
    return "float32" if wanted == "auto" else wanted
