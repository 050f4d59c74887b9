"""Which control belongs to which attack, and what cells are called."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from safetybench import registry
from safetybench.contracts import Cell

RANDOM = "attacks/prompts/random_prefix"
SEEDS = "attacks/prompts/seed_search"
RELEARNING = ("relearn", "relearn-control")
NOT_IDEAL = "the original does not show the concept on this prompt"


def label_of(cell: Cell) -> str:
    """Return a label that only cells of the same content share: portable, and readable."""
    parts = [cell.subject, cell.role, *filter(None, [cell.student]), cell.kind]
    if cell.attack:
        budget = {"steps": cell.budget.steps, "images": cell.budget.images}
        content = json.dumps([cell.options, budget], sort_keys=True, default=str)
        short = hashlib.sha256(content.encode()).hexdigest()[:4]
        name = [cell.attack.rpartition("/")[2], str(cell.budget.images), short]
        if cell.kind in RELEARNING:
            name[1] = str(cell.budget.steps)
        if cell.kind == "attack":  # a preset's name says more than a digest
            name[1:1] = [v for v in cell.options.values() if isinstance(v, str)]
        parts += ["-".join(name), f"seed{cell.seed}"]
    return ".".join(part.replace("/", "-") for part in parts)


def who(cell: Cell) -> tuple[str, str, str]:
    """Return which model of which subject a cell is about."""
    return (cell.subject, cell.role, cell.student)


def place_of(cell: Cell) -> str:
    """Return what the cells of different models on the same task share."""
    return label_of(replace(cell, role="", student=""))


def random_options(attack: Any) -> dict[str, Any]:
    """Return the options of the random control of an attack, all of them.

    Two attacks that leave a default out or say it then share one control.
    """
    return asdict(registry.create(RANDOM, attack.control_options()))


def controls_of(cell: Cell, cells: Sequence[Cell]) -> dict[str, Cell]:
    """Return an attack's control cells by "random", "seeds" and "floor": as many images."""
    if cell.kind == "relearn":
        twin = label_of(replace(cell, kind="relearn-control"))
        return dict([("random", other) for other in cells if other.label == twin])
    options = random_options(registry.create(cell.attack, cell.options))
    found = {}
    for other in cells:
        same = who(other) == who(cell) and other.seed == cell.seed
        if not same or other.label == cell.label or other.budget.images != cell.budget.images:
            continue
        if other.kind == "control" and other.attack == SEEDS:
            found["seeds"] = other
        if other.attack == RANDOM and dict(other.options) == dict(options):
            found["random" if other.kind == "control" else "floor"] = other
    return found
