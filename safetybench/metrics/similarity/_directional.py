"""Whether an edit moved an image the way it was asked to, in some judge's features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity


def directional(
    source: Tensor, edited: Tensor, source_reference: Tensor, edited_reference: Tensor
) -> Tensor:
    """Return cos(edited - source, edited_reference - source_reference), (batch,) in [-1, 1].

    All are features, (batch, width), references also (1, width): of the images, and of what they
    show and should show, which is text in CLIP's space, and other images of it in the space of a
    judge that reads no text. 0 where either did not move at all. Source:
    https://arxiv.org/abs/2108.00946

    Raises:
        ValueError: features of other shapes.
    """
    references = (source_reference, edited_reference)
    is_odd = source.ndim != 2 or edited.shape != source.shape
    for reference in references:
        is_odd |= reference.ndim != 2 or reference.shape[1:] != source.shape[1:]
        is_odd |= len(reference) not in (1, len(source))
    if is_odd:
        shapes = ", ".join(str(tuple(x.shape)) for x in (source, edited, *references))
        raise ValueError(
            f"features must be (batch, width), references (batch or 1, width), got {shapes}"
        )
    moved, wanted = edited.double() - source, edited_reference.double() - source_reference
    # Scaled first, for the cosine of tiny vectors is cut at an absolute 1e-8.
    units = [
        x / x.norm(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        for x in (moved, wanted)
    ]
    return cosine_similarity(units[0], units[1]).to(source.dtype)
