"""Run a plan: chunk by chunk into the log, resumable at any point, with every failure recorded.

`run` works a plan off, `reload` reads a killed run's plan, `summarise` and `verify` derive the
results again from what is on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from safetybench import registry
from safetybench.contracts import Item, SafetyBenchError, Scenario, Unavailable
from safetybench.harness import results as derived
from safetybench.harness.context import Context
from safetybench.harness.cost import Meter
from safetybench.harness.device import is_out_of_memory
from safetybench.harness.manifest import describe_run, run_id
from safetybench.harness.plan import Chunk, Plan, differences, make_plan
from safetybench.harness.progress import Progress, Silent
from safetybench.harness.training import NotTrained
from safetybench.private import scrub
from safetybench.store import (
    Store,
    StoreError,
    canonical,
    read_costs,
    read_json,
    read_log,
    read_results,
    write_json,
    write_whole,
)

_SHOWN_DIFFERENCES = 20


class Outcome(NamedTuple):
    """How a run ended. results: what results.json holds, {} where it could not be written."""

    run_dir: Path
    exit_code: int
    reason: str
    results: dict[str, Any]


class _Failure(NamedTuple):
    """What is kept of an exception: the exception itself would hold a batch's tensors alive."""

    message: str
    is_memory: bool


class _Worked(NamedTuple):
    items: list[Item]
    batch: int


def run(
    plan: Plan,
    out: Path | None = None,
    *,
    progress: Progress | None = None,
    resume: bool = False,
    offline: bool = False,
    argv: Sequence[str] = (),
    reports: bool = True,
) -> Outcome:
    """Work a plan off and return how it ended; what a run in `out` has finished is kept.

    out: the run directory, by default a new one below runs/; resume: it must hold a run.

    Raises:
        SafetyBenchError: `out` cannot be used, its run has another plan, or a target or a
            report cannot be loaded. What was finished stays in the log.
    """
    progress = progress or Silent()
    store = _open(plan, out, resume, argv)
    with store:
        context = Context(plan=plan, store=store, offline=offline, tell=progress.within)
        is_interrupted = False
        try:
            _work(plan, context, progress)
        except KeyboardInterrupt:
            is_interrupted = True
        except StoreError as error:
            return Outcome(store.path, derived.INCOMPLETE, str(error), {})
        finally:
            progress.stop()
        context.free()
        found = summarise(store.path)
        try:
            write_json(store.path / "results.json", found)
        except StoreError as error:
            return Outcome(store.path, derived.INCOMPLETE, str(error), {})
        if is_interrupted:
            reason = "interrupted; run the same command again to go on where it stopped"
            return Outcome(store.path, derived.INTERRUPTED, reason, found)
        for name in plan.suite.reports if reports else ():
            registry.create(name).write(store.path)
    return Outcome(store.path, found["exit_code"], found["exit_reason"], found)


def reload(run_dir: Path, *, offline: bool = False) -> Plan:
    """Make the plan of a run afresh from its frozen suite, to go on with it by `run`."""
    frozen = _frozen(run_dir)
    return make_plan(frozen.suite, offline=offline)


def _frozen(run_dir: Path) -> Plan:
    if not (run_dir / "plan.json").is_file():
        raise StoreError(f"{run_dir} is no run directory, it has no plan.json")
    local = run_dir / ".local.json"
    private = read_json(local) if local.is_file() else None
    return Plan.from_json(read_json(run_dir / "plan.json"), private)


def _open(plan: Plan, out: Path | None, resume: bool, argv: Sequence[str]) -> Store:
    now = datetime.now(UTC)
    name = run_id(plan.suite.name, now)
    if out is None:
        while (Path("runs") / name).exists():
            name = run_id(plan.suite.name, now)
        out = Path("runs") / name
    if (out / "plan.json").is_file():
        store = Store.open(out)
        try:
            _refuse_drift(plan, out)
        except BaseException:
            store.close()
            raise
        return store
    if resume:
        raise StoreError(f"{out} is no run directory, it has no plan.json")
    store = Store.create(out)
    try:
        local = out / ".local.json"
        write_whole(local, canonical(plan.private()).encode())
        local.chmod(0o600)  # the one file with paths of this machine
        write_json(out / "manifest.json", describe_run(plan, argv, now, name))
        write_json(out / "plan.json", plan.to_json())
    except BaseException:
        store.close()
        raise
    return store


