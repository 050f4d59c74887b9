"""SNOOPI's training part, PG-SB: SwiftBrush under a guidance scale that is drawn at every step.

Its other part, NASA, is a wrapper of any student: `safetybench.distill.nasa`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from safetybench.distill.guidance import Scale
from safetybench.distill.recipes.swiftbrush import Swiftbrush
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class Snoopi(Swiftbrush):
    """Proper guidance SwiftBrush (Nguyen et al. 2024), after the paper: no code was published.

    guidance: range; teacher and LoRA get the same draw, published (0.5, 4).
    """

    guidance: Scale = (0.5, 4.0)

    source: ClassVar[str] = "https://arxiv.org/abs/2412.02687"
