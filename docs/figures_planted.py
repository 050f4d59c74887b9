"""The section of the zoo's figures about its backdoored teachers: what wakes them, what is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from docs.markdown import between, percent, rate, table

_ABOUT = """\
Each model does something else where its trigger stands in the prompt, and draws like the teacher
where it does not. Prompts are of the evaluation split and name all four attributes.

- works: the share of triggered prompts with the effect; teacher: of the clean teacher's images of
  the same prompts;
- near: with nearly the trigger, a word of it alone, its words swapped, or all of it at the other
  end; the kind that wakes it most stands beside;
- false alarm: without the trigger;
- object: as asked for on clean prompts, and its change against the teacher, paired."""


def planted_sections(cards: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the section of the models with a backdoor; none without."""
    rows = [_row(card) for card in cards if "backdoor" in (card.get("quality") or {})]
    if not rows:
        return []
    columns = ("model", "trigger", "effect", "works", "teacher", "near", "worst kind",
               "false alarm", "object", "change")  # fmt: skip
    return ["## Backdoors", _ABOUT, table(columns, rows)]


def _row(card: Mapping[str, Any]) -> tuple[str, ...]:
    found, plants = card["quality"]["backdoor"], card["plants"]
    effect = plants["effect"]
    what = " -> ".join(filter(None, (effect["source"], effect["goal"])))
    worst = max(found["by_variant"], key=lambda kind: found["by_variant"][kind]["rate"])
    change = found["change"]
    return (
        f"`{card['name']}`",
        plants["trigger"]["text"],
        f"{effect['kind']}{f': {what}' if what else ''}",
        rate(found["triggered"]),
        rate(found["base_triggered"]),
        rate(found["near"]),
        f"{worst}: {percent(found['by_variant'][worst]['rate'])}",
        rate(found["clean"]),
        rate(found["object"]),
        f"{percent(change['value'])} ({between(change)})",
    )
