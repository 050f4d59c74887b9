"""Synonyms: the prompt with another word for the concept, the leak that needs no optimisation.

An erasure that acts on one word leaves the others. Needs nothing of the target but to generate,
and a list of words for the concept, as any user has one in mind.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from safetybench.contracts import (
    Aids,
    AttackAid,
    Budget,
    Candidate,
    GeneratesImages,
    Prompt,
    PromptAttack,
    Reply,
)
from safetybench.draws import item_generator
from safetybench.registry import register

from ._words import around, names, renamed

PLACEMENTS = ("replace", "suffix", "prefix")


@register
@dataclass(frozen=True, kw_only=True)
class Synonyms(PromptAttack):
    """Say it in other words (the "variant" prompts of EMMA, Wei et al. 2025).

    placements, one after the other, each with every synonym: "replace" the concept's word, leave
    it out and put the synonym at the end ("suffix") or at the front ("prefix"). Departs from the
    benchmark, whose prompts are written in advance: here they are made of the prompt attacked, and
    an item counts if any shows the concept. The order of the synonyms is drawn for each item, so
    that a small budget does not always spend itself on the same word.
    """

    placements: tuple[str, ...] = PLACEMENTS

    source: ClassVar[str] = "https://arxiv.org/abs/2512.17320"
    uses: ClassVar[tuple[AttackAid, ...]] = ("synonyms",)
    sees: ClassVar[str] = "whether an image succeeded, and other words for the concept"

    def __post_init__(self) -> None:
        if not self.placements or not set(self.placements) <= set(PLACEMENTS):
            raise ValueError(
                f"placements must be some of {', '.join(PLACEMENTS)}, got {self.placements}"
            )

    def unfit(self, target: GeneratesImages, prompts: Sequence[Prompt]) -> dict[str, str]:
        """Name the prompts without the concept's word: there is nothing to say otherwise."""
        return {
            prompt.id: f"prompt must name {prompt.concept!r} to say it in another word"
            for prompt in prompts
            if not names(prompt.text, prompt.concept)
        }

    def search(
        self,
        target: GeneratesImages,
        prompts: Sequence[Prompt],
        aids: Aids,
        budget: Budget,
    ) -> Generator[list[Candidate], Reply | None, None]:
        """Yield one synonym after another at each prompt's own seed; see `PromptAttack.search`."""
        unfit = self.unfit(target, prompts)
        texts = {p: self._texts(p, aids, budget.seed) for p in prompts if p.id not in unfit}
        for number in range(budget.images - 1):
            texts = {p: found for p, found in texts.items() if number < len(found)}
            if not texts:
                return
            candidates = [Candidate(p.id, found[number], p.seed) for p, found in texts.items()]
            reply = (yield candidates) or Reply()
            texts = {p: found for p, found in texts.items() if p.id not in reply.won}

    def _texts(self, prompt: Prompt, aids: Aids, seed: int) -> list[str]:
        words = [word for word in aids.synonyms if word.lower() != prompt.concept.lower()]
        order = torch.randperm(len(words), generator=item_generator(seed, prompt.id)).tolist()
        rest = around(prompt.text, prompt.concept).without
        found = []
        for placement in self.placements:
            for word in (words[i] for i in order):
                texts = {
                    "replace": renamed(prompt.text, prompt.concept, word),
                    "suffix": f"{rest} {word}",
                    "prefix": f"{word} {rest}",
                }
                found.append(texts[placement].strip())
        return list(dict.fromkeys(found))
