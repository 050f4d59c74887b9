"""From the words of `safetybench distill` to a checked job; no weights are loaded here."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetybench
from safetybench import registry
from safetybench.commands.distill_images import ImageFolder, find_images
from safetybench.commands.training_checks import (
    check_model,
    check_paths,
    choose_device,
    model_digest,
)
from safetybench.commands.training_inputs import digest_of, read_options, read_prompts
from safetybench.contracts import SafetyBenchError
from safetybench.distill.frame import frame_digest
from safetybench.naming import full_name
from safetybench.targets.spec import TargetSpec

if TYPE_CHECKING:
    from safetybench.commands.distill_outline import Learned

# A LoRA's and an adapter's are the same: both are few weights that start at nothing.
_STEPS = {"zoo": 300, "lora": 1000, "model": 3000}


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The arguments of `safetybench distill`; None where the user said nothing."""

    recipe: str
    teacher: str
    out: Path
    prompts: Path | None = None
    steps: int | None = None
    seed: int = 1
    options: tuple[str, ...] = ()
    batch: int | None = None
    images: Path | None = None
    lora: int | None = None
    lora_only: bool = False
    half: bool = False
    recompute: bool = False
    save_every: int = 50
    device: str = "auto"
    offline: bool = False
    resume: bool = True
    overwrite: bool = False
    plan_only: bool = False
    as_json: bool = False
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be made; everything in it is checked.

    name: of the recipe in the registry; digest: of the teacher, "" for a hub id that is not
    fetched yet; source: where the prompts come from, in words; learns: which weights;
    notes: for the user.
    """

    name: str
    recipe: Any
    teacher: TargetSpec
    digest: str
    prompts: tuple[str, ...]
    source: str
    images: ImageFolder | None
    learns: Learned
    steps: int
    device: str
    notes: tuple[str, ...]
    choices: Choices

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Return everything that the student's weights follow from, to tell commands apart.

        A teacher that is not fetched yet is "".
        """
        return {
            "recipe": repr(self.recipe),
            "code": registry.code_digest(self.name),
            "frame": frame_digest(),
            "safetybench": safetybench.__version__,
            "teacher": self.digest,
            "prompts": digest_of(self.prompts),
            "images": self.images.digest if self.images else None,
            "steps": self.steps,
            "seed": self.choices.seed,
            "lora": self.choices.lora or 0,
            "bf16": self.choices.half,
            "gradient checkpointing": self.choices.recompute,
            "device": self.device.partition(":")[0],
        }

    @property
    def command(self) -> str:
        """Return the command line, without the folders of this machine."""
        chosen = self.choices
        files = {"--prompts": chosen.prompts, "--images": chosen.images}
        flags = {
            "--bf16": chosen.half,
            "--gradient-checkpointing": chosen.recompute,
            "--lora-only": chosen.lora_only,
        }
        words = ["safetybench", "distill", self.name, "--teacher", self.teacher.name]
        for flag, path in files.items():
            words += [flag, path.name] if path is not None else []
        words += ["--out", chosen.out.name, "--steps", str(self.steps), "--seed", str(chosen.seed)]
        for option in chosen.options:
            words += ["--option", option]
        for flag, number in (("--batch", chosen.batch), ("--lora", chosen.lora)):
            words += [flag, str(number)] if number is not None else []
        return shlex.join([*words, *(flag for flag, is_on in flags.items() if is_on)])


