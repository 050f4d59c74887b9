"""The files of a classifier: found, fetched, and held to the network that they are for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetybench.contracts import SafetyBenchError, TargetFailed, Unavailable
from safetybench.targets.classifier_spec import ClassifierSpec
from safetybench.targets.finding import ZOO

if TYPE_CHECKING:
    import torch
    from torch import nn

FILE, WEIGHTS, CARD = "classifier.json", "model.safetensors", "card.json"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_KIND = "ForImageClassification"


def is_transformers(config: Any) -> bool:
    """Tell whether a config.json is of an image classifier."""
    kinds = config.get("architectures") if isinstance(config, dict) else None
    return any(str(kind).endswith(_KIND) for kind in kinds or ())


def misfit(shown: str, kind: str, key: str) -> str:
    """Return what is said of weights that are `missing` or `unexpected` in a file."""
    told = "lack" if kind == "missing" else "have"
    return f"the weights of {shown!r} are of another network: they {told} {key}"


def compare(wanted: Mapping[str, torch.Tensor], file: Path, shown: str) -> None:
    """Hold the names and shapes in the header of a file to those of a network."""
    from safetensors import safe_open

    check_header(file)
    with safe_open(file, "numpy") as opened:
        have = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}
    for key in wanted:
        if key not in have and not key.endswith("num_batches_tracked"):
            raise TargetFailed(misfit(shown, "missing", key))
    for key, shape in have.items():
        if key not in wanted:
            raise TargetFailed(misfit(shown, "unexpected", key))
        if shape != tuple(wanted[key].shape):
            raise TargetFailed(
                f"the weights of {shown!r} are of another network: {key} is {shape}, and "
                f"{tuple(wanted[key].shape)} is wanted"
            )


def fill(net: nn.Module, file: Path, shown: str) -> None:
    """Put weights into a network that they must fit."""
    from safetensors.torch import load_file

    compare(net.state_dict(), file, shown)
    net.load_state_dict(load_file(file), strict=False)  # compared, but for what only counts


def check_header(file: Path) -> None:
    """Refuse a safetensors file that cannot be read or is cut short."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "numpy") as opened:  # reads the header and holds it to the file size
            opened.keys()
    except SafetensorError as error:
        raise TargetFailed(f"{file.name} is corrupted or cut short; fetch it again") from error
    except OSError as error:
        reason = error.strerror or "it is not there"
        raise TargetFailed(f"cannot read {file.name}: {reason.lower()}") from error


def file_of(path: Any, what: str) -> Path:
    """Return a file that a specification names as `module` or `weights`."""
    file = Path(str(path)).expanduser()
    suffix = ".py" if what == "module" else ".safetensors"
    if file.suffix != suffix:
        advice = "; pickles are not loaded, as they run code" if what == "weights" else ""
        raise SafetyBenchError(
            f"{what} of a classifier is a {suffix} file, got {file.name}{advice}"
        )
    if not file.is_file():
        raise Unavailable(f"there is no file {str(path)!r}, the {what} of a classifier")
    return file


def find(told: ClassifierSpec, *, offline: bool, may_fetch: bool = False) -> Path | None:
    """Return the folder of a classifier; None for a hub id that is not to be fetched."""
    path = told.value
    if path.startswith("zoo:"):
        folder = ZOO / path.removeprefix("zoo:")
        if read_card(folder).get("kind") != "classifier":
            raise Unavailable(f"the zoo has no classifier {path!r}")
        return folder
    place = Path(path).expanduser()
    if not place.exists() and not path.startswith((".", "/", "~")) and _HUB_ID.fullmatch(path):
        return _fetch(told, offline=offline) if may_fetch or offline else None
    if not place.exists():
        raise Unavailable(f"there is no classifier {path!r}")
    if not place.is_dir():
        raise SafetyBenchError(
            f"{path!r} is a file; a classifier is a folder, or weights with torchvision or module"
        )
    if not any((place / name).is_file() for name in (FILE, "config.json")):
        raise SafetyBenchError(f"{path!r} is no classifier: it has no {FILE} and no config.json")
    return place


def _fetch(told: ClassifierSpec, *, offline: bool) -> Path:
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                told.value,
                revision=told.options.get("revision") or None,
                local_files_only=offline,
                allow_patterns=["*.json", "*.safetensors"],
            )
        )
    except (OSError, ValueError) as error:
        how = (
            "is not in the cache, and offline nothing is fetched" if offline else "was not fetched"
        )
        raise Unavailable(f"the classifier {told.value!r} {how}") from error


def read_card(folder: Path) -> dict[str, Any]:
    """Return a card, empty where there is none."""
    try:
        found = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_json(file: Path, shown: str) -> dict[str, Any]:
    """Read a JSON object; shown: what an error calls its folder."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SafetyBenchError(f"{file.name} of {shown!r} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise SafetyBenchError(f"{file.name} of {shown!r} must be a JSON object")
    return found
