"""FAB-T: the smallest change towards each likely wrong class, by planes that stand for borders.

White box: gradients of two logits. It needs no epsilon, and does not fail where a loss is flat
only because of its scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from safetybench.contracts import Budget, Classifies, Evasion
from safetybench.registry import register
from safetybench.vision.ball import sizes

from ._gradient import answers, check_counts, fooled, leads, ranked_others, slope
from ._plane import reach

# Published: how far past the plane, how far back from a success, most weight of the own image.
_OVER, _BACK, _PULL = 1.05, 0.9, 0.1


@register
@dataclass(frozen=True, kw_only=True)
class Fab(Evasion):
    """Project onto linearised borders of each wrong class in turn (Croce & Hein 2020, FAB-T).

    n_targets: likeliest wrong classes that are tried; restarts: of each, the first from the image
    itself and others from a point half way to the ball's surface, or to the best point yet. With
    epsilon above 0 an image is done as soon as its change fits; with 0 the smallest is sought to
    the end.
    """

    n_targets: int = 9
    restarts: int = 1

    source: ClassVar[str] = "https://arxiv.org/abs/1907.02044"
    is_minimal: ClassVar[bool] = True
    steps: ClassVar[int] = 100

    def __post_init__(self) -> None:
        check_counts(n_targets=self.n_targets, restarts=self.restarts)

    def perturb(
        self,
        target: Classifies,
        images: Tensor,
        labels: Tensor,
        budget: Budget,
        surrogate: Classifies | None = None,
    ) -> Tensor:
        """Return the nearest misread images found, or those given; see `Evasion.perturb`."""
        generator = torch.Generator().manual_seed(budget.seed)
        logits, found = answers(target, images), images.clone()
        nearest = torch.full_like(logits[:, 0], torch.inf)
        nearest[fooled(logits, labels)] = 0
        for goals in ranked_others(logits, labels, self.n_targets).unbind(1):
            for restart in range(self.restarts):
                begun = images
                if restart:
                    begun = _apart(images, nearest, budget, generator)
                rows = (nearest > budget.epsilon).nonzero()[:, 0]
                if not len(rows):
                    break
                ends, distances = self._search(
                    target, images[rows], labels[rows], goals[rows], begun[rows], budget
                )
                is_nearer = distances < nearest[rows]
                found[rows[is_nearer]] = ends[is_nearer]
                nearest[rows] = torch.minimum(distances, nearest[rows])
        return found

    def _search(
        self,
        target: Classifies,
        images: Tensor,
        labels: Tensor,
        goals: Tensor,
        begun: Tensor,
        budget: Budget,
    ) -> tuple[Tensor, Tensor]:
        found, nearest = images.clone(), torch.full_like(images[:, 0, 0, 0], torch.inf)
        rows, at = torch.arange(len(images), device=images.device), begun
        for _ in range(budget.steps or self.steps):
            own, told = images[rows], labels[rows]
            at = _projected(target, at, own, told, goals[rows], budget)
            is_wrong = fooled(answers(target, at), told)
            distance = sizes(at - own, budget.norm)
            is_nearer = is_wrong & (distance < nearest[rows])
            found[rows[is_nearer]] = at[is_nearer]
            nearest[rows[is_nearer]] = distance[is_nearer]
            at = torch.where(_wide(is_wrong), own + _BACK * (at - own), at)
            stays = nearest[rows] > budget.epsilon
            rows, at = rows[stays], at[stays]
            if not len(rows):
                break
        return found, nearest


def _projected(
    target: Classifies, at: Tensor, own: Tensor, labels: Tensor, goals: Tensor, budget: Budget
) -> Tensor:
    """Go past the border's plane from the point and from the own image, and mix the two."""
    here = slope(target, at, lambda logits: leads(logits, labels, goals))
    normals = here.gradient.flatten(1)
    missing = -here.loss
    from_own = missing + (normals * (at - own).flatten(1)).sum(1)
    both = reach(
        torch.cat([at.flatten(1), own.flatten(1)]),
        torch.cat([normals, normals]),
        torch.cat([missing, from_own]),
        budget.norm,
    )
    change, away = both.view(-1, *at.shape[1:]).chunk(2)
    size, size_away = (sizes(part, budget.norm).clamp_min(1e-8) for part in (change, away))
    pull = _wide((size / (size + size_away)).clamp_max(_PULL))
    return ((1 - pull) * (at + _OVER * change) + pull * (own + _OVER * away)).clamp(0, 1)


def _apart(images: Tensor, nearest: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
    """Draw a start half way to the ball's surface or to the best point yet, the nearer of both."""
    radius = nearest.clamp_max(budget.epsilon or torch.inf) / 2
    radius = torch.where(radius.isfinite(), radius, 0)
    if budget.norm == "linf":
        noise = 2 * torch.rand(images.shape, generator=generator) - 1
    else:
        noise = torch.randn(images.shape, generator=generator)
    noise = noise / _wide(sizes(noise, budget.norm).clamp_min(1e-12))
    return (images + _wide(radius) * noise.to(images)).clamp(0, 1)


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]
