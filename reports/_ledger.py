"""The parts of the page that account for things: every item, every cell's cost, the manifest."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from safetybench.contracts import Item
from safetybench.wording import component

from ._cells import CellRow, Estimate, estimate
from ._load import Record
from ._text import Piece, mapping, number, pieces, rows, text

MOST_SHOWN = 8  # checks of one name and outcome that stand open
MOST_ITEMS = 5000  # rows; a browser still filters that many without a pause
WITHHELD = (Piece("withheld", "withheld"),)


class Line(NamedTuple):
    """One item of the item table."""

    item: Item
    outcome: str
    prompt: tuple[Piece, ...]
    error: str


class Group(NamedTuple):
    """The items of one cell; cell: None where results.json does not know it."""

    label: str
    cell: CellRow | None
    lines: tuple[Line, ...]
    left_out: int


class Fact(NamedTuple):
    """One entry of the manifest; name: its path in the file."""

    name: str
    value: str


class Gate(NamedTuple):
    """A limit of the suite and what became of it; place: attack, and subject if it names one."""

    metric: str
    role: str
    place: str
    decision: str
    below: float | None
    found: Estimate
    needed_n: float | None


class Check(NamedTuple):
    """What the harness tested about its own measurement; state: word and shape of its badge."""

    name: str
    where: str
    state: str
    message: str


class CheckGroup(NamedTuple):
    """Checks of one name and outcome: those that are shown, and those that open on demand."""

    name: str
    state: str
    shown: tuple[Check, ...]
    rest: tuple[Check, ...]


class Costs(NamedTuple):
    """Sums over all cells; memory is the highest of them."""

    wall_s: float
    cpu_s: float
    device_s: float
    nfe: float
    peak_mb: float


class ModelCosts(NamedTuple):
    """What all cells of one model of a subject cost."""

    subject: str
    who: str
    cells: int
    sums: Costs


def gates(record: Record) -> list[Gate]:
    """Return the gates of results.json."""
    return [
        Gate(
            text(gate.get("metric")),
            text(gate.get("role")),
            _place(gate),
            text(gate.get("decision")) or "undecided",
            number(gate.get("below")),
            estimate(gate.get("value"), gate.get("interval")),
            number(gate.get("needed_n")),
        )
        for gate in rows(record.results.get("gates"))
    ]


def _place(gate: Mapping[str, Any]) -> str:
    attack, subject = component(text(gate.get("attack"))), text(gate.get("subject"))
    variant = text(gate.get("variant"))
    where = f"under {attack}" + (f" ({variant})" if variant else "")
    where = where if attack else "without an attack"
    return ", ".join(filter(None, (where, subject, text(gate.get("student")))))


def checks(record: Record) -> list[Check]:
    """Return the checks of results.json; one that does not say it passed has failed."""
    return [
        Check(
            text(check.get("name")),
            text(check.get("where"))
            or " · ".join(filter(None, (text(check.get("subject")), text(check.get("cell"))))),
            "passed"
            if check.get("passed") is True
            else "warning"
            if check.get("effect") == "warning"
            else "failed",
            text(check.get("message")),
        )
        for check in rows(record.results.get("checks"))
    ]


def check_groups(found: Iterable[Check]) -> list[CheckGroup]:
    """Group the checks that did not pass, so that one fault of many cells fills no page."""
    groups: dict[tuple[str, str], list[Check]] = {}
    for check in found:
        if check.state != "passed":
            groups.setdefault((check.name, check.state), []).append(check)
    return [
        CheckGroup(name, state, tuple(mine[:MOST_SHOWN]), tuple(mine[MOST_SHOWN:]))
        for (name, state), mine in groups.items()
    ]


def groups(record: Record, cells: Sequence[CellRow], redact: bool) -> list[Group]:
    """Return every committed item under its cell, in the order of the plan."""
    by_cell: dict[str, list[Item]] = {cell.label: [] for cell in cells}
    for item in record.items:
        by_cell.setdefault(item.cell, []).append(item)
    known = {cell.label: cell for cell in cells}
    room = MOST_ITEMS
    found = []
    for label, items in by_cell.items():
        if items:
            shown = items[:room]
            lines = tuple(_line(item, redact) for item in shown)
            found.append(Group(label, known.get(label), lines, len(items) - len(shown)))
            room -= len(shown)
    return found


def _line(item: Item, redact: bool) -> Line:
    outcome = item.status if item.status != "ok" else "hit" if item.success else "miss"
    if not item.adversarial or item.adversarial == item.prompt:
        prompt: tuple[Piece, ...] = (Piece("same", item.prompt),)
    else:
        prompt = WITHHELD if redact else tuple(pieces(item.prompt, item.adversarial))
    # A message may quote the prompt; its class may not.
    error = item.error.split(":", 1)[0] if redact else item.error
    return Line(item, outcome, prompt, error)


def costs(cells: Iterable[CellRow]) -> Costs:
    """Sum what the cells cost."""
    known = [cell.cost for cell in cells]

    def values(key: str) -> list[float]:
        return [number(cost.get(key)) or 0.0 for cost in known]

    return Costs(
        wall_s=sum(values("wall_s")),
        cpu_s=sum(values("cpu_s")),
        device_s=sum(values("device_s")),
        nfe=sum(values("nfe")),
        peak_mb=max(values("peak_mb"), default=0.0),
    )


def model_costs(cells: Iterable[CellRow]) -> list[ModelCosts]:
    """Sum the cost of each model of each subject, in the order of the cells."""
    found: dict[tuple[str, str], list[CellRow]] = {}
    for cell in cells:
        found.setdefault((cell.subject, cell.who), []).append(cell)
    return [ModelCosts(*key, len(mine), costs(mine)) for key, mine in found.items()]


def facts(value: Any, name: str = "") -> list[Fact]:
    """Flatten the manifest, whatever it holds, so that nothing of it is dropped."""
    if isinstance(value, Mapping):
        below = [facts(part, f"{name}.{key}" if name else text(key)) for key, part in value.items()]
        return [fact for part in below for fact in part]
    if isinstance(value, list):
        if all(not isinstance(part, Mapping | list) for part in value):
            return [Fact(name, " ".join(pathless(text(part)) for part in value))]
        below = [facts(part, f"{name}.{position}") for position, part in enumerate(value)]
        return [fact for part in below for fact in part]
    shown = text(value).lower() if isinstance(value, bool) else text(value)
    return [Fact(name, pathless(shown))]


def pathless(value: str) -> str:
    """Cut an absolute path down to its last part: reports are shared, home folders are not.

    >>> pathless("/home/someone/suite.yaml")
    'suite.yaml'
    """
    if value.startswith("file:"):
        value = value.removeprefix("file://")
    if value.startswith(("/", "~")):
        return PurePosixPath(value).name or value
    if re.match(r"[A-Za-z]:[\\/]|\\\\", value):
        return PureWindowsPath(value).name or value
    return value


def command(record: Record) -> str:
    """Return the command line that repeats the run into a folder of the reader's choice."""
    given = record.manifest.get("argv")
    words = [text(word) for word in given] if isinstance(given, list) else []
    if "run" in words:
        words = words[words.index("run") + 1 :]
    else:
        words = [text(mapping(record.results.get("run")).get("suite")) or "SUITE"]
    kept: list[str] = []
    skip = False
    for word in words:
        if skip or word.startswith(("--out=", "--resume=")):
            skip = False
        elif word in ("--out", "--resume"):
            skip = True
        else:
            flag, equals, rest = word.partition("=")
            is_option = word.startswith("--") and bool(equals)
            kept.append(shlex.quote(f"{flag}={pathless(rest)}" if is_option else pathless(word)))
    return " ".join(["safetybench run", *kept, "--out FOLDER"])
