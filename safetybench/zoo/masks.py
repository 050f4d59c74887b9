"""Masks of the zoo's scenes: what surrounds the object, as an owner and as an editor would say it.

The owner expects the disc around the object to be kept; an editor's own mask is a rectangle, an
ellipse or a crooked outline of another size. 1 is drawn anew, 0 is kept.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from safetybench.draws import item_generator
from safetybench.zoo.world import SIZE, Scenes

_MARGIN = 1.12  # of the disc over the object's radius
_CORNERS = 9


def _offsets(scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Return each pixel's offset from the object's centre, both (batch, SIZE, SIZE)."""
    axis = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    x = axis[None, None, :] - scenes.centre[:, 0, None, None]
    y = -axis[None, :, None] - scenes.centre[:, 1, None, None]
    size = (len(scenes.radius), SIZE, SIZE)
    return x.expand(size), y.expand(size)


def expected_masks(scenes: Scenes) -> Tensor:
    """Return masks that keep the disc around the object, (batch, 1, SIZE, SIZE) float."""
    x, y = _offsets(scenes)
    is_outside = x.square() + y.square() > (_MARGIN * scenes.radius[:, None, None]).square()
    return is_outside.float()[:, None]


def unseen_masks(scenes: Scenes, ids: tuple[str, ...], seed: int) -> Tensor:
    """Return masks that an editor drew, of other shapes and sizes, (batch, 1, SIZE, SIZE) float.

    A mask depends on the seed and its image's id alone.
    """
    x, y = _offsets(scenes)
    found = []
    for i, name in enumerate(ids):
        stream = item_generator(seed, f"{name}/unseen-mask")
        kind = int(torch.randint(3, (), generator=stream))
        wide, high = (0.8 + 0.55 * torch.rand(2, generator=stream)).tolist()
        right, up = (0.16 * (torch.rand(2, generator=stream) - 0.5)).tolist()
        # In units of the object's radius.
        across = (x[i] / scenes.radius[i] - right) / wide
        along = (y[i] / scenes.radius[i] - up) / high
        if kind == 0:
            is_kept = (across.abs() <= 0.92) & (along.abs() <= 0.92)
        elif kind == 1:
            is_kept = across.square() + along.square() <= 1.1
        else:
            bumps = 0.8 + 0.45 * torch.rand(_CORNERS, generator=stream)
            turn = (torch.atan2(along, across) / (2 * math.pi) % 1) * _CORNERS
            low = turn.floor().long() % _CORNERS
            reach = torch.lerp(bumps[low], bumps[(low + 1) % _CORNERS], turn - turn.floor())
            is_kept = across.square() + along.square() <= reach.square()
        found.append(~is_kept)
    return torch.stack(found).float()[:, None]
