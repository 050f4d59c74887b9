"""Which times an attack on images is worth its steps at, chosen greedily and for each image alone.

A time is worth as much as its gradient is large. A few are probed at random; what lies around the
least of them is dropped, and the image takes a step up the greatest; until few enough are left.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from safetybench.draws import Streams

from ._alternation import drawn_of

# Of images, (batch, 3, h, w), and their times, (batch,): the gradient of each one's loss, alike.
Slope = Callable[[Tensor, Tensor], Tensor]
# Of images and such a gradient: the images after a step up.
Move = Callable[[Tensor, Tensor], Tensor]


def greedy_times(
    slope: Slope,
    move: Move,
    images: Tensor,
    times: Tensor,
    streams: Streams,
    *,
    keep: int,
    window: int,
    probes: int,
) -> list[Tensor]:
    """Return for each image those of `times`, (count,) int64 rising, that were not dropped.

    At most `keep` of them and more than `keep` less `window`; all, where there are no more than
    `keep` from the start. window: of time, which lies around the least of `probes` slopes, and is
    pushed inside the range of times. An image's choice depends on its own stream alone.
    """
    left = [times.clone() for _ in images]
    first, last = int(times[0]), int(times[-1])
    while any(len(own) > keep for own in left):
        is_open = torch.tensor([len(own) > keep for own in left])
        found = [_probe(slope, images, left, streams) for _ in range(probes)]
        tried = torch.stack([t for t, _ in found])  # (probes, batch)
        sizes = torch.stack([g.abs().flatten(1).sum(1) for _, g in found]).cpu()
        for i in is_open.nonzero().flatten().tolist():
            least = int(tried[sizes[:, i].argmin(), i])
            start = max(first, min(least - window // 2, last + 1 - window))
            left[i] = left[i][(left[i] < start) | (left[i] >= start + window)]
        best = torch.stack([found[k][1][i] for i, k in enumerate(sizes.argmax(0).tolist())])
        where = is_open.to(images.device).view(-1, 1, 1, 1)
        images = torch.where(where, move(images, best), images)
    return left


def _probe(
    slope: Slope, images: Tensor, left: list[Tensor], streams: Streams
) -> tuple[Tensor, Tensor]:
    t = drawn_of(left, streams)
    return t, slope(images, t)
