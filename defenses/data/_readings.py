"""What a model says of samples: features of their answers, and how little it expects them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from safetybench.contracts import Sample, ScoresText

Floats = NDArray[np.float64]


def features(model: ScoresText, samples: Sequence[Sample]) -> Floats:
    """Return a model's last state of each answer: (samples, width). No samples: (0, 0)."""
    if not samples:
        return np.zeros((0, 0))
    found = model.features([s.prompt for s in samples], [s.response for s in samples])
    return found.double().numpy()


def surprises(model: ScoresText, samples: Sequence[Sample]) -> list[Floats]:
    """Return, by sample, the negative log-probability in nats of each token of its answer."""
    told = model.log_probs([s.prompt for s in samples], [s.response for s in samples])
    return [-one.double().numpy() for one in told]
