"""What commands that train write beside a model: a sheet of samples, made one image at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from safetybench.contracts import SafetyBenchError

if TYPE_CHECKING:
    from torch import Tensor


class Drawn(NamedTuple):
    """Images of a model, each (3, height, width), and what one of them cost.

    nfe: network evaluations of an image, the model's own way.
    """

    images: list[Tensor]
    nfe: float


def draw(target: Any, prompts: Sequence[str]) -> Drawn:
    """Return an image of each prompt, at seeds 0, 1, ...; at least one prompt."""
    before = target.nfe
    # One at a time: a model at 1024 pixels may fill the memory that training has left.
    images = [target.generate([p], [seed])[0].cpu() for seed, p in enumerate(prompts)]
    return Drawn(images, (target.nfe - before) / len(prompts))


def sheet(rows: Sequence[Sequence[Tensor]]) -> Any:
    """Return one picture of rows of images, all (3, height, width) in [0, 1]."""
    import torch
    from PIL import Image

    whole = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
    scale = max(1, math.floor(64 / rows[0][0].shape[1]))  # a zoo's image is a stamp
    pixels = (whole * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels)
    size = (picture.width * scale, picture.height * scale)
    return picture.resize(size, Image.Resampling.NEAREST)


@contextmanager
def told_when_full(word: str) -> Iterator[None]:
    """Turn a full disk, or a folder that cannot be written, into one sentence.

    Raises:
        SafetyBenchError: what could not be written, and why.
    """
    try:
        yield
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise SafetyBenchError(f"could not write the {word}: {reason}") from error
