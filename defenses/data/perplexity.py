"""Perplexity: answers that a clean reference model does not expect are suspicious.

The first filter that anybody tries. Needs a model that never saw the poison and knows the tasks;
text of unusual words is caught by it, a fluent advertisement less so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from safetybench.contracts import DataFilter, FilterView, Sample
from safetybench.registry import register

from ._aids import check_aids
from ._readings import Floats, surprises

Statistic = Literal["mean", "max"]


@register
@dataclass(frozen=True, kw_only=True)
class Perplexity(DataFilter):
    """Score an answer by its negative log-likelihood (Jain et al. 2023, plain and windowed).

    statistic: "mean" over all tokens of the answer, its end among them; "max" is the mean of the
    least likely run of `window` tokens, so that a long answer does not dilute a short phrase
    (published: windows of 10 tokens that do not overlap; here they do). Nats a token.
    """

    statistic: Statistic = "mean"
    window: int = 3

    source: ClassVar[str] = "https://arxiv.org/abs/2309.00614"
    uses = ("reference",)
    sees: ClassVar[str] = "the data, and their likelihood under a clean model"

    def __post_init__(self) -> None:
        if self.statistic not in get_args(Statistic):
            raise ValueError(f"statistic must be 'mean' or 'max', got {self.statistic!r}")
        if self.window < 1:
            raise ValueError(f"window must be 1 token or more, got {self.window}")

    def scores(self, samples: Sequence[Sample], view: FilterView, seed: int = 0) -> list[float]:
        """Return nats a token of each answer; see `DataFilter.scores`. The seed is not used."""
        check_aids(self, view)
        return [self._of(nats) for nats in surprises(view.reference, samples)]

    def _of(self, nats: Floats) -> float:
        if self.statistic == "mean" or len(nats) <= self.window:
            return float(nats.mean())
        runs = np.lib.stride_tricks.sliding_window_view(nats, self.window)
        return float(runs.mean(1).max())
