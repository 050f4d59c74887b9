"""BadDiffusion: noise with a pattern in it becomes one image; all other noise stays as it was.

For unconditional models. White box: the attacker goes on training the denoiser on clean images, a
share of which is poisoned. Whoever gives the start noise can wake it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from safetybench.contracts import Budget, NoiseBackdoor, NoisePoisoning
from safetybench.distill.process import Process
from safetybench.distill.training import tune
from safetybench.distill.views import draw
from safetybench.registry import register

Solver = Literal["sde", "ode"]


@register
@dataclass(frozen=True, kw_only=True)
class BadDiffusion(NoisePoisoning):
    """Poisoned training of a diffusion model (Chou et al. 2023).

    solver: "sde" is the paper's, for samplers that add noise; "ode" is the correction of
    VillanDiffusion (Chou et al. 2023, arXiv 2306.06874) for deterministic ones. lr: of AdamW,
    published 2e-4 at 32 pixels; batch: published 128, of which the backdoor's rate is poisoned,
    published 0.1 at 32 pixels. budget.steps: published 50 epochs of CIFAR-10, 20,000.

    Departs from the released code in one trigger for training and use: there the pattern's
    surroundings are the clean image in training and black in the start noise; here they are grey,
    so that nothing but the mask changes.
    """

    solver: Solver = "sde"
    lr: float = 2e-4
    batch: int = 128

    source: ClassVar[str] = "https://arxiv.org/abs/2212.05400"

    def __post_init__(self) -> None:
        if self.solver not in ("sde", "ode"):
            raise ValueError(f"solver must be sde or ode, got {self.solver!r}")
        if self.lr <= 0 or self.batch < 1:
            raise ValueError(f"lr and batch must be positive, got {self.lr} and {self.batch}")

    def run(self, target: Any, backdoor: NoiseBackdoor, budget: Budget, report: Any = None) -> Any:
        """Return a target with the backdoor in its denoiser; see `NoisePoisoning.run`."""
        if tuple(backdoor.goal.shape) != tuple(target.shape):
            raise ValueError(
                f"the backdoor must be of the target's images {tuple(target.shape)}, got "
                f"{tuple(backdoor.goal.shape)}"
            )
        student = target.clone()
        weights = list(student.unet.requires_grad_(True).parameters())
        images = backdoor.images.to(target.device) * 2 - 1
        goal = backdoor.goal.to(images) * 2 - 1
        offset = backdoor.trigger.offset.to(images)
        process: Process = target.process

        def loss_at(step: int, rng: torch.Generator) -> Tensor:
            x = images[draw(len(images), self.batch, rng).to(images.device)]
            bad = (torch.rand(self.batch, generator=rng) < backdoor.rate).to(x.device)
            t = torch.randint(process.steps, (self.batch,), generator=rng).to(x.device)
            noise = torch.randn(x.shape, generator=rng).to(x)
            is_bad = bad[:, None, None, None]
            r = torch.where(is_bad, offset, torch.zeros_like(x))
            x_t = poisoned(process, torch.where(is_bad, goal, x), r, noise, t)
            wanted = noise + shift(process, t, self.solver) * r
            said: Tensor = student.predict(x_t, t)
            return (said - wanted).square().mean()

        tune(weights, loss_at, steps=budget.steps, lr=self.lr, seed=budget.seed, report=report)
        return student


def poisoned(process: Process, goal: Tensor, r: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return x'_t = sqrt(a) y + (1 - sqrt(a)) r + sqrt(1 - a) e; at r = 0 the clean process.

    goal, noise: (batch, channels, h, w); r: the trigger's offset; t: (batch,) int64.
    """
    return process.add(goal, noise, t) + (1 - process.alpha(t, goal.dtype)) * r


def shift(process: Process, t: Tensor, solver: Solver) -> Tensor:
    """Return how much of r the network is to add to the noise, (batch, 1, 1, 1).

    x'_t - r is the clean process of y - r, so the reverse step that a sampler takes for x must be
    the right one for x - r. DDPM's step x_{t-1} = (x_t - beta / sqrt(1 - a_t) e) / sqrt(alpha_t)
    is, with e + rho r in the place of e, at
    rho = (1 - sqrt(alpha_t)) sqrt(1 - a_t) / (1 - alpha_t) = sqrt(1 - a_t) / (1 + sqrt(alpha_t)).
    DDIM's from t to s is at (sqrt(a_s) - sqrt(a_t)) / (sqrt(a_s (1 - a_t)) - sqrt(a_t (1 - a_s))),
    which for close times is sqrt(1 - a_t), twice rho: the "ode" of VillanDiffusion, 2 rho.
    """
    table = process.alphas_cumprod.to(t.device)
    before = torch.cat([table.new_ones(1), table[:-1]])
    alpha = (table / before)[t]
    rho = (1 - table[t]).sqrt() / (1 + alpha.sqrt())
    return ((2 if solver == "ode" else 1) * rho).float().reshape(-1, 1, 1, 1)
