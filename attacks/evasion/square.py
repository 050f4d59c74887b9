"""Square: random windows at the edge of the ball, of which those that help are kept.

Black box: it reads scores alone, so masked gradients do not stop it. Where it beats an attack
that sees gradients, those gradients mislead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from safetybench.class_contracts import Access
from safetybench.contracts import Budget, Classifies, Evasion
from safetybench.registry import register

from ._gradient import answers, fooled, margins
from ._square import moved, pyramids, recoloured, share, stripes


@register
@dataclass(frozen=True, kw_only=True)
class Square(Evasion):
    """Search at random, by windows that shrink (Andriushchenko et al. 2020).

    p_init: share of the image that the first windows cover, published 0.8. Follows AutoAttack's
    version: the margin is the loss, the schedule is stretched to the queries, one window serves
    the batch. The first look counts as a query; images that are fooled leave.
    """

    p_init: float = 0.8

    source: ClassVar[str] = "https://arxiv.org/abs/1912.00049"
    sees: ClassVar[Access] = "scores"
    queries: ClassVar[int] = 5000

    def __post_init__(self) -> None:
        if not 0 < self.p_init <= 1:
            raise ValueError(f"p_init is a share of the image in (0, 1], got {self.p_init}")

    @torch.no_grad()
    def perturb(
        self,
        target: Classifies,
        images: Tensor,
        labels: Tensor,
        budget: Budget,
        surrogate: Classifies | None = None,
    ) -> Tensor:
        """Return changed images; see `Evasion.perturb`."""
        queries = budget.queries or self.queries
        generator = torch.Generator().manual_seed(budget.seed)
        first, propose = (stripes, recoloured) if budget.norm == "linf" else (pyramids, moved)
        found = first(images, budget.epsilon, generator)
        logits = answers(target, found)
        rows = (~fooled(logits, labels)).nonzero()[:, 0]
        own, told, best = images[rows], labels[rows], found[rows]
        margin = margins(logits, labels)[rows]
        for turn in range(queries - 1):
            if not len(rows):
                break
            part = share(turn, queries, self.p_init)
            tried = propose(own, best, part, budget.epsilon, generator)
            logits = answers(target, tried)
            new, is_fooled = margins(logits, told), fooled(logits, told)
            is_better = new > margin
            best = torch.where(is_better[:, None, None, None], tried, best)
            margin = torch.where(is_better, new, margin)
            if is_fooled.any():
                found[rows[is_fooled]] = tried[is_fooled]
                stays = ~is_fooled
                rows, own, told = rows[stays], own[stays], told[stays]
                best, margin = best[stays], margin[stays]
        found[rows] = best
        return found
