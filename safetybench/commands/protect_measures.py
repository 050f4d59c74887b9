"""What `safetybench protect` measures of a picture, and the picture that shows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from safetybench.contracts import SafetyBenchError
from safetybench.metrics.similarity import lpips, psnr, ssim
from safetybench.picture_files import Picture

STATEMENT = (
    "These figures are no proof of protection. A protection that moves an edit far may still let "
    "it show what was asked for, and any noise moves edits: net is what it does beyond sign noise "
    "of the same epsilon. Purification may undo it, and models other than the target may not mind "
    "it. Look at the edits, and test on the editors that you fear."
)
AMPLIFIED = 8  # the difference in a comparison
_LONGEST = 1024  # of a panel, in pixels


def figures(original: Tensor, protected: Tensor) -> dict[str, float | None]:
    """Return how visible a protection is; None where a figure cannot be had.

    original, protected: (3, height, width) in [0, 1]. psnr is None for equal pictures, ssim below
    11 pixels a side, lpips below 31 or without the features of AlexNet on this machine.
    """
    measures = {"psnr": psnr, "ssim": ssim, "lpips": lpips}
    return {name: _figure(each, original, protected) for name, each in measures.items()}


def _figure(
    measure: Callable[[Tensor, Tensor], Tensor], original: Tensor, protected: Tensor
) -> float | None:
    try:
        value = float(measure(original[None], protected[None]))
    except (ValueError, SafetyBenchError):  # a picture too small, a package not there
        return None
    return value if math.isfinite(value) else None


def apart(edits: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Return the root mean square of differences in [0, 1], over all pairs of edits."""
    squares = [(a - b).square().mean() for a, b in zip(edits, others, strict=True)]
    return float(torch.stack(squares).mean().sqrt())


def side_by_side(picture: Picture, protected: Tensor, edits: Sequence[Tensor]) -> Tensor:
    """Return original, protected, difference and edits in a row, (3, height, width) in [0, 1].

    The difference is eight times what it is, around gray. Transparent pictures lie on white.
    Large panels are shrunk, small ones made of larger pixels.
    """
    difference = 0.5 + AMPLIFIED * (protected - picture.image)
    shown = [_on_white(image, picture.alpha) for image in (picture.image, protected)]
    panels = [_panel(each.clamp(0, 1)) for each in (*shown, difference, *edits)]
    gap = torch.ones(3, panels[0].shape[1], max(2, panels[0].shape[2] // 32))
    row = [part for panel in panels for part in (gap, panel)][1:]
    return torch.cat(row, 2)


def _on_white(image: Tensor, alpha: Tensor | None) -> Tensor:
    return image if alpha is None else image * alpha + 1 - alpha


def _panel(image: Tensor) -> Tensor:
    longest = max(image.shape[1:])
    if longest <= _LONGEST:
        times = max(1, 192 // longest)  # a zoo's image is a stamp
        return image.repeat_interleave(times, 1).repeat_interleave(times, 2)
    scale = _LONGEST / longest
    size = [max(1, round(side * scale)) for side in image.shape[1:]]
    return torch.nn.functional.interpolate(image[None], size, mode="area")[0]
