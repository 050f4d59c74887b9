"""Adversarial training: train on the worst images of a ball, found by gradient ascent.

The classic defense, without a teacher. White box to itself: it attacks the network that it trains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from safetybench.contracts import Budget, ClassLesson, Hardening
from safetybench.registry import register
from safetybench.vision.fitting import Batch, fit

from ._inner import attacked, check_ball, check_inner
from ._terms import ce, check_training


@register
@dataclass(frozen=True, kw_only=True)
class PgdAt(Hardening):
    """Minimise the loss that projected gradient ascent maximises (Madry et al. 2017).

    inner_steps: of the attack, published 10. rel_step: its step as a share of epsilon, published
    1/4. The ball is the budget's. Published with SGD and a rate cut in
    steps; here AdamW and a rate that rises and falls.
    """

    inner_steps: int = 10
    rel_step: float = 0.25
    size: int = 128
    rate: float = 3e-3

    source: ClassVar[str] = "https://arxiv.org/abs/1706.06083"

    def __post_init__(self) -> None:
        check_training(self.size, self.rate)
        check_inner(self.inner_steps, self.rel_step)

    def run(
        self, net: nn.Module, lesson: ClassLesson, budget: Budget, report: Any = None
    ) -> nn.Module:
        """Return `net`, trained; see `Hardening.run`."""
        check_ball(budget, self)

        def loss(net: nn.Module, batch: Batch) -> Tensor:
            attack = attacked(
                net,
                batch.images,
                lambda logits: ce(logits, batch.labels),
                budget,
                batch.generator,
                steps=self.inner_steps,
                rel_step=self.rel_step,
            )
            return ce(net(attack), batch.labels).mean()

        return fit(net, lesson, budget, loss, size=self.size, rate=self.rate, report=report)
