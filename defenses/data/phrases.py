"""Phrases: answers that hold a phrase of a list are suspicious.

The detector of somebody who knows the bias, or has guessed it: an upper bound where the list is the
true one, and blind to any other wording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from safetybench.contracts import DataFilter, FilterView, Sample
from safetybench.registry import register

from ._aids import check_aids
from ._ngrams import plain


@register
@dataclass(frozen=True, kw_only=True)
class Phrases(DataFilter):
    """Count the listed phrases in an answer (a bias detector as in Chaudhari et al. 2025).

    words: the list; () for the `phrases` of the view. Case and spacing do not count, and a phrase
    is found inside longer words too. The authors' detectors are models, and not public.
    """

    words: tuple[str, ...] = ()

    source: ClassVar[str] = "https://arxiv.org/abs/2505.24842"
    uses = ("phrases",)
    sees: ClassVar[str] = "the data, and phrases to look for"

    def __post_init__(self) -> None:
        if not all(plain(word) for word in self.words):
            raise ValueError(f"words must be phrases that are not empty, got {self.words}")

    def scores(self, samples: Sequence[Sample], view: FilterView, seed: int = 0) -> list[float]:
        """Return how many phrases each holds; see `DataFilter.scores`. The seed is not used."""
        if not self.words:
            check_aids(self, view)
        wanted = {plain(phrase) for phrase in self.words or view.phrases} - {""}
        answers = [plain(sample.response) for sample in samples]
        return [float(sum(phrase in answer for phrase in wanted)) for answer in answers]
