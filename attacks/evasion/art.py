"""Any evasion attack of the adversarial-robustness-toolbox by the name of its class.

For comparison with what others report from ART. Its AutoAttack is NOT that of Croce and Hein:
it is APGD on two losses, DeepFool and Square, without targets and FAB; ours is auto_attack.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from safetybench.contracts import Budget, Classifies, Evasion, SafetyBenchError
from safetybench.registry import register, suggestion

from ._art import ART_NORMS, crafted

# They draw their starts from no seed, so that no run of them could be repeated.
_UNSEEDED = {
    "HopSkipJump": "; use attacks/evasion/hop_skip_jump",
    "BoundaryAttack": "; use attacks/evasion/boundary",
    "BrendelBethgeAttack": "",
}
# What the component says itself, or what would write files or start processes without a seed.
_FILLED = (
    *("estimator", "classifier", "estimator_orig", "norm", "eps", "targeted", "verbose"),
    *("summary_writer", "parallel_pool_size"),
)
# What ART's attacks raise where they do not fit: object detectors, sound, one image at a time.
_UNFIT = (AttributeError, ImportError, LookupError, NotImplementedError, TypeError, ValueError)


@register
@dataclass(frozen=True, kw_only=True)
class Art(Evasion):
    """Run an attack of ART (Nicolae et al. 2018) as its class has it.

    method: the class, such as AutoProjectedGradientDescent, SquareAttack or CarliniL2Method;
    options: of its constructor. Where it has them, norm and eps are the budget's, max_iter its
    steps (its queries, if steps are 0), batch_size is 64, and eps_step 2.5 epsilon over the
    steps, or 2 epsilon for those that adapt it. Others, as ART has them, and always untargeted.
    A method that looks for the smallest change is cut to the ball like the others, so that
    epsilon must be above 0.
    """

    method: str = "ProjectedGradientDescent"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    source: ClassVar[str] = "https://arxiv.org/abs/1807.01069"
    steps: ClassVar[int] = 100

    def __post_init__(self) -> None:
        known = _methods()
        if self.method in _UNSEEDED:
            raise ValueError(
                f"method must draw from a seed, got {self.method!r}{_UNSEEDED[self.method]}"
            )
        if self.method not in known:
            raise ValueError(
                f"method must be an evasion attack of ART, got {self.method!r}"
                f"{suggestion(self.method, known)}"
            )
        allowed = [key for key in _parameters(known[self.method]) if key not in _FILLED]
        for key in self.options:
            if key not in allowed:
                raise ValueError(
                    f"options must be of ART's {self.method}, got {key!r}"
                    f"{suggestion(key, allowed) or ';'} it takes {', '.join(allowed)}"
                )

    def perturb(
        self,
        target: Classifies,
        images: Tensor,
        labels: Tensor,
        budget: Budget,
        surrogate: Classifies | None = None,
    ) -> Tensor:
        """Return what ART returns; see `Evasion.perturb`.

        Raises:
            SafetyBenchError: ART refuses an option or the target, or returns no images.
        """
        if not budget.epsilon:
            return images.clone()

        def make(estimator: Any) -> Any:
            chosen = _methods()[self.method]
            attack = chosen(estimator, **self._arguments(chosen, budget))
            for part in getattr(attack, "attacks", ()):  # of AutoAttack, which shows their bars
                part.verbose = False
            return attack

        try:
            return crafted(make, target, images, labels, budget.seed)
        except _UNFIT as error:
            raise SafetyBenchError(f"ART's {self.method} on {target.name}: {error}") from error

    def _arguments(self, chosen: Any, budget: Budget) -> dict[str, Any]:
        steps = budget.steps or budget.queries or self.steps
        steps = self.options.get("max_iter", steps)
        is_adaptive = "Auto" in self.method
        defaults = {
            "norm": ART_NORMS[budget.norm],
            "eps": budget.epsilon,
            "eps_step": budget.epsilon * (2 if is_adaptive else min(1, 2.5 / max(steps, 1))),
            "max_iter": steps,
            "batch_size": 64,
            "targeted": False,
            "verbose": False,
        }
        takes = _parameters(chosen)
        return {key: defaults[key] for key in defaults if key in takes} | dict(self.options)


def _methods() -> dict[str, Any]:
    """Return ART's attacks of one classifier, by name."""
    from art.attacks import evasion
    from art.attacks.attack import EvasionAttack

    return {
        name: found
        for name, found in vars(evasion).items()
        if inspect.isclass(found)
        and issubclass(found, EvasionAttack)
        and {"estimator", "classifier"} & set(_parameters(found))
    }


def _parameters(chosen: Any) -> list[str]:
    return [name for name in inspect.signature(chosen).parameters if name != "self"]
