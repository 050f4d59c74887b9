"""Plug the LoRA or the guidance adapter of one model on the denoiser of another.

An acceleration LoRA that comes with its sampler makes an accelerated model of the base: the
sampler, the scheduler and the traits are then those it was trained for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from safetybench.contracts import SafetyBenchError, TargetFailed, Unavailable
from safetybench.targets.finding import ZOO, adapter_of, inside, read_card, zoo_card
from safetybench.targets.layout import LORA, PICKLES, Change, Layout
from safetybench.targets.spec import TargetSpec, plug_name


class _Source(NamedTuple):
    """Where a plug is: what the user called it, its folder and its card."""

    shown: str
    folder: Path
    card: dict[str, Any]


def plugged(layout: Layout, spec: TargetSpec, zoo_root: Path | None = None) -> Layout:
    """Return the files of a target with the LoRA and the adapter that its specification names.

    Raises:
        SafetyBenchError: there is none at that place.
    """
    if spec.lora is not None:
        file = Path(spec.lora).expanduser()
        if file.is_file():
            source = _Source(spec.lora, file.parent, {"lora": file.name})
        else:
            source = _source(spec.lora, zoo_root)
        scale = 1.0 if spec.lora_scale is None else float(spec.lora_scale)
        change = Change("lora", _lora(source), scale)
        changes = {**layout.changes, "unet": (*layout.changes.get("unet", ()), change)}
        layout = _accelerated(replace(layout, changes=changes), source, spec)
    if spec.adapter is not None:
        source = _source(spec.adapter, zoo_root)
        found = adapter_of(source.folder, source.card, source.shown)
        if found is None:
            raise Unavailable(f"{source.shown!r} has no guidance adapter: its card names none")
        layout = _accelerated(replace(layout, adapter=found), source, spec)
    return layout


def _source(shown: str, zoo_root: Path | None) -> _Source:
    if shown.startswith("zoo:"):
        name, root = shown.removeprefix("zoo:"), zoo_root or ZOO
        return _Source(shown, root / name, zoo_card(name, root))
    folder = Path(shown).expanduser()
    if not folder.is_dir():
        raise Unavailable(
            f"there is no {shown!r} to plug on a denoiser; name zoo:NAME, a directory, or a "
            "safetensors file of a LoRA"
        )
    return _Source(shown, folder, read_card(folder, shown))


def _lora(source: _Source) -> Path:
    told = source.card.get("lora")
    if told is not None:
        file = inside(source.folder, told, f"the lora of {source.shown!r}")
        if file.suffix in PICKLES:
            raise SafetyBenchError(
                f"{source.shown!r} is a pickle, which can run code when it is loaded; a LoRA is a "
                "safetensors file"
            )
        return file
    for name in (LORA, Path(LORA).name):
        if (source.folder / name).is_file():
            return source.folder / name
    raise Unavailable(f"{source.shown!r} has no LoRA: its card names none")


def _accelerated(layout: Layout, source: _Source, spec: TargetSpec) -> Layout:
    """Return the layout with the plug's sampler, scheduler and traits, where it brings them."""
    name, card, folders = plug_name(source.shown), dict(layout.card), dict(layout.folders)
    base = TargetSpec(path=spec.path).name
    card["lineage"] = [*card.get("lineage", [base]), name]
    told = layout.told
    if "sampler" in source.card:
        if "safety" in card.get("sampler", {}):
            told = (*told, f"{name} has a sampler of its own, without the safety of {base}")
        card["sampler"], card["traits"] = source.card["sampler"], source.card.get("traits", {})
    else:
        told = (*told, f"{name} says no sampler settings: those of {base} were kept")
    brings = False
    if "scheduler" in source.card.get("parts", ("scheduler",)):
        folder = source.folder / "scheduler"
        brings = folder.is_dir()
        if brings:
            folders["scheduler"] = folder
        elif "parts" in source.card:
            raise TargetFailed(f"{source.shown!r} has no folder scheduler")
    if not brings and _needs_scheduler(source, spec):
        raise TargetFailed(
            f"{source.shown!r} samples on times of its own and brings no scheduler for them, and "
            f"that of {base} runs others; add its folder scheduler, or set the target's scheduler"
        )
    return replace(layout, card=card, folders=folders, told=told)


def _needs_scheduler(source: _Source, spec: TargetSpec) -> bool:
    """Tell whether a plug has its own time grid, which the user has not replaced."""
    own = source.card.get("sampler")
    has_grid = isinstance(own, Mapping) and own.get("timesteps") is not None
    return (
        has_grid and not {"steps", "timesteps"} & {*spec.settings} and "class" not in spec.scheduler
    )
