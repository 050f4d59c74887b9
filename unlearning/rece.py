"""RECE: edit in closed form, look in closed form for what still gives the concept, edit that too.

UCE with adversarial epochs; no training and no images. White box: the text encoder and the
denoiser's weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from safetybench.contracts import Budget, Erasure, Unlearning
from safetybench.registry import register

from ._closed_form import Rows, check, edit, phrases_of, projections, rows_of


@register
@dataclass(frozen=True, kw_only=True)
class Rece(Unlearning):
    """Reliable and efficient concept erasure (Gong et al. 2024).

    epochs: adversarial ones, after a first edit as UCE makes it (published 2 to 3 for nudity, 1
    for styles, 1 or 5 for objects). erase, ridge: as published, 1 and 0.1. preserve:
    published 0.1, which costs the zoo's teacher more of other concepts. adversarial_ridge: lambda
    of the adversarial embedding, published 0.1 (nudity, easy objects) and 1e-3 (styles, hard
    objects). templates, kept: as for UCE, published 0 and 0; the empty prompt is always kept.
    Embeddings are those of every token.
    accumulate: an epoch solves again from the original weights, with all embeddings found so far.
    Published is False: it edits the weights that it finds by what it has just found. On the zoo
    that takes back the edit before it.
    The budget's steps and seed are not used.
    """

    epochs: int = 2
    erase: float = 1.0
    preserve: float = 1.0
    ridge: float = 0.1
    adversarial_ridge: float = 0.1
    templates: int = 64
    kept: int = 256
    accumulate: bool = True

    source: ClassVar[str] = "https://arxiv.org/abs/2407.12383"
    trains: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self)
        if self.epochs < 0 or self.adversarial_ridge <= 0:
            raise ValueError(
                "epochs must be 0 or more and adversarial_ridge positive, got "
                f"{self.epochs} and {self.adversarial_ridge}"
            )

    def run(self, target: Any, erasure: Erasure, budget: Budget, report: Any = None) -> Any:
        """Return a target that reads the concept, and what stands in for it, as the anchor."""
        phrases = phrases_of(erasure, templates=self.templates, kept=self.kept)
        rows = rows_of(target, phrases._replace(kept=("", *phrases.kept)), "all")
        made, todo = target.clone(), rows
        weights = {"erase": self.erase, "preserve": self.preserve, "ridge": self.ridge}
        edit(made.unet, todo, **weights)
        for _ in range(self.epochs):
            found = adversarial(made.unet, target.unet, rows.concept, self.adversarial_ridge)
            if self.accumulate:
                made = target.clone()
                todo = Rows(
                    torch.cat([todo.concept, found]), torch.cat([todo.guide, rows.guide]), rows.kept
                )
            else:
                todo = rows._replace(concept=found)
            edit(made.unet, todo, **weights)
        return made


@torch.no_grad()
def adversarial(edited: nn.Module, original: nn.Module, concept: Tensor, ridge: float) -> Tensor:
    """Return the embeddings of which the edited layers make what the original ones made of these.

    The minimiser c' of sum |W_new c' - W_old c|^2 + ridge |c'|^2 over all key and value layers,
    for each row c of concept: (count, width).
    """
    concept = concept.double()
    left = ridge * torch.eye(concept.shape[1], dtype=torch.float64, device=concept.device)
    right = torch.zeros_like(left)
    for new, old in zip(projections(edited), projections(original), strict=True):
        after, before = new.weight.double(), old.weight.double()
        left += after.T @ after
        right += after.T @ before
    found: Tensor = torch.linalg.solve(left, right @ concept.T).T
    return found