def _refuse_drift(plan: Plan, out: Path) -> None:
    drift = differences(read_json(out / "plan.json"), plan.to_json())
    if drift:
        shown = [f"  {line}" for line in drift[:_SHOWN_DIFFERENCES]]
        if len(drift) > len(shown):
            shown.append(f"  and {len(drift) - len(shown)} more")
        raise SafetyBenchError(
            f"the run in {out} was started with another plan and cannot be continued; undo the "
            "change or choose another folder:\n" + "\n".join(shown)
        )


def _work(plan: Plan, context: Context, progress: Progress) -> None:
    scenario = registry.create(plan.suite.scenario)
    chunks, done = plan.chunks(), context.store.done
    planned = sum(len(chunk.items) for chunk in chunks)
    waiting = [chunk for chunk in chunks if (chunk.cell.label, chunk.number) not in done]
    progress.start(planned, planned - sum(len(chunk.items) for chunk in waiting))
    batches: dict[str, int] = {}  # a target that ran out of memory once gets small batches
    for chunk in waiting:
        cell = chunk.cell
        meter = Meter(place=plan.place, evaluations=context.evaluations)
        size = batches.get(cell.target, len(chunk.items))
        try:
            context.target(cell.target)
        except NotTrained as error:
            message = scrub(str(error))[:500]
            worked = _Worked([_failed(chunk, item, message) for item in chunk.items], size)
        else:
            worked = _run_chunk(scenario, chunk, context, size)
        if worked.batch < len(chunk.items):
            batches[cell.target] = worked.batch
        cost = {**meter.read(), "batch": worked.batch}
        context.store.append(cell.label, chunk.number, worked.items, cost)
        failed = [item for item in worked.items if item.status == "failed"]
        if failed:
            first = f"{failed[0].item}: {failed[0].error}"
            progress.say(f"{cell.label}: {len(failed)} items failed, first {first}")
        progress.advance(cell.label, len(worked.items))


def _run_chunk(scenario: Scenario, chunk: Chunk, context: Context, batch: int) -> _Worked:
    """Run a chunk in batches, smaller ones where memory or an item fails."""
    waiting = _split(chunk.items, batch)
    finished: list[Item] = []
    while waiting:
        items = waiting.pop(0)
        found = _attempt(scenario, chunk, items, context)
        if not isinstance(found, _Failure):
            finished.extend(found)
        elif len(items) == 1:
            finished.append(_failed(chunk, items[0], found.message))
        elif found.is_memory:
            batch = len(items) // 2
            context.free(keep=chunk.cell.target)
            rest = (*items, *(item for later in waiting for item in later))
            waiting = _split(rest, batch)
        else:  # one item spoils the batch: find out which
            waiting = [*_split(items, 1), *waiting]
    return _Worked(finished, batch)


