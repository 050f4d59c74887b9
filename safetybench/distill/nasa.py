"""NASA: a negative prompt inside cross-attention, for students in which guidance is dead.

Nguyen et al. 2024 (SNOOPI), after the paper: no code was published. Nothing is trained, and one
pass stays one pass.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor


def with_nasa(target: Any, negative: str, alpha: float = 0.2) -> Any:
    """Return `target` steered away from a prompt: Z(text) - alpha Z(negative) in each attention.

    alpha: published 0.1 to 0.5; a negative one steers towards the prompt. The weights are shared
    with `target`, which stays as it was; the wrapper is there in every pass, so white-box
    attacks see it. Source: https://arxiv.org/abs/2412.02687

    Raises:
        ValueError: the denoiser has no cross-attention.
    """
    view = copy.copy(target)
    view.unet = copy.deepcopy(target.unet, {id(w): w for w in target.unet.parameters()})
    view.digest, view.nfe = "", 0
    view.name = f"{target.name}+nasa"
    with torch.no_grad():
        states = target.attended(target.embed(target.tokenize([negative])))

    def steer(module: Any, args: Any, options: Any, output: Tensor) -> Tensor:
        hidden = args[0] if args else options["hidden_states"]
        against = states.to(hidden.dtype).expand(len(hidden), -1, -1)
        away = module.processor(module, hidden, encoder_hidden_states=against)
        # The output projection is linear, so Z may be taken after it, less its bias.
        bias = module.to_out[0].bias
        steered: Tensor = output - alpha * (away if bias is None else away - bias)
        return steered

    layers = [m for name, m in view.unet.named_modules() if name.endswith("attn2")]
    if not layers:
        raise ValueError("the denoiser has no cross-attention that a negative prompt could enter")
    for layer in layers:
        layer.register_forward_hook(steer, with_kwargs=True)
    return view
