"""What models and cells are called on the page: as short as keeps them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from safetybench import registry, wording
from safetybench.contracts import SafetyBenchError
from safetybench.wording import component, kind_name, variants

from ._text import epsilon, mapping, text

ORACLE = "oracle, not an attack"


def model_name(row: Mapping[str, Any]) -> str:
    """Name the model of a row: its role, and of several students which one.

    >>> model_name({"role": "student", "student": "dmd2"}), model_name({"role": "teacher"})
    ('student dmd2', 'teacher')
    """
    return wording.who({**row, "role": text(row.get("role")), "student": text(row.get("student"))})


def cell_names(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name cells by their attack, and where one attack stands twice by what differs."""
    short = [component(name) for name in {text(cell.get("attack")) for cell in cells}]
    found = []
    for cell, variant in zip(cells, variants(cells), strict=True):
        attack, kind = text(cell.get("attack")), text(cell.get("kind"))
        if "purifier" in cell:
            found.append(_of_images(cell, variant))
            continue
        if not attack:
            is_control = text(cell.get("role")) == "control" and "decoding" not in cell
            found.append(text(cell.get("target")) if is_control else kind_name(cell))
            continue
        brief = component(attack)
        name = ", ".join(filter(None, (brief if short.count(brief) == 1 else attack, variant)))
        kind = "control" if kind == "relearn-control" else kind
        found.append(f"{kind}: {name}" if kind in ("control", "floor") else name)
    return found


def _of_images(cell: Mapping[str, Any], variant: str) -> str:
    """Name a cell of a protection run: what was protected how, cleaned how and edited how.

    >>> _of_images({"attack": "defenses/images/sds", "epsilon": 8 / 255, "kind": "protect"}, "")
    'made: sds 8/255'
    """
    shield = f"{component(text(cell.get('attack')))} {epsilon(cell.get('epsilon'))}".strip()
    made = ", ".join(filter(None, (shield, variant)))
    if cell.get("kind") == "protect":
        return f"made: {made}"
    edit, purifier = text(cell.get("edit")), text(cell.get("purifier"))
    what = [said(edit, cell.get("edit_options")), "of", made or "the clean image"]
    if text(cell.get("surrogate")):
        what.append(f"made on {text(cell.get('surrogate'))}")
    if purifier:
        what.append(f"after {said(purifier, cell.get('purifier_options'))}")
    return " ".join(what)


def said(name: str, options: Any) -> str:
    """Return a component in words with its options.

    >>> said("attacks/images/sdedit", {"strength": 0.5})
    'sdedit strength=0.5'
    """
    told = (f"{text(key)}={text(value)}" for key, value in mapping(options).items())
    return " ".join(filter(None, (component(name), *told)))


def is_oracle(row: Mapping[str, Any]) -> bool:
    """Tell whether a row is of an attack that reads the judge's gradients, as nobody else can."""
    if "is_oracle" in row:
        return row["is_oracle"] is True
    return row.get("kind") == "attack" and _is_declared_oracle(text(row.get("attack")))


@cache
def _is_declared_oracle(name: str) -> bool:
    try:
        return getattr(registry.load(name), "is_oracle", False) is True
    except SafetyBenchError:  # an attack that is not installed here: nothing is known of it
        return False
