"""The smallest change that carries a point in [0, 1]^n onto a plane, in either norm."""

from __future__ import annotations

import torch
from torch import Tensor

from safetybench.class_contracts import Norm

_TINY = 1e-12


def reach(points: Tensor, normals: Tensor, missing: Tensor, norm: Norm) -> Tensor:
    """Return the smallest changes d with <normals, d> = missing that keep points + d in [0, 1].

    points, normals: (batch, width); missing: (batch,). Where the box does not reach the plane, the
    corner nearest to it is returned. All pixels move at once, each at its pace (1 in linf, its
    weight in l2) until it meets the box; what they gain is linear between two such meetings, so
    the time at which they reach the plane is found by sorting the meetings.
    """
    heads = normals.sign() * missing.sign()[:, None]
    room = torch.where(heads > 0, 1 - points, points)
    weights = normals.abs()
    paces = torch.ones_like(weights) if norm == "linf" else weights
    meets, order = (room / paces.clamp_min(_TINY)).sort(1)
    # Sums of some thousand terms are subtracted below.
    gains = (weights * paces).gather(1, order).double()
    stopped = torch.nn.functional.pad((gains * meets).cumsum(1), (1, 0))
    moving = torch.nn.functional.pad(gains.flip(1).cumsum(1).flip(1), (0, 1))
    reached = stopped[:, :-1] + moving[:, :-1] * meets
    asked = missing.abs().double()[:, None]
    part = torch.searchsorted(reached.contiguous(), asked)  # so many pixels have met the box
    time = (asked - stopped.gather(1, part)) / moving.gather(1, part).clamp_min(_TINY)
    time = torch.where(part == meets.shape[1], meets[:, -1:].double(), time).to(points)
    return heads * torch.minimum(time * paces, room)
