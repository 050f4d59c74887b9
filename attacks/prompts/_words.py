"""Where a concept's word stands in a prompt: replaced, or a place for free embeddings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from safetybench.contracts import EncodesText, Prompt

from ._tokens import spell, too_long


def _pattern(concept: str) -> re.Pattern[str]:
    """Match the concept as a word of its own, in any case; it may itself be several words."""
    return re.compile(rf"(?<!\w){re.escape(concept)}(?!\w)", re.IGNORECASE)


def names(prompt: str, concept: str) -> bool:
    """Tell whether a prompt has the concept's word in it."""
    return bool(concept) and _pattern(concept).search(prompt) is not None


def renamed(prompt: str, concept: str, word: str) -> str:
    """Return the prompt with another word wherever the concept's stands."""
    return _pattern(concept).sub(lambda _: word, prompt)


class Around(NamedTuple):
    """The words of a prompt before and after a concept's first mention; other mentions go."""

    before: str
    after: str

    @property
    def without(self) -> str:
        """The prompt without the concept."""
        return f"{self.before} {self.after}".strip()

    def holding(self, word: str) -> str:
        """Return the prompt with a word at the place."""
        return f"{self.before} {word} {self.after}".strip()


def around(prompt: str, concept: str) -> Around:
    """Split a prompt at the concept; where it is not named, everything stands after."""
    parts = _pattern(concept).split(prompt) if concept else [prompt]
    before, after = (parts[0], parts[1:]) if len(parts) > 1 else ("", parts)
    return Around(" ".join(before.split()), " ".join(" ".join(after).split()))


class Slots(NamedTuple):
    """Prompts without their concept, and at which token it stood.

    ids: (batch, length) int64; at: the position of the first token that is put in.
    """

    ids: Tensor
    at: list[int]

    def of(self, index: Sequence[int]) -> Slots:
        """Return the slots of some prompts."""
        return Slots(self.ids[list(index)], [self.at[i] for i in index])


def slots(target: EncodesText, prompts: Sequence[str], concept: str) -> Slots:
    """Return where free embeddings take the concept's place in each prompt."""
    places = [around(prompt, concept) for prompt in prompts]
    before = spell(target, [place.before for place in places]).words
    ids = target.tokenize([place.without for place in places])
    return Slots(ids, [1 + len(words) for words in before])


def no_room(
    target: EncodesText, prompts: Sequence[Prompt], concept: str, tokens: int
) -> dict[str, str]:
    """Return by item id why `tokens` free embeddings do not fit in the concept's place."""
    left = [p._replace(text=around(p.text, concept).without) for p in prompts]
    return too_long(target, left, tokens)


def embed_at(target: EncodesText, places: Slots, rows: Tensor) -> Tensor:
    """Return text states, (batch, length, width), with the same rows in every prompt's place.

    rows: (k, width), differentiable. One pass for each position that occurs.
    """
    parts, order = [], []
    for at in sorted(set(places.at)):
        index = [i for i, place in enumerate(places.at) if place == at]
        parts.append(target.embed(places.ids[index], rows.expand(len(index), -1, -1), at))
        order.extend(index)
    return torch.cat(parts)[torch.tensor(order).argsort()]
