"""Plain training on labels: what every other way of training a classifier is compared with.

No defense at all. Needs labelled images alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from safetybench.contracts import Budget, ClassLesson, Hardening
from safetybench.registry import register
from safetybench.vision.fitting import Batch, fit

from ._augment import MOVES, Ranges, changed
from ._terms import ce, check_training

_RANGES = Ranges(rotate=30.0, shift=0.15, scale=0.15, brightness=0.1, contrast=0.2)


@register
@dataclass(frozen=True, kw_only=True)
class Standard(Hardening):
    """Minimise the cross-entropy by AdamW (Loshchilov and Hutter 2017).

    augment: every other image of a batch is moved and coloured at random, in the ranges of
    `random_augmentation`. size: images a batch. rate: the highest learning rate, see
    `safetybench.vision.fitting.fit`.
    """

    augment: bool = False
    size: int = 128
    rate: float = 3e-3

    source: ClassVar[str] = "https://arxiv.org/abs/1711.05101"

    def __post_init__(self) -> None:
        check_training(self.size, self.rate)

    def run(
        self, net: nn.Module, lesson: ClassLesson, budget: Budget, report: Any = None
    ) -> nn.Module:
        """Return `net`, trained; see `Hardening.run`."""

        def loss(net: nn.Module, batch: Batch) -> Tensor:
            images = batch.images
            if self.augment:
                draws = torch.rand(len(images), MOVES, generator=batch.generator).to(images)
                images = torch.cat(
                    [images[::2], changed(images[1::2], 2 * draws[1::2] - 1, _RANGES)]
                )
                labels = torch.cat([batch.labels[::2], batch.labels[1::2]])
                return ce(net(images), labels).mean()
            return ce(net(images), batch.labels).mean()

        return fit(net, lesson, budget, loss, size=self.size, rate=self.rate, report=report)
