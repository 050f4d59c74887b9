"""Find the files of a target: a directory, or a zoo model and the models it derives from.

A zoo model may hold some parts only; the others come from its base, changed by what its card
names: an overlay, a LoRA, a guidance adapter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetybench.contracts import SafetyBenchError, TargetFailed, Unavailable
from safetybench.targets.layout import (
    ADAPTER,
    OVERLAY,
    PARTS,
    PICKLE_ADVICE,
    PICKLES,
    AdapterFile,
    Change,
    Layout,
    parts_of,
    read_json,
)
from safetybench.targets.spec import TargetSpec, did_you_mean

ZOO = Path(__file__).resolve().parent.parent / "zoo" / "models"


class ZooEntry(NamedTuple):
    """A model of the embedded zoo: its name without `zoo:`, its card and its folder."""

    name: str
    card: Mapping[str, Any]
    folder: Path


def list_zoo(zoo_root: Path | None = None) -> list[ZooEntry]:
    """Return the models of the zoo, sorted by name."""
    cards = sorted((zoo_root or ZOO).glob("*/card.json"))
    entries = [
        ZooEntry(card.parent.name, read_json(card, f"the card of {card.parent.name}"), card.parent)
        for card in cards
    ]
    return [
        entry
        for entry in entries
        if entry.card.get("kind") not in ("judge", "language", "classifier")
    ]


def find(spec: TargetSpec, zoo_root: Path | None = None, fetched: Path | None = None) -> Layout:
    """Return the files of a target; fetched: the folder that a hub id was downloaded to.

    Raises:
        SafetyBenchError: it is not there, or is no supported pipeline.
    """
    if spec.kind == "zoo":
        return _zoo_layout(spec.path.removeprefix("zoo:"), zoo_root or ZOO)
    folder = fetched or Path(spec.path).expanduser()
    if folder.is_file():
        raise SafetyBenchError(_refuse_file(spec.path, folder))
    if not folder.is_dir():
        names = [f"zoo:{entry.name}" for entry in list_zoo(zoo_root)]
        wanted = spec.path if spec.path.startswith("zoo:") else f"zoo:{folder.name}"
        listed = f"; the zoo has {', '.join(names)}" if names else ""
        near = did_you_mean(wanted, names)
        raise Unavailable(f"there is no model directory {spec.path!r}{near}{listed}")
    index, card = _read_index(folder, spec.path), read_card(folder, spec.path)
    plain = {key: value for key, value in card.items() if key != "overlay"}  # all parts are here
    return Layout(
        shown=spec.path,
        folders={part: folder / part for part in parts_of(index)},
        index=index,
        card=card,
        changes={part: tuple(each) for part, each in changes_of(folder, plain, spec.path).items()},
        adapter=adapter_of(folder, card, spec.path),
    )


def read_card(folder: Path, shown: str) -> dict[str, Any]:
    """Return the card of a directory, empty where there is none."""
    card = folder / "card.json"
    return read_json(card, f"the card of {shown!r}") if card.exists() else {}


def changes_of(folder: Path, card: Mapping[str, Any], shown: str) -> dict[str, list[Change]]:
    """Return the changes that the card of this folder names: overlays, and then a LoRA."""
    found = {part: [Change("overlay", folder / part / OVERLAY)] for part in card.get("overlay", ())}
    if card.get("lora") is not None:
        lora = Change("lora", inside(folder, card["lora"], f"the lora of {shown!r}"))
        found.setdefault("unet", []).append(lora)
    return found


def adapter_of(folder: Path, card: Mapping[str, Any], shown: str) -> AdapterFile | None:
    """Return the guidance adapter that the card of this folder names."""
    config = card.get("adapter")
    if config is None:
        return None
    if not isinstance(config, dict):
        raise TargetFailed(f"the adapter of {shown!r} must be a mapping, got {config!r}")
    return AdapterFile(folder / ADAPTER, config)


def inside(folder: Path, name: Any, shown: str) -> Path:
    """Return a file named by a card, which may not point out of its folder."""
    if not isinstance(name, str) or ".." in Path(name).parts or Path(name).is_absolute():
        raise TargetFailed(f"{shown} must be a file inside its folder, got {name!r}")
    return folder / name


def _refuse_file(shown: str, file: Path) -> str:
    if file.suffix in PICKLES:
        return f"{shown!r} is a pickle, {PICKLE_ADVICE}"
    return f"{shown!r} is a file; a target is a diffusers directory, with model_index.json"


def _zoo_layout(name: str, root: Path) -> Layout:
    folders: dict[str, Path] = {}
    changes: dict[str, tuple[Change, ...]] = {}
    adapter: AdapterFile | None = None
    is_adapter_known = False
    index: dict[str, Any] | None = None
    card = zoo_card(name, root)
    own: str | None = name
    seen: list[str] = []
    while own is not None:
        if own in seen:
            raise TargetFailed(f"zoo models name each other as base: {' -> '.join([*seen, own])}")
        seen.append(own)
        here, this = root / own, zoo_card(own, root)
        for part, found in changes_of(here, this, f"zoo:{own}").items():
            if part not in folders:
                changes[part] = (*found, *changes.get(part, ()))
        # An adapter goes with its denoiser: a whole one of a model's own ends the base's.
        if "adapter" in this and not is_adapter_known and "unet" not in folders:
            adapter, is_adapter_known = adapter_of(here, this, f"zoo:{own}"), True
        for part in this.get("parts", PARTS):
            folders.setdefault(part, here / part)
        if index is None and (here / "model_index.json").exists():
            index = _read_index(here, f"zoo:{own}")
        own = this.get("base")
    if index is None:
        raise TargetFailed(f"'zoo:{name}' and its base have no model_index.json")
    # A part that nobody claims is looked for, and missed, at the model itself.
    whole = {part: folders.get(part, root / name / part) for part in parts_of(index)}
    return Layout(
        shown=f"zoo:{name}",
        folders=whole,
        index=index,
        card=card,
        changes=changes,
        adapter=adapter,
    )


def zoo_card(name: str, root: Path) -> dict[str, Any]:
    """Return the card of a zoo model."""
    card = root / name / "card.json"
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or not card.is_file():
        names = [f"zoo:{entry.name}" for entry in list_zoo(root)]
        near = did_you_mean(f"zoo:{name}", names)
        listed = f"the zoo has {', '.join(names)}" if names else "this zoo is empty"
        raise Unavailable(f"there is no model 'zoo:{name}'{near}; {listed}")
    return read_json(card, f"the card of 'zoo:{name}'")


def _read_index(folder: Path, shown: str) -> dict[str, Any]:
    file = folder / "model_index.json"
    if not file.exists():
        raise SafetyBenchError(f"{shown!r} is no diffusers pipeline: it has no model_index.json")
    return read_json(file, f"model_index.json of {shown!r}")
