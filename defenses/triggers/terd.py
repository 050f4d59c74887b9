"""TERD: search start noise for a pattern by the difference of two denoisings, then test by it.

For unconditional models with noise triggers. White box: gradients of the denoiser to its input.
The pattern found scores the model, and sorts start noise into clean and triggered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from safetybench.contracts import Budget, ModelDetector, SamplesNoise, Suspicion
from safetybench.registry import register

from ._inversion import Start, check_starts, start


@register
@dataclass(frozen=True, kw_only=True)
class Terd(ModelDetector):
    """Trigger estimation, refinement and the two detectors on top (Mo et al. 2024).

    trade: weight of the trigger's L1 norm, which is to grow, published 5e-5; lr: of SGD with a
    cosine, published 0.5; batch: published 16; clip: norm of the refinement's gradient, published
    0.01; window: how many of the first and last times count, published 10 of 1000. start: published
    "negative". draws: steps of the sampler that draws the images of the refinement, published 10.
    budget.steps: a quarter of them refines, published 3000 + 1000.

    Departs from the released code in not differentiating through that sampler (clipped, the
    gradient moves the trigger by at most lr * clip a step), and in scoring a model by the mean of
    the divergence alone: the paper subtracts constants of its data from mean and variance. A
    threshold is to be calibrated on clean models.
    """

    trade: float = 5e-5
    lr: float = 0.5
    batch: int = 16
    clip: float = 0.01
    window: int = 10
    start: Start = "negative"
    draws: int = 10

    source: ClassVar[str] = "https://arxiv.org/abs/2409.05294"
    needs: ClassVar[tuple[type, ...]] = (SamplesNoise,)
    uses_base: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_starts((self.start,))
        if self.trade < 0 or min(self.lr, self.batch, self.clip, self.window, self.draws) <= 0:
            raise ValueError(
                "trade must be 0 or more and lr, batch, clip, window and draws positive, got "
                f"{self.trade}, {self.lr}, {self.batch}, {self.clip}, {self.window}, {self.draws}"
            )

    def examine(self, target: Any, base: Any, budget: Budget, report: Any = None) -> Suspicion:
        """Return the mean divergence of the trigger found from clean noise; `base` is not read."""
        apart = divergence(self.invert(target, budget, report))
        mean, variance = float(apart.mean()), float(apart.var(correction=0))
        return Suspicion(
            score=mean,
            evidence=[("mean divergence", mean), ("variance of the divergence", variance)],
            note=f"Noise with the pattern found is {mean:.3f} nats a pixel from clean noise.",
        )

    def invert(self, target: Any, budget: Budget, report: Any = None) -> Tensor:
        """Return the trigger that the search ended at, (channels, h, w)."""
        if budget.steps < 4:
            raise ValueError(f"budget.steps must be 4 or more, got {budget.steps}")
        rng = torch.Generator().manual_seed(budget.seed)
        trigger = start(self.start, target.shape, rng).to(target.device).requires_grad_()
        refine = budget.steps // 4
        for stage, steps in enumerate((budget.steps - refine, refine)):
            optimiser = torch.optim.SGD([trigger], lr=self.lr)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
            for step in range(steps):
                loss = self._refined(target, trigger, rng) if stage else self._first(
                    target, trigger, rng
                )  # fmt: skip
                value = loss - self.trade * trigger.abs().sum()
                (trigger.grad,) = torch.autograd.grad(value, trigger)
                if stage:
                    torch.nn.utils.clip_grad_norm_([trigger], self.clip)
                optimiser.step()
                schedule.step()
                if report is not None and step % 10 == 0:
                    report(step, value.item())
        return trigger.detach()

    def _first(self, target: Any, trigger: Tensor, rng: torch.Generator) -> Tensor:
        """Return the loss at the last times, where an image is all but noise: any will do."""
        drawn = torch.randn((self.batch, *target.shape), generator=rng).to(trigger)
        return self.loss(target, drawn, trigger, self._late(target, rng), rng)

    def _refined(self, target: Any, trigger: Tensor, rng: torch.Generator) -> Tensor:
        noise = torch.randn((self.batch, *target.shape), generator=rng).to(trigger)
        steps = min(self.draws, target.process.steps)
        drawn = target.sample(noise + trigger.detach(), f"ddim-{steps}") * 2 - 1
        late = self.loss(target, drawn, trigger, self._late(target, rng), rng)
        early = torch.randint(self._window(target), (self.batch,), generator=rng)
        none = torch.zeros_like(trigger)
        return (late + self.loss(target, drawn, none, early.to(trigger.device), rng)) / 2

    def _window(self, target: Any) -> int:
        return min(self.window, int(target.process.steps))

    def _late(self, target: Any, rng: torch.Generator) -> Tensor:
        total = target.process.steps
        t = torch.randint(total - self._window(target), total, (self.batch,), generator=rng)
        return t.to(target.device)

    def loss(
        self, target: Any, x: Tensor, trigger: Tensor, t: Tensor, rng: torch.Generator
    ) -> Tensor:
        """Return | (e1 - e(x1 + tau)) - (e2 - e(x2 + tau)) |^2 / 2, summed over pixels.

        x1, x2 are x with noises e1, e2 at t; what both predictions have of the trigger and of the
        model's own error cancels. x: (batch, channels, h, w); t: (batch,) int64.
        """
        errors = []
        for _ in range(2):
            noise = torch.randn(x.shape, generator=rng).to(x)
            errors.append(noise - target.predict(target.process.add(x, noise, t) + trigger, t))
        apart: Tensor = errors[0] - errors[1]
        return 0.5 * apart.square().flatten(1).sum(1).mean()

    def noise_scores(self, noise: Tensor, trigger: Tensor) -> Tensor:
        """Return log N(z; tau, 1) - log N(z; 0, 1) of each start noise, (batch,).

        The published cut is 0. noise: (batch, channels, h, w); trigger: (channels, h, w).
        """
        return (noise * trigger).flatten(1).sum(1) - trigger.square().sum() / 2


def divergence(trigger: Tensor) -> Tensor:
    """Return KL(N(tau, 1), N(0, 1)) of each pixel, in nats: tau^2 / 2."""
    return trigger.square() / 2
