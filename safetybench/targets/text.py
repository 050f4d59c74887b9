"""What an attacker may type, and token embeddings put into what a text encoder reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def typable(tokenizer: Any, count: int, detokenize: Callable[[list[int]], str]) -> list[int]:
    """Return the ids below `count` that are not special and of whose text something survives."""
    special = set(tokenizer.all_special_ids)
    ids = [i for i in range(count) if i not in special]
    again = tokenizer([detokenize([i]) for i in ids], add_special_tokens=False).input_ids
    return [i for i, back in zip(ids, again, strict=True) if set(back) - special]


def make_room(ids: Tensor, count: int, at: int, end: int) -> Tensor:
    """Return ids with `count` places free from position `at` on; what is behind moves and is cut.

    ids: (batch, length). The last position becomes the end token if the cut took it away.
    """
    if not 1 <= at or at + count > ids.shape[1] - 1:
        raise ValueError(
            f"{count} tokens at position {at} do not fit between the start token and the "
            f"last of {ids.shape[1]} positions"
        )
    # Not the end token: the encoder would look for its pooled output here.
    filler = ids[:, :1].expand(-1, count)
    moved = torch.cat([ids[:, :at], filler, ids[:, at:]], 1)[:, : ids.shape[1]]
    lost = (moved != end).all(1)
    moved[:, -1] = torch.where(lost, torch.full_like(moved[:, -1], end), moved[:, -1])
    return moved


@contextmanager
def inserted(encoders: Sequence[Any], rows: Tensor, at: int) -> Iterator[None]:
    """Let text encoders see `rows` as the token embeddings from position `at` on.

    rows: (batch, k, width); of several encoders, theirs side by side.
    """
    tables = [encoder.get_input_embeddings() for encoder in encoders]
    parts = rows.split([table.weight.shape[1] for table in tables], dim=2)
    with ExitStack() as stack:
        for table, part in zip(tables, parts, strict=True):
            # A hook on the table leaves positions, mask and attention to the encoder itself, in
            # every version of transformers; its forward takes no embeddings.
            hook = table.register_forward_hook(_inserter(part.to(table.weight.dtype), at))
            stack.callback(hook.remove)
        yield


def _inserter(rows: Tensor, at: int) -> Any:
    def insert(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return torch.cat([output[:, :at], rows, output[:, at + rows.shape[1] :]], 1)

    return insert
