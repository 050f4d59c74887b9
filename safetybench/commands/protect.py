"""`safetybench protect`: pictures that models are meant to fail on, and what was measured."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetybench import __version__, session
from safetybench.commands.console import clean, note, print_json
from safetybench.commands.protect_folder import Folder, Record, check_out, opened
from safetybench.commands.protect_pictures import Source
from safetybench.commands.protect_request import CONTROL, Choices, Job, make_job
from safetybench.wording import fraction

__all__ = ["Choices", "protect"]

INCOMPLETE, NOTHING, INTERRUPTED = 4, 5, 130
_SHOWN = 5  # failed pictures told on the terminal; protect.json has all


def protect(choices: Choices) -> int:
    """Protect and return the exit code; OUT goes to stdout, chatter to stderr."""
    session.prepare_process(choices.threads, offline=choices.offline)
    try:
        job = make_job(choices)
    except session.NothingSelected as error:
        note(f"error: {error}")
        return NOTHING
    records = check_out(choices.out, job.settings, overwrite=choices.overwrite)
    if choices.plan_only:
        _print_plan(job, records)
    for line in job.notes:
        note(f"note: {line}")
    return 0 if choices.plan_only else _work(job)


def _work(job: Job) -> int:
    choices = job.choices
    with opened(choices.out, _head(job), overwrite=choices.overwrite) as folder:
        todo = [source for source in job.sources if not folder.is_done(source)]
        done = len(job.sources) - len(todo)
        if done:
            note(f"{_pictures(done)} of {len(job.sources)} {_were(done)} done before")
        try:
            if todo:
                _make(job, folder, todo)
        except KeyboardInterrupt:
            note("error: interrupted; what is done stays, and the same command goes on with it")
            return INTERRUPTED
        return _tell(job, folder)


def _make(job: Job, folder: Folder, todo: Sequence[Source]) -> None:
    from safetybench.commands.protect_work import Worker, readable, summary
    from safetybench.harness import progress

    sizes = readable(job, folder, todo)
    folder.save(summary(folder.records.values()))  # early, so that OUT is known for ours
    if not sizes:
        return
    target = _load(job)
    shown = progress.on()
    shown.start(len(sizes), 0)
    try:
        Worker(job=job, target=target, folder=folder, progress=shown).run(sizes)
    finally:
        shown.stop()


def _load(job: Job) -> Any:
    from safetybench.commands.protect_work import check_target
    from safetybench.targets.loading import load_target

    if job.target is None:
        return None
    target = load_target(
        job.target,
        device=job.device,
        dtype=job.choices.dtype,
        offline=job.choices.offline,
        digest=job.digest,
    )
    check_target(job, target)
    return target


def _head(job: Job) -> dict[str, Any]:
    from safetybench.commands.protect_measures import STATEMENT

    return {
        "statement": STATEMENT,
        "command": job.command,
        "settings": job.settings,
        "epsilon": fraction(job.budget.epsilon),
        "is_control": bool(job.method.is_control),
        "control": CONTROL,
        "made_with": {
            "safetybench": __version__,
            "python": platform.python_version(),
            "device": job.device,
            **{name: version(name) for name in ("torch", "diffusers", "pillow")},
        },
    }


# What is said


def _tell(job: Job, folder: Folder) -> int:
    mine = [folder.records[source.name] for source in job.sources]
    failed = [record for record in mine if record["status"] != "done"]
    _tell_notes([record for record in mine if record["status"] == "done"])
    for record in failed[:_SHOWN]:
        note(f"failed: {record['origin']}: {record['error']}")
    if len(failed) > _SHOWN:
        note(f"failed: {len(failed) - _SHOWN} more, see protect.json")
    count = len(mine) - len(failed)
    note(
        f"{_pictures(count)} of {len(mine)} {_were(count)} protected by {job.name}, epsilon "
        f"{fraction(job.budget.epsilon)}{_effect(mine)}; {_caution(job)}"
    )
    if job.choices.as_json:
        print_json(folder.read())
    else:
        print(clean(str(job.choices.out)))
    return INCOMPLETE if failed else 0


def _tell_notes(records: Sequence[Record]) -> None:
    counts = Counter(text for record in records for text in record["notes"])
    for text, count in counts.items():
        one = next(record["origin"] for record in records if text in record["notes"])
        note(f"note: {one if count == 1 else f'{one} and {count - 1} more'}: {text}")
    if any(row["lpips"] is None and min(row["height"], row["width"]) > 30 for row in records):
        from safetybench.metrics.similarity._lpips import INSTALL

        note(
            "note: LPIPS was not measured, for AlexNet's features are not on this machine; "
            f"`{INSTALL}` brings them"
        )


def _effect(records: Sequence[Record]) -> str:
    from safetybench.commands.protect_work import summary

    found = summary(records)
    net = found.get("net")
    if net is None:
        return ""
    span = net["interval"]
    width = f" [{span['low']:.4f}, {span['high']:.4f}]" if span else ""
    return f"; edits moved by {net['mean']:.4f}{width} beyond what noise does"


def _caution(job: Job) -> str:
    if job.method.is_control:
        return "it is a control, and protects nothing"
    return "that is no proof of protection, see `statement` in protect.json"


def _pictures(count: int) -> str:
    return f"{count} {'picture' if count == 1 else 'pictures'}"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


# The plan


def _print_plan(job: Job, records: dict[str, Record]) -> None:
    choices = job.choices
    folder = Folder(
        path=Path(choices.out).expanduser().resolve(),
        head={"settings": job.settings},
        records=records,
    )
    done = sum(map(folder.is_done, job.sources)) if job.digest or job.target is None else 0
    edit = "none"
    if choices.edit is not None:
        edit = f"{choices.edit!r} at strength {job.strength:g}, {choices.edit_seeds} seeds"
    masks = len({source.mask for source in job.sources} - {None})
    plan = {
        "method": repr(job.method),
        "target": "none" if job.target is None else job.target.name,
        "digest": job.digest or ("none" if job.target is None else "not fetched yet"),
        "epsilon": f"{fraction(job.budget.epsilon)}, Linf",
        "steps": job.budget.steps,
        "seed": choices.seed,
        "pictures": f"{len(job.sources)}, {done} of them done before",
        "the first": job.sources[0].origin,
        "masks": masks or "none",
        "caption": choices.caption or "none",
        "size": f"no side above {choices.size}" if choices.size else "as they are",
        "edit": edit,
        "batch": choices.batch,
        "device": f"{job.device}, {job.settings['dtype']}",
        "out": str(choices.out),
    }
    if choices.as_json:
        print_json(plan)
    else:
        for key, value in plan.items():
            print(clean(f"{key + ':':22}{value}"))
