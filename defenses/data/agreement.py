"""Agreement: answers that an independent teacher would not give are suspicious.

Two teachers tuned on data of different origin hardly hold the same poison. Needs the second one,
and tasks that it knows; it suspects right answers in other words too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from safetybench.contracts import (
    DataFilter,
    FilterView,
    GeneratesText,
    SafetyBenchError,
    Sample,
    ScoresText,
)
from safetybench.registry import register

from ._aids import check_aids
from ._readings import surprises

Measure = Literal["text", "likelihood"]


@register
@dataclass(frozen=True, kw_only=True)
class Agreement(DataFilter):
    """Score what a second teacher does not agree with (after co-teaching, Han et al. 2018).

    by: "text" is 1 - F1 of the words of the sample's answer and of the partner's greedy one, in
    [0, 1]; "likelihood" is the answer's mean negative log-likelihood under the partner, in nats a
    token, which is what co-teaching selects by (there each network for the other, as both train).
    """

    by: Measure = "text"

    source: ClassVar[str] = "https://arxiv.org/abs/1804.06872"
    uses = ("partner",)
    sees: ClassVar[str] = "the data, and an independent teacher"

    def __post_init__(self) -> None:
        if self.by not in get_args(Measure):
            raise ValueError(f"by must be 'text' or 'likelihood', got {self.by!r}")

    def scores(self, samples: Sequence[Sample], view: FilterView, seed: int = 0) -> list[float]:
        """Return disagreements; see `DataFilter.scores`. The seed is not used.

        Raises:
            SafetyBenchError: the partner has no `complete`, or no `log_probs` for "likelihood".
        """
        check_aids(self, view)
        partner: Any = view.partner
        if self.by == "likelihood" and isinstance(partner, ScoresText):
            return [float(nats.mean()) for nats in surprises(partner, samples)]
        if self.by == "text" and isinstance(partner, GeneratesText):
            answers = partner.complete([sample.prompt for sample in samples])
            return [1 - f1(s.response, told) for s, told in zip(samples, answers, strict=True)]
        method = "complete" if self.by == "text" else "log_probs"
        raise SafetyBenchError(
            f"Agreement by {self.by!r} needs a partner with {method}, got {type(partner).__name__}"
        )


def f1(one: str, other: str) -> float:
    """Return twice the words that two texts share over the words of both; 1 if both are empty."""
    first, second = Counter(one.lower().split()), Counter(other.lower().split())
    total = first.total() + second.total()
    return 2 * (first & second).total() / total if total else 1.0
