"""What the answers on evasion read from a run: what attacks leave, and one student beside another.

A run compares students with their teacher. Of two students the difference is taken here, from what
results.json says of each training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from docs.figures_evasion import is_own, points, withstood
from docs.markdown import NONE
from safetybench import stats
from safetybench.scenarios._seed_stats import spread
from safetybench.wording import EVADED, component

Row = Mapping[str, Any]
Counts = Mapping[str, tuple[int, int]]  # by seed: images that stay right, of how many


class Gap(NamedTuple):
    """The first minus the second, in shares; interval: over seeds and images, see the page."""

    value: float
    interval: Mapping[str, float]


def rows_of(results: Row, role: str = "") -> list[Row]:
    """Return the rows of models of a run."""
    return [row for row in results["robustness"] if role in ("", row["role"])]


def pair_of(results: Row, row: Row, metric: str = "worst-case") -> Row | None:
    """Return the pair of a student and its teacher."""
    for pair in results["pairs"]:
        if (pair["subject"], pair["student"]["name"], pair["metric"]) == (
            row["subject"], row["model"], metric):  # fmt: skip
            return pair  # type: ignore[no-any-return]  # of a parsed file
    return None


def attack_of(row: Row, attack: str, options: Row | None = None) -> Row | None:
    """Return an attack on a model; of several sizes that of the threat."""
    alike = [
        each
        for each in row["attacks"]
        if component(each["attack"]) == attack and each["options"] == (options or {})
    ]
    return min(alike, key=lambda each: is_own(each, row["threat"]), default=None)


def left(row: Row, attack: str, options: Row | None = None, size: str = "left") -> Row | None:
    """Return what an attack leaves right of a model; size: "left" in the ball, "own" at its own."""
    found = None if row["invalid"] else attack_of(row, attack, options)
    return found[size] if found else None


def mean_l2(row: Row, attack: str) -> str:
    """Return the mean L2 size of the changes that misled a model."""
    found = attack_of(row, attack)
    size = found["sizes"]["l2"] if found else None
    return NONE if size is None else f"{size:.2f}"


def counts(results: Row, row: Row, kind: str, attack: str = "") -> Counts:
    """Return by seed how many images stay right in the cells of one kind, or under one attack."""
    found: dict[str, tuple[int, int]] = {}
    for cell in results["cells"]:
        model, _, seed = str(cell.get("student", "")).rpartition(".seed")
        place = (cell["subject"], cell["role"], model, cell["kind"])
        is_mine = place == (row["subject"], row["role"], row["model"], kind)
        if is_mine and cell["valid"] and attack in ("", component(cell["attack"])):
            right, n = found.get(seed, (0, 0))
            found[seed] = (right + cell["n_ok"] - cell["successes"], n + cell["n_ok"])
    return {seed: both for seed, both in found.items() if both[1]}


def in_worst_case(row: Row) -> Counts:
    """Return by seed how many images no attack misleads."""
    n, by_seed = row["images"], row["worst_by_seed"]
    known_seeds = {} if row["invalid"] else by_seed
    return {s: (round(share * n), n) for s, share in known_seeds.items() if share is not None}


def gap(first: Counts, second: Counts) -> Gap | None:
    """Return the first minus the second over the seeds of both, None where they share none.

    >>> gap({"1": (8, 10), "2": (7, 10)}, {"1": (6, 10), "2": (5, 10)}).value
    0.2
    """
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        return None
    shares = [first[s][0] / first[s][1] - second[s][0] / second[s][1] for s in seeds]
    sums = [sum(side[s][i] for s in seeds) for side in (second, first) for i in (0, 1)]
    spans = [span for span in (stats.rate_difference(*sums), spread(shares)) if span]
    low, high = min(span.low for span in spans), max(span.high for span in spans)
    mean = round(sum(shares) / len(shares), 10)
    return Gap(mean, {"low": max(low, -1.0), "high": min(high, 1.0)})


def word(found: Gap | None) -> str:
    """Say whether the first is right more often than the second.

    >>> word(Gap(0.1, {"low": 0.05, "high": 0.15})), word(None)
    ('more', 'no figure')
    """
    if found is None:
        return "no figure"
    ends = found.interval
    return "more" if ends["low"] > 0 else "less" if ends["high"] < 0 else "not shown"


def told(found: Gap | None) -> str:
    """Return a difference in points with its interval."""
    return NONE if found is None else points(found.value, found.interval)


def versus(results: Row, row: Row) -> str:
    """Return by how many points more a student withstands than its teacher."""
    pair = pair_of(results, row)
    return points(*withstood(pair)) if pair else NONE


def verdict(results: Row, row: Row) -> str:
    """Return the run's verdict on a student and its teacher in the worst case."""
    pair = pair_of(results, row)
    return f"**{EVADED[pair['verdict']]}**" if pair else NONE


def signs(row: Row) -> str:
    """Return the signs of masked gradients that a model shows, in brackets; "" where none."""
    failed = [s for s in row["masking"]["signs"] if not s["passed"] and s["effect"] == "masked"]
    found = dict.fromkeys(f"{sign['code']} {sign['name']}" for sign in failed)
    return f" ({', '.join(found)})" if found else ""
