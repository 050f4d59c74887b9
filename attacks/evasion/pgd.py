"""PGD: steps up the gradient of a loss, each put back into the ball; the plain strong attack.

White box: gradients of the logits. An image that is fooled is done and leaves the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from safetybench.contracts import Budget, Classifies, Evasion
from safetybench.registry import register
from safetybench.vision.ball import clip, start, steepest

from ._gradient import (
    LOSSES,
    check_classes,
    check_counts,
    check_loss,
    check_temperature,
    fooled,
    slope,
    temperatures,
)


@register
@dataclass(frozen=True, kw_only=True)
class Pgd(Evasion):
    """Climb a loss inside the ball from random starts (Madry et al. 2018).

    loss: "ce" as published, "dlr" or "margin", which do not saturate. rel_step: step in units of
    epsilon, 0 for 2.5 over the steps. temperature: logits are divided by it before the loss; 0
    takes at each step each image's own, which an attacker of a saturated softmax needs not know.
    eot: answers of a randomised model that a gradient is the mean of. Departs from the paper in
    that the first point that fools ends the search of its image; of one that none fools the last
    is returned. With eot above 1, one lucky draw ends nothing: all steps are taken, and the point
    of greatest mean loss is returned.
    """

    loss: str = "ce"
    rel_step: float = 0.0
    restarts: int = 1
    random_start: bool = True
    temperature: float = 1.0
    eot: int = 1

    source: ClassVar[str] = "https://arxiv.org/abs/1706.06083"
    steps: ClassVar[int] = 40

    def __post_init__(self) -> None:
        check_loss(self.loss, tuple(LOSSES))
        check_temperature(self.temperature)
        check_counts(restarts=self.restarts, eot=self.eot)
        if not 0 <= self.rel_step <= 2:
            raise ValueError(
                f"rel_step is a fraction of epsilon in (0, 2], or 0, got {self.rel_step}"
            )

    def perturb(
        self,
        target: Classifies,
        images: Tensor,
        labels: Tensor,
        budget: Budget,
        surrogate: Classifies | None = None,
    ) -> Tensor:
        """Return changed images; see `Evasion.perturb`."""
        check_classes(self.loss, target)
        generator = torch.Generator().manual_seed(budget.seed)
        found = images.clone()
        rows = torch.arange(len(images), device=images.device)
        for _ in range(self.restarts):
            # Of the whole batch: who is fooled already must not shift the others' draws.
            begun = images
            if self.random_start:
                begun = start(images, budget.epsilon, budget.norm, generator)
            if not len(rows):
                break
            ends, is_fooled = self._climb(target, images[rows], labels[rows], begun[rows], budget)
            found[rows] = ends
            rows = rows[~is_fooled]
        return found

    def _climb(
        self, target: Classifies, images: Tensor, labels: Tensor, begun: Tensor, budget: Budget
    ) -> tuple[Tensor, Tensor]:
        steps = budget.steps or self.steps
        stride = budget.epsilon * (self.rel_step or 2.5 / steps)
        found, at = begun.clone(), begun
        rows = torch.arange(len(images), device=images.device)
        most = torch.full((len(images),), -torch.inf, device=images.device)
        is_fooled = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        for step in range(steps + 1):
            told = labels[rows]

            def loss(logits: Tensor, told: Tensor = told) -> Tensor:
                return LOSSES[self.loss](logits / temperatures(logits, self.temperature), told)

            here = slope(target, at, loss, self.eot)
            now = fooled(here.logits, told)
            if self.eot > 1:
                is_more = here.loss > most
                found[is_more], most[is_more] = at[is_more], here.loss[is_more]
                is_fooled[is_more] = now[is_more]
                stays = torch.ones_like(now)
            else:
                found[rows] = at
                is_fooled[rows] = now
                stays = ~now
            rows = rows[stays]
            if step == steps or not len(rows):
                break
            moved = at[stays] + stride * steepest(here.gradient[stays], budget.norm)
            at = clip(moved, images[rows], budget.epsilon, budget.norm)
        return found, is_fooled
