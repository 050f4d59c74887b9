"""Tasks of one image share its protection, whatever chunk they are in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from safetybench.contracts import Album, Budget
from safetybench.registry import create
from safetybench.scenarios._protection_shared import once

ALIKE = {"a0": "a0", "b0": "b0", "a1": "a0", "c0": "c0", "b1": "b0"}


def album(*names: str) -> Album:
    images = [
        torch.randint(0, 256, (3, 8, 8), generator=torch.Generator().manual_seed(ord(name[0])))
        for name in names
    ]
    return Album(images=torch.stack(images) / 255, ids=names, captions=tuple(names))


def test_each_image_is_protected_once_whatever_the_chunks() -> None:
    noise = create("defenses/images/sign_noise")
    asked: list[tuple[str, ...]] = []

    def protect(part: Album) -> Tensor:
        asked.append(part.ids)
        found: Tensor = noise.protect(None, part, Budget(epsilon=8 / 255))
        return found

    memo: dict[Any, Any] = {}
    first = once("cell", album("a0", "b0", "a1"), ALIKE, protect, memo)
    second = once("cell", album("c0", "b1"), ALIKE, protect, memo)
    assert asked == [("a0", "b0"), ("c0",)]
    assert set(memo) == {("cell", "a0"), ("cell", "b0")}  # nobody will ask for c0 again
    assert torch.equal(first[0], first[2])
    assert torch.equal(second[1], first[1])
    whole = noise.protect(None, album("a0", "b0", "c0"), Budget(epsilon=8 / 255))
    assert torch.equal(torch.stack([first[0], first[1], second[0]]), whole)
    # A run that goes on has an empty memo, and makes the same again.
    assert torch.equal(once("cell", album("b1", "a1"), ALIKE, protect, {})[1], first[0])
    once("another", album("a1"), ALIKE, protect, memo)
    assert asked[-1] == ("a0",)
