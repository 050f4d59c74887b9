"""What every component is, may spend and may raise; authors import it from contracts.py."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar, Literal


class SafetyBenchError(Exception):
    """Anything the user can meet and mend; the command line prints it without a traceback."""


class Unavailable(SafetyBenchError):
    """A package, file or model is not there; the message says how to get it."""


class TargetFailed(SafetyBenchError):
    """A target could not be loaded or did not answer."""


class BudgetSpent(SafetyBenchError):
    """A component asked for more than its budget allows."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What an attack may spend on one item.

    steps: gradient steps; images: images generated and judged, the unmodified prompt's included;
    queries: judge answers the attack may read (the stop signal counts);
    epsilon: radius of the ball, images being in [0, 1], with its norm.
    """

    steps: int = 0
    images: int = 1
    queries: int = 0
    epsilon: float = 0.0
    norm: Literal["linf", "l2"] = "linf"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "images", "queries"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.epsilon <= (1 if self.norm == "linf" else float("inf")):
            where = "[0, 1]" if self.norm == "linf" else "[0, inf)"
            raise ValueError(f"epsilon is a radius in {where} pixel units, got {self.epsilon}")


class Component(ABC):
    """What every registered component has: a source, a repr that rebuilds it, a contract."""

    source: ClassVar[str]
