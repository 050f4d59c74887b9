"""Textual perturbation: change a prompt a little at random, so that an exact trigger breaks.

Synonyms, deleted or swapped characters, dropped words, look-alikes made plain. Costs nothing at
run time, and some of what the user asked for. Access: the prompt alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from safetybench.contracts import PromptFilter
from safetybench.registry import register

from ._fold import fold

Kind = Literal["synonym", "homoglyph", "delete", "swap", "drop"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@register
@dataclass(frozen=True, kw_only=True)
class TextualPerturbation(PromptFilter):
    """Perturb prompts against backdoors (Chew et al. 2024).

    kind: "synonym" for words of the list, "homoglyph" makes look-alikes plain (nothing random),
    "delete" and "swap" take out or exchange characters inside a word, "drop" leaves words out.
    strength: share of the words that is changed, in [0, 1], drawn word by word (published: 0.5 of
    the words for synonyms); of a "drop" at least one word stays.
    synonyms: groups of words that mean the same; () for those of the zoo's grammar. Published:
    neighbours in a word embedding within a distance of 0.2, which needs that embedding, and
    translation there and back, which needs a model: neither is here.
    """

    kind: Kind = "synonym"
    strength: float = 0.5
    synonyms: tuple[tuple[str, ...], ...] = ()

    source: ClassVar[str] = "https://arxiv.org/abs/2408.15721"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength is a share of the words in [0, 1], got {self.strength}")
        if any(len(group) < 2 for group in self.synonyms):
            raise ValueError(f"synonyms must be groups of two words or more, got {self.synonyms}")

    def rewrite(self, prompts: Sequence[str], seed: int = 0) -> list[str]:
        """Return perturbed prompts; see `PromptFilter.rewrite`."""
        if self.kind == "homoglyph":
            return [fold(prompt) for prompt in prompts]
        others = self._others() if self.kind == "synonym" else {}
        return [
            self._perturbed(prompt, random.Random(f"{seed}/{prompt}"), others) for prompt in prompts
        ]

    def _others(self) -> dict[str, list[str]]:
        """Return what may stand for each word."""
        groups: Sequence[Sequence[str]] = self.synonyms
        if not groups:
            from safetybench.zoo.captions import SYNONYMS

            groups = list(SYNONYMS.values())
        return {
            word.lower(): [each for each in group if each != word]
            for group in groups
            for word in group
        }

    def _perturbed(self, prompt: str, rng: random.Random, others: dict[str, list[str]]) -> str:
        words = prompt.split()
        is_changed = [rng.random() < self.strength for _ in words]
        if self.kind == "drop":
            kept = [word for word, gone in zip(words, is_changed, strict=True) if not gone]
            return " ".join(kept or words[:1])
        return " ".join(
            self._changed(word, rng, others) if is_hit else word
            for word, is_hit in zip(words, is_changed, strict=True)
        )

    def _changed(self, word: str, rng: random.Random, others: dict[str, list[str]]) -> str:
        if self.kind == "synonym":
            return rng.choice(others.get(word.lower()) or [word])
        if len(word) < 2:
            return word  # nothing of it would be left, or nothing else
        if self.kind == "delete":
            at = rng.randrange(len(word))
            return word[:at] + word[at + 1 :]
        at = rng.randrange(len(word) - 1)
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
