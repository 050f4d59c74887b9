"""Transfer: images changed against one model, tried on another that the attacker cannot see.

Of the target it needs nothing; of the surrogate (a student's teacher, a model trained likewise)
what the attack that runs there needs. Tells how much of an attack survives distillation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from safetybench import registry
from safetybench.class_contracts import Access
from safetybench.contracts import Budget, Classifies, Evasion, SafetyBenchError
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class Transfer(Evasion):
    """Run an attack on the surrogate and return what comes out (Papernot et al. 2016).

    attack: the component that runs there, with its `options`; budget.steps and queries are its.
    The default is ART's PGD, which goes all its steps: one that ends where the surrogate is just
    fooled, as attacks/evasion/pgd does, fools hardly any other model. An image that the surrogate
    misreads as it is is attacked like the others. Departs from the paper, whose attacker trains
    the surrogate by asking the target: here it is given.
    """

    attack: str = "attacks/evasion/art"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    source: ClassVar[str] = "https://arxiv.org/abs/1605.07277"
    sees: ClassVar[Access] = "surrogate"
    uses_surrogate: ClassVar[bool] = True
    steps: ClassVar[int] = 40

    def __post_init__(self) -> None:
        inner = self.inner
        if inner.is_control or inner.is_natural or inner.uses_surrogate:
            raise ValueError(
                f"attack must be one that looks at the model it runs on, got {self.attack!r}"
            )

    @property
    def inner(self) -> Evasion:
        """The attack that runs on the surrogate."""
        made = registry.create(self.attack, self.options)
        if not isinstance(made, Evasion):
            raise ValueError(f"attack must be one of attacks/evasion, got {self.attack!r}")
        return made

    def perturb(
        self,
        target: Classifies,
        images: Tensor,
        labels: Tensor,
        budget: Budget,
        surrogate: Classifies | None = None,
    ) -> Tensor:
        """Return images as the surrogate's attack leaves them; see `Evasion.perturb`.

        Raises:
            SafetyBenchError: there is no surrogate, the attack is not held to this norm, or the
                surrogate's images or classes are others than the target's.
        """
        inner = self.inner
        if surrogate is None:
            raise SafetyBenchError("Transfer needs a surrogate, got none")
        if budget.norm not in inner.norms:
            raise SafetyBenchError(
                f"{self.attack} is held to {' or '.join(inner.norms)}, got {budget.norm}"
            )
        theirs, ours = (
            (model.classes, tuple(model.shape), model.name) for model in (surrogate, target)
        )
        if theirs[:2] != ours[:2]:
            raise SafetyBenchError(
                f"surrogate {theirs[2]} must have the classes and shape of {ours[2]}, "
                f"{ours[0]} and {ours[1]}, got {theirs[0]} and {theirs[1]}"
            )
        there = surrogate.device
        found = inner.perturb(surrogate, images.to(there), labels.to(there), budget)
        return found.detach().to(images.device)
