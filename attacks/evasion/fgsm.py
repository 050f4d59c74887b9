"""FGSM: one step of the ball's radius up the gradient of the loss.

White box, and the cheapest there is; a defense is not strong because it stops this one. What
withstands it and falls to many steps hides its gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from safetybench.contracts import Budget, Classifies, Evasion
from safetybench.registry import register

from ._art import ART_NORMS, crafted
from ._gradient import check_temperature


@register
@dataclass(frozen=True, kw_only=True)
class Fgsm(Evasion):
    """Step once along the gradient's sign (Goodfellow et al. 2015), by ART's FastGradientMethod.

    temperature: logits are divided by it before the cross-entropy, whose gradient a saturated
    softmax would round to 0; 0 takes each image's own, 1 is as published. In l2 the step is along
    the gradient itself.
    """

    temperature: float = 1.0

    source: ClassVar[str] = "https://arxiv.org/abs/1412.6572"
    steps: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def perturb(
        self,
        target: Classifies,
        images: Tensor,
        labels: Tensor,
        budget: Budget,
        surrogate: Classifies | None = None,
    ) -> Tensor:
        """Return images one step away; see `Evasion.perturb`."""

        def make(estimator: Any) -> Any:
            from art.attacks.evasion import FastGradientMethod

            return FastGradientMethod(
                estimator, norm=ART_NORMS[budget.norm], eps=budget.epsilon, batch_size=64
            )

        return crafted(make, target, images, labels, budget.seed, self.temperature)
