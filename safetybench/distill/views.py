"""Views of a denoiser: which weights learn, a LoRA beside frozen weights, averages, shifted time.

The fake score of the score distillation family is just another view: a full copy, a LoRA on the
teacher, or the teacher at another time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# Everything in a UNet that a LoRA can sit on; names end so in every diffusers UNet.
LORA_MODULES = (
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2",
    "conv1", "conv2", "conv_shortcut", "time_emb_proj",
)  # fmt: skip


def chosen_parameters(unet: nn.Module, part: str) -> list[nn.Parameter]:
    """Make one part of a denoiser trainable, freeze the rest and return the part's weights.

    part: "all", "attn2" (cross-attention), "attn2.kv" (its keys and values), "not attn2".

    Raises:
        ValueError: an unknown part, or a denoiser without cross-attention.
    """
    tests: dict[str, Callable[[str], bool]] = {
        "all": lambda name: True,
        "attn2": lambda name: ".attn2." in name,
        "attn2.kv": lambda name: ".attn2.to_k" in name or ".attn2.to_v" in name,
        "not attn2": lambda name: ".attn2." not in name,
    }
    if part not in tests:
        raise ValueError(f"train must be one of {', '.join(tests)}, got {part!r}")
    chosen = []
    for name, weight in unet.named_parameters():
        weight.requires_grad_(tests[part](name))
        if weight.requires_grad:
            chosen.append(weight)
    if not chosen:
        raise ValueError(f"the denoiser has no weights of the part {part!r}")
    return chosen


def draw(population: int, count: int, rng: torch.Generator) -> Tensor:
    """Return `count` indices below `population`, drawn with replacement."""
    return torch.randint(population, (count,), generator=rng)


def velocity(target: Any, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """Return a denoiser's answer as velocity, the form that is finite at every time.

    x: (batch, channels, h, w); t: (batch,) int64; text: (batch, length, width).
    """
    clean = target.x0(x, t, text)
    answer: Tensor = target.process.convert(clean, "sample", "v_prediction", x, t)
    return answer


def lora_view(target: Any, rank: int, seed: int = 0) -> tuple[Any, list[nn.Parameter]]:
    """Return a target with a trainable LoRA on `target`'s own, shared and frozen weights.

    Hu et al. 2022. rank: also the scale, so that the LoRA's factor is 1. At first the view
    answers as `target` does. Returns the view and the LoRA's weights.
    Source: https://arxiv.org/abs/2106.09685

    Raises:
        ValueError: the rank is not positive.
    """
    from peft import LoraConfig

    if rank < 1:
        raise ValueError(f"a LoRA's rank must be 1 or more, got {rank}")
    view = copy.copy(target)
    view.nfe, view.digest = 0, ""
    # The module tree is copied, the weights in it are not.
    view.unet = copy.deepcopy(target.unet, {id(w): w for w in target.unet.parameters()})
    view.unet.requires_grad_(False)
    config = LoraConfig(
        r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(LORA_MODULES)
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        view.unet.add_adapter(config)
    return view, [w for name, w in view.unet.named_parameters() if "lora_" in name]


class Shifted:
    """A denoiser asked at a noisier time, the fake score of ASD (Ma et al. 2024, ScaleDreamer).

    The released code evaluates it at t + dt, towards more noise, with the same x and noise; the
    caller renoises. ratio: the largest dt, as a share of t.
    """

    def __init__(self, target: Any, ratio: float = 0.1) -> None:
        if not 0 <= ratio <= 1:
            raise ValueError(f"ratio must be in [0, 1], got {ratio}")
        self.target, self.ratio = target, ratio

    def times(self, t: Tensor, rng: torch.Generator) -> Tensor:
        """Return the shifted times, (batch,) int64, below the last one."""
        share = torch.rand(len(t), generator=rng).to(t.device) * self.ratio
        return (t + (share * t).long()).clamp(max=self.target.process.steps - 1)


def averaged_view(
    target: Any, learns: list[nn.Parameter], decay: float
) -> tuple[Any, Callable[[Any], None]]:
    """Return a frozen twin of `target` whose learning weights trail by a moving average.

    The target network of consistency models. Weights that do not learn are shared. Returns the
    twin and what updates it, to be called after each step.
    """
    view = copy.copy(target)
    learning = {id(w) for w in learns}
    shared = {id(w): w for w in target.unet.parameters() if id(w) not in learning}
    view.unet = copy.deepcopy(target.unet, shared)
    pairs = zip(target.unet.parameters(), view.unet.parameters(), strict=True)
    trailing = [(new, old.requires_grad_(False)) for new, old in pairs if id(new) in learning]

    @torch.no_grad()
    def update(step: Any) -> None:
        torch._foreach_lerp_([old for _, old in trailing], [new.detach() for new, _ in trailing],
                             1 - decay)  # fmt: skip

    return view, update


def guidance_view(target: Any, width: int = 64) -> Any:
    """Return a twin of `target` whose denoiser takes the guidance scale as an input.

    LCM's way, which diffusers knows as `time_cond_proj_dim`. The new input starts at zero
    weights, so that at first the twin answers as `target` does without guidance.
    """
    view = target.clone()
    # Keys with an underscore would turn the new value back into the default.
    config = {k: v for k, v in target.unet.config.items() if not k.startswith("_")}
    config["time_cond_proj_dim"] = width
    with torch.random.fork_rng():  # none of these draws stays
        view.unet = type(target.unet).from_config(config).to(target.device, target.dtype).eval()
    view.unet.load_state_dict(target.unet.state_dict(), strict=False)
    nn.init.zeros_(view.unet.time_embedding.cond_proj.weight)
    view.unet.requires_grad_(False)
    return view
