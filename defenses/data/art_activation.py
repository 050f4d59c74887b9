"""ART's activation defence: the toolbox's own activation clustering, as a comparison.

Its code reduces, clusters and decides; we give it the features of the model tuned on the data as
activations and tasks as classes. It flags, and does not rank: a share of the clean falls with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from safetybench.contracts import DataFilter, FilterView, Sample
from safetybench.registry import register

from ._aids import check_aids
from ._art import classes, classifier, seeded
from ._readings import features

Reduction = Literal["PCA", "FastICA"]


@register
@dataclass(frozen=True, kw_only=True)
class ArtActivation(DataFilter):
    """`ActivationDefence` of the adversarial-robustness-toolbox (Nicolae et al. 2018).

    reduce, components: `reduce` and `nb_dims` of its `detect_poison`, its defaults. It suspects the
    smaller cluster; its analysis by relative size fails on numpy 2 (ART 1.20.1), and the others are
    left out. A sample that it flags scores 1 - its cluster's share of the task, others 0. Tasks of
    fewer than `components` samples, which it cannot reduce, and of fewer than 3 score 0.
    """

    reduce: Reduction = "PCA"
    components: int = 10

    source: ClassVar[str] = "https://arxiv.org/abs/1807.01069"
    uses = ("model",)
    sees: ClassVar[str] = "the data, and the features of the model tuned on them"

    def __post_init__(self) -> None:
        if self.reduce not in get_args(Reduction):
            raise ValueError(f"reduce must be 'PCA' or 'FastICA', got {self.reduce!r}")
        if self.components < 1:
            raise ValueError(f"components must be 1 or more, got {self.components}")

    def scores(self, samples: Sequence[Sample], view: FilterView, seed: int = 0) -> list[float]:
        """Return ART's flags, weighted; see `DataFilter.scores`. The seed starts its clusters."""
        check_aids(self, view)
        states, found = features(view.model, samples), [0.0] * len(samples)
        given = classes(samples, states, max(self.components, 3))
        if not given.tasks:
            return found
        from art.defences.detector.poison import ActivationDefence

        defence = ActivationDefence(classifier(given), given.features, given.labels)
        with seeded(seed):
            _, is_clean = defence.detect_poison(
                nb_clusters=2,
                nb_dims=self.components,
                reduce=self.reduce,
                cluster_analysis="smaller",
            )
        shares = [
            float((clusters == own).mean())
            for clusters in map(np.asarray, defence.clusters_by_class)
            for own in clusters
        ]
        for row, share, clean in zip(given.rows, shares, is_clean, strict=True):
            found[row] = 0.0 if clean else 1 - share
        return found
