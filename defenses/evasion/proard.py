"""ProARD: one training of a network that holds many, each of which is a robust student.

Robust distillation into shared weights, from which students of many sizes are cut without
training any again (`safetybench.vision.nets.member`). Needs a robust teacher's logits; white box
to the sub-networks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from safetybench.contracts import Budget, ClassLesson, Hardening, SafetyBenchError
from safetybench.registry import register
from safetybench.vision.fitting import Batch, fit
from safetybench.vision.nets import Choice, Dynamic

from ._inner import attacked, check_ball, check_inner
from ._terms import answers, check_share, check_training, device_of, kl

Sampling = Literal["progressive", "sandwich", "random"]


class Stage(NamedTuple):
    """A part of the training: its share of the steps, its rate, how much of each axis is open.

    opened: how many values of width, depth and expand may be drawn, counted from the largest;
    0 for all.
    """

    share: float
    rate: float
    opened: tuple[int, int, int]


# Shares of the published 410 epochs. The published rates fall to 1/12 and 1/4 after the first
# stage; in a short training by AdamW that cost six points of robust accuracy.
_STAGES = (
    Stage(120 / 410, 1, (0, 1, 1)),
    Stage(25 / 410, 1 / 2, (0, 2, 1)),
    Stage(120 / 410, 1, (0, 0, 1)),
    Stage(25 / 410, 1 / 2, (0, 0, 2)),
    Stage(120 / 410, 1, (0, 0, 0)),
)


@register
@dataclass(frozen=True, kw_only=True)
class Proard(Hardening):
    """Distil robust soft labels into all sub-networks at once (Mousavi et al. 2025).

    The network must be a "dynamic" one. sampling: "progressive" opens width, then depth, then
    expansion, with the published shares of the steps, and takes the largest and the smallest that
    is open in every update (the sandwich rule); "sandwich" has that rule and all open from the
    start; "random" has neither, which the paper says fails. subnets: of one update, two of which
    are the sandwich's. alpha, inner_steps, rel_step: as in `rslad`, whose loss it is. Departs: the
    published code runs a whole epoch for each sub-network that it draws, here their losses are
    averaged in one update; later stages have rates of 1/2 and 1 of the first, where published are
    1/12 and 1/4; its teacher is a network of its own and not the largest sub-network; its
    predictor of robustness and its search for the best student are left out; its networks are
    ResNet-50 and MobileNetV3.
    """

    sampling: Sampling = "progressive"
    subnets: int = 3
    alpha: float = 5 / 6
    inner_steps: int = 10
    rel_step: float = 0.25
    size: int = 128
    rate: float = 3e-3

    source: ClassVar[str] = "https://arxiv.org/abs/2506.07666"
    needs_teacher: ClassVar[bool] = True
    is_family: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_training(self.size, self.rate)
        check_inner(self.inner_steps, self.rel_step)
        check_share("alpha", self.alpha)
        if self.sampling not in ("progressive", "sandwich", "random"):
            raise ValueError(
                f"sampling must be progressive, sandwich or random, got {self.sampling!r}"
            )
        if self.subnets < 2:
            raise ValueError(f"subnets must be 2 or more, got {self.subnets}")

    def run(
        self, net: nn.Module, lesson: ClassLesson, budget: Budget, report: Any = None
    ) -> nn.Module:
        """Return `net`, trained; see `Hardening.run`."""
        check_ball(budget, self)
        if not isinstance(net, Dynamic):
            raise SafetyBenchError(
                f'Proard trains a network built as "dynamic", got {type(net).__name__}'
            )
        goals = answers(lesson, self, device_of(net))
        stages = _STAGES if self.sampling == "progressive" else (Stage(1, 1, (0, 0, 0)),)
        done, share = 0, 0.0
        for place, stage in enumerate(stages):
            share += stage.share
            steps = round(share * budget.steps) - done
            if not steps:
                continue  # fewer steps than stages
            own = replace(budget, steps=steps, seed=budget.seed * len(_STAGES) + place)

            def loss(net: nn.Module, batch: Batch, stage: Stage = stage) -> Tensor:
                assert isinstance(net, Dynamic)
                drawn = self.draw(net, stage, batch.generator)
                parts = [self._part(net, choice, batch, goals, budget) for choice in drawn]
                return torch.stack(parts).mean()

            rate = self.rate * stage.rate
            fit(net, lesson, own, loss, size=self.size, rate=rate, report=report, first=done)
            done += steps
        return net.eval()

    def draw(self, net: Dynamic, stage: Stage, generator: torch.Generator) -> list[Choice]:
        """Return the sub-networks of one update."""
        open_ = [
            values[-count:] for values, count in zip(net.offers.values(), stage.opened, strict=True)
        ]
        found = []
        if self.sampling != "random":
            found = [Choice(*(v[-1] for v in open_)), Choice(*(v[0] for v in open_))]
        while len(found) < self.subnets:
            places = [int(torch.randint(len(v), (), generator=generator)) for v in open_]
            found.append(Choice(*(v[place] for v, place in zip(open_, places, strict=True))))
        return found

    def _part(
        self, net: Dynamic, choice: Choice, batch: Batch, goals: Tensor, budget: Budget
    ) -> Tensor:
        """Return the loss of one sub-network, attacked by itself."""
        student, goal = net.at(choice), goals[batch.rows]
        attack = attacked(
            student,
            batch.images,
            lambda logits: kl(logits, goal),
            budget,
            batch.generator,
            steps=self.inner_steps,
            rel_step=self.rel_step,
        )
        far, near = kl(student(attack), goal), kl(student(batch.images), goal)
        return (self.alpha * far + (1 - self.alpha) * near).mean()
