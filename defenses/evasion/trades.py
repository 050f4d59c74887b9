"""TRADES: be right on clean images, and answer alike in the ball around them.

A defense without a teacher, which trades accuracy for robustness by one weight. White box to
itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from safetybench.contracts import Budget, ClassLesson, Hardening
from safetybench.registry import register
from safetybench.vision.fitting import Batch, fit

from ._inner import attacked, check_ball, check_inner
from ._terms import ce, check_training, kl


@register
@dataclass(frozen=True, kw_only=True)
class Trades(Hardening):
    """Add beta KL(clean answer || attacked answer) to the clean loss (Zhang et al. 2019).

    beta: published 6. inner_steps: of the attack, published 10. rel_step: its step as a share of
    epsilon, published 1/4. The attack climbs the same divergence. Departs in its start, which is
    uniform in the ball and not 0.001 of a Gaussian around the image, and in the optimiser.
    """

    beta: float = 6.0
    inner_steps: int = 10
    rel_step: float = 0.25
    size: int = 128
    rate: float = 3e-3

    source: ClassVar[str] = "https://arxiv.org/abs/1901.08573"

    def __post_init__(self) -> None:
        check_training(self.size, self.rate)
        check_inner(self.inner_steps, self.rel_step)
        if self.beta < 0:
            raise ValueError(f"beta must be 0 or more, got {self.beta}")

    def run(
        self, net: nn.Module, lesson: ClassLesson, budget: Budget, report: Any = None
    ) -> nn.Module:
        """Return `net`, trained; see `Hardening.run`."""
        check_ball(budget, self)

        def loss(net: nn.Module, batch: Batch) -> Tensor:
            with torch.no_grad():
                goal = net.eval()(batch.images)
            net.train()
            attack = attacked(
                net,
                batch.images,
                lambda logits: kl(logits, goal),
                budget,
                batch.generator,
                steps=self.inner_steps,
                rel_step=self.rel_step,
            )
            clean = net(batch.images)
            apart = kl(net(attack), clean)  # the clean answers move too, as published
            return (ce(clean, batch.labels) + self.beta * apart).mean()

        return fit(net, lesson, budget, loss, size=self.size, rate=self.rate, report=report)
