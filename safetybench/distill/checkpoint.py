"""Write and read the state of a training, so that a killed one ends with the same weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from safetybench.contracts import SafetyBenchError


class CheckpointFailed(SafetyBenchError):
    """A checkpoint could not be written; what was trained until the last one is kept."""


def save(file: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        CheckpointFailed: it cannot be written, for example on a full disk.
    """
    partial = file.with_suffix(".partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, partial)
        os.replace(partial, file)
    except (OSError, RuntimeError) as error:
        raise CheckpointFailed(f"could not write the checkpoint {file}: {error}") from error


def load(file: Path | None, training: list[Any]) -> dict[str, Any] | None:
    """Return a checkpoint, or None where there is none; training: what it must be of.

    Raises:
        SafetyBenchError: the file is damaged, or of another training.
    """
    if file is None or not file.exists():
        return None
    try:
        kept = dict(torch.load(file, weights_only=True))
    except Exception as error:  # what is not a pickle makes unpickling raise nearly anything
        raise SafetyBenchError(f"{file} cannot be read; remove it to start anew") from error
    if kept.get("training") != training:
        raise SafetyBenchError(
            f"{file} is the checkpoint of another training ({kept.get('training')} and not "
            f"{training}); remove it to start anew"
        )
    return kept


@torch.no_grad()
def restore(
    kept: dict[str, Any],
    file: Path,
    groups: dict[str, Sequence[nn.Parameter]],
    optimisers: Sequence[torch.optim.Optimizer],
    keeps: Sequence[nn.Module],
    averages: list[Tensor],
) -> None:
    """Put a checkpoint's values back in place.

    Raises:
        SafetyBenchError: it is of another training.
    """
    try:
        if list(kept["weights"]) != list(groups):
            raise ValueError(f"it trains {', '.join(kept['weights'])}")
        for name, weights in groups.items():
            for weight, value in zip(weights, kept["weights"][name], strict=True):
                weight.copy_(value)
        for optimiser, values in zip(optimisers, kept["optimisers"], strict=True):
            optimiser.load_state_dict(values)
        for module, values in zip(keeps, kept["keeps"], strict=True):
            module.load_state_dict(values)
        for average, value in zip(averages, kept["averages"], strict=True):
            average.copy_(value)
    except (ValueError, RuntimeError, KeyError) as error:
        raise SafetyBenchError(
            f"{file} is the checkpoint of another training ({error}); remove it to start anew"
        ) from error
