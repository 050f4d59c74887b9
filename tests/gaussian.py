"""A text-to-image target whose data are Gaussian, so that every x0-prediction is a formula."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from safetybench.distill.lab import Lab
from safetybench.distill.process import Process
from safetybench.targets.spec import Sampler


class Normal(NamedTuple):
    """Mean and spread of every latent value."""

    mean: float
    spread: float


CONDITIONAL, NULL = Normal(1.5, 0.6), Normal(0.0, 1.2)


def posterior_mean(
    process: Process, x: Tensor, t: Tensor, mean: Tensor | float, spread: Tensor | float
) -> Tensor:
    """Return E[x0 | x_t] for data of this mean and spread, by Bayes' rule for two Gaussians."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    variance = torch.as_tensor(spread) ** 2
    gain = alpha * variance / (alpha**2 * variance + sigma**2)
    return mean + gain * (x - alpha * mean)


def scaled_linear() -> Process:
    return Process.from_scheduler(DDIMScheduler(beta_schedule="scaled_linear"))


class Line(nn.Module):
    """The two numbers that stand for a denoiser."""

    def __init__(self, start: Normal) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(start.mean))
        self.log_spread = nn.Parameter(torch.tensor(start.spread).log())


@dataclass(eq=False)
class GaussianTarget:
    """As much of a target as a recipe needs; text is 1 for a prompt and 0 for the empty one.

    null: the data of the empty prompt; sampler_times: of the native sampler, noisiest first.
    """

    unet: Any
    process: Process
    sampler: Sampler
    latent_shape: tuple[int, int, int] = (1, 4, 4)
    null: Normal = NULL
    sampler_times: tuple[int, ...] = (999, 749, 499, 249)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def null_text(self) -> Tensor:
        return torch.zeros(1, 1, 1)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        return torch.ones(len(prompts), 1, dtype=torch.int64)

    def embed(self, ids: Tensor) -> Tensor:
        return ids.float()[..., None]

    def x0(self, latents: Tensor, t: Tensor, text: Tensor) -> Tensor:
        line = self.unet
        asked = posterior_mean(self.process, latents, t, line.mean, line.log_spread.exp())
        bare = posterior_mean(self.process, latents, t, *self.null)
        return torch.where(text.reshape(-1, 1, 1, 1) > 0, asked, bare)

    def clone(self) -> GaussianTarget:
        return replace(self, unet=copy.deepcopy(self.unet).requires_grad_(False))

    def trainable_copy(self) -> GaussianTarget:
        twin = self.clone()
        twin.unet.requires_grad_(True)
        return twin

    def with_sampler(self, sampler: Sampler, scheduler: Any = None) -> GaussianTarget:
        return replace(self, sampler=sampler)


def gaussian_target(null: Normal = NULL) -> GaussianTarget:
    line = Line(CONDITIONAL).requires_grad_(False)
    return GaussianTarget(line, scaled_linear(), Sampler(steps=4, guidance=1.0), null=null)


@dataclass(eq=False)
class Linear:
    """A one-step student m + exp(l) z, which makes N(m, exp(l)^2) of standard normal noise."""

    unet: Line

    def x0(self, latents: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return self.unet.mean + self.unet.log_spread.exp() * latents


@dataclass(eq=False)
class Exact:
    """The fake score that follows a linear student without any delay or error."""

    process: Process
    student: Linear
    null_text: Tensor

    def x0(self, latents: Tensor, t: Tensor, text: Tensor) -> Tensor:
        # Its weights are not the student's: a loss may go through its input alone.
        line = self.student.unet
        mean, spread = line.mean.detach(), line.log_spread.detach().exp()
        return posterior_mean(self.process, latents, t, mean, spread)


def linear_lab(null: Normal = NULL, batch: int = 64) -> Lab:
    """Return a lab with an exact Gaussian teacher and a linear student that starts at N(0, 1)."""
    teacher = gaussian_target(null)
    student = Linear(Line(Normal(0.0, 1.0)))
    return Lab(teacher=teacher, student=student, ids=teacher.tokenize(["a"]), batch=batch)
