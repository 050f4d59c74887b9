"""`safetybench distill`: a few-step student of a user's own pipeline, by a recipe of the suite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safetybench import session
from safetybench.commands.console import clean, note, print_json
from safetybench.commands.distill_request import Choices, Job, make_job
from safetybench.commands.training_folder import (
    STUDENT,
    TrainingFolder,
    check_out,
    check_same,
    has_checkpoint,
    has_model,
)
from safetybench.commands.training_progress import Progress

if TYPE_CHECKING:
    from safetybench.commands.distill_outline import Outline
    from safetybench.contracts import Means

__all__ = ["Choices", "distill"]

INTERRUPTED = 130


def distill(choices: Choices) -> int:
    """Make a student and return the exit code; its folder goes to stdout, chatter to stderr."""
    session.prepare_process(choices.threads, offline=choices.offline)
    check_out(choices.out, STUDENT, overwrite=choices.overwrite, mend=not choices.plan_only)
    job = make_job(choices)
    if choices.resume:
        check_same(choices.out, job.fingerprint)
    if choices.plan_only:
        _print_plan(job)
        return 0
    for line in job.notes:
        note(f"note: {line}")
    return _work(job)


def _work(job: Job) -> int:
    out = job.choices.out
    folder = TrainingFolder.open(out, job.fingerprint, resume=job.choices.resume)
    try:
        card = _make(job, folder)
    except KeyboardInterrupt:
        note(f"error: interrupted; {_how_to_go_on(job)}")
        return INTERRUPTED
    except BaseException:
        if has_checkpoint(out):
            note(f"the training is kept: {_how_to_go_on(job)}")
        raise
    finally:
        folder.close()
    if job.choices.as_json:
        print_json(card)
    else:
        print(clean(str(out)))
    return 0


def _how_to_go_on(job: Job) -> str:
    if has_checkpoint(job.choices.out):
        return f"the same command goes on from the checkpoint in {job.choices.out}"
    return "nothing was saved yet, so the same command starts anew"


def _make(job: Job, folder: TrainingFolder) -> dict[str, Any]:
    from safetybench.commands.distill_save import sentence, write
    from safetybench.contracts import Budget
    from safetybench.targets.loading import load_target

    choices = job.choices
    if has_checkpoint(choices.out):
        note(f"going on from the checkpoint in {choices.out}")
    teacher = load_target(
        job.teacher, device=job.device, dtype="float32", offline=choices.offline, digest=job.digest
    )
    images = job.images and job.images.load(*_size(teacher))
    progress = Progress(_total(job, teacher))
    try:
        student = job.recipe.run(
            teacher,
            list(job.prompts),
            Budget(steps=job.steps, seed=choices.seed),
            progress,
            images=images,
            means=_means(job, folder),
        )
    finally:
        progress.stop()
    note("writing the student and its samples")
    card = write(student, teacher, job, folder.part)
    folder.finish()
    note(sentence(card))
    return card


def _means(job: Job, folder: TrainingFolder) -> Means:
    from safetybench.contracts import Means

    return Means(
        checkpoint=folder.checkpoint,
        save_every=job.choices.save_every,
        lora=job.choices.lora or 0,
        half=job.choices.half,
        recompute=job.choices.recompute,
    )


def _size(teacher: Any) -> tuple[int, int]:
    """Return (height, width) of the model's images."""
    scale = 2 ** (len(teacher.vae.config.block_out_channels) - 1)
    _, height, width = teacher.latent_shape
    return height * scale, width * scale


def _total(job: Job, teacher: Any) -> int:
    """Return the steps of all stages; a recipe may warm up before the steps that are counted."""
    from safetybench.commands.distill_outline import outline

    lora = job.choices.lora or 0
    found = outline(job.recipe, teacher.scheduler, teacher.sampler, job.steps, lora)
    return found.steps if found else job.steps


# The plan


def _print_plan(job: Job) -> None:
    found = _outline(job)
    choices = job.choices
    plan: dict[str, Any] = {
        "recipe": repr(job.recipe),
        "teacher": job.teacher.name,
        "digest": job.digest or "not fetched yet",
        "teacher's sampler": _teachers_sampler(job),
        "prompts": job.source,
        "images": f"{len(job.images.images)}" if job.images else "none",
        "student steps": job.steps,
        "seed": choices.seed,
        "weights": job.learns.said,
        "device": f"{job.device}, {'bf16 autocast' if choices.half else 'float32'}",
        "student's sampler": _sampler_said(found.sampler, found.scheduler)
        if found
        else "not known before it is made",
        "network evaluations": f"about {found.evaluations:,}"
        if found and found.evaluations
        else "not known",
        "out": f"{choices.out} ({_state(job)})",
    }
    if choices.as_json:
        print_json(plan)
    else:
        for key, value in plan.items():
            print(clean(f"{key + ':':22}{value}"))
    for line in job.notes:
        note(f"note: {line}")


def _state(job: Job) -> str:
    choices = job.choices
    if choices.resume and has_checkpoint(choices.out):
        return "goes on from its checkpoint"
    return "replaced at the end" if has_model(choices.out, STUDENT) else "new"


def _teachers_sampler(job: Job) -> str:
    if job.teacher.kind == "hub":
        return "not known before it is fetched"
    from safetybench.targets.finding import find

    layout = find(job.teacher)
    return _sampler_said(layout.sampler(job.teacher), layout.scheduler_class(job.teacher))


def _outline(job: Job) -> Outline | None:
    from safetybench.commands.distill_outline import outline, scheduler_of

    if job.teacher.kind == "hub":
        return None
    scheduler, sampler = scheduler_of(job.teacher)
    lora = job.choices.lora or 0
    return outline(job.recipe, scheduler, sampler, job.steps, lora, count=True)


def _sampler_said(sampler: Any, scheduler: str) -> str:
    times = "" if sampler.timesteps is None else f" at times {list(sampler.timesteps)}"
    eta = f", eta {sampler.eta:g}" if sampler.eta else ""
    steps = f"{sampler.steps} step{'s' if sampler.steps != 1 else ''}"
    return f"{steps}{times}, guidance {sampler.guidance:g}{eta}, {scheduler}"
