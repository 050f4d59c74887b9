"""One evaluation from a request to results: what the command line and the pytest plugin share.

A request is a suite plus what the user changed of it. Changes are made before the suite is
checked, so that a mistake in one is found like a mistake in the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
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
    `ROLE=SPEC` puts it into that role of every subject, `LABEL=SPEC` behind a label of the suite's
    targets; limit: prompts a subject, at most; prompts, other_prompts: tables on the concept and
    on others. Of a suite of image protection, limit is of edits and prompts the table of edits;
    `student=SPEC` adds a student of every subject.
    """

    suite: str
    device: str | None = None
    dtype: str | None = None
    offline: bool = False
    attacks: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    limit: int | None = None
    prompts: Path | None = None
    other_prompts: Path | None = None


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

    # What is to be replaced need not be there.
    suite = load_suite(request.suite, offline=request.offline, is_draft=True)
    changes = _changes(suite, request)
    return load_suite(request.suite, offline=request.offline, overrides=changes)


def _changes(suite: Suite, request: Request) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if request.device is not None:
        changes["device"] = request.device
    if request.dtype is not None:
        changes["dtype"] = request.dtype
    if suite.protections:
        changes.update(_of_images(suite, request))
    elif request.limit is not None:
        count = min(request.limit, int(suite.prompts.get("count", request.limit)))
        changes["prompts"] = {**suite.prompts, "count": count}
    for key, file in (("file", request.prompts), ("other", request.other_prompts)):
        if file is not None and not suite.protections:
            if not file.expanduser().is_file():
                raise SafetyBenchError(f"there is no table of prompts {str(file)!r}")
            told = {**suite.prompts, **changes.get("prompts", {})}
            changes["prompts"] = {**told, key: str(file.expanduser().resolve())}
    data = suite.to_json()
    if request.attacks:
        changes["attacks"] = _attacks(data["attacks"], request.attacks)
    if request.targets:
        from safetybench.suite_students import keep

        behind = _behind_labels(data["targets"], request.targets, request.offline)
        others = [t for t in request.targets if t.partition("=")[0] not in behind]
        mine = ""
        if suite.protections:  # which knows its students by name
            mine = next((t for t in reversed(others) if t.startswith("student=")), "")
            others = [t for t in others if not t.startswith("student=")]
        changes["subjects"] = _subjects(data["subjects"], others, request.offline)
        changes["targets"] = {**data["targets"], **behind}
        names = [subject["name"] for subject in changes["subjects"]]
        changes["students"] = keep(data["students"], names)
        changes["removals"] = list(_on_subjects(data["removals"], names))
        if mine:
            changes["students"] = [*changes["students"], _student(mine, names, request.offline)]
        gone = {student["name"] for student in data["students"]}
        gone -= {student["name"] for student in changes["students"]}
        lost = {subject["name"] for subject in data["subjects"]} - set(names)
        entries = changes.get("attacks", data["attacks"])
        changes["attacks"] = list(_kept(entries, {"models": gone, "subjects": lost}))
    if request.attacks or request.targets:
        attacks = {"", *(attack["name"] for attack in changes.get("attacks", data["attacks"]))}
        subjects = {"", *(each["name"] for each in changes.get("subjects", data["subjects"]))}
        students = {"", *(each["name"] for each in changes.get("students", data["students"]))}
        changes["gates"] = [
            gate
            for gate in data["gates"]
            if gate["attack"] in attacks
            and gate["subject"] in subjects
            and gate["student"] in students
        ]
    return changes


def _of_images(suite: Suite, request: Request) -> dict[str, Any]:
    """Return the images of a suite of protection with the user's table and limit."""
    images = suite.to_json()["images"]
    if request.other_prompts is not None:
        raise SafetyBenchError("--other-prompts is of suites with prompts, and this one has images")
    if request.prompts is not None:
        file = request.prompts.expanduser()
        if not file.is_file():
            raise SafetyBenchError(f"there is no table of edits {str(request.prompts)!r}")
        # What else stands there is about the zoo's renders.
        images = {"count": images["count"], "table": str(file.resolve())}
    if request.limit is not None:
        images["count"] = min(request.limit, images["count"])
    return {"images": images}


def _student(wanted: str, subjects: Sequence[str], offline: bool) -> dict[str, Any]:
    """Return the student that the user adds to every subject of a suite of protection."""
    spec = wanted.partition("=")[2]
    _check_target("student", spec, offline)
    return {"name": "student", "targets": {name: _spec(spec) for name in subjects}}


def _on_subjects(
    removals: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield the removals that some of these subjects have, on these alone."""
    for removal in removals:
        only = [name for name in removal["subjects"] if name in names]
        if only or not removal["subjects"]:
            yield {**removal, "subjects": only}


def _kept(
    entries: Sequence[Mapping[str, Any]], gone: Mapping[str, set[str]]
) -> Iterator[dict[str, Any]]:
    """Yield the attacks without the models and subjects that are gone, and none on these alone."""
    for entry in entries:
        left = {k: [n for n in entry.get(k, ()) if n not in names] for k, names in gone.items()}
        if all(left[key] or not entry.get(key) for key in gone):
            yield {**entry, **left}


def _attacks(entries: Sequence[Mapping[str, Any]], wanted: Sequence[str]) -> list[Any]:
    """Keep the entries of the wanted attacks; one that has none gets the first one's budget."""
    chosen: list[Any] = []
    for name in (full_name(name, ["attacks"]) for name in wanted):
        same = [entry for entry in entries if entry["name"] == name]
        chosen += same or [{"name": name, **({"budget": entries[0]["budget"]} if entries else {})}]
    return chosen


def _behind_labels(
    known: Mapping[str, Any], wanted: Sequence[str], offline: bool
) -> dict[str, str]:
    """Return what is to stand behind labels of the suite's targets."""
    parts = [w.partition("=") for w in wanted]
    placed = {label: spec for label, equals, spec in parts if equals and label in known}
    for label, spec in placed.items():
        _check_target(label, spec, offline)
    return {label: _spec(spec) for label, spec in placed.items()}


def _subjects(
    entries: Sequence[Mapping[str, Any]], wanted: Sequence[str], offline: bool
) -> list[Any]:
    placed = {role: spec for role, _, spec in (w.partition("=") for w in wanted) if role in ROLES}
    for role, spec in placed.items():
        _check_target(role, spec, offline)
    kept = {_spec(w) for w in wanted if w.partition("=")[0] not in ROLES}
    chosen = [e for e in entries if not kept or kept & {_spec(e.get(role) or "") for role in ROLES}]
    used = sorted({e[role] for e in entries for role in ROLES if e.get(role)})
    idle = sorted(kept - {_spec(label) for label in used})
    if idle:
        raise NothingSelected(
            f"no subject uses target {' or '.join(idle)}; the suite has {', '.join(used)}"
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
