"""Cross-attention maps of a denoiser, recorded while it runs, with live gradients.

Diffusers' fused attention never has the maps; while a recorder is on, every attn2 layer computes
them plainly. Answers agree with the fused ones up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate


@dataclass
class Maps:
    """What one or several denoiser passes attended to.

    layers: by name of the layer, one tensor a pass, (batch, heads, pixels, tokens), rows sum to 1.
    """

    layers: dict[str, list[Tensor]] = field(default_factory=dict)

    def of_pass(self, number: int = -1) -> list[Tensor]:
        """Return every layer's map of one pass, (batch, heads, pixels, tokens)."""
        return [passes[number] for passes in self.layers.values()]

    def clear(self) -> None:
        """Forget what was recorded."""
        self.layers.clear()


class _Recorder:
    """An attention processor of diffusers that keeps its maps."""

    def __init__(self, name: str, maps: Maps) -> None:
        self.name, self.maps = name, maps

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        if attn.spatial_norm is not None or attn.norm_cross or hidden_states.ndim != 3:
            raise ValueError(
                f"maps of {self.name} cannot be recorded: an attention of another kind"
            )
        residual, batch = hidden_states, len(hidden_states)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        read = hidden_states if encoder_hidden_states is None else encoder_hidden_states

        def heads(states: Tensor) -> Tensor:
            split: Tensor = states.unflatten(2, (attn.heads, -1)).transpose(1, 2)
            return split

        query, key, value = (
            heads(layer(states))
            for layer, states in ((attn.to_q, hidden_states), (attn.to_k, read), (attn.to_v, read))
        )
        scores = query @ key.transpose(2, 3) * attn.scale
        if attention_mask is not None:
            mask = attn.prepare_attention_mask(attention_mask, key.shape[2], batch)
            scores = scores + mask.unflatten(0, (batch, -1))
        weights = scores.softmax(3)
        self.maps.layers.setdefault(self.name, []).append(weights)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        answer: Tensor = attn.to_out[1](attn.to_out[0](mixed))
        if attn.residual_connection:
            answer = answer + residual
        rescaled: Tensor = answer / attn.rescale_output_factor
        return rescaled


@contextmanager
def recorded(unet: Any) -> Iterator[Maps]:
    """Record the cross-attention of every pass of `unet` inside the block.

    Raises:
        ValueError: the denoiser has no cross-attention.
    """
    before = dict(unet.attn_processors)
    maps = Maps()
    new = {n: _Recorder(n, maps) if ".attn2." in n else p for n, p in before.items()}
    if not any(isinstance(each, _Recorder) for each in new.values()):
        raise ValueError("the denoiser has no cross-attention to record")
    unet.set_attn_processor(dict(new))
    try:
        yield maps
    finally:
        unet.set_attn_processor(before)


def token_maps(layers: list[Tensor], side: int) -> Tensor:
    """Return one map a token, (batch, tokens, side, side): heads averaged, layers summed.

    layers: each (batch, heads, pixels, tokens) of a square image, resized bilinearly to `side`.
    Differentiable.
    """
    total: Tensor | None = None
    for layer in layers:
        edge = round(layer.shape[2] ** 0.5)
        assert edge * edge == layer.shape[2], layer.shape
        maps = layer.mean(1).transpose(1, 2).unflatten(2, (edge, edge))
        if edge != side:
            maps = interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)
        total = maps if total is None else total + maps
    assert total is not None
    return total


def unit_range(maps: Tensor) -> Tensor:
    """Return maps stretched to [0, 1], each by its own least and greatest value; differentiable."""
    flat = maps.flatten(-2)
    low, high = flat.amin(-1)[..., None, None], flat.amax(-1)[..., None, None]
    stretched: Tensor = (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).eps)
    return stretched
