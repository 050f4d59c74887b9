"""What cells are called on the page: as short as keeps them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safetybench.wording import KINDS, component, variants

from ._text import text


def cell_names(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name cells by their attack, and where one attack stands twice by what differs."""
    short = [component(name) for name in {text(cell.get("attack")) for cell in cells}]
    found = []
    for cell, variant in zip(cells, variants(cells), strict=True):
        attack, kind = text(cell.get("attack")), text(cell.get("kind"))
        if not attack:
            found.append(_plain(cell, KINDS.get(kind, kind)))
            continue
        brief = component(attack)
        name = ", ".join(filter(None, (brief if short.count(brief) == 1 else attack, variant)))
        found.append(f"{kind}: {name}" if kind in ("control", "floor") else name)
    return found


def _plain(cell: Mapping[str, Any], kind: str) -> str:
    """Name a cell without attack: of one student among several, by the student too."""
    student = text(cell.get("student"))
    if not student:
        return text(cell.get("target")) if cell.get("role") == "control" else kind
    named = f"{student} (seed {text(cell.get('seed'))})"
    return named if cell.get("kind") == "clean" else f"{named}, {kind}"
