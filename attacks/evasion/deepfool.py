"""DeepFool: step to the nearest boundary of the classifier taken as linear, until it is crossed.

Gradients of every class's logit; finds a small change in l2, and is no worst case in a ball.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from safetybench.class_contracts import Norm
from safetybench.contracts import Budget, Classifies, Evasion
from safetybench.registry import register

from ._art import crafted


@register
@dataclass(frozen=True, kw_only=True)
class Deepfool(Evasion):
    """Cross the nearest linearised boundary (Moosavi-Dezfooli et al. 2016), by ART's DeepFool.

    overshoot: by which the change is stretched at the end, published 0.02. classes: of the
    highest logits at first, to whose boundaries it looks; published 10. Departs from the paper:
    ART takes those classes over the batch together, and cuts to [0, 1] after every step.
    """

    overshoot: float = 0.02
    classes: int = 10

    source: ClassVar[str] = "https://arxiv.org/abs/1511.04599"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    is_minimal: ClassVar[bool] = True
    steps: ClassVar[int] = 100

    def __post_init__(self) -> None:
        if not self.overshoot >= 0:
            raise ValueError(f"overshoot must be 0 or more, got {self.overshoot}")
        if self.classes < 2:
            raise ValueError(f"classes must be 2 or more, got {self.classes}")

    def perturb(
        self,
        target: Classifies,
        images: Tensor,
        labels: Tensor,
        budget: Budget,
        surrogate: Classifies | None = None,
    ) -> Tensor:
        """Return images just over the nearest boundary; see `Evasion.perturb`."""

        def make(estimator: Any) -> Any:
            from art.attacks.evasion import DeepFool

            return DeepFool(
                estimator,
                max_iter=budget.steps or self.steps,
                epsilon=self.overshoot,
                nb_grads=self.classes,
                batch_size=64,
                verbose=False,
            )

        return crafted(make, target, images, labels, budget.seed)