def _split(items: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def _attempt(
    scenario: Scenario, chunk: Chunk, items: Sequence[str], context: Context
) -> list[Item] | _Failure:
    """Run some items of a chunk; the one place where any exception is caught and recorded."""
    try:
        found = list(scenario.run_chunk(chunk.cell, chunk.number, items, context))
        _check(found, chunk, items)
    except (Unavailable, StoreError):
        raise  # every further item would meet the same missing package or full disk
    except Exception as error:
        if error is context.load_error:
            raise
        message = f"{type(error).__name__}: {error}".strip()
        return _Failure(scrub(message)[:500], is_out_of_memory(error))
    return found


def _check(found: Sequence[Item], chunk: Chunk, items: Sequence[str]) -> None:
    """Hold a scenario to its contract, so that the log never holds a result of nothing."""
    returned = [item.item for item in found]
    if returned != list(items):
        raise ValueError(f"run_chunk must return items {list(items)}, got {returned}")
    for item in found:
        if (item.cell, item.chunk) != (chunk.cell.label, chunk.number):
            raise ValueError(
                f"item {item.item} must be of chunk {chunk.number} of {chunk.cell.label}, "
                f"got {item.chunk} of {item.cell}"
            )
        if (item.status == "ok") != isinstance(item.success, bool):
            raise ValueError(
                f"item {item.item} must have a success exactly if its status is ok, "
                f"got {item.success!r} with {item.status!r}"
            )
        canonical(asdict(item))  # NaN, tensors and the like are refused here, not in the log


def _failed(chunk: Chunk, item: str, error: str) -> Item:
    return Item(cell=chunk.cell.label, chunk=chunk.number, item=item, status="failed", error=error)


def summarise(run_dir: Path) -> dict[str, Any]:
    """Derive results.json again from plan, manifest, item log and costs."""
    plan = _frozen(run_dir)
    manifest = read_json(run_dir / "manifest.json")
    return derived.derive(plan, manifest, read_log(run_dir).items, read_costs(run_dir))


def verify(run_dir: Path) -> list[str]:
    """Return every way in which a run's results are not what its log says; empty if none.

    Raises:
        StoreError: there is no run, or it has no results.
    """
    plan, log = _frozen(run_dir), read_log(run_dir)
    stored = read_results(run_dir)
    faults = [*log.faults, *_log_faults(run_dir, plan)]
    frozen = read_json(run_dir / "plan.json")
    if frozen.get("hash") != plan.hash:
        faults.append("plan.json: its hash is not that of its keys")
    if read_json(run_dir / "manifest.json").get("plan_hash") != plan.hash:
        faults.append("manifest.json: it belongs to another plan")
    known = {(chunk.cell.label, item) for chunk in plan.chunks() for item in chunk.items}
    if log.faults:  # what is derived from a damaged log would only repeat its faults
        faults.append("results.json: not derived again, as items.jsonl is not as it was written")
    elif all((item.cell, item.item) in known for item in log.items):
        again = summarise(run_dir)
        faults += [f"results.json: {line}" for line in differences(stored, again)]
        faults += [f"results.json: {line}" for line in derived.recount(stored)]
    return faults


def _log_faults(run_dir: Path, plan: Plan) -> list[str]:
    """Compare the log's commits with the plan's chunks, and the images with their digests."""
    log = read_log(run_dir)
    faults = []
    file = run_dir / "items.jsonl"
    extra = (file.stat().st_size if file.exists() else 0) - log.size
    if extra:
        faults.append(f"items.jsonl: {extra} bytes stand after the last finished chunk")
    chunks = {(chunk.cell.label, chunk.number): chunk.items for chunk in plan.chunks()}
    seen: set[tuple[str, int]] = set()
    for commit in log.commits:
        place = (commit.cell, commit.chunk)
        named = f"chunk {commit.chunk} of {commit.cell}"
        if place in seen:
            faults.append(f"items.jsonl: {named} stands twice")
        seen.add(place)
        items = tuple(i.item for i in log.items if (i.cell, i.chunk) == place)
        if items != chunks.get(place):
            faults.append(f"items.jsonl: {named} does not hold the items of the plan")
        for path, sha256 in commit.artifacts.items():
            faults += _image_faults(run_dir, path, sha256)
    costed = {(row["cell"], row["chunk"]) for row in read_costs(run_dir)}
    faults += [f"costs.jsonl: {c} of {cell} has no cost" for cell, c in sorted(seen - costed)]
    return faults


def _image_faults(run_dir: Path, path: str, sha256: str) -> list[str]:
    file = run_dir / path
    if not file.is_file():
        return [f"{path}: the image is missing"]
    if hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
        return [f"{path}: the image is not the one that was judged"]
    return []
