"""AutoAttack: four attacks without options, one after the other on the images still right.

White box, but its last part reads scores alone: gradients that mislead do not save a model. The
usual measure of robust accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from safetybench.contracts import Budget, Classifies, Evasion
from safetybench.registry import register
from safetybench.vision.evading import evade

from .apgd import Apgd
from .fab import Fab
from .square import Square

VERSIONS = ("standard", "rand", "plus")


class Parts(NamedTuple):
    """Changed images, and for each the name of the part that fooled the target first, else ""."""

    images: Tensor
    won_by: tuple[str, ...]


@register
@dataclass(frozen=True, kw_only=True)
class AutoAttack(Evasion):
    """Take the first success of APGD-CE, APGD-T, FAB-T and Square (Croce & Hein 2020).

    version: "standard"; "rand" for randomised models, APGD-CE and APGD-DLR on means of 20 answers;
    "plus" with 5 restarts of APGD-CE, APGD-DLR and FAB-T. Wrong classes aimed at: 9, or all if
    there are fewer. DLR is undefined for few classes: APGD-T below 4, and APGD-DLR below 3, climb
    the margin of logits instead, where the authors' code gives up. Departs from the paper in
    "plus", whose untargeted FAB is FAB-T here.
    """

    version: str = "standard"

    source: ClassVar[str] = "https://arxiv.org/abs/2003.01690"
    steps: ClassVar[int] = 100
    queries: ClassVar[int] = 5000

    def __post_init__(self) -> None:
        if self.version not in VERSIONS:
            raise ValueError(f"version must be one of {', '.join(VERSIONS)}, got {self.version!r}")

    def perturb(
        self,
        target: Classifies,
        images: Tensor,
        labels: Tensor,
        budget: Budget,
        surrogate: Classifies | None = None,
    ) -> Tensor:
        """Return changed images, and those given where no part wins; see `Evasion.perturb`."""
        return self.parts(target, images, labels, budget).images

    def parts(self, target: Classifies, images: Tensor, labels: Tensor, budget: Budget) -> Parts:
        """Return the changed images and which part won each; arguments as of `perturb`."""
        budget = replace(
            budget,
            steps=budget.steps or self.steps,
            queries=budget.queries or self.queries,
        )
        found, won_by = images.clone(), [""] * len(images)
        rows = torch.arange(len(images), device=images.device)
        for name, attack in self._attacks(target.classes).items():
            if not len(rows):
                break
            ended = evade(attack, target, images[rows], labels[rows], budget)
            found[rows[ended.is_wrong]] = ended.images[ended.is_wrong]
            for row in rows[ended.is_wrong & ended.was_right].tolist():
                won_by[row] = name
            rows = rows[~ended.is_wrong]
        return Parts(found, tuple(won_by))

    def _attacks(self, classes: int) -> Mapping[str, Evasion]:
        plain = "dlr" if classes > 2 else "margin"
        towards = Apgd(loss="dlr-targeted" if classes > 3 else "margin")
        if self.version == "rand":
            return {"apgd-ce": Apgd(eot=20), "apgd-dlr": Apgd(loss=plain, eot=20)}
        if self.version == "standard":
            return {"apgd-ce": Apgd(), "apgd-t": towards, "fab-t": Fab(), "square": Square()}
        return {
            "apgd-ce": Apgd(restarts=5),
            "apgd-dlr": Apgd(loss=plain, restarts=5),
            "apgd-t": towards,
            "fab-t": Fab(restarts=5),
            "square": Square(),
        }
