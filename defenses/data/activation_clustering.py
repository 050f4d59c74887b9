"""Activation clustering: answers in the smaller of a task's two clusters are suspicious.

Clusters the features of the model that was tuned on the very data, before its last layer. Needs no
trusted samples. Its assumption fails where most of a task is poison: then it suspects the clean.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from safetybench.contracts import DataFilter, FilterView, Sample
from safetybench.registry import register

from ._aids import check_aids
from ._groups import by_task
from ._readings import Floats, features

Reduction = Literal["pca", "ica"]


@register
@dataclass(frozen=True, kw_only=True)
class ActivationClustering(DataFilter):
    """Part each task in two by k-means and suspect the smaller part (Chen et al. 2018).

    reduce: to `components`, published 10, by principal ("pca") or independent components, which
    the paper prefers ("ica"). The latter scales all to the same size: of the tens of samples that
    a task may have, k-means then sees more of chance. least: tasks of fewer samples are clustered
    together. The paper decides by cluster; so that samples rank, the score here is (1 - share of
    the smaller cluster) x (way to the larger cluster's centre / sum of the ways to both centres).
    """

    reduce: Reduction = "pca"
    components: int = 10
    least: int = 20

    source: ClassVar[str] = "https://arxiv.org/abs/1811.03728"
    uses = ("model",)
    sees: ClassVar[str] = "the data, and the features of the model tuned on them"

    def __post_init__(self) -> None:
        if self.reduce not in get_args(Reduction):
            raise ValueError(f"reduce must be 'pca' or 'ica', got {self.reduce!r}")
        if self.components < 1 or self.least < 3:
            raise ValueError(
                "components must be 1 or more and least 3 or more, got "
                f"{self.components} and {self.least}"
            )

    def scores(self, samples: Sequence[Sample], view: FilterView, seed: int = 0) -> list[float]:
        """Return suspicions in [0, 1); see `DataFilter.scores`. The seed starts ICA and k-means."""
        check_aids(self, view)
        states, found = features(view.model, samples), np.zeros(len(samples))
        for rows in by_task(samples, self.least).values():
            found[rows] = self._suspicions(states[rows], seed)
        return [float(score) for score in found]

    def _suspicions(self, states: Floats, seed: int) -> Floats:
        from sklearn.cluster import KMeans

        if len(np.unique(states, axis=0)) < 3:
            return np.zeros(len(states))  # there is nothing to part
        reduced = self._reduced(states, seed)
        k_means: Any = KMeans  # its stubs know fewer options than it has
        clusters = k_means(2, n_init=10, random_state=seed).fit(reduced)
        sizes = np.bincount(clusters.labels_, minlength=2)
        small = int(sizes.argmin())
        ways = clusters.transform(reduced)  # (samples, 2)
        closeness = ways[:, 1 - small] / np.maximum(ways.sum(1), 1e-12)
        return np.asarray((1 - sizes[small] / len(states)) * closeness)

    def _reduced(self, states: Floats, seed: int) -> Floats:
        from sklearn.decomposition import PCA, FastICA
        from sklearn.exceptions import ConvergenceWarning

        count = min(self.components, len(states) - 1, states.shape[1])
        if self.reduce == "pca":
            return np.asarray(PCA(count, svd_solver="full").fit_transform(states))
        with warnings.catch_warnings():  # an ICA cut short still gives components to cluster
            warnings.simplefilter("ignore", ConvergenceWarning)
            ica = FastICA(count, max_iter=1000, tol=5e-3, random_state=seed)
            return np.asarray(ica.fit_transform(states))
