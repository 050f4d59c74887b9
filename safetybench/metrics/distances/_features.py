"""Features as text, so that an item of the log carries them: half floats in base64."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

import numpy as np

from safetybench.metrics.distances._shapes import Floats

if TYPE_CHECKING:
    from torch import Tensor

_HALF = np.dtype("<f2")


def encode_features(features: Tensor) -> str:
    """Return one image's features as text: 16-bit floats, base64, about 2.7 characters each.

    features: (width,), finite and below 65,504 in size. Rounding is to about 1 part in 2,000.

    Raises:
        ValueError: another shape, or a number that 16 bits cannot hold.
    """
    if features.ndim != 1:
        raise ValueError(f"features must be (width,), got {tuple(features.shape)}")
    with np.errstate(over="ignore"):  # told below
        numbers = features.detach().cpu().double().numpy().astype(_HALF)
    if not np.isfinite(numbers).all():
        raise ValueError("features must be finite and below 65504 in size")
    return base64.b64encode(numbers.tobytes()).decode("ascii")


def decode_features(text: str) -> Floats:
    """Return what `encode_features` wrote, (width,) float64.

    Raises:
        ValueError: the text is no such thing.
    """
    try:
        content = base64.b64decode(text, validate=True)
        return np.frombuffer(content, _HALF).astype(np.float64)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"features must be 16-bit floats in base64, got {text!r:.40}") from error
