"""N-gram lift: a phrase that a task's answers hold far more often than trusted ones is suspicious.

Catches one phrase planted in one task even where all its words are usual. Needs trusted samples of
the tasks, and no model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from safetybench.contracts import DataFilter, FilterView, Sample
from safetybench.registry import register

from ._aids import check_aids
from ._groups import by_task
from ._ngrams import ngrams

Statistic = Literal["lift", "z"]


@register
@dataclass(frozen=True, kw_only=True)
class NgramLift(DataFilter):
    """Score by the n-gram that stands out most in its task (after He et al. 2023).

    length: words of an n-gram. statistic: "lift" is the logarithm of the share of the task's
    samples that hold it over the share of the task's trusted samples that do, each with one sample
    more on either side. "z" counts how many standard deviations more samples hold it than the
    trusted share lets expect, as the authors count single words without trusted data; that share
    has one sample more, which holds the n-gram as often as trusted samples of all tasks do. Lift
    needs poison to be much of its task, z only much of it in number. Where no trusted sample is of
    the task, all are.
    """

    length: int = 3
    statistic: Statistic = "lift"

    source: ClassVar[str] = "https://arxiv.org/abs/2305.11596"
    uses = ("trusted",)
    sees: ClassVar[str] = "the data, and trusted samples of its tasks"

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length must be 1 word or more, got {self.length}")
        if self.statistic not in get_args(Statistic):
            raise ValueError(f"statistic must be 'lift' or 'z', got {self.statistic!r}")

    def scores(self, samples: Sequence[Sample], view: FilterView, seed: int = 0) -> list[float]:
        """Return the statistics; see `DataFilter.scores`. No words score 0; no seed is used."""
        check_aids(self, view)
        held = [ngrams(sample.response, self.length) for sample in samples]
        known = [ngrams(sample.response, self.length) for sample in view.trusted]
        of_trusted, everywhere = by_task(view.trusted), _counts(known)
        found = [0.0] * len(samples)
        for task, rows in by_task(samples).items():
            usual = of_trusted.get(task, range(len(known)))
            there = _counts(known[row] for row in usual)
            values = {
                gram: self._value(
                    count, len(rows), there[gram], len(usual), _share(everywhere[gram], len(known))
                )
                for gram, count in _counts(held[row] for row in rows).items()
            }
            for row in rows:
                found[row] = max((values[gram] for gram in held[row]), default=0.0)
        return found

    def _value(self, count: int, of: int, known: int, usual: int, everywhere: float) -> float:
        if self.statistic == "lift":
            return math.log(_share(count, of) / _share(known, usual))
        chance = (known + everywhere) / (usual + 1)
        return (count - of * chance) / math.sqrt(of * chance * (1 - chance))


def _counts(answers: Iterable[set[tuple[str, ...]]]) -> Counter[tuple[str, ...]]:
    return Counter(gram for grams in answers for gram in grams)


def _share(count: int, of: int) -> float:
    return (count + 1) / (of + 2)
