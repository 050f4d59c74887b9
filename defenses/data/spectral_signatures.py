"""Spectral signatures: answers far out along the main directions of the features are suspicious.

Looks at the features of the model that was tuned on the very data. Needs no trusted samples. Run
it centred and uncentred: which one sees a poison turned over with its share when measured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from safetybench.contracts import DataFilter, FilterView, Sample
from safetybench.registry import register

from ._aids import check_aids
from ._groups import by_task
from ._readings import Floats, features


@register
@dataclass(frozen=True, kw_only=True)
class SpectralSignatures(DataFilter):
    """Score by the squared projection on the top singular vectors (Tran et al. 2018).

    centred: take the mean off first, as published; without, the mean itself is the first direction.
    vectors: how many directions are summed over; published 1. per_task: each task has directions of
    its own, as each class has in the paper; tasks of fewer than `least` samples share theirs.

    The paper drops a fixed share of every class. To rank samples of all tasks, a score here is in
    units of its group's median.
    """

    centred: bool = True
    per_task: bool = True
    vectors: int = 3
    least: int = 20

    source: ClassVar[str] = "https://arxiv.org/abs/1811.00636"
    uses = ("model",)
    sees: ClassVar[str] = "the data, and the features of the model tuned on them"

    def __post_init__(self) -> None:
        if min(self.vectors, self.least) < 1:
            raise ValueError(
                f"vectors and least must be 1 or more, got {self.vectors} and {self.least}"
            )

    def scores(self, samples: Sequence[Sample], view: FilterView, seed: int = 0) -> list[float]:
        """Return scaled squared projections; see `DataFilter.scores`. The seed is not used."""
        check_aids(self, view)
        states, found = features(view.model, samples), np.zeros(len(samples))
        least = self.least if self.per_task else len(samples) + 1
        for rows in by_task(samples, least).values():
            found[rows] = self._projections(states[rows])
        return [float(score) for score in found]

    def _projections(self, states: Floats) -> Floats:
        used = states - states.mean(0) if self.centred else states
        directions = np.linalg.svd(used, full_matrices=False).Vh[: self.vectors]
        squares: Floats = np.square(used @ directions.T).sum(1)
        return squares / max(float(np.median(squares)), 1e-12)