def make_job(choices: Choices) -> Job:
    """Check everything that can be checked without loading a weight.

    Raises:
        SafetyBenchError: one sentence on what is wrong and what to do.
    """
    name = full_name(choices.recipe.replace("-", "_"), ["recipes"])  # as the zoo says it
    teacher = TargetSpec.parse(choices.teacher)
    prompts, source = _prompts(choices, teacher)
    files = {"--prompts": choices.prompts, "--images": choices.images}
    check_paths(choices.out, "teacher", teacher, files)
    batch = [f"batch={choices.batch}"] if choices.batch is not None else []
    recipe = registry.create(name, read_options(name, [*choices.options, *batch]))
    _check_lora(choices, name, recipe)
    images = _images(choices, name, recipe)
    notes = check_model("--teacher", teacher, offline=choices.offline, cannot="distilled")
    learns = _learns(choices, name, recipe, teacher)
    device = choose_device(choices.device)
    return Job(
        name=name,
        recipe=recipe,
        teacher=teacher,
        digest=model_digest(teacher, offline=choices.offline, plan_only=choices.plan_only),
        prompts=prompts,
        source=source,
        images=images,
        learns=learns,
        steps=choices.steps or _STEPS[_use(teacher, learns)],
        device=device,
        notes=(
            *notes,
            *(images.notes if images else ()),
            *_advice(choices, recipe, device, _use(teacher, learns)),
        ),
        choices=choices,
    )


def _learns(choices: Choices, name: str, recipe: Any, teacher: TargetSpec) -> Learned:
    from safetybench.commands.distill_outline import learned

    found = learned(recipe, teacher, choices.lora or 0)
    if choices.lora_only and not found.rank:
        if not getattr(recipe, "takes_lora", True):
            raise SafetyBenchError(f"{name} trains no LoRA; leave out --lora-only")
        raise SafetyBenchError("--lora-only needs --lora RANK; there is no LoRA to write else")
    return found


def _use(teacher: TargetSpec, learns: Learned) -> str:
    if teacher.kind == "zoo":
        return "zoo"
    return "lora" if learns.rank or learns.is_adapter else "model"


def _prompts(choices: Choices, teacher: TargetSpec) -> tuple[tuple[str, ...], str]:
    if choices.prompts is not None:
        prompts = tuple(read_prompts(choices.prompts))
        return prompts, f"{len(prompts)} prompts of {choices.prompts.name}"
    if teacher.kind != "zoo":
        raise SafetyBenchError(
            "--prompts FILE is needed: only the zoo's grammar writes prompts by itself; some "
            "thousand captions of what the model is used for will do"
        )
    from safetybench.zoo.catalogue import DISTILLATION_PROMPTS
    from safetybench.zoo.prompts import training_prompts

    captions = tuple(training_prompts(DISTILLATION_PROMPTS))
    return captions, f"{len(captions)} captions of the zoo's training split"


def _check_lora(choices: Choices, name: str, recipe: Any) -> None:
    if choices.lora and not getattr(recipe, "takes_lora", True):
        raise SafetyBenchError(
            f"{name} trains new inputs, which no LoRA holds; leave out --lora, or take another "
            "recipe"
        )


def _images(choices: Choices, name: str, recipe: Any) -> ImageFolder | None:
    if recipe.reads_images and choices.images is None:
        raise SafetyBenchError(
            f"{name} with these options reads real images; give --images FOLDER, or options "
            "without them"
        )
    if choices.images is None:
        return None
    if not recipe.reads_images:
        raise SafetyBenchError(
            f"{name} with these options reads no images, and --images was given; leave it out, or "
            f"see `safetybench show {name}` for the option that reads them"
        )
    return find_images(choices.images.expanduser())


def _advice(choices: Choices, recipe: Any, device: str, use: str) -> list[str]:
    found = []
    if choices.half and device == "cpu":
        found.append("bf16 on the CPU is correct but slow; it saves time on a GPU alone")
    rates = [key for key in vars(recipe) if key == "lr" or key.endswith("_lr")]
    said = {text.partition("=")[0].strip() for text in choices.options}
    unsaid = [rate for rate in rates if rate not in said]
    if use == "model" and unsaid:
        found.append(
            f"the default of {' and '.join(unsaid)} is made for the zoo's small models; Stable "
            f"Diffusion is usually trained at 1e-5 or less: --option {unsaid[0]}=1e-5"
        )
    return found
