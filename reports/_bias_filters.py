"""Filters of a bias run: how well each tells poison from clean data, and how much gets past it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ._cells import Estimate, estimate
from ._load import Record
from ._names import said
from ._text import mapping, number, rows, text


class Filtered(NamedTuple):
    """A filter on one kind of data. passed: share of the poison, by share of clean that is lost.

    void: how many of its trainings do not count; errors: why there is no figure, or what is wrong.
    """

    auroc: Estimate
    by_seed: tuple[float, ...]
    passed: Mapping[str, Estimate]
    seeds: float | None
    void: int
    errors: tuple[str, ...]

    @property
    def is_valid(self) -> bool:
        """Tell whether there is a figure, of a training that counts."""
        return self.auroc.value is not None and (self.seeds is None or self.void < self.seeds)

    @property
    def is_chance(self) -> bool:
        """Tell whether its interval holds what guessing scores."""
        low, high = self.auroc.low, self.auroc.high
        return low is not None and high is not None and low <= 0.5 <= high


class Filter(NamedTuple):
    """A filter of data, by what it was tried on: "instructions" or "answers"."""

    name: str
    on: Mapping[str, Filtered]

    @property
    def errors(self) -> dict[str, list[str]]:
        """Return what is wrong, with the kinds of data that it is about."""
        found: dict[str, list[str]] = {}
        for on, filtered in self.on.items():
            for error in filtered.errors:
                found.setdefault(error, []).append(on)
        return found


def filters_of(record: Record, subject: str, shared: str) -> Iterator[Filter]:
    """Yield the filters of a subject; shared: the reason that is told once for all of it."""
    broken: dict[tuple[str, str], dict[str, str]] = {}
    for cell in rows(record.results.get("cells")):
        if cell.get("valid") is False and text(cell.get("subject")) == subject:
            mine = broken.setdefault((text(cell.get("filter")), text(cell.get("on"))), {})
            mine[text(cell.get("seed"))] = text(cell.get("invalid_reason"))
    found: dict[str, dict[str, Filtered]] = {}
    for row in rows(record.results.get("filters")):
        if text(row.get("subject")) != subject:
            continue
        area, on = mapping(row.get("auroc")), text(row.get("on"))
        void = broken.get((text(row.get("filter")), on), {})
        told = (text(row.get("error")), *(why for why in void.values() if why != shared))
        name = said(text(row.get("filter")), row.get("options"))
        found.setdefault(name, {})[on] = Filtered(
            estimate(area.get("value"), area),
            floats(area.get("by_seed")),
            {text(k): figure(v) for k, v in mapping(row.get("passed")).items()},
            number(row.get("seeds")),
            len(void),
            tuple(dict.fromkeys(filter(None, told))),
        )
    yield from (Filter(name, on) for name, on in found.items())


def figure(found: Any) -> Estimate:
    """Read a figure of a row: its value, interval and number of instructions or samples."""
    told = mapping(found)
    return estimate(told.get("value"), told.get("interval"), told.get("n"))


def floats(found: Any) -> tuple[float, ...]:
    """Read a list of numbers, without what is none."""
    values = map(number, found if isinstance(found, list) else [])
    return tuple(value for value in values if value is not None)


def percent(share: str) -> str:
    """Write a share that is a key of JSON.

    >>> percent("0.01"), percent("few")
    ('1%', 'few')
    """
    try:
        return f"{100 * float(share):g}%"
    except ValueError:
        return share
