"""`safetybench unlearn`: a user's own pipeline without a concept, by a method of the suite."""

from __future__ import annotations

from typing import Any

from safetybench import session
from safetybench.commands.console import clean, note, print_json
from safetybench.commands.training_folder import UNLEARNED, TrainingFolder, check_out, has_model
from safetybench.commands.training_progress import Progress
from safetybench.commands.unlearn_request import Choices, Job, make_job

__all__ = ["Choices", "unlearn"]

INTERRUPTED = 130


def unlearn(choices: Choices) -> int:
    """Make the model and return the exit code; its folder goes to stdout, chatter to stderr."""
    session.prepare_process(choices.threads, offline=choices.offline)
    check_out(choices.out, UNLEARNED, overwrite=choices.overwrite, mend=not choices.plan_only)
    job = make_job(choices)
    if choices.plan_only:
        _print_plan(job)
    for line in job.notes:
        note(f"note: {line}")
    return 0 if choices.plan_only else _work(job)


def _work(job: Job) -> int:
    out = job.choices.out
    folder = TrainingFolder.open(out, {}, resume=False)
    try:
        card = _make(job, folder)
    except KeyboardInterrupt:
        kept = (
            f"the model in {out} is as it was" if has_model(out, UNLEARNED) else "nothing is kept"
        )
        note(f"error: interrupted; {kept}, and the same command starts anew")
        return INTERRUPTED
    finally:
        folder.close()
    if job.choices.as_json:
        print_json(card)
    else:
        print(clean(str(out)))
    return 0


def _make(job: Job, folder: TrainingFolder) -> dict[str, Any]:
    from safetybench.commands.unlearn_save import sentence, write
    from safetybench.contracts import Budget
    from safetybench.targets.loading import load_target

    original = load_target(
        job.target,
        device=job.device,
        dtype="float32",
        offline=job.choices.offline,
        digest=job.digest,
    )
    progress = Progress(job.steps)
    try:
        budget = Budget(steps=job.steps, seed=job.choices.seed)
        made = job.method.run(original, job.erasure, budget, progress)
    finally:
        progress.stop()
    note("writing the unlearned model and its samples")
    card = write(made, original, job, folder.part)
    folder.finish()
    note(sentence(card))
    return card


# The plan


def _print_plan(job: Job) -> None:
    choices, erasure = job.choices, job.erasure
    first = f"{erasure.forget[0]!r} -> {erasure.anchor[0]!r}"
    replaced = has_model(choices.out, UNLEARNED)
    plan = {
        "method": repr(job.method),
        "target": job.target.name,
        "digest": job.digest or "not fetched yet",
        **(
            {"trigger": choices.trigger}
            if choices.trigger
            else {"concept": choices.concept, "anchor": choices.anchor}
        ),
        "prompts to forget": job.texts.told["forget"],
        "the first": first,
        "prompts to keep": job.texts.told["retain"],
        "bare": ", ".join(erasure.bare),
        "steps": job.steps or f"none: {job.name} trains nothing",
        "seed": choices.seed,
        "device": f"{job.device}, float32",
        "out": f"{choices.out} ({'replaced at the end' if replaced else 'new'})",
    }
    if choices.as_json:
        print_json(plan)
    else:
        for key, value in plan.items():
            print(clean(f"{key + ':':22}{value}"))
