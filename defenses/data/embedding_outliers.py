"""Embedding outliers: answers that lie far from trusted answers to the same task are suspicious.

Mahalanobis distance in the features of a clean model. Needs trusted samples of the tasks, and a
reference model that was not tuned on the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from safetybench.contracts import DataFilter, FilterView, SafetyBenchError, Sample
from safetybench.registry import register

from ._aids import check_aids
from ._groups import by_task
from ._readings import Floats, features


class _Cloud(NamedTuple):
    """Where trusted answers lie: centre (width,), and inverse covariance (width, width)."""

    centre: Floats
    precision: Floats


@register
@dataclass(frozen=True, kw_only=True)
class EmbeddingOutliers(DataFilter):
    """Score by the Mahalanobis distance to the task's trusted answers (Lee et al. 2018).

    As published, one covariance for all classes, shrunk as Ledoit and Wolf do. A task of fewer than
    `least` trusted samples is measured from the centre of all of them, by their own covariance.
    """

    least: int = 5

    source: ClassVar[str] = "https://arxiv.org/abs/1807.03888"
    uses = ("trusted", "reference")
    sees: ClassVar[str] = "the data, trusted samples, and the features of a clean model"

    def __post_init__(self) -> None:
        if self.least < 2:
            raise ValueError(f"least must be 2 trusted samples a task or more, got {self.least}")

    def scores(self, samples: Sequence[Sample], view: FilterView, seed: int = 0) -> list[float]:
        """Return distances; see `DataFilter.scores`. The seed is not used.

        Raises:
            SafetyBenchError: there are fewer than two trusted samples.
        """
        check_aids(self, view)
        if len(view.trusted) < 2:
            raise SafetyBenchError("EmbeddingOutliers needs 2 trusted samples or more, got 1")
        if not samples:
            return []
        states, trusted = features(view.reference, samples), features(view.reference, view.trusted)
        rows = {t: r for t, r in by_task(view.trusted).items() if len(r) >= self.least}
        centres = {task: trusted[row].mean(0) for task, row in rows.items()}
        everyone = trusted.mean(0)
        whole = _Cloud(everyone, _precision(trusted - everyone))
        clouds: dict[str, _Cloud] = {}
        if rows:
            apart = [trusted[own] - centres[task] for task, own in rows.items()]
            within = _precision(np.concatenate(apart))
            clouds = {task: _Cloud(centre, within) for task, centre in centres.items()}
        return [
            _distance(state, clouds.get(sample.task, whole))
            for sample, state in zip(samples, states, strict=True)
        ]


def _precision(apart: Floats) -> Floats:
    from sklearn.covariance import LedoitWolf

    spread: Floats = LedoitWolf(assume_centered=True).fit(apart).covariance_
    # Features that are all alike have no spread to measure by.
    return np.asarray(np.linalg.inv(spread + 1e-9 * np.eye(len(spread))), dtype=np.float64)


def _distance(state: Floats, cloud: _Cloud) -> float:
    apart = state - cloud.centre
    return math.sqrt(max(float(apart @ cloud.precision @ apart), 0.0))
