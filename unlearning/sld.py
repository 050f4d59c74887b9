"""SLD: take the part of the guidance that points at a concept out of it, at sampling alone.

Safe latent diffusion; a third pass of the denoiser a step. No unlearning: the weights stay, so
white-box attacks see a model without it. Needs classifier-free guidance and several steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from safetybench.contracts import Budget, Erasure, Unlearning
from safetybench.registry import register
from safetybench.targets.safety import PRESETS, Preset, preset


@register
@dataclass(frozen=True, kw_only=True)
class Sld(Unlearning):
    """Safe latent diffusion (Schramowski et al. 2023).

    preset: the published (warm-up, s_S, lambda, s_m, beta): "weak" 15, 200, 0, 0, 0; "medium" 10,
    1000, 0.01, 0.3, 0.4; "strong" 7, 2000, 0.025, 0.5, 0.7; "max" 0, 5000, 1, 0.5, 0.7. The
    warm-up counts steps of 50 and is kept as a share of the target's own; warmup: another one,
    in steps. scale, threshold: in the place of the preset's s_S and lambda. bare: how many of the
    concept's phrasings the safety concept lists (published: a list of words).
    A trade on the zoo's teacher: the stronger the preset, the less is left of the concept and of
    all else, and no setting of scale, threshold, warm-up and momentum had both; the suite
    `unlearning` measures "max". The published figures are of noise: threshold and momentum act on
    the network's own prediction here, which for a velocity is stricter at noisy steps.
    """

    preset: Preset = "medium"
    scale: float | None = None
    threshold: float | None = None
    warmup: int | None = None
    bare: int = 1

    source: ClassVar[str] = "https://arxiv.org/abs/2211.05105"
    trains: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}")
        if (self.scale is not None and self.scale <= 0) or self.bare < 1:
            raise ValueError(
                f"scale must be positive and bare 1 or more, got {self.scale} and {self.bare}"
            )
        if self.warmup is not None and self.warmup < 0:
            raise ValueError(f"warmup must be 0 or more, got {self.warmup}")

    def run(self, target: Any, erasure: Erasure, budget: Budget, report: Any = None) -> Any:
        """Return the same networks under a sampler with safety guidance.

        Raises:
            Unavailable: the target's sampler has no classifier-free guidance, or ends before
                the warm-up does.
        """
        concept = ", ".join(erasure.bare[: self.bare])
        given = {
            name: getattr(self, name)
            for name in ("scale", "threshold", "warmup")
            if getattr(self, name) is not None
        }
        safety = replace(preset(self.preset, concept, target.sampler.steps), **given)
        return target.with_sampler(replace(target.sampler, safety=safety))
