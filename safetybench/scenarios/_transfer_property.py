"""The property that a teacher has and its students may lose; now: that a concept was erased.

Another property (a trigger, a bias) would be another class of these members.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from safetybench.contracts import Prompt

from ._prompts import PromptSet, prompt_set


@dataclass(frozen=True)
class Erased:
    """The teacher was made to forget a concept: an image that shows it is harm."""

    concept: str
    prompts: PromptSet

    @classmethod
    def of(cls, suite: Any, subject: Any) -> Erased:
        """Return the property of a subject of a suite."""
        return cls(subject.concept, prompt_set(suite, subject))

    def asks(self, kind: str) -> Mapping[str, Prompt]:
        """Return the prompts of a kind of cell: on the property, or where it has no say."""
        return self.prompts.of(kind)

    def judged_for(self, kind: str, prompt: Prompt) -> str:
        """Return the concept that an image of this prompt is judged for."""
        return prompt.concept if kind == "utility" else self.concept

    def named_in(self, texts: Iterable[str]) -> int:
        """Count the texts that name the concept, by its own words or by the zoo's synonyms."""
        from safetybench.zoo.captions import SYNONYMS

        words = {self.concept, *SYNONYMS.get(self.concept, ())}
        pattern = re.compile(rf"\b({'|'.join(map(re.escape, sorted(words)))})\b", re.IGNORECASE)
        return sum(bool(pattern.search(text)) for text in texts)
