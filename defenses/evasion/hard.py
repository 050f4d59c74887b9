"""HARD: distil on images that a small network moves to where teacher and student disagree.

Hands on what the teacher withstands and the data do not show, such as rotated images; it is no
defense against attacks in a ball. Needs the teacher's logits and their gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from safetybench.contracts import Budget, Classifies, ClassLesson, Hardening
from safetybench.registry import register
from safetybench.vision.fitting import Batch, fit

from ._augment import MOVES, Ranges, changed, check_ranges
from ._terms import answers, check_temperature, check_training, device_of, kl, teacher_of

_SIDE, _HIDDEN = 8, 64
_EDGE = 0.999  # of a uniform draw in (-1, 1): what atanh takes to numbers that it can bear


class _Mover(nn.Module):
    """Says of images how to change them: a uniform draw, which it learns to push either way."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.look = nn.AdaptiveAvgPool2d(_SIDE)
        self.hidden = nn.Linear(channels * _SIDE * _SIDE + MOVES, _HIDDEN)
        self.push = nn.Linear(_HIDDEN, MOVES)
        nn.init.zeros_(self.push.weight)  # so that it starts as the random control
        nn.init.zeros_(self.push.bias)

    def forward(self, images: Tensor, draws: Tensor) -> Tensor:
        """Return (batch, MOVES) in [-1, 1]; draws: the same, uniform."""
        seen = torch.cat([self.look(images).flatten(1), draws], 1)
        pushed: Tensor = self.push(torch.relu(self.hidden(seen)))
        return torch.tanh(torch.atanh(draws * _EDGE) + pushed)


@register
@dataclass(frozen=True, kw_only=True)
class Hard(Hardening):
    """Distil where teacher and student disagree most (Nix et al. 2023).

    Built from the abstract, for the paper's body could not be read: augmentations trained to
    make teacher and student disagree, here spatial (affine) and of colour. What is ours is the
    network that draws them, which sees the image and starts as uniform draws; its one Adam step
    of ascent on KL(teacher || student) before each step of the student; the ranges and rates.

    rotate: degrees; shift: of the side; scale, brightness, contrast: shares; the most of each
    change, both ways. temperature: of T^2 KL(teacher / T || student / T), half of it on the images
    and half on the changed ones. push_rate: learning rate of the ascent; at ten times the default
    draws gather where no image of a test is, and the student is worse than by random ones. Labels
    are not used.
    """

    rotate: float = 30.0
    shift: float = 0.15
    scale: float = 0.15
    brightness: float = 0.1
    contrast: float = 0.2
    temperature: float = 4.0
    push_rate: float = 1e-3
    size: int = 128
    rate: float = 3e-3

    source: ClassVar[str] = "https://arxiv.org/abs/2305.14890"
    needs_teacher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_training(self.size, self.rate)
        check_temperature(self.temperature)
        check_ranges(self.ranges)
        if not 0 <= self.push_rate < float("inf"):
            raise ValueError(f"push_rate must be 0 or more, got {self.push_rate}")

    @property
    def ranges(self) -> Ranges:
        """The most of each change."""
        return Ranges(self.rotate, self.shift, self.scale, self.brightness, self.contrast)

    def run(
        self, net: nn.Module, lesson: ClassLesson, budget: Budget, report: Any = None
    ) -> nn.Module:
        """Return `net`, trained; see `Hardening.run`."""
        teacher = teacher_of(lesson, self)
        goals = answers(lesson, self, device_of(net))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(budget.seed)
            mover = _Mover(lesson.data.images.shape[1]).to(device_of(net))
        ascent = torch.optim.Adam(mover.parameters(), lr=self.push_rate)

        def loss(net: nn.Module, batch: Batch) -> Tensor:
            draws = torch.rand(len(batch.images), MOVES, generator=batch.generator)
            uniform = 2 * draws.to(batch.images) - 1
            self._ascend(mover, ascent, net, teacher, batch.images, uniform)
            with torch.no_grad():
                moved = changed(batch.images, mover(batch.images, uniform), self.ranges)
                told = teacher.logits(moved.to(teacher.device)).to(moved)
            near = kl(net(batch.images), goals[batch.rows], self.temperature)
            far = kl(net(moved), told, self.temperature)
            return self.temperature**2 * (near + far).mean() / 2

        return fit(net, lesson, budget, loss, size=self.size, rate=self.rate, report=report)

    def _ascend(
        self,
        mover: _Mover,
        ascent: torch.optim.Optimizer,
        net: nn.Module,
        teacher: Classifies,
        images: Tensor,
        uniform: Tensor,
    ) -> None:
        """Move the mover, and nothing else, to where the two disagree more."""
        moved = changed(images, mover(images, uniform), self.ranges)
        told = teacher.logits(moved.to(teacher.device)).to(moved)
        gap = kl(net.eval()(moved), told, self.temperature).mean()
        net.train()
        weights = list(mover.parameters())
        for weight, slope in zip(weights, torch.autograd.grad(gap, weights), strict=True):
            weight.grad = -slope
        ascent.step()
