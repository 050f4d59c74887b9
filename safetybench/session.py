"""One evaluation from a request to results: what the command line and the pytest plugin share.

A request is a suite plus what the user changed of it. Changes are made before the suite is
checked, so that a mistake in one is found like a mistake in the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetybench.contracts import SafetyBenchError
from safetybench.naming import full_name
from safetybench.threads import limit_threads

if TYPE_CHECKING:  # pydantic takes 0.1 s to import
    from safetybench.harness.plan import Plan
    from safetybench.suite import Suite

ROLES = ("original", "teacher", "student")


class NothingSelected(SafetyBenchError):
    """What the user chose leaves no cell to run."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A suite and what is to be different from it; None and () leave it as it is.

    attacks: names, whole or their last part; targets: `SPEC` keeps the subjects that use it,
    `ROLE=SPEC` puts it into that role of every subject; limit: prompts a subject, at most.
    """

    suite: str
    device: str | None = None
    dtype: str | None = None
    offline: bool = False
    attacks: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    limit: int | None = None


def prepare_process(
    threads: int | None = None,
    *,
    offline: bool = False,
    share: int = 1,
    environment: MutableMapping[str, str] = os.environ,
) -> int:
    """Fix threads and network use of this process, before torch comes in; return the threads.

    offline: no hub id is fetched. share: processes that divide the cores among them.
    """
    environment.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    if offline:
        environment["HF_HUB_OFFLINE"] = "1"
    return limit_threads(threads, share=share, environment=environment)


def is_set(name: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether an environment variable says yes.

    >>> is_set("X", {"X": "1"}), is_set("X", {"X": "off"}), is_set("X", {})
    (True, False, False)
    """
    return environment.get(name, "").strip().lower() in ("1", "true", "t", "yes", "y", "on")


def make_plan(request: Request) -> Plan:
    """Return what a request would run; reads weights to know them by content, loads none."""
    from safetybench.harness import plan

    return plan.make_plan(resolve(request), offline=request.offline)


def resolve(request: Request) -> Suite:
    """Return the checked suite with the request's changes made.

    Raises: NothingSelected where they leave nothing, SafetyBenchError as `load_suite`.
    """
    from safetybench.suite import load_suite

    suite = load_suite(request.suite, offline=request.offline)
    changes = _changes(suite, request)
    if not changes:
        return suite
    return load_suite(request.suite, offline=request.offline, overrides=changes)


def _changes(suite: Suite, request: Request) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if request.device is not None:
        changes["device"] = request.device
    if request.dtype is not None:
        changes["dtype"] = request.dtype
    if request.limit is not None:
        count = min(request.limit, int(suite.prompts.get("count", request.limit)))
        changes["prompts"] = {**suite.prompts, "count": count}
    data = suite.to_json()
    if request.attacks:
        changes["attacks"] = _attacks(data["attacks"], request.attacks)
    if request.targets:
        from safetybench.suite_students import keep

        changes["subjects"] = _subjects(data["subjects"], request.targets, request.offline)
        changes["targets"] = data["targets"]
        names = [subject["name"] for subject in changes["subjects"]]
        changes["students"] = keep(data["students"], names)
    if request.attacks or request.targets:
        attacks = {"", *(attack["name"] for attack in changes.get("attacks", data["attacks"]))}
        subjects = {"", *(each["name"] for each in changes.get("subjects", data["subjects"]))}
        changes["gates"] = [
            gate
            for gate in data["gates"]
            if gate["attack"] in attacks and gate["subject"] in subjects
        ]
    return changes


def _attacks(entries: Sequence[Mapping[str, Any]], wanted: Sequence[str]) -> list[Any]:
    """Keep the entries of the wanted attacks; one that has none gets the first one's budget."""
    chosen: list[Any] = []
    for name in (full_name(name, ["attacks"]) for name in wanted):
        same = [entry for entry in entries if entry["name"] == name]
        chosen += same or [{"name": name, **({"budget": entries[0]["budget"]} if entries else {})}]
    return chosen


def _subjects(
    entries: Sequence[Mapping[str, Any]], wanted: Sequence[str], offline: bool
) -> list[Any]:
    placed = {role: spec for role, _, spec in (w.partition("=") for w in wanted) if role in ROLES}
    for role, spec in placed.items():
        _check_target(role, spec, offline)
    kept = {_spec(w) for w in wanted if w.partition("=")[0] not in ROLES}
    chosen = [e for e in entries if not kept or kept & {_spec(e.get(role) or "") for role in ROLES}]
    if not chosen:
        used = sorted({e[role] for e in entries for role in ROLES if e.get(role)})
        raise NothingSelected(
            f"no subject uses target {' or '.join(sorted(kept))}; the suite has {', '.join(used)}"
        )
    return [{**entry, **{role: _spec(s) for role, s in placed.items()}} for entry in chosen]


def _check_target(role: str, spec: str, offline: bool) -> None:
    """Refuse a target here, for a fault that is not in the suite's file must not name its line."""
    from safetybench.harness import models

    if not spec:
        raise SafetyBenchError(f"--target {role}= needs a target after the equals sign")
    try:
        models.check(spec, offline=offline)
    except SafetyBenchError as error:
        raise SafetyBenchError(f"--target {role}={spec}: {error}") from error


def _spec(spec: str) -> str:
    """Make a folder's path whole: the user's is relative to here, a suite's to its file."""
    if spec.startswith("zoo:") or not Path(spec).expanduser().is_dir():
        return spec
    return str(Path(spec).expanduser().resolve())
