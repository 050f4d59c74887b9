"""ART's spectral signature defense: the toolbox's own, as a comparison.

Its code finds the direction and scores; we give it the features of the model tuned on the data as
activations and tasks as classes. It finds the direction centred, and then projects uncentred.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from safetybench.contracts import DataFilter, FilterView, Sample
from safetybench.registry import register

from ._aids import check_aids
from ._art import classes, classifier, seeded
from ._readings import features


@register
@dataclass(frozen=True, kw_only=True)
class ArtSpectral(DataFilter):
    """`SpectralSignatureDefense` of the adversarial-robustness-toolbox (Nicolae et al. 2018).

    It drops the same share of every class, so a score here is the share of the task's samples that
    ART scores no higher, halves for ties. Tasks of fewer than `least` samples, in which that says
    nothing, score 0. ART is told to expect poison everywhere, for it tells the scores of suspects
    alone.
    """

    least: int = 10

    source: ClassVar[str] = "https://arxiv.org/abs/1807.01069"
    uses = ("model",)
    sees: ClassVar[str] = "the data, and the features of the model tuned on them"

    def __post_init__(self) -> None:
        if self.least < 3:
            raise ValueError(f"least must be 3 samples a task or more, got {self.least}")

    def scores(self, samples: Sequence[Sample], view: FilterView, seed: int = 0) -> list[float]:
        """Return ranks in the task, in [0, 1]; see `DataFilter.scores`. The seed is not used."""
        check_aids(self, view)
        found = np.zeros(len(samples))
        given = classes(samples, features(view.model, samples), self.least)
        if not given.tasks:
            return [0.0] * len(samples)
        from art.defences.detector.poison import SpectralSignatureDefense

        defence = SpectralSignatureDefense(
            classifier(given),
            given.features,
            given.labels,
            expected_pp_poison=1.0,
            eps_multiplier=1.0,
        )
        with seeded(seed):
            told, _ = defence.detect_poison()
        scored = np.array([told[row] for row in range(len(given.rows))])
        for label in range(given.tasks):
            own = np.flatnonzero(given.labels == label)
            line = np.sort(scored[own])
            places = np.searchsorted(line, scored[own]) + np.searchsorted(
                line, scored[own], "right"
            )
            found[np.array(given.rows)[own]] = places / 2 / len(own)
        return [float(score) for score in found]
