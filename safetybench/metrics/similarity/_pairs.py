"""What may be compared with what."""

from __future__ import annotations

from torch import Tensor

_SLACK = 1e-4  # a decoder's float may end a little outside


def checked(first: Tensor, second: Tensor, smallest: int = 1) -> tuple[Tensor, Tensor]:
    """Return both batches as float32 in [0, 1], on the device of the first.

    Raises:
        ValueError: they are no images, of other shapes, of sides below `smallest`, or outside
            [0, 1], which is how images in [-1, 1] or in 0 to 255 are found.
    """
    if first.shape != second.shape or first.ndim != 4 or first.shape[1] != 3:
        raise ValueError(
            "images must be two batches of one shape (batch, 3, height, width), got "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )
    if min(first.shape[2:]) < smallest:
        raise ValueError(
            f"images must be of {smallest} pixels a side or more for this figure, got "
            f"{first.shape[2]} by {first.shape[3]}"
        )
    for images in (first, second):
        if len(images) and not (images.min() >= -_SLACK and images.max() <= 1 + _SLACK):
            raise ValueError(
                "images must be in [0, 1], got values from "
                f"{float(images.min()):.3g} to {float(images.max()):.3g}"
            )
    return first.float().clamp(0, 1), second.to(first.device).float().clamp(0, 1)
