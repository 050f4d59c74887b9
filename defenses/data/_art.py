"""The way of our features into detectors of the adversarial-robustness-toolbox.

Its detectors read the activations of a classifier's last layer. The classifier here is a network
of one layer that passes on what it is given, so these activations are the features themselves.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from safetybench.contracts import Sample

from ._groups import by_task
from ._readings import Floats


class Classes(NamedTuple):
    """Tasks as classes: rows of the data, their features (rows, width), their classes (rows,)."""

    rows: list[int]
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    tasks: int


def classes(samples: Sequence[Sample], states: Floats, least: int) -> Classes:
    """Return the tasks of at least `least` samples, if their features are not all alike."""
    kept = [
        rows
        for rows in by_task(samples).values()
        if len(rows) >= least and len(np.unique(states[rows], axis=0)) > 2
    ]
    kept *= 2 if len(kept) == 1 else 1  # ART asks for two classes: a task alone is there twice
    rows = [row for group in kept for row in group]
    labels = np.repeat(np.arange(len(kept)), [len(group) for group in kept])
    return Classes(rows, states[rows].astype(np.float32), labels.astype(np.int64), len(kept))


class _Passing(nn.Module):
    """One layer, which returns its input; ART takes the last child of a module for the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        passed: Tensor = self.features(x)
        return passed


def classifier(given: Classes) -> Any:
    """Return ART's classifier of the network that passes features on."""
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model=_Passing(),
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=(given.features.shape[1],),
        nb_classes=given.tasks,
        device_type="cpu",
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Give ART's detectors a seed, which they have no argument for, and restore what was."""
    from sklearn.exceptions import ConvergenceWarning

    was = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        with warnings.catch_warnings():  # a start that k-means or ICA cannot improve is still one
            warnings.simplefilter("ignore", ConvergenceWarning)
            yield
    finally:
        np.random.set_state(was)
