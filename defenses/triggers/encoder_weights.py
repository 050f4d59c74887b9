"""Encoder weights: which parts of a model are not those of its base, and by how much.

The first question of a scan: a backdoor in the text encoder leaves it changed, and so does honest
fine-tuning. Access: weights of both models; nothing is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from safetybench.contracts import Budget, ModelDetector, SafetyBenchError, Suspicion
from safetybench.registry import register

PARTS = ("text_encoder", "text_encoder_2", "unet", "vae")


@register
@dataclass(frozen=True, kw_only=True)
class EncoderWeights(ModelDetector):
    """Compare weights with the base's; what a defender with the original does first.

    Rickrolling (Struppek et al. 2023) plants its backdoor in the text encoder alone, which users
    swap in from others: there a weight that changed is a reason to look further. The score is the
    relative change of the text encoders, |W - V| / |V| over all weights V of the base, 0 for the
    same; evidence: the same of every part that changed, then of the layers that changed most.
    layers: how many of those. The budget is not used.
    """

    layers: int = 8

    source: ClassVar[str] = "https://arxiv.org/abs/2211.02408"
    needs: ClassVar[tuple[type, ...]] = ()
    sees: ClassVar[str] = "weights of the model under test and of its base"

    def __post_init__(self) -> None:
        if self.layers < 0:
            raise ValueError(f"layers must be 0 or more, got {self.layers}")

    def examine(self, target: Any, base: Any, budget: Budget, report: Any = None) -> Suspicion:
        """Return what differs; see `ModelDetector.examine`.

        Raises:
            SafetyBenchError: no base, or one of other weights by name or shape.
        """
        if base is None:
            raise SafetyBenchError(
                "encoder_weights compares with the model that the one under test was made of; "
                "give it a base"
            )
        parts: dict[str, float] = {}
        layers: list[tuple[str, float]] = []
        encoders = _Change(0.0, 0.0)
        for part in PARTS:
            if not hasattr(base, part) and not hasattr(target, part):
                continue
            changes = dict(_changes(part, getattr(target, part, None), getattr(base, part, None)))
            whole = _Change(*map(sum, zip(*changes.values(), strict=True)))
            parts[part] = whole.relative
            layers += [(f"{part}.{name}", each.relative) for name, each in changes.items()]
            if part.startswith("text_encoder"):
                encoders = _Change(encoders.moved + whole.moved, encoders.norm + whole.norm)
        changed = sorted(parts.items(), key=lambda each: -each[1])
        layers = sorted((each for each in layers if each[1]), key=lambda each: -each[1])
        evidence = [each for each in changed if each[1]] + layers[: self.layers]
        return Suspicion(encoders.relative, tuple(evidence), _note(parts))


class _Change(NamedTuple):
    """Sums of squares: of what moved, and of the base's weights."""

    moved: float
    norm: float

    @property
    def relative(self) -> float:
        """|W - V| / |V|; |W| where the base has only zeros."""
        return float((self.moved / self.norm if self.norm else self.moved) ** 0.5)


def _changes(
    part: str, mine: nn.Module | None, theirs: nn.Module | None
) -> Iterator[tuple[str, _Change]]:
    """Yield the change of every tensor of a part by its name, buffers too."""
    given = mine.state_dict() if mine is not None else {}
    known = theirs.state_dict() if theirs is not None else {}
    for name in sorted(given.keys() | known.keys()):
        if name not in given or name not in known or given[name].shape != known[name].shape:
            shapes = [
                tuple(each[name].shape) if name in each else "none" for each in (given, known)
            ]
            raise SafetyBenchError(
                f"the base must have the same weights by name and shape, got {part}.{name} of "
                f"{shapes[0]} beside {shapes[1]}; give it the model that this one was made of"
            )
        new, old = (each[name].detach().to("cpu", torch.float64) for each in (given, known))
        yield name, _Change(float((new - old).square().sum()), float(old.square().sum()))


def _note(parts: dict[str, float]) -> str:
    changed = [part for part, value in parts.items() if value]
    if not changed:
        return "no weight differs from the base"
    listed = " and ".join(changed)
    return (
        f"{listed} changed; an honest fine-tune changes weights as a backdoor does, and this "
        "cannot tell the two apart"
    )
