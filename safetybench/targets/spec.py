"""What a suite or a user names as a target, parsed and checked without loading anything.

`zoo:NAME`, a diffusers directory, a hub id, or a mapping with `path` and sampler settings. This
module needs no torch, so that a typo is reported at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from safetybench.contracts import SafetyBenchError, Unavailable
from safetybench.targets.safety import Safety, read_safety, refusal

# The traits that a card tells; the others follow from the sampler in force.
TOLD_TRAITS = ("shared_with_teacher", "data", "prompts", "defended_at")
# Schedulers that were written for consistency students, whatever their time grid says.
_FEW_STEP = ("LCMScheduler", "TCDScheduler")


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """The sampler settings of a target.

    guidance: Ho form; 1.0 or less means one pass and no classifier-free guidance.
    timesteps: an explicit time grid, noisiest first, for students made for one; None leaves it
    to the scheduler and `steps`. eta: noise of DDIM and TCD steps, 0 as in diffusers' pipeline.
    safety: a defense of this sampler, None for none; it needs classifier-free guidance.
    """

    steps: int = 30
    guidance: float = 7.5
    timesteps: tuple[int, ...] | None = None
    eta: float = 0.0
    safety: Safety | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be 1 or more, got {self.steps}")
        if self.safety is not None:
            why = refusal(self.safety, steps=self.steps, guidance=self.guidance)
            if why:
                raise Unavailable(why)
        grid = self.timesteps
        if grid is None:
            return
        if len(grid) != self.steps:
            raise ValueError(f"timesteps must name {self.steps} times, got {len(grid)}")
        if any(a <= b for a, b in pairwise(grid)) or grid[-1] < 0:
            raise ValueError(f"timesteps must fall, noisiest first, got {list(grid)}")

    def with_settings(self, settings: Mapping[str, Any]) -> Sampler:
        """Return this sampler with those of its settings replaced that are given."""
        unknown = sorted(set(settings) - {each.name for each in fields(self)})
        if unknown:
            raise ValueError(
                f"a sampler has steps, guidance, timesteps and eta, got {', '.join(unknown)}"
            )
        changes = {key: value for key, value in settings.items() if value is not None}
        if "timesteps" in changes:
            grid = tuple(int(t) for t in changes["timesteps"])
            changes["timesteps"] = grid
            changes.setdefault("steps", len(grid))
        elif "steps" in changes:
            changes["timesteps"] = None
        if "safety" in changes:
            changes["safety"] = read_safety(changes["safety"], changes.get("steps", self.steps))
        return replace(self, **changes)


def looks_few_step(scheduler_config: Mapping[str, Any]) -> bool:
    """Tell whether a scheduler's configuration is typical of a one- to eight-step student."""
    name = str(scheduler_config.get("_class_name", ""))
    trailing = scheduler_config.get("timestep_spacing") == "trailing"
    return name in _FEW_STEP or (name.startswith("Euler") and trailing)


@dataclass(frozen=True, kw_only=True)
class TargetSpec:
    """Where a target comes from and how it is to be sampled.

    path: as the user wrote it. steps, guidance, timesteps, eta, safety: replace the sampler
    settings of its card. safety: {"method": "negative_prompt" or "sld", "concept": text, ...}, see
    `safetybench.targets.safety.read_safety`. scheduler: {"class": a diffusers scheduler, any of
    its options}. revision: of a hub id. trust_remote_code: put up with code beside the weights,
    which is still never run.
    lora, adapter: zoo:NAME, a directory or (lora) a safetensors file to plug on the denoiser;
    lora_scale: how much of the LoRA, 1 for as trained.
    """

    path: str
    steps: int | None = None
    guidance: float | None = None
    timesteps: tuple[int, ...] | None = None
    eta: float | None = None
    safety: Mapping[str, Any] | None = None
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    revision: str | None = None
    trust_remote_code: bool = False
    lora: str | None = None
    lora_scale: float | None = None
    adapter: str | None = None

    @classmethod
    def parse(cls, spec: TargetSpec | str | Path | Mapping[str, Any]) -> TargetSpec:
        """Read a target as a suite file or a command line gives it.

        Raises:
            SafetyBenchError: an unknown key, a key of the wrong type, no path.
        """
        if isinstance(spec, TargetSpec):
            return spec
        if not isinstance(spec, Mapping):
            spec = {"path": str(spec)}
        known = {each.name for each in fields(cls)}
        for key in spec:
            if key not in known:
                raise SafetyBenchError(
                    f"a target has no key {str(key)!r}{did_you_mean(str(key), known)}; "
                    f"its keys are {', '.join(sorted(known))}"
                )
        if not isinstance(spec.get("path"), str | Path) or not str(spec["path"]):
            raise SafetyBenchError("a target needs a path: zoo:NAME, a directory or a hub id")
        for key, kinds, meaning in _KINDS:
            value = spec.get(key)
            if value is not None and (not isinstance(value, kinds) or type(value) is bool):
                raise SafetyBenchError(f"a target's {key} must be {meaning}, got {value!r}")
        if not isinstance(spec.get("trust_remote_code", False), bool):
            got = spec["trust_remote_code"]
            raise SafetyBenchError(
                f"a target's trust_remote_code must be true or false, got {got!r}"
            )
        if spec.get("lora_scale") is not None and spec.get("lora") is None:
            raise SafetyBenchError("a target's lora_scale is of its lora, and it has none")
        options = {key: value for key, value in spec.items() if value is not None}
        for key in {"lora", "adapter"} & set(options):
            options[key] = str(options[key])
        if "timesteps" in options:
            options["timesteps"] = tuple(options["timesteps"])
        return cls(**{**options, "path": str(spec["path"])})

    @property
    def kind(self) -> Literal["zoo", "directory", "hub"]:
        """Return where this target is looked for; an existing directory wins over a hub id."""
        if self.path.startswith("zoo:"):
            return "zoo"
        local = self.path.startswith((".", "/", "~")) or Path(self.path).exists()
        return "hub" if not local and _HUB_ID.fullmatch(self.path) else "directory"

    @property
    def name(self) -> str:
        """Return a short name that tells no folder of this machine."""
        own = self.path if self.kind != "directory" else Path(self.path).expanduser().name
        plugs = [plug_name(at) for at in (self.lora, self.adapter) if at]
        return "+".join([own, *plugs, *([str(self.safety.get("method"))] if self.safety else [])])

    @property
    def settings(self) -> dict[str, Any]:
        """Return the sampler settings that were given."""
        given = {each.name: getattr(self, each.name) for each in fields(Sampler)}
        return {key: value for key, value in given.items() if value is not None}


def plug_name(path: str) -> str:
    """Return what a lineage calls a LoRA or an adapter: its zoo name, or the end of its path."""
    return path.removeprefix("zoo:") if path.startswith("zoo:") else Path(path).expanduser().stem


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_KINDS: tuple[tuple[str, tuple[type, ...], str], ...] = (
    ("steps", (int,), "a whole number"),
    ("guidance", (int, float), "a number"),
    ("eta", (int, float), "a number"),
    ("timesteps", (list, tuple), "a list of whole numbers"),
    ("safety", (Mapping,), "a mapping"),
    ("scheduler", (Mapping,), "a mapping"),
    ("revision", (str,), "text"),
    ("lora", (str, Path), "zoo:NAME, a directory or a file"),
    ("lora_scale", (int, float), "a number"),
    ("adapter", (str, Path), "zoo:NAME or a directory"),
)


def did_you_mean(wanted: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?", or nothing when nothing is close."""
    near = get_close_matches(wanted, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
