"""Carlini and Wagner's L2 attack: the smallest change, weighed against a margin of logits.

White box: gradients of the logits. It broke defensive distillation, since logits do not saturate
as a softmax does. Reported as mean L2 of the change; it should fool nearly every image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from safetybench.class_contracts import Norm
from safetybench.contracts import Budget, Classifies, Evasion
from safetybench.registry import register

from ._gradient import (
    answers,
    check_counts,
    check_temperature,
    fooled,
    margins,
    slope,
    temperatures,
)

# Adam's own defaults; the cap is the authors' for "no upper bound yet", and the rest their share
# by which a loss must have fallen in a tenth of the steps.
_MEAN, _SQUARE, _SMALL, _CAP, _FALL = 0.9, 0.999, 1e-8, 1e10, 0.9999


class _Descent(NamedTuple):
    """Images whose loss still falls; every field has them as its first axis.

    rows: their places in the batch; inner: what tanh maps to pixels; mean and square: Adam's;
    last: the loss at the last look.
    """

    rows: Tensor
    own: Tensor
    labels: Tensor
    scale: Tensor
    weight: Tensor
    inner: Tensor
    mean: Tensor
    square: Tensor
    last: Tensor

    def only(self, chosen: Tensor) -> _Descent:
        return _Descent(*(part[chosen] for part in self))


@register
@dataclass(frozen=True, kw_only=True)
class CarliniWagnerL2(Evasion):
    """Minimise |change|^2 + c * hinge of the margin, with c by binary search (2017).

    confidence: margin of logits that a success must have, kappa in the paper; lr: of Adam on the
    pixels' inverse tanh; searches: of c, from first_c. budget.steps counts updates in one search.
    temperature: logits are divided by it first; 0 takes each image's own, see Pgd. Departs from
    the code in that each image has its own stop, not the batch.
    """

    confidence: float = 0.0
    lr: float = 0.01
    searches: int = 9
    first_c: float = 1e-3
    temperature: float = 1.0

    source: ClassVar[str] = "https://arxiv.org/abs/1608.04644"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    is_minimal: ClassVar[bool] = True
    steps: ClassVar[int] = 1000

    def __post_init__(self) -> None:
        check_counts(searches=self.searches)
        check_temperature(self.temperature)
        if self.confidence < 0:
            raise ValueError(f"confidence must be 0 or more, got {self.confidence}")
        if self.lr <= 0 or self.first_c <= 0:
            raise ValueError(f"lr and first_c must be positive, got {self.lr}, {self.first_c}")

    def perturb(
        self,
        target: Classifies,
        images: Tensor,
        labels: Tensor,
        budget: Budget,
        surrogate: Classifies | None = None,
    ) -> Tensor:
        """Return the nearest misread images found, or those given; see `Evasion.perturb`."""
        logits, found = answers(target, images), images.clone()
        rows = (~fooled(logits, labels)).nonzero()[:, 0]
        own, told = images[rows], labels[rows]
        scale = temperatures(logits[rows], self.temperature)
        nearest = torch.full_like(scale[:, 0], torch.inf)
        c = torch.full_like(nearest, self.first_c)
        low, high = torch.zeros_like(c), torch.full_like(c, _CAP)
        for _ in range(self.searches):
            ends, distances = self._descend(
                target, _begin(own, told, scale, c), budget.steps or self.steps
            )
            is_nearer = distances < nearest
            found[rows[is_nearer]] = ends[is_nearer]
            nearest = torch.minimum(distances, nearest)
            has_won = distances.isfinite()
            high = torch.where(has_won, torch.minimum(high, c), high)
            low = torch.where(has_won, low, torch.maximum(low, c))
            c = torch.where(high < _CAP, (low + high) / 2, 10 * c)
        return found

    def _descend(self, target: Classifies, begun: _Descent, steps: int) -> tuple[Tensor, Tensor]:
        """Return per image the nearest success of one search, and its squared size, else inf."""
        state = begun
        found, nearest = state.own.clone(), torch.full_like(state.weight, torch.inf)
        for step in range(1, steps + 1):
            if not len(state.rows):
                break
            bent = torch.tanh(state.inner)
            at = (bent + 1) / 2
            told, scale = state.labels, state.scale

            def hinge(logits: Tensor, told: Tensor = told, scale: Tensor = scale) -> Tensor:
                return (self.confidence - margins(logits / scale, told)).clamp_min(0)

            here = slope(target, at, hinge)  # downhill: it falls as an image comes to be misread
            change = at - state.own
            distance = change.square().flatten(1).sum(1)
            has_won = (here.loss <= 0) & fooled(here.logits, told)
            is_nearer = has_won & (distance < nearest[state.rows])
            found[state.rows[is_nearer]] = at[is_nearer]
            nearest[state.rows[is_nearer]] = distance[is_nearer]
            pull = 2 * change + state.weight[:, None, None, None] * here.gradient
            state = _stepped(state, pull * (1 - bent.square()) / 2, step, self.lr)
            if step % max(steps // 10, 1) == 0:
                loss = distance + state.weight * here.loss
                state = state._replace(last=loss).only(loss <= _FALL * state.last)
        return found, nearest


def _begin(own: Tensor, labels: Tensor, scale: Tensor, weight: Tensor) -> _Descent:
    inner = torch.atanh((2 * own - 1) * 0.999999)  # as published: 0 and 1 are infinitely far
    nothing = torch.zeros_like(own)
    rows = torch.arange(len(own), device=own.device)
    last = torch.full_like(weight, torch.inf)
    return _Descent(rows, own, labels, scale, weight, inner, nothing, nothing, last)


def _stepped(state: _Descent, gradient: Tensor, step: int, lr: float) -> _Descent:
    """Take one step of Adam, whose pixels know nothing of each other, so a batch is as one."""
    mean = torch.lerp(gradient, state.mean, _MEAN)
    square = torch.lerp(gradient.square(), state.square, _SQUARE)
    size = (square / (1 - _SQUARE**step)).sqrt() + _SMALL
    inner = state.inner - lr / (1 - _MEAN**step) * mean / size
    return state._replace(inner=inner, mean=mean, square=square)
