"""Write a distilled student: a diffusers directory with its card, its LoRA, and sample images."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetybench import __version__, registry
from safetybench.commands.training_folder import STUDENT
from safetybench.commands.training_inputs import digest_of
from safetybench.commands.training_save import draw, sheet, told_when_full

if TYPE_CHECKING:
    from safetybench.commands.distill_request import Job

SAMPLES = 4
_SHARED = ("text_encoder", "text_encoder_2", "vae")
_WEIGHTS = "pytorch_lora_weights.safetensors"  # as diffusers looks for it


class Samples(NamedTuple):
    """Network evaluations of one image, each model's own way."""

    teacher: float
    student: float


def write(student: Any, teacher: Any, job: Job, folder: Path) -> dict[str, Any]:
    """Write everything into an empty folder and return its card.

    Raises:
        SafetyBenchError: the disk is full, or the folder cannot be written.
    """
    from safetybench.commands.distill_outline import diffusable
    from safetybench.targets.quiet import quiet

    chosen = job.choices
    name = chosen.out.expanduser().resolve().name
    own = student.sampler
    student = student.with_sampler(own, diffusable(student.scheduler, own))
    student.card, student.name = {}, name  # the teacher's card tells of another model
    is_lora = bool(getattr(student.unet, "peft_config", None))
    with told_when_full("student"):
        folder.mkdir(parents=True)
        card = _card(student, teacher, job, name)
        if is_lora:
            card |= _save_lora(student, folder, alone=chosen.lora_only)
            student = _fused(student)
        samples = _draw(teacher, student, job, folder / "samples.png")
        card["nfe"] = {"teacher": samples.teacher, "student": samples.student}
        with quiet():
            student.save(folder, card, parts=card.get("parts"))
    return dict(json.loads((folder / "card.json").read_text(encoding="utf-8")))


def _card(student: Any, teacher: Any, job: Job, name: str) -> dict[str, Any]:
    import torch

    chosen, images = job.choices, job.images
    sampler = teacher.sampler
    own = {"steps": sampler.steps, "guidance": sampler.guidance, "timesteps": sampler.timesteps}
    card = {
        "schema": STUDENT.schema,
        "name": name,
        "summary": f"Student of {job.teacher.name} by {job.name}.",
        "lineage": [*teacher.lineage, name],
        "recipe": {
            "component": job.name,
            "options": repr(job.recipe),
            "steps": job.steps,
            "seed": chosen.seed,
            "code": registry.code_digest(job.name),
        },
        "teacher": {"name": job.teacher.name, "digest": job.digest, "sampler": own},
        "prompts": {"count": len(job.prompts), "digest": digest_of(job.prompts)},
        "images": {"count": len(images.images), "digest": images.digest} if images else None,
        "traits": {
            "data": "real" if images else "none",
            "prompts": job.source,
            "shared_with_teacher": [
                part for part in _SHARED
                if getattr(student, part, None) is not None
                and getattr(student, part) is getattr(teacher, part, None)
            ],
        },
        "training": {
            "lora": job.learns.rank,
            "bf16": chosen.half,
            "gradient_checkpointing": chosen.recompute,
            "device": str(teacher.device),
            "torch": torch.__version__,
            "safetybench": __version__,
        },
        "command": job.command,
    }  # fmt: skip
    erases = teacher.card.get("erases")
    return card | ({"erases": erases} if erases else {})


def _save_lora(student: Any, folder: Path, *, alone: bool) -> dict[str, Any]:
    """Write the LoRA where diffusers finds it; return what the card says of it."""
    from safetybench.targets.lora import save_lora

    if alone:
        # Without its scheduler the base's would run the student's time grid.
        return {"lora": save_lora(student.unet, folder), "parts": ["scheduler"]}
    # Not in unet/ and not as the card's "lora": the weights there have it in them already.
    home = folder / "lora"
    (home / save_lora(student.unet, home)).rename(home / _WEIGHTS)
    (home / "unet").rmdir()
    return {"fused_lora": f"lora/{_WEIGHTS}"}


def _fused(student: Any) -> Any:
    """Return the student as a plain network, the LoRA added to its weights."""
    plain = copy.copy(student)
    plain.unet = copy.deepcopy(student.unet)
    plain.unet.fuse_lora()
    plain.unet.unload_lora()
    return plain


def _draw(teacher: Any, student: Any, job: Job, file: Path) -> Samples:
    """Write images of the first prompts: a row a prompt, the teacher left, the student right."""
    prompts = job.prompts[:SAMPLES]
    (left, spent), (right, own) = draw(teacher, prompts), draw(student, prompts)
    sheet(list(zip(left, right, strict=True))).save(file)
    return Samples(spent, own)


def sentence(card: Mapping[str, Any]) -> str:
    """Return what the student costs against its teacher."""
    teacher, student = card["nfe"]["teacher"], card["nfe"]["student"]
    ratio = f", {teacher / student:.3g} times fewer" if teacher > student else ""
    return (
        f"an image takes {student:g} network evaluation{'s' if student != 1 else ''} of the "
        f"student and {teacher:g} of the teacher{ratio}"
    )
