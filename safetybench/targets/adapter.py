"""Guidance distilled into a small adapter (AGD, Jensen et al. 2025): one pass in place of two.

The denoiser stays frozen. Beside every cross-attention a small branch adds to its output what
guidance at a scale w would have added; w is an input of each call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from safetybench.targets.guidance import sinusoid

FILE = "unet/adapter.safetensors"
KIND = "agd"


class GuidanceAdapter(nn.Module):
    """Branches beside the cross-attentions of a denoiser, modulated by time and guidance scale.

    A new one changes nothing: its last layers are zero. width: of the branches. guidance: the
    scales of the call that follows, (1 or batch,); None makes the denoiser its own again.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2503.07274"

    def __init__(self, unet: nn.Module, width: int = 32) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be 1 or more, got {width}")
        self.width = width
        self.embed = nn.Sequential(
            nn.Linear(2 * width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width), nn.SiLU()
        )
        self.branches = nn.ModuleList(_Branch(size, width) for size in _sizes(unet))
        self.guidance: Tensor | None = None
        self._condition: Tensor | None = None
        self._hooks: list[RemovableHandle] = []

    def install(self, unet: nn.Module) -> GuidanceAdapter:
        """Add the branches to the cross-attentions of `unet`; they run in each of its calls.

        Under gradient checkpointing, call backward before the next call.
        """
        self.remove()
        own, found = [branch.size for branch in self._each()], _sizes(unet)
        if own != found:
            raise ValueError(
                f"the adapter is for cross-attentions of sizes {own}, the denoiser has {found}"
            )
        self._hooks = [unet.register_forward_pre_hook(self._listener(), with_kwargs=True)]
        for module, branch in zip(_sites(unet), self._each(), strict=True):
            self._hooks.append(module.register_forward_hook(self._adder(branch)))
        return self

    def remove(self) -> None:
        """Take the branches off the denoiser again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    # Hooks are closures: a deep copy of the denoiser alone shares the adapter, and never gets a
    # copy of it that nobody can set a scale on.

    def _listener(self) -> Callable[..., None]:
        def listen(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            given = dict(zip(("sample", "timestep"), args, strict=False)) | dict(kwargs)
            self._condition = None
            if self.guidance is not None:
                batch = len(given["sample"])
                t = torch.as_tensor(given["timestep"], device=self.guidance.device).expand(batch)
                # Ten is a cycle of the fastest wave in 0.6 of a scale; w is drawn continuously.
                waves = [sinusoid(t, self.width), sinusoid(10 * self.guidance, self.width)]
                both = torch.cat([waves[0], waves[1].expand(batch, -1)], 1)
                self._condition = self.embed(both.to(self._dtype))

        return listen

    def _adder(self, branch: _Branch) -> Callable[..., Tensor]:
        def add(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            if self._condition is None:
                return output
            added: Tensor = branch(output.to(self._dtype), self._condition)
            return output + added.to(output.dtype)

        return add

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _each(self) -> list[_Branch]:
        return [branch for branch in self.branches if isinstance(branch, _Branch)]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what binds to one denoiser: a copy is installed on another."""
        return {**self.__dict__, "guidance": None, "_condition": None, "_hooks": []}


class _Branch(nn.Module):
    """down -> scaled and shifted by the condition -> SiLU -> up, zero at first."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.size = size
        self.down = nn.Linear(size, width)
        self.film = nn.Linear(4 * width, 2 * width)
        self.up = nn.Linear(width, size)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states: Tensor, condition: Tensor) -> Tensor:
        """Return what is added; states: (batch, places, size), condition: (batch, 4 width)."""
        scale, shift = self.film(condition)[:, None].chunk(2, dim=-1)
        added: Tensor = self.up(functional.silu(self.down(states) * (1 + scale) + shift))
        return added


def _sites(unet: nn.Module) -> list[nn.Module]:
    found = [module for name, module in unet.named_modules() if name.endswith(".attn2")]
    if not found:
        raise ValueError("a guidance adapter needs cross-attentions, and the denoiser has none")
    return found


def _sizes(unet: nn.Module) -> list[int]:
    return [int(getattr(module, "out_dim")) for module in _sites(unet)]  # noqa: B009 # diffusers' own


def save_adapter(adapter: GuidanceAdapter, folder: Path) -> dict[str, Any]:
    """Write an adapter as fp16; return the card's "adapter"."""
    from safetensors.torch import save_file

    weights = {n: w.detach().cpu().half().contiguous() for n, w in adapter.state_dict().items()}
    file = folder / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, file)
    return {"kind": KIND, "width": adapter.width}


def load_adapter(unet: nn.Module, file: Path, config: Mapping[str, Any]) -> GuidanceAdapter:
    """Return the adapter of a file, float32 and frozen, for this denoiser and not yet installed.

    Raises:
        ValueError: it is of another kind or does not fit the denoiser.
    """
    from safetensors.torch import load_file

    if config.get("kind") != KIND:
        raise ValueError(f"an adapter is of the kind {KIND!r}, got {config.get('kind')!r}")
    adapter, stored = GuidanceAdapter(unet, int(config.get("width", 32))), load_file(file)
    own = adapter.state_dict()
    for name in sorted({*own, *stored}):
        if name not in stored:
            raise ValueError(f"{file.name} lacks {name!r}")
        if name not in own or own[name].shape != stored[name].shape:
            raise ValueError(f"{file.name} holds {name!r}, which does not fit the denoiser")
    adapter.load_state_dict({name: weight.float() for name, weight in stored.items()})
    return adapter.eval().requires_grad_(False)
