"""Store and fuse low-rank changes (LoRA, https://arxiv.org/abs/2106.09685) of a denoiser.

The file is diffusers' own, so that plain pipelines load it too. After fusing, a denoiser is the
plain network that attacks, defenses and digests know, and nothing of peft is left in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

FILE = "unet/pytorch_lora_weights.safetensors"
_METADATA = "lora_adapter_metadata"  # diffusers' name in the header of the file
_PREFIX = "unet."


def save_lora(unet: Any, folder: Path) -> str:
    """Write the LoRA of a denoiser adapted with peft, as fp16; return the card's "lora".

    unet: after `unet.add_adapter(LoraConfig(...))`, or as `get_peft_model` returns it.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    (name, config), *others = unet.peft_config.items()
    if others:
        raise ValueError(f"one LoRA can be saved, got {len(others) + 1}: {list(unet.peft_config)}")
    weights = get_peft_model_state_dict(unet, adapter_name=name)
    stored = {
        _PREFIX + key.removeprefix("base_model.model."): weight.detach().cpu().half().contiguous()
        for key, weight in weights.items()
    }
    told = {_PREFIX + key: _plain(value) for key, value in config.to_dict().items()}
    # A path of this machine, and of no use to who loads it.
    told[_PREFIX + "base_model_name_or_path"] = None
    file = folder / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(stored, file, {"format": "pt", _METADATA: json.dumps(told, sort_keys=True)})
    return FILE


def apply_lora(unet: Any, file: Path, scale: float = 1.0) -> None:
    """Add `scale` times the LoRA of a file to the weights of a denoiser, in place.

    Reads what diffusers reads: its own layout with or without a prefix, and kohya's.

    Raises:
        ValueError: a tensor is not of a LoRA for this denoiser.
    """
    from diffusers import StableDiffusionPipeline

    state, alphas, told = StableDiffusionPipeline.lora_state_dict(
        str(file),
        unet_config=unet.config,
        use_safetensors=True,
        local_files_only=True,
        return_lora_metadata=True,
    )
    if not any(key.startswith(_PREFIX) for key in state):
        state = {_PREFIX + key: weight for key, weight in state.items()}
        told = {_PREFIX + key: value for key, value in told.items()} if told else None
    _check_fit(unet, state, file.name)
    unet.load_lora_adapter(
        state, prefix="unet", network_alphas=alphas, metadata=told, adapter_name="plugged"
    )
    unet.fuse_lora(lora_scale=scale)
    unet.unload_lora()


def _check_fit(unet: Any, state: Mapping[str, Tensor], shown: str) -> None:
    """Hold each tensor to the module it changes; diffusers leaves out what does not fit."""
    from diffusers.utils import convert_unet_state_dict_to_peft
    from torch import nn

    own = {
        name: module.weight.shape
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    for key, weight in convert_unet_state_dict_to_peft(dict(state)).items():
        name, _, factor = key.removeprefix(_PREFIX).rpartition(".lora_")
        wanted = own.get(name) if key.startswith(_PREFIX) else None
        fits = wanted is not None and (
            (factor == "A.weight" and weight.shape[1:] == wanted[1:])
            or (factor == "B.weight" and len(weight) == wanted[0])
            or (factor == "B.bias" and weight.shape == wanted[:1])
        )
        if not fits:
            raise ValueError(f"{shown} holds {key!r}, which does not fit the denoiser")


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else value
