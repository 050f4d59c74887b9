"""Plain training on labels: what every other way of training a classifier is compared with.

No defense at all. Needs labelled images alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from safetybench.contracts import Budget, ClassLesson, Hardening
from safetybench.registry import register
from safetybench.vision.fitting import Batch, fit

from ._terms import ce, check_training


@register
@dataclass(frozen=True, kw_only=True)
class Standard(Hardening):
    """Minimise the cross-entropy by AdamW (Loshchilov and Hutter 2017).

    size: images a batch. rate: the highest learning rate, see `safetybench.vision.fitting.fit`.
    """

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
            return ce(net(batch.images), batch.labels).mean()

        return fit(net, lesson, budget, loss, size=self.size, rate=self.rate, report=report)
