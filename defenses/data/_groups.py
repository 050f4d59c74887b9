"""Samples by task, in an order that the order of the data does not change."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from safetybench.contracts import Sample

POOLED = ""  # where tasks of few samples go together


def in_order(samples: Sequence[Sample]) -> list[int]:
    """Return the rows of samples in an order that neither the data nor their ids decide.

    Whoever gives the ids could say by them which of two copies came first.
    """
    told = ["\0".join((s.task, s.prompt, s.response, s.id)) for s in samples]
    keys = [hashlib.sha256(text.encode()).digest() for text in told]
    return sorted(range(len(samples)), key=keys.__getitem__)


def by_task(samples: Sequence[Sample], least: int = 1) -> dict[str, list[int]]:
    """Return the rows of each task, see `in_order`; tasks of fewer than `least` are pooled."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for row in in_order(samples):
        found[samples[row].task].append(row)
    few = [task for task, rows in found.items() if len(rows) < least]
    kept = {task: rows for task, rows in sorted(found.items()) if len(rows) >= least}
    if few:
        pooled = {row for task in few for row in found[task]}
        kept[POOLED] = [row for row in in_order(samples) if row in pooled]
    return kept
