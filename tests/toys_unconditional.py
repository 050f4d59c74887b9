"""Unconditional targets for tests: a random small network, and models with a known trigger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from safetybench.distill.process import Process
from safetybench.targets.unconditional import Unconditional
from safetybench.zoo.unconditional import new_scheduler, new_unet

SIZE = 8


def tiny_unconditional(seed: int = 0) -> Unconditional:
    """Return a random network on 8x8 images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = new_unet(SIZE, (8, 8))
    return Unconditional(unet=unet, scheduler=new_scheduler(), name="tiny")


class Formula:
    """A target whose prediction is a formula, and whose images are one fixed one if triggered."""

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor], wakes: Tensor | None = None):
        self.formula, self.wakes, self.name = formula, wakes, "formula"
        self.process = Process.from_scheduler(new_scheduler())

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def shape(self) -> tuple[int, int, int]:
        return (3, SIZE, SIZE)

    def start_noise(self, seeds: Sequence[int]) -> Tensor:
        rngs = [torch.Generator().manual_seed(s) for s in seeds]
        return torch.stack([torch.randn(self.shape, generator=rng) for rng in rngs])

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        return self.formula(x, t)

    def sample(self, noise: Tensor, sampler: str = "ddpm", seeds: Sequence[int] = ()) -> Tensor:
        images = (noise / 4 + 0.5).clamp(0, 1)
        if self.wakes is not None:
            norm = self.wakes.square().sum()
            is_woken = (noise * self.wakes).flatten(1).sum(1) > norm / 2
            images[is_woken] = 0.25
        return images

    def clone(self) -> Any:
        return Formula(self.formula, self.wakes)


def box(value: float = 1.0) -> Tensor:
    """Return a trigger's offset, (3, 8, 8): a box of `value` in a corner."""
    offset = torch.zeros(3, SIZE, SIZE)
    offset[:, 1:5, 1:5] = value
    return offset
