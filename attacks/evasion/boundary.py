"""Boundary attack: a random walk along the boundary that draws nearer to the image.

By decisions alone, and without any estimate of a slope: the plainest attack of its kind. With few
queries HopSkipJump comes nearer; with thousands this one does on a small network, and is slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from safetybench.class_contracts import Access, Norm
from safetybench.contracts import Budget, Classifies, Evasion
from safetybench.registry import register

from ._art import searched


@register
@dataclass(frozen=True, kw_only=True)
class Boundary(Evasion):
    """Walk along the boundary at random (Brendel et al. 2018), by ART's BoundaryAttack.

    around, towards: first steps along the boundary and to the image, in units of the distance
    from it; both adapt to how many steps stay misread, ART's 0.01. Departs from the paper: 20
    steps are tried at once, half the random starts are coarse patches, and the nearest misread
    image that was met is returned.
    """

    around: float = 0.01
    towards: float = 0.01

    source: ClassVar[str] = "https://arxiv.org/abs/1712.04248"
    sees: ClassVar[Access] = "decisions"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    is_minimal: ClassVar[bool] = True
    queries: ClassVar[int] = 5000

    def __post_init__(self) -> None:
        for name in ("around", "towards"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be in (0, 1), got {getattr(self, name)}")

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
            from art.attacks.evasion import BoundaryAttack

            return BoundaryAttack(
                estimator,
                targeted=False,  # ART's own default is to be targeted
                delta=self.around,
                epsilon=self.towards,
                max_iter=queries,  # each takes one at least, and the queries end it
                batch_size=1024,
                verbose=False,
            )

        return searched(make, target, images, labels, budget, queries)
