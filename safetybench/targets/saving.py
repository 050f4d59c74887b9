"""Write a target as a diffusers directory: safetensors, plain names, a card beside them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetybench.contracts import SafetyBenchError
from safetybench.targets.layout import PARTS, PIPELINES
from safetybench.targets.safety import settings_of

if TYPE_CHECKING:
    from safetybench.targets.text_to_image import TextToImage


def save_target(
    target: TextToImage,
    path: Path,
    card: Mapping[str, Any] | None = None,
    *,
    half: bool = False,
    parts: Sequence[str] | None = None,
) -> Path:
    """Write the target below `path` and return it; see `TextToImage.save`."""
    known = PIPELINES[target.pipeline]
    chosen = known if parts is None else tuple(parts)
    unknown = [part for part in chosen if part not in known]
    if unknown:
        raise ValueError(f"a pipeline has {', '.join(known)}, got {', '.join(unknown)}")
    from safetybench.targets.adapter import save_adapter

    try:
        path.mkdir(parents=True, exist_ok=True)
        for part in chosen:
            save_part(getattr(target, part), path / part, half=half and bool(PARTS[part][2]))
        if parts is None:
            write_index(target, path)
        own = _card(target, card)
        if target.adapter is not None and "unet" in chosen:
            own["adapter"] = save_adapter(target.adapter, path)
        _write_json(path / "card.json", own)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SafetyBenchError(f"could not save the target to {path}: {reason}") from error
    return path


def save_part(part: Any, folder: Path, *, half: bool = False) -> None:
    """Write a network, tokenizer or scheduler, without the folder that it was loaded from.

    A LoRA that is still beside its weights is added to them.
    """
    is_adapted = bool(getattr(part, "peft_config", None))
    if half or is_adapted:
        part = copy.deepcopy(part)
    if is_adapted:
        part.fuse_lora()
        part.unload_lora()
    if half:
        part = part.half()
    part.save_pretrained(folder)
    for file in folder.glob("*config.json"):  # a path of this machine, and part of the digest
        config = json.loads(file.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            _write_json(file, config)


def write_index(target: TextToImage, folder: Path) -> None:
    """Write the model_index.json by which diffusers knows the pipeline and its parts."""
    _write_json(folder / "model_index.json", _model_index(target))


def _model_index(target: TextToImage) -> dict[str, Any]:
    import diffusers

    index: dict[str, Any] = {
        "_class_name": target.pipeline,
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }
    if target.pipeline == "StableDiffusionXLPipeline":
        index["force_zeros_for_empty_prompt"] = vars(target)["force_zeros_for_empty_prompt"]
    else:
        index |= {"requires_safety_checker": False, "safety_checker": [None, None]}
    for part in PIPELINES[target.pipeline]:
        index[part] = [PARTS[part][0], type(getattr(target, part)).__name__]
    return index


def _card(target: TextToImage, card: Mapping[str, Any] | None) -> dict[str, Any]:
    sampler = target.sampler
    settings: dict[str, Any] = {"steps": sampler.steps, "guidance": sampler.guidance}
    if sampler.eta:
        settings["eta"] = sampler.eta
    if sampler.safety is not None:
        settings["safety"] = settings_of(sampler.safety)
    grid = None if sampler.timesteps is None else list(sampler.timesteps)
    # A LoRA is in the weights by now.
    told = {key: value for key, value in target.card.items() if key not in ("lora", "adapter")}
    own = {"lineage": list(target.lineage), **told}
    return {**own, **(card or {}), "sampler": {**settings, "timesteps": grid}}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
