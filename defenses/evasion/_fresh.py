"""A network like another one, with weights drawn anew."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

Net = TypeVar("Net", bound=nn.Module)


def fresh(net: Net, seed: int) -> Net:
    """Return a copy of a network whose layers are drawn anew from `seed`.

    Layers are drawn as their own `reset_parameters` does, on the CPU, so that a seed means the
    same weights on every device; parameters of a module that has none are copied.
    """
    device = next(net.parameters()).device
    copied = copy.deepcopy(net).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in reversed(list(copied.modules())):  # what holds a layer may correct it after
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return copied.to(device)
