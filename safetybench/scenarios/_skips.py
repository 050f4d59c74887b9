"""Which prompts do not count in a cell of the unlearning scenario, and how the log says so."""

from __future__ import annotations

from collections.abc import Mapping

from safetybench.contracts import Cell, Item, Prompt

from ._controls import NOT_IDEAL


def reason_to_skip(cell: Cell, prompt: Prompt, originals: Mapping[str, Item]) -> str:
    """Return why a prompt does not count in this cell, "" if it does; originals: by item id."""
    if not prompt.text:
        return "the prompt is empty"
    if not originals or cell.kind in ("utility", "plain"):
        return ""
    if cell.kind == "floor":
        has_image = bool(originals[prompt.id].artifacts)
        return "" if has_image else "the original has no image of this prompt"
    return "" if originals[prompt.id].success else NOT_IDEAL


def skipped(cell: Cell, chunk: int, prompt: Prompt, reason: str) -> Item:
    """Return the record of a prompt that does not count."""
    return Item(
        cell=cell.label,
        chunk=chunk,
        item=prompt.id,
        status="skipped",
        prompt=prompt.text,
        seed=prompt.seed,
        error=reason,
    )
