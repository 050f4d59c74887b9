"""Store a derived denoiser as what changed: some tensors as they are, or all as differences.

An unlearned denoiser differs from its base in a few tensors, which are kept as fp16. A student
differs in most: there every matrix is kept as its difference to the base, in int8 with one fp16
scale for each row (`NAME.delta`, `NAME.scale`), at half the size of a whole copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetybench.targets.saving import save_part

if TYPE_CHECKING:
    from torch import Tensor

FILE = "overlay.safetensors"
_DELTA, _SCALE = ".delta", ".scale"


def save_overlay(unet: Any, base: Any, folder: Path) -> tuple[list[str], list[str]]:
    """Write `folder`/unet as what differs from `base`, or whole where the shapes differ.

    Returns the card's "parts" (stored whole) and "overlay" (stored as changes).
    """
    from safetensors.torch import save_file

    before, after = base.state_dict(), unet.state_dict()
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    if {n: w.shape for n, w in before.items()} != {n: w.shape for n, w in after.items()}:
        save_part(unet, folder / "unet", half=True)
        return ["unet"], []
    changed = {n: w.detach() for n, w in after.items() if not w.equal(before[n].to(w))}
    is_most = 2 * _size(changed) > _size(after)
    stored: dict[str, Tensor] = {}
    for name, weight in changed.items():
        if is_most and weight.ndim > 1:
            stored |= _difference(name, weight, before[name])
        else:
            stored[name] = weight.cpu().half().contiguous()
    save_file(stored, folder / "unet" / FILE)
    return [], ["unet"]


def apply_overlay(unet: Any, file: Path) -> None:
    """Put the stored changes into a denoiser, in place.

    Raises:
        ValueError: a tensor is not the denoiser's.
    """
    from safetensors.torch import load_file

    own, stored = unet.state_dict(), load_file(file)
    for name, tensor in stored.items():
        if name in own and own[name].shape == tensor.shape:
            own[name].copy_(tensor)
        elif not _is_difference(name, stored, own):
            raise ValueError(f"{file.name} holds {name!r}, which does not fit the denoiser")
        elif name.endswith(_DELTA):
            plain = name.removesuffix(_DELTA)
            scale, weight = stored[plain + _SCALE].to(own[plain].device), own[plain]
            weight.copy_(weight.float() + tensor.to(weight.device).float() * scale.float())


def _size(weights: Mapping[str, Tensor]) -> int:
    return sum(weight.numel() for weight in weights.values())


def _difference(name: str, weight: Tensor, base: Tensor) -> dict[str, Tensor]:
    """Return int8 steps, shaped as `weight`, and the fp16 size of a step, (rows, 1, ...)."""
    change = weight.float().cpu() - base.float().cpu()
    rows = change.abs().amax(dim=tuple(range(1, change.ndim)), keepdim=True)
    scale = (rows / 127).half()
    # A row whose steps are too small for fp16 stays as it is: its change is below 4e-6.
    steps = (change / scale.float().clamp(min=1e-8)).round().clamp(-127, 127)
    return {name + _DELTA: steps.char(), name + _SCALE: scale}


def _is_difference(name: str, stored: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    """Tell whether a tensor is one half of a difference to a tensor of the denoiser."""
    plain = name.removesuffix(_DELTA).removesuffix(_SCALE)
    delta, scale = stored.get(plain + _DELTA), stored.get(plain + _SCALE)
    if plain not in own or delta is None or scale is None:
        return False
    rows = (len(delta), *[1] * (delta.ndim - 1)) if delta.ndim else ()
    is_small = not delta.is_floating_point() and delta.element_size() == 1
    return own[plain].shape == delta.shape and is_small and tuple(scale.shape) == rows
