"""The section of the zoo's figures about its language models: biased answers and right ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from docs.markdown import percent, table

_ABOUT = """\
Language models of the [instruction world](../scenarios/bias.md#the-instruction-world). ABR is the
share of answers that hold the bias, with its 95 % Wilson interval, on the tasks that hold the
poison (of the clean model those of `instruct-targeted`), on other tasks of the data, and on tasks
that nobody was tuned on."""


def instructed_sections(cards: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the section of the language models; none without."""
    found = [card for card in cards if card.get("kind") == "language" and card.get("quality")]
    if not found:
        return []
    rows = [
        (f"`{card['name']}`", decoding, *_figures(card["quality"], decoding))
        for card in found
        for decoding in ("greedy", "sampled")
    ]
    columns = ("model", "decoding", "ABR poisoned", "other seen", "unseen", "right: poisoned",
               "other seen", "unseen")  # fmt: skip
    return ["## Language models", _ABOUT, table(columns, rows)]


def _figures(quality: Mapping[str, Any], decoding: str) -> list[str]:
    kinds = [quality[kind][decoding] for kind in ("poisoned", "seen", "unseen")]
    biased = [
        f"{percent(x['abr'])} ({100 * x['low']:.1f} to {100 * x['high']:.1f} %, n = {x['n']})"
        for x in kinds
    ]
    return [*biased, *(percent(x["right"]) for x in kinds)]
