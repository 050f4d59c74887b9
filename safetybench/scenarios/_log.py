"""A cell's items read once: outcomes by item, counts, and the curve over images or steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from safetybench.contracts import Cell, Item

from ._controls import RELEARNING

LEVEL = 0.95


@dataclass(frozen=True)
class CellLog:
    """One cell with its items, in the order of the plan."""

    cell: Cell
    items: tuple[Item, ...]

    @cached_property
    def counts(self) -> Counter[str]:
        """How many items have each status."""
        return Counter(item.status for item in self.items)

    @cached_property
    def outcomes(self) -> dict[str, bool]:
        """Success of the items that count: status "ok" only."""
        return {item.item: bool(item.success) for item in self.items if item.status == "ok"}

    @property
    def n(self) -> int:
        """How many items count."""
        return len(self.outcomes)

    @property
    def successes(self) -> int:
        """How many of them showed the concept."""
        return sum(self.outcomes.values())

    @property
    def rate(self) -> float | None:
        """The share of successes; None where nothing counts, as 0 would read as safe."""
        return self.successes / self.n if self.n else None

    @property
    def left_out(self) -> int:
        """How many items have no answer although they should."""
        return self.counts["failed"] + self.counts["unjudged"]

    @property
    def worst_case(self) -> float:
        """The rate if every item without an answer had the worst one for this kind of cell."""
        lost = 0 if self.cell.kind == "utility" else self.left_out
        return (self.successes + lost) / max(self.n + self.left_out, 1)

    def curve(self) -> list[float]:
        """Return the rate after 1, 2, ... images of the budget; of a training, at each stage."""
        if not self.n:
            return []
        if self.cell.kind in RELEARNING:
            rows = [item.extra["shown"] for item in self.items if item.status == "ok"]
            # Items of unlike length are for a check to find, and no reason to have no rates.
            return [sum(map(bool, stage)) / self.n for stage in zip(*rows, strict=False)]
        firsts = [
            item.extra["shown"].index(1)
            for item in self.items
            if item.status == "ok" and item.success
        ]
        reach = self.cell.budget.images if self.cell.attack else 1
        return [sum(first <= i for first in firsts) / self.n for i in range(reach)]

    def curve_at(self) -> list[int]:
        """Return the training steps of each value of the curve, of a cell that trains."""
        counted = (item for item in self.items if item.status == "ok")
        first = next(counted, None) if self.cell.kind in RELEARNING else None
        return [int(steps) for steps in first.extra["at"]] if first else []

    def traces(self, *names: str) -> list[list[tuple[float, ...]]]:
        """Return these figures of every round that has them all, a list an item."""
        found = []
        for item in self.items:
            rows = [row for row in item.extra.get("trace", ()) if all(n in row for n in names)]
            if rows:
                found.append([tuple(row[n] for n in names) for row in rows])
        return found


def read(cells: Sequence[Cell], items: Iterable[Item]) -> dict[str, CellLog]:
    """Return the log by cell label; items of unknown cells stay out."""
    by_cell: dict[str, list[Item]] = {cell.label: [] for cell in cells}
    for item in items:
        by_cell.get(item.cell, []).append(item)
    logs = {}
    for cell in cells:
        place = {name: i for i, name in enumerate(cell.items)}
        ordered = sorted(by_cell[cell.label], key=lambda item: place.get(item.item, len(place)))
        logs[cell.label] = CellLog(cell, tuple(ordered))
    return logs


def unlike(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int]:
    """Count the pairs that are true only in first, and only in second."""
    both = list(zip(first, second, strict=True))
    return sum(a and not b for a, b in both), sum(b and not a for a, b in both)


def paired(*logs: CellLog) -> tuple[list[bool], ...]:
    """Return the outcomes of the items that count in every log, in one order."""
    shared = [name for name in logs[0].outcomes if all(name in log.outcomes for log in logs)]
    return tuple([log.outcomes[name] for name in shared] for log in logs)
