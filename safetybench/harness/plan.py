"""The resolved plan: every cell of a suite with a key made of all that can change its result.

A plan is frozen into the run directory. Resuming compares it with a plan made afresh, so that a
log never mixes results of two suites, two versions of the code or two models of one name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetybench
from safetybench import registry, suite_evasion
from safetybench.contracts import Budget, Cell, Item, SafetyBenchError
from safetybench.harness import models, training
from safetybench.harness.device import Place, choose
from safetybench.store import ITEM_SCHEMA, canonical, digest
from safetybench.suite import Suite
from safetybench.suite_faults import CAME_BACK

SCHEMA = "safetybench.plan/1"
PARTNER = "partner"  # option of a cell: the label of a second model that it reads


class Chunk(NamedTuple):
    """The unit of work and of resume: some items of one cell, always the same ones."""

    cell: Cell
    number: int
    items: tuple[str, ...]


class Redacted(NamedTuple):
    """Data without private paths, and the paths by their place in it ("attacks/0/options/x")."""

    data: Any
    paths: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do. targets: label -> spec and digest; code: component -> sha256."""

    suite: Suite
    cells: tuple[Cell, ...]
    place: Place
    targets: Mapping[str, Mapping[str, Any]]
    code: Mapping[str, str]
    judge: str
    keys: Mapping[str, str]
    version: str = safetybench.__version__

    @property
    def hash(self) -> str:
        """The sha256 over the keys of all cells, in order."""
        return digest([self.keys[cell.label] for cell in self.cells])

    def chunks(self) -> list[Chunk]:
        """Return all chunks in the order in which they run, whatever is finished already."""
        found = []
        for cell in schedule(self.cells):
            for start in range(0, len(cell.items), cell.chunk_size):
                items = cell.items[start : start + cell.chunk_size]
                found.append(Chunk(cell, start // cell.chunk_size, items))
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data for plan.json: no absolute path, nothing of the host."""
        base = Path(self.suite.base)
        data = {
            "schema": SCHEMA,
            "hash": self.hash,
            "version": self.version,
            "device": self.place.device.partition(":")[0],
            "dtype": self.place.dtype,
            "judge": self.judge,
            "code": dict(self.code),
            "targets": {label: dict(target) for label, target in self.targets.items()},
            "suite": self.suite.to_json(),
            "cells": [{**asdict(cell), "key": self.keys[cell.label]} for cell in self.cells],
        }
        return dict(redact(data, base).data)

    def private(self) -> dict[str, Any]:
        """Return what `to_json` leaves out and resuming on this machine needs."""
        paths = redact(self.suite.to_json(), Path(self.suite.base)).paths
        return {"base": self.suite.base, "paths": paths}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], private: Mapping[str, Any] | None = None) -> Plan:
        """Rebuild a frozen plan; private: of `Plan.private`, where it is at hand."""
        if data.get("schema") != SCHEMA:
            raise SafetyBenchError(
                f"plan.json must have schema {SCHEMA}, got {data.get('schema')!r}"
            )
        private = private or {"base": ".", "paths": {}}
        cells = [
            {key: value for key, value in row.items() if key != "key"} for row in data["cells"]
        ]
        return cls(
            suite=Suite.from_json(restore(data["suite"], private["paths"]), private["base"]),
            cells=tuple(map(_cell, cells)),
            place=Place(data["device"], data["dtype"]),
            targets=data["targets"],
            code=data["code"],
            judge=data["judge"],
            keys={row["label"]: row["key"] for row in data["cells"]},
            version=data["version"],
        )


def make_plan(suite: Suite, *, offline: bool = False) -> Plan:
    """Expand a suite into cells and key each; reads the targets' weights, loads none.

    Raises:
        SafetyBenchError: the scenario refuses the suite, or its cells contradict each other.
    """
    scenario = registry.create(suite.scenario)
    try:
        cells = tuple(scenario.cells(suite))
    except (ValueError, TypeError) as error:
        raise SafetyBenchError(f"{suite.scenario}: {error}") from error
    _check(cells)
    place = choose(suite.device, suite.dtype)
    targets = _targets(suite, cells, offline)
    used = {suite.scenario, suite.judge, *(name for cell in cells for name in _components_of(cell))}
    used |= {n for spec in training.planned(targets) for n in training.components_of(spec)}
    code = {name: registry.code_digest(name) for name in sorted(used)}
    judge = digest(suite.new_judge().card)
    keys: dict[str, str] = {}
    for cell in cells:
        keys[cell.label] = _key(cell, suite, place, targets, code, judge, keys)
    _check_gates(suite, cells)
    return Plan(
        suite=suite, cells=cells, place=place, targets=targets, code=code, judge=judge, keys=keys
    )


def _targets(suite: Suite, cells: Sequence[Cell], offline: bool) -> dict[str, dict[str, Any]]:
    """Return what stands behind each label, and by what content it is known."""
    digests: dict[str, str] = {}

    def find(label: str) -> str:
        if label in digests:
            return digests[label]
        base, told, spec = suite.base_of(label), suite.told(label), suite.spec(label)
        if isinstance(spec, dict) and training.is_training(told):
            partner = find(told["partner"]) if told.get("partner") else ""
            digests[label] = training.content_key(spec, find(base) if base else "", partner)
        elif suite_evasion.is_member(told):
            assert isinstance(told, dict)
            digests[label] = digest([find(base), told["member"]])
        elif base and suite.base_of(base) and isinstance(spec, dict):  # a plug on a made target
            # What the plug holds is read off the model at the root, which is of the same shape.
            plugged = training.on_root(spec)
            digests[label] = digest([find(base), models.content_digest(plugged, offline=offline)])
        else:
            digests[label] = models.content_digest(spec, offline=offline)
        return digests[label]

    for label in (t for subject in suite.subjects for t in subject.roles.values()):
        find(label)
    for cell in cells:
        find(cell.target)
        if cell.options.get(PARTNER):
            find(cell.options[PARTNER])
    return {label: {"spec": suite.told(label), "digest": found} for label, found in digests.items()}


def _key(
    cell: Cell,
    suite: Suite,
    place: Place,
    targets: Mapping[str, Mapping[str, Any]],
    code: Mapping[str, str],
    judge: str,
    keys: Mapping[str, str],
) -> str:
    """Hash all that can change the items of a cell."""
    base = Path(suite.base)
    subjects = [subject for subject in suite.subjects if subject.name == cell.subject]
    roles = {role: t for subject in subjects for role, t in subject.roles.items()}
    used = (suite.scenario, suite.judge, *_components_of(cell))
    return digest(
        {
            "schemas": [SCHEMA, ITEM_SCHEMA],
            "cell": {
                **redact(asdict(cell), base).data,
                "after": [keys[label] for label in cell.after],
            },
            "target": targets[cell.target]["digest"],
            **(
                {"partner": targets[cell.options[PARTNER]]["digest"]}
                if cell.options.get(PARTNER)
                else {}
            ),
            "subject": {role: targets[label]["digest"] for role, label in roles.items()},
            "judge": judge,
            "code": {name: code[name] for name in used},
            "prompts": redact(suite.prompts, base).data,
            "device": place.device.partition(":")[0],
            "dtype": place.dtype,
        }
    )


def _components_of(cell: Cell) -> list[str]:
    """Return the components a cell runs: its attack, one inside that, protection and purifier."""
    inner = cell.options.get("attack") if cell.attack else None
    between = [cell.defense.get(key) for key in ("protection", "purifier", "filter")]
    named = (cell.attack, inner, *between)
    return list(dict.fromkeys(name for name in named if name and isinstance(name, str)))


def _cell(data: Mapping[str, Any]) -> Cell:
    return Cell(
        **{
            **data,
            "budget": Budget(**data["budget"]),
            "items": tuple(data["items"]),
            "after": tuple(data["after"]),
        }
    )


def _check(cells: Sequence[Cell]) -> None:
    seen: set[str] = set()
    for cell in cells:
        problem = ""
        if cell.label in seen:
            problem = "stands twice in the plan; give its attacks different options or names"
        elif len(set(cell.items)) != len(cell.items):
            problem = "holds an item twice"
        elif cell.chunk_size < 1:
            problem = f"must have a chunk size of at least 1, got {cell.chunk_size}"
        elif not set(cell.after) <= seen:
            missing = sorted(set(cell.after) - seen)[0]
            problem = f"must come after {missing!r}, which is not before it in the plan"
        if problem:
            raise SafetyBenchError(f"cell {cell.label!r} {problem}")
        seen.add(cell.label)


def _check_gates(suite: Suite, cells: Sequence[Cell]) -> None:
    for i, gate in enumerate(suite.gates):
        if cells and not any(
            cell.role == ("student" if gate.metric == CAME_BACK else gate.role)
            and cell.defense.get("protection", cell.attack) == gate.attack
            and gate.subject in ("", cell.subject)
            and gate.student in ("", cell.student, cell.options.get("student"))
            for cell in cells
        ):
            raise SafetyBenchError(
                f"gates[{i}] looks at no cell: none has role {gate.role!r}, attack "
                f"{gate.attack!r}" + (f", subject {gate.subject!r}" if gate.subject else "")
            )


def schedule(cells: Sequence[Cell]) -> list[Cell]:
    """Order cells so that a target's cells run together, none before those it comes after."""
    waiting, done, ordered, target = list(cells), set[str](), [], ""
    while waiting:
        ready = [cell for cell in waiting if done.issuperset(cell.after)]
        chosen = next((cell for cell in ready if cell.target == target), ready[0])
        waiting.remove(chosen)
        done.add(chosen.label)
        ordered.append(chosen)
        target = chosen.target
    return ordered


def _private_path(value: str, base: Path) -> str | None:
    """Return what stands for a path in shared files, or None if the text gives nothing away."""
    if not value.startswith(("/", "~", "./", "../")):
        return None
    file = base / Path(value).expanduser()
    if file.is_file():
        return f"{file.name}@{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
    return file.name if value.startswith(("/", "~")) else None


def redact(data: Any, base: Path) -> Redacted:
    """Replace absolute paths by names, and paths of files by name and digest of the content."""
    paths: dict[str, str] = {}

    def walk(value: Any, here: str) -> Any:
        if isinstance(value, Mapping):
            return {key: walk(entry, f"{here}/{key}") for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [walk(entry, f"{here}/{i}") for i, entry in enumerate(value)]
        stands = _private_path(value, base) if isinstance(value, str) else None
        if stands is None:
            return value
        paths[here] = value
        return stands

    return Redacted(walk(data, ""), paths)


def restore(data: Any, paths: Mapping[str, str], here: str = "") -> Any:
    """Put the paths of `redact` back."""
    if isinstance(data, Mapping):
        return {key: restore(value, paths, f"{here}/{key}") for key, value in data.items()}
    if isinstance(data, list):
        return [restore(value, paths, f"{here}/{i}") for i, value in enumerate(data)]
    return paths.get(here, data)


def _flat(value: Any, here: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, entry in value.items():
            yield from _flat(entry, f"{here}.{key}" if here else str(key))
    elif isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        for i, row in enumerate(value):
            name = row.get("label", row.get("name", i))
            yield from _flat(row, f"{here}[{name}]")
    else:
        yield here, value


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say how two plans as plain data differ, one "place: old -> new" a line.

    >>> differences({"dtype": "float32"}, {"dtype": "float16"})
    ['dtype: "float32" -> "float16"']
    """
    before, after = dict(_flat(old)), dict(_flat(new))
    lines = []
    for place in dict.fromkeys([*before, *after]):
        if before.get(place) == after.get(place) and (place in before) == (place in after):
            continue
        is_echo = place == "hash" or re.fullmatch(r"cells\[.*\]\.key", place)
        if not is_echo:  # keys differ because something else does
            lines.append(f"{place}: {_short(before, place)} -> {_short(after, place)}")
    return lines


def _short(side: Mapping[str, Any], place: str) -> str:
    if place not in side:
        return "absent"
    text = canonical(side[place])
    return text if len(text) <= 60 else f"{text[:56]}..."


def complete(plan: Plan, items: Sequence[Item]) -> list[Cell]:
    """Return the cells of which every item is in the log."""
    found: dict[str, set[str]] = {}
    for item in items:
        found.setdefault(item.cell, set()).add(item.item)
    return [cell for cell in plan.cells if found.get(cell.label, set()) >= set(cell.items)]
