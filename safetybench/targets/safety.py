"""Defenses that live in a sampler: they turn classifier-free guidance away from a concept.

No weight changes, so whoever has the weights has the undefended model: `x0` and `embed` never see
them. This module needs no torch, so that a specification is checked at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from torch import Tensor

Preset = Literal["weak", "medium", "strong", "max"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
PRESET_STEPS = 50  # of the sampler for which warm-ups are published


@dataclass(frozen=True, kw_only=True)
class NegativePrompt:
    """Guide away from the concept's text in the place of the empty prompt.

    concept: text. Steps: eps(S) + w (eps(c) - eps(S)).
    """

    concept: str

    method: ClassVar[str] = "negative_prompt"

    def __post_init__(self) -> None:
        _check_concept(self.concept)


class Turned(NamedTuple):
    """A guidance direction after a step of SLD, with its momentum; (batch, channels, h, w)."""

    direction: Tensor
    momentum: Tensor


@dataclass(frozen=True, kw_only=True)
class SafeGuidance:
    """Safe latent diffusion (Schramowski et al. 2023): take a concept's direction out of guidance.

    concept: text of the unsafe concept S. warmup: steps, counted from 0, before it acts; scale:
    s_S; threshold: lambda; momentum: s_m; decay: beta. The defaults are the published "medium"
    for 50 steps. Source: https://arxiv.org/abs/2211.05105
    """

    concept: str
    warmup: int = 10
    scale: float = 1000.0
    threshold: float = 0.01
    momentum: float = 0.3
    decay: float = 0.4

    method: ClassVar[str] = "sld"

    def __post_init__(self) -> None:
        _check_concept(self.concept)
        if self.warmup < 0 or self.scale <= 0 or self.momentum < 0 or not 0 <= self.decay < 1:
            raise ValueError(
                "warmup and momentum must be 0 or more, scale positive and decay in [0, 1), got "
                f"{self.warmup}, {self.momentum}, {self.scale}, {self.decay}"
            )

    def turn(
        self, index: int, null: Tensor, aimed: Tensor, unsafe: Tensor, momentum: Tensor | None
    ) -> Turned:
        """Return the guidance direction of step `index`, which is no timestep.

        null, aimed, unsafe: what the denoiser says of the empty prompt, of the prompt and of the
        concept, all (batch, channels, h, w); momentum: of the step before, None at the first.
        As published this is in noise. A velocity is finite where alpha is 0 and noise is not, and
        at the same latents its differences are those of noise divided by alpha, so that signs
        stay and the factor min(1, scale |.|) is the published one wherever it is 1. The threshold
        is then compared with a difference that is larger by 1 / alpha: stricter at noisy steps.
        """
        gap = aimed - unsafe
        factor = (gap.abs() * self.scale).clamp(max=1) * (gap < self.threshold)
        away = factor * (unsafe - null)
        if momentum is not None:
            away = away + self.momentum * momentum
        kept = (1 - self.decay) * away
        if momentum is not None:
            kept = kept + self.decay * momentum
        direction = aimed - null
        return Turned(direction - away if index >= self.warmup else direction, kept)


Safety = NegativePrompt | SafeGuidance
METHODS: dict[str, type[Safety]] = {kind.method: kind for kind in (NegativePrompt, SafeGuidance)}


def preset(name: Preset, concept: str, steps: int) -> SafeGuidance:
    """Return a published setting of SLD for a sampler of so many steps.

    The published warm-up is of 50 steps; here it is the same share of `steps`, rounded.
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    warmup, scale, threshold, momentum, decay = _PUBLISHED[name]
    return SafeGuidance(
        concept=concept,
        warmup=round(warmup * steps / PRESET_STEPS),
        scale=scale,
        threshold=threshold,
        momentum=momentum,
        decay=decay,
    )


_PUBLISHED: dict[str, tuple[int, float, float, float, float]] = {
    "weak": (15, 200.0, 0.0, 0.0, 0.0),
    "medium": (10, 1000.0, 0.01, 0.3, 0.4),
    "strong": (7, 2000.0, 0.025, 0.5, 0.7),
    "max": (0, 5000.0, 1.0, 0.5, 0.7),
}


def read_safety(settings: Mapping[str, Any] | Safety, steps: int) -> Safety:
    """Return the safety that a card or a target's mapping names.

    settings: "method", "concept", and for "sld" its fields over those of "preset", by default
    "medium"; steps: of the sampler.

    Raises:
        ValueError: an unknown method or key, a value of the wrong type or out of range.
    """
    if isinstance(settings, Safety):
        return settings
    if not isinstance(settings, Mapping):
        raise ValueError(f"a safety must be a mapping, got {settings!r}")
    given = dict(settings)
    kind = METHODS.get(str(given.pop("method", "")))
    if kind is None:
        raise ValueError(
            f"a safety's method must be one of {', '.join(METHODS)}, got {settings.get('method')!r}"
        )
    known = {each.name for each in fields(kind)} | ({"preset"} if kind is SafeGuidance else set())
    unknown = sorted({str(key) for key in given} - known)
    if unknown:
        raise ValueError(f"a safety by {kind.method} has no {unknown[0]!r}, it has "
                         f"{', '.join(sorted(known))}")  # fmt: skip
    for key, value in given.items():
        if key in ("concept", "preset"):
            continue
        kinds = (int,) if key == "warmup" else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise ValueError(f"a safety's {key} must be a number, got {value!r}")
    concept = given.get("concept", "")
    if kind is NegativePrompt:
        return NegativePrompt(concept=concept)
    base = asdict(preset(given.pop("preset", "medium"), concept, steps))
    return SafeGuidance(**{**base, **given})


def settings_of(safety: Safety) -> dict[str, Any]:
    """Return what `read_safety` makes the same safety of, for a card and a digest."""
    return {"method": safety.method, **asdict(safety)}


def refusal(safety: Safety, *, steps: int, guidance: float, takes_guidance: bool = False) -> str:
    """Return why a sampler cannot have this safety, "" where it can.

    takes_guidance: the scale is an input of the denoiser, and there is no second pass.
    """
    why = f"a safety by {safety.method} is not applicable: it turns classifier-free guidance"
    if takes_guidance:
        return f"{why}, and this denoiser takes the guidance scale as an input of its one pass"
    if guidance <= 1:
        return f"{why}, and this sampler has none (guidance {guidance:g})"
    if isinstance(safety, SafeGuidance) and safety.warmup >= steps:
        return (
            f"a safety by sld is not applicable: its warm-up of {safety.warmup} steps is as long "
            f"as the sampler, which has {steps}"
        )
    return ""


def _check_concept(concept: Any) -> None:
    if not isinstance(concept, str) or not concept.strip():
        raise ValueError(f"a safety's concept must be text, got {concept!r}")
