"""Deduplication cap: answers that repeat a phrase unknown to trusted data are suspicious.

The first few copies of a phrase stay, whatever it is; the more copies came before, the more
suspicious a sample is. Needs trusted samples, and no model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from safetybench.contracts import DataFilter, FilterView, Sample
from safetybench.registry import register

from ._aids import check_aids
from ._groups import in_order
from ._ngrams import ngrams


@register
@dataclass(frozen=True, kw_only=True)
class Deduplication(DataFilter):
    """Cap the copies of a phrase (after the deduplication of Lee et al. 2021).

    length: words of a phrase; published, runs of 50 tokens, of which one copy is kept, in all data.
    cap: how many samples may hold a phrase that no trusted sample holds. The score is the place of
    a sample beyond the cap among those that hold its most repeated such phrase, counted in an
    order that ids do not decide; the first `cap` of them score 0.
    """

    length: int = 5
    cap: int = 5

    source: ClassVar[str] = "https://arxiv.org/abs/2107.06499"
    uses = ("trusted",)
    sees: ClassVar[str] = "the data, and trusted samples"

    def __post_init__(self) -> None:
        if self.length < 1 or self.cap < 0:
            raise ValueError(
                f"length must be 1 or more and cap 0 or more, got {self.length} and {self.cap}"
            )

    def scores(self, samples: Sequence[Sample], view: FilterView, seed: int = 0) -> list[float]:
        """Return places beyond the cap; see `DataFilter.scores`. The seed is not used."""
        check_aids(self, view)
        known = {g for sample in view.trusted for g in ngrams(sample.response, self.length)}
        seen: Counter[tuple[str, ...]] = Counter()
        found = [0.0] * len(samples)
        for row in in_order(samples):
            rare = ngrams(samples[row].response, self.length) - known
            seen.update(rare)
            found[row] = float(max([0, *(seen[gram] - self.cap for gram in rare)]))
        return found
