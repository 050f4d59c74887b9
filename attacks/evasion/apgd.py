"""APGD: PGD without a step size to choose, for it halves its own where progress stops.

White box: gradients of the logits. The first half of AutoAttack; with DLR losses it does not
depend on the scale of the logits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from safetybench.contracts import Budget, Classifies, Evasion
from safetybench.registry import register
from safetybench.vision.ball import sizes

from ._apgd import Ended, ascend
from ._gradient import (
    LOSSES,
    Slope,
    answers,
    check_classes,
    check_counts,
    check_loss,
    check_temperature,
    margins,
    ranked_others,
    slope,
    targeted_dlr,
    temperatures,
)


@register
@dataclass(frozen=True, kw_only=True)
class Apgd(Evasion):
    """Climb with momentum and halving steps (Croce & Hein 2020).

    loss: "ce", "dlr", "dlr-targeted" towards each of the n_targets likeliest wrong classes, or
    "margin", which is ours for few classes. restarts: of each class aimed at. rho: share of steps
    that must raise the loss, or the step is halved. temperature: as in Pgd; with 0 it is the
    margin of logits that must rise, for losses of different temperatures do not compare. eot:
    answers of a randomised model that a gradient is the mean of; departs from the code in that
    losses and logits are too. Images that are fooled leave; others end at their greatest loss.
    """

    loss: str = "ce"
    n_targets: int = 9
    restarts: int = 1
    rho: float = 0.75
    temperature: float = 1.0
    eot: int = 1

    source: ClassVar[str] = "https://arxiv.org/abs/2003.01690"
    steps: ClassVar[int] = 100

    def __post_init__(self) -> None:
        check_loss(self.loss, ("ce", "dlr", "dlr-targeted", "margin"))
        check_temperature(self.temperature)
        check_counts(restarts=self.restarts, eot=self.eot, n_targets=self.n_targets)
        if not 0 < self.rho < 1:
            raise ValueError(f"rho is a share of steps in (0, 1), got {self.rho}")

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
        budget = replace(budget, steps=budget.steps or self.steps)
        generator = torch.Generator().manual_seed(budget.seed)
        aims: tuple[Tensor | None, ...] = (None,)
        if self.loss == "dlr-targeted":
            aims = ranked_others(answers(target, images), labels, self.n_targets).unbind(1)
        found = images.clone()
        rows = torch.arange(len(images), device=images.device)
        for aim in aims:
            for _ in range(self.restarts):
                begun = _surface(images, budget, generator)
                if not len(rows):
                    break
                goals = None if aim is None else aim[rows]
                ended = self._run(target, images[rows], labels[rows], goals, begun[rows], budget)
                found[rows] = ended.images
                rows = rows[~ended.is_fooled]
        return found

    def _run(
        self,
        target: Classifies,
        images: Tensor,
        labels: Tensor,
        goals: Tensor | None,
        begun: Tensor,
        budget: Budget,
    ) -> Ended:
        def ask(points: Tensor, rows: Tensor) -> Slope:
            def loss(logits: Tensor) -> Tensor:
                logits = logits / temperatures(logits, self.temperature)
                if goals is not None:
                    return targeted_dlr(logits, labels[rows], goals[rows])
                return LOSSES[self.loss](logits, labels[rows])

            here = slope(target, points, loss, self.eot)
            if self.loss == "ce" and not self.temperature:
                # Steps of different temperatures cannot be compared by their cross-entropy.
                here = here._replace(loss=margins(here.logits, labels[rows]))
            return here

        is_random = self.eot > 1
        return ascend(ask, images, labels, begun, budget, self.rho, is_random=is_random)


def _surface(images: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
    """Draw a start at the ball's surface, as the authors do, inside [0, 1]."""
    if budget.norm == "linf":
        noise = 2 * torch.rand(images.shape, generator=generator) - 1
    else:
        noise = torch.randn(images.shape, generator=generator)
    noise = noise / sizes(noise, budget.norm).clamp_min(1e-12)[:, None, None, None]
    return (images + budget.epsilon * noise.to(images)).clamp(0, 1)
