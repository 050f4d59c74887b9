"""Negative prompt: guide every image away from the concept's text, at sampling alone.

The cheapest defense, and no unlearning: the weights stay, so white-box attacks see a model without
it. Needs a sampler with classifier-free guidance; the result is not applicable to one-pass models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from safetybench.contracts import Budget, Erasure, Unlearning
from safetybench.registry import register
from safetybench.targets.safety import NegativePrompt as Safety


@register
@dataclass(frozen=True, kw_only=True)
class NegativePrompt(Unlearning):
    """Put the concept in the place of the empty prompt (Ho and Salimans 2022, guidance).

    bare: how many of the concept's phrasings the negative prompt lists, 1 for its name alone.
    The paper defines the guidance; the negative prompt is what its users made of it, and the
    SLD paper's baseline. The budget's steps are not used: nothing is trained.
    """

    bare: int = 1

    source: ClassVar[str] = "https://arxiv.org/abs/2207.12598"
    trains: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.bare < 1:
            raise ValueError(f"bare must be 1 or more, got {self.bare}")

    def run(self, target: Any, erasure: Erasure, budget: Budget, report: Any = None) -> Any:
        """Return the same networks under a sampler with a negative prompt.

        Raises:
            Unavailable: the target's sampler has no classifier-free guidance.
        """
        safety = Safety(concept=", ".join(erasure.bare[: self.bare]))
        return target.with_sampler(replace(target.sampler, safety=safety))
