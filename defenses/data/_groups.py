"""Samples by task, in an order that the order of the data does not change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from safetybench.contracts import Sample

POOLED = ""  # where tasks of few samples go together


def in_order(samples: Sequence[Sample]) -> list[int]:
    """Return the rows of samples in order of id, and of text where ids are equal."""
    keys = [(s.id, s.task, s.prompt, s.response) for s in samples]
    return sorted(range(len(samples)), key=keys.__getitem__)


def by_task(samples: Sequence[Sample], least: int = 1) -> dict[str, list[int]]:
    """Return the rows of each task in order of id; tasks of fewer than `least` are pooled."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for row in in_order(samples):
        found[samples[row].task].append(row)
    few = [task for task, rows in found.items() if len(rows) < least]
    kept = {task: rows for task, rows in sorted(found.items()) if len(rows) >= least}
    if few:
        pooled = {row for task in few for row in found[task]}
        kept[POOLED] = [row for row in in_order(samples) if row in pooled]
    return kept
