"""HopSkipJump: walk along the boundary towards the image, by decisions alone.

The boundary's slope is estimated from the decisions on random points around; sees neither
gradients nor scores, so that a defense that hides its gradients does not hide from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from safetybench.class_contracts import Access, Norm
from safetybench.contracts import Budget, Classifies, Evasion
from safetybench.registry import register

from ._art import ART_NORMS, searched


@register
@dataclass(frozen=True, kw_only=True)
class HopSkipJump(Evasion):
    """Estimate the boundary's slope from decisions (Chen et al. 2020), by ART's HopSkipJump.

    slope_queries: for the first estimate, published 100; the later ones take the square root of
    their number as many times more. It is at most a tenth of the budget, and goes on until the
    queries are used up. Departs from the paper: half the random starts are coarse patches, and
    the nearest misread image that was met is returned, where ART returns the last.
    """

    slope_queries: int = 100

    source: ClassVar[str] = "https://arxiv.org/abs/1904.02144"
    sees: ClassVar[Access] = "decisions"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    is_minimal: ClassVar[bool] = True
    queries: ClassVar[int] = 5000

    def __post_init__(self) -> None:
        if self.slope_queries < 1:
            raise ValueError(f"slope_queries must be 1 or more, got {self.slope_queries}")

    def perturb(
        self,
        target: Classifies,
        images: Tensor,
        labels: Tensor,
        budget: Budget,
        surrogate: Classifies | None = None,
    ) -> Tensor:
        """Return the nearest misread images that were met; see `Evasion.perturb`."""
        queries = budget.queries or self.queries

        def make(estimator: Any) -> Any:
            from art.attacks.evasion import HopSkipJump as ArtHopSkipJump

            return ArtHopSkipJump(
                estimator,
                norm=ART_NORMS[budget.norm],
                max_iter=queries,  # each takes one at least, and the queries end it
                max_eval=queries,
                init_eval=max(1, min(self.slope_queries, queries // 10)),
                batch_size=1024,
                verbose=False,
            )

        return searched(make, target, images, labels, budget, queries)
