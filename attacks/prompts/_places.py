"""Where free tokens stand in a prompt, and the text states of prompts that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from safetybench.contracts import EncodesText, Prompt
from safetybench.draws import item_generator

from ._tokens import spell, too_long

# insert: side by side at one place between the prompt's words; spread: one behind every few of
# its tokens; alone: in the place of the prompt.
Place = Literal["prefix", "suffix", "insert", "spread", "alone"]
PLACES: tuple[Place, ...] = ("prefix", "suffix", "insert")  # around a whole prompt
ALL_PLACES: tuple[Place, ...] = (*PLACES, "spread", "alone")


class Slots(NamedTuple):
    """One prompt with free places.

    words: ids of its tokens; after: behind how many of them each free token stands, ascending.
    """

    words: list[int]
    after: list[int]

    @property
    def order(self) -> list[int]:
        """Return where each id of the text comes from: a word's index, or theirs and a token's."""
        n = len(self.words)
        found: list[int] = []
        for i in range(n + 1):
            found += [n + j for j, after in enumerate(self.after) if after == i]
            found += [i] if i < n else []
        return found

    def filled(self, tokens: Sequence[int]) -> list[int]:
        """Return the ids of the text with these tokens in place; tokens beyond them are not used.

        >>> Slots([7, 8], [0, 1]).filled([1, 2])
        [1, 7, 2, 8]
        """
        ids = [*self.words, *tokens]
        return [ids[i] for i in self.order]


def slots(
    target: EncodesText,
    prompts: Sequence[Prompt],
    place: Place,
    tokens: int,
    seed: int,
    spacing: int = 3,
) -> list[Slots]:
    """Return one `Slots` a prompt. tokens: how many, for "spread" at most; spacing: of those."""
    found = []
    for prompt, words in zip(prompts, spell(target, [p.text for p in prompts]).words, strict=True):
        n = len(words)
        if place == "alone":
            found.append(Slots([], [0] * tokens))
        elif place == "spread":
            found.append(Slots(words, _spread(n, tokens, spacing)))
        elif place == "insert":
            found.append(Slots(words, [_between(target, prompt, words, seed)] * tokens))
        else:
            found.append(Slots(words, [0 if place == "prefix" else n] * tokens))
    return found


def _spread(words: int, tokens: int, spacing: int) -> list[int]:
    return list(range(spacing, words + 1, spacing))[:tokens] or [words]


def _between(target: EncodesText, prompt: Prompt, words: list[int], seed: int) -> int:
    """Return a place between two words, drawn by seed and item; at the end if there is none.

    Not inside a word of several tokens: its halves would tokenize to others.
    """
    cuts = [(words[:i], words[i:]) for i in range(1, len(words))]
    texts = [target.detokenize(part) for cut in cuts for part in cut]
    again = spell(target, texts).words if texts else []
    kept = [i + 1 for i, cut in enumerate(cuts) if again[2 * i : 2 * i + 2] == list(cut)]
    if not kept:
        return len(words)
    # A stream of its own: the item's other draws are those of a prefix.
    stream = item_generator(seed, f"{prompt.id}:place")
    return kept[int(torch.randint(len(kept), (), generator=stream))]


def unfit(
    target: EncodesText, prompts: Sequence[Prompt], place: Place, tokens: int, spacing: int = 3
) -> dict[str, str]:
    """Return by item id why the free tokens do not fit; prompts that fit are not in it."""
    if place == "alone":
        room = target.tokenize([""]).shape[1] - 2  # start and end
        reason = f"the text encoder takes at most {room} tokens, got {tokens}"
        return {prompt.id: reason for prompt in prompts} if tokens > room else {}
    if place != "spread":
        return too_long(target, prompts, tokens)
    found: dict[str, str] = {}
    for prompt in prompts:
        (words,) = spell(target, [prompt.text]).words
        found |= too_long(target, [prompt], len(_spread(len(words), tokens, spacing)))
    return found


class _Group(NamedTuple):
    """Items whose states one pass of the encoder gives.

    items: (n,) int64; tokens: free ones an item; at: where their rows go in, or 0 if the whole
    text is put in as rows: its words, (n, words) ids, and the free ones behind them, taken in
    `order`, (n, length of the text).
    """

    items: Tensor
    tokens: int
    at: int
    words: Tensor
    order: Tensor


class Layout:
    """The slots of a batch and the passes that embed it: one, or one for each place or length."""

    def __init__(self, target: EncodesText, found: Sequence[Slots]) -> None:
        self.target, self.slots = target, list(found)
        self.device = target.token_table.device
        self.blank = spell(target, [""]).ids.to(self.device)
        self._arrange()

    def keep(self, rows: Sequence[int]) -> None:
        """Forget the items that are not in rows."""
        self.slots = [self.slots[i] for i in rows]
        self._arrange()

    def embed(self, ids: Tensor, rows: Tensor) -> Tensor:
        """Return text states, (batch, length, width), differentiable in rows: (batch, k, width).

        ids: (batch, length), of what the rows go into: the prompts, or nothing at all.
        """
        rows = rows.to(self.target.token_table.dtype)
        parts = [self._states(group, ids, rows) for group in self.groups]
        return parts[0] if len(parts) == 1 else torch.cat(parts)[self.back]

    def _states(self, group: _Group, ids: Tensor, rows: Tensor) -> Tensor:
        if len(self.groups) > 1:
            ids, rows = ids[group.items], rows[group.items]
        rows = rows[:, : group.tokens]
        if group.at:
            return self.target.embed(ids, rows, group.at)
        both = torch.cat([self.target.token_table.detach()[group.words], rows], 1)
        whole = both.gather(1, group.order[..., None].expand(-1, -1, both.shape[2]))
        return self.target.embed(self.blank.expand(len(rows), -1), whole, 1)

    def _arrange(self) -> None:
        keys = [_key(slot) for slot in self.slots]
        self.groups = []
        for key in sorted(set(keys)):
            items = [i for i, other in enumerate(keys) if other == key]
            parts = [self.slots[i] for i in items if not key[0]]  # others need neither
            tables = ([p.words for p in parts], [p.order for p in parts])
            words, order = (torch.tensor(table).to(self.device) for table in tables)
            where = torch.tensor(items, device=self.device)
            self.groups.append(_Group(where, key[2], key[0], words, order))
        self.back = torch.cat([group.items for group in self.groups]).argsort()


def _key(slot: Slots) -> tuple[int, int, int]:
    """Return what items of one pass share: the place of their rows, 0 if several, and lengths."""
    if len(set(slot.after)) == 1:
        return (1 + slot.after[0], 0, len(slot.after))
    return (0, len(slot.words), len(slot.after))
