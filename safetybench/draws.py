"""Random streams that belong to an item, so that no result depends on the batch it came in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def item_generator(seed: int, item: str) -> torch.Generator:
    """Return the random stream of one item, the same in whatever batch the item is.

    It lives on the CPU, so that a GPU run draws the same numbers.
    """
    digest = hashlib.sha256(f"{seed}:{item}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Streams:
    """The streams of a batch of items, drawn from side by side.

    Example:
        >>> one = Streams(0, ["a", "b"]).normal((3,))
        >>> two = Streams(0, ["b"]).normal((3,))
        >>> bool((one[1] == two[0]).all())
        True
    """

    def __init__(self, seed: int, items: Sequence[str]) -> None:
        self._generators = [item_generator(seed, item) for item in items]

    def normal(self, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        """Return standard normal numbers, (batch, *shape) float32, where `like` lives."""
        return self._stacked(lambda g: torch.randn(tuple(shape), generator=g), like)

    def uniform(self, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        """Return numbers in [0, 1), (batch, *shape) float32, where `like` lives."""
        return self._stacked(lambda g: torch.rand(tuple(shape), generator=g), like)

    def integers(self, low: int, high: int, like: Tensor | None = None) -> Tensor:
        """Return one whole number in [low, high) an item, (batch,) int64, where `like` lives."""
        return self._stacked(lambda g: torch.randint(low, high, (), generator=g), like)

    def _stacked(self, draw: Callable[[torch.Generator], Tensor], like: Tensor | None) -> Tensor:
        found = torch.stack([draw(generator) for generator in self._generators])
        return found if like is None else found.to(like.device)
