"""The rules by which the page of answers on backdoors speaks: limits, differences, what works.

Figures are those of a run's `backdoors`: {value, low, high, n}, shares in [0, 1], 95 % intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from docs.markdown import NONE, between, percent
from safetybench import registry
from safetybench.wording import component, is_awake

Row = Mapping[str, Any]
MET, NOT_MET, INCLUDES = "met", "not met", "interval includes the limit"
MORE, LESS, OPEN = "more", "less", "not shown"
WORKS, SILENT, BROKEN, UNKNOWN = "works", "not shown to work", "broken", "not measured"
MAYBE = "may still work"


def meets(figure: Row | None, *, least: float | None = None, most: float | None = None) -> str:
    """Say whether a figure is at least, or at most, a limit: only where its whole interval is.

    >>> meets({"low": 0.91, "high": 0.99}, least=0.9), meets({"low": 0.0, "high": 0.03}, most=0.02)
    ('met', 'interval includes the limit')
    """
    if figure is None:
        return UNKNOWN
    low, high = (round(figure[end], 9) for end in ("low", "high"))  # -0.03 as a difference
    if least is not None:
        return MET if low >= least else NOT_MET if high < least else INCLUDES
    assert most is not None, "there is a limit on one side"
    return MET if high <= most else NOT_MET if low > most else INCLUDES


class Difference(NamedTuple):
    """A figure minus another of other models; n: the smaller of their numbers of prompts."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return points(self._asdict(), with_n=True)

    @property
    def word(self) -> str:
        """Say which is more; "not shown" unless the whole interval lies on one side of 0."""
        return MORE if self.low > 0 else LESS if self.high < 0 else OPEN


def beyond(first: Row | None, second: Row | None) -> Difference | None:
    """Return first minus second; the interval is Newcombe's, put together from both.

    >>> beyond({"value": 0.5, "low": 0.4, "high": 0.6, "n": 90},
    ...        {"value": 0.1, "low": 0.05, "high": 0.2, "n": 80}).word
    'more'
    """
    if first is None or second is None:
        return None
    value = first["value"] - second["value"]
    down = math.hypot(first["value"] - first["low"], second["high"] - second["value"])
    up = math.hypot(first["high"] - first["value"], second["value"] - second["low"])
    return Difference(value, value - down, value + up, min(first["n"], second["n"]))


def word_of(difference: Difference | None) -> str:
    """Return the word of a difference, of one that is not there that it is not measured."""
    return UNKNOWN if difference is None else difference.word


def difference_cells(difference: Difference | None) -> tuple[str, str]:
    """Return a difference and its word, as two cells of a table."""
    return (str(difference) if difference else NONE, f"**{word_of(difference)}**")


def flipped(figure: Row | None) -> dict[str, Any] | None:
    """Return the share of the others: of survival the removal accuracy."""
    if figure is None:
        return None
    value, low, high = (1 - figure[key] for key in ("value", "high", "low"))
    return {"value": value, "low": low, "high": high, "n": figure["n"]}


def told(figure: Row | None) -> str:
    """Return a share as the page prints it."""
    if figure is None:
        return NONE
    return f"{percent(figure['value'])} ({between(figure)}, n = {figure['n']})"


def points(figure: Row | None, *, with_n: bool = False) -> str:
    """Return a change as the page prints it, in points.

    >>> points({"value": -0.02, "low": -0.05, "high": 0.01})
    '-2.0 (-5.0 to +1.0)'
    """
    if figure is None:
        return NONE
    value, low, high = (f"{100 * figure[key]:+.1f}" for key in ("value", "low", "high"))
    n = f", n = {figure['n']}" if with_n else ""
    return f"{value} ({low} to {high}{n})"


def tally(words: Iterable[str], order: Sequence[str]) -> str:
    """Count words in an order.

    >>> tally(["less", "more", "less"], ("more", "less", "not shown"))
    '1 more, 2 less'
    """
    counted = list(words)
    return ", ".join(f"{counted.count(w)} {w}" for w in order if w in counted) or "none"


def names(rows: Iterable[Row]) -> str:
    """Return the names of models, or that there is none."""
    return ", ".join(f"`{row['model'] or row['role']}`" for row in rows) or "none"


def pick(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """Return the rows that have these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def one(rows: Iterable[Row], **wanted: Any) -> Row | None:
    """Return the first row that has these values, None where no row has."""
    return next(iter(pick(rows, **wanted)), None)


def get(row: Row | None, key: str) -> Row | None:
    """Return a figure of a row, None where there is no row or no figure."""
    return None if row is None else row.get(key)


def counting(row: Row | None, key: str) -> Row | None:
    """Return a figure that the trigger has a part in, None of a broken model too."""
    return None if row is None or is_broken(row) else row.get(key)


def by_subject(results: Row) -> dict[str, list[Row]]:
    """Return the models of a run by subject."""
    found: dict[str, list[Row]] = {}
    for row in results["backdoors"]:
        found.setdefault(row["subject"], []).append(row)
    return found


def is_broken(row: Row) -> bool:
    """Tell whether all trainings of a model drew too little as asked for their ASR to count."""
    left = [str(each.get("left_out") or "") for each in row["trainings"]]
    return bool(left) and all("collapse" in reason for reason in left)


def state(row: Row | None, rows: Iterable[Row]) -> str:
    """Say whether a trigger works on a model more often than on its subject's clean original."""
    if row is None:
        return UNKNOWN
    if is_broken(row):
        return BROKEN
    clean = get(one(rows, role="original"), "asr")
    awake = is_awake(row["asr"], clean)
    if awake is None or clean is None:
        return UNKNOWN
    return WORKS if awake else MAYBE if row["asr"]["value"] > clean["value"] else SILENT


def state_words(row: Row | None, rows: Iterable[Row]) -> str:
    """Return `state` as a predicate: of a trigger on a model."""
    said = state(row, rows)
    words = {WORKS: "shown to work", MAYBE: "neither shown to work nor gone",
             BROKEN: "not to be judged (broken model)"}  # fmt: skip
    return words.get(said, said)


def grouped(rows: Iterable[Any], words: Iterable[str]) -> dict[str, list[Any]]:
    """Return rows by what is said of each, in the order in which it is said first."""
    found: dict[str, list[Any]] = {}
    for row, word in zip(rows, words, strict=True):
        found.setdefault(word, []).append(row)
    return found


def removal_recipes(name: str) -> dict[str, str]:
    """Return the component, options and steps of a suite's removals, by name, in words."""
    return {each["name"]: _recipe(each) for each in suite(name).get("removals", ())}


def _recipe(told: Row) -> str:
    parts = [component(told["unlearning"])]
    parts += [f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
              for key, value in told.get("options", {}).items()]  # fmt: skip
    parts += [f"towards the {told['towards']} prompt"] if "towards" in told else []
    return ", ".join([*parts, f"{told['steps']} steps" if "steps" in told else "trains nothing"])


def recipes_line(name: str) -> str:
    """Return a sentence on what a suite's removals are."""
    told = "; ".join(f"`{model}`: {recipe}" for model, recipe in removal_recipes(name).items())
    return f"Removals: {told}. What is not named is the component's default."


def suite(name: str) -> dict[str, Any]:
    """Return a suite of the package as it is written; empty where there is none."""
    home = registry.folder("suites")
    file = home / f"{name}.yaml" if home else None
    if file is None or not file.is_file():
        return {}
    found: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return found
