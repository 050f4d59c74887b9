"""One protection for all edits of the same image: what a table with many prompts an image asks for.

A protection sees the image, the mask and the caption, and no prompt. Tasks that are alike in these
get the same protected image, made once, from the randomness of the first of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from safetybench.contracts import Album
from safetybench.pixels import LEVELS


def once(
    label: str,
    album: Album,
    alike: Mapping[str, str],
    protect: Callable[[Album], Tensor],
    memo: dict[Any, Any],
) -> Tensor:
    """Return what `protect` makes of an album, asked once a run for each image, 8-bit.

    label: of the cell; alike: of every task, the first that is like it; memo: of the run's context,
    where images that other chunks will ask for stay.
    """
    firsts = [alike[name] for name in album.ids]
    made: dict[str, Tensor] = {name: memo[label, name] for name in firsts if (label, name) in memo}
    places = {name: i for i, name in reversed(list(enumerate(firsts))) if name not in made}
    if places:
        new = sorted(places, key=places.__getitem__)
        at = [places[name] for name in new]
        part = Album(
            images=album.images[at],
            ids=tuple(new),
            captions=tuple(album.captions[i] for i in at),
            masks=None if album.masks is None else album.masks[at],
        )
        levels = (protect(part) * LEVELS).round().byte().cpu()
        made |= dict(zip(new, levels, strict=True))
        uses = Counter(alike.values())
        memo.update({(label, name): made[name] for name in new if uses[name] > 1})
    return torch.stack([made[name] for name in firsts]).to(album.images) / LEVELS
