"""Adversaries: heads on the features of a denoiser, a loss, a regulariser.

A discriminator reads a noised sample through a denoiser's encoder. Whose encoder is the choice
that tells the methods apart: the fake score's own (DMD2, Diffusion-GAN), the frozen teacher's
(LADD) or a LoRA on it (SCott).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from safetybench.distill import times as sampled
from safetybench.distill.lab import Lab
from safetybench.distill.rollouts import Rollout
from safetybench.distill.schedule import Step

Kind = Literal["softplus", "hinge"]


class _Stop(Exception):
    """Ends a forward pass once the features are there."""


def features(model: Any, x: Tensor, t: Tensor, text: Tensor) -> list[Tensor]:
    """Return a UNet's features, each (batch, channels, h, w): of its last down block and middle.

    The pass ends there: the decoder is not run.
    """
    found: list[Tensor] = []

    def take(module: nn.Module, args: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)
        if module is model.unet.mid_block:
            raise _Stop

    hooks = [
        block.register_forward_hook(take)
        for block in (model.unet.down_blocks[-1], model.unet.mid_block)
    ]
    try:
        model.x0(x, t, text)
    except _Stop:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return found


class Heads(nn.Module):
    """One small convolutional head for each feature map; logits are (batch, n)."""

    def __init__(self, channels: list[int], width: int = 64, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.heads = nn.ModuleList(
                nn.Sequential(
                    nn.Conv2d(c, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU(),
                    nn.Conv2d(width, 1, 3, padding=1),
                )
                for c in channels
            )  # fmt: skip

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return the logits of all heads and places."""
        return torch.cat([h(m).flatten(1) for h, m in zip(self.heads, maps, strict=True)], 1)


def map_mean(maps: list[Tensor]) -> Tensor:
    """Return the channel mean of the middle features as logits: a head with no weights.

    Diffusion-GAN as SiD's few-step version uses it. Source: https://arxiv.org/abs/2505.12674
    """
    return maps[-1].mean(1).flatten(1)


class Adversary:
    """The two sides of one adversarial term; see `generator` and `discriminator`.

    model: whose encoder is read; head: maps its features to logits, (batch, n). low, high: range
    of the noise at which real and made samples are compared, as shares of the process.
    """

    def __init__(
        self,
        lab: Lab,
        model: Any,
        head: Callable[[list[Tensor]], Tensor],
        *,
        kind: Kind = "softplus",
        low: float = 0.0,
        high: float = 0.98,
        r1: float = 0.0,
    ) -> None:
        self.lab, self.model, self.head, self.kind = lab, model, head, kind
        self.low, self.high, self.r1 = low, high, r1

    def logits(self, x: Tensor, text: Tensor, step: Step, purpose: str) -> Tensor:
        """Return the logits of noised samples; `purpose` names the draws."""
        t = sampled.uniform(len(x), self.lab.process.steps, step.rng(purpose), self.low, self.high)
        t = t.to(x.device)
        x_t = self.lab.process.add(x, self.lab.noise(step.rng(f"{purpose} noise"), len(x)), t)
        return self.head(features(self.model, x_t, t, text))

    def generator(self, rollout: Rollout, weight: float) -> Callable[[Step], Tensor]:
        """Return the term that makes the student's samples look real."""

        def loss(step: Step) -> Tensor:
            roll = rollout(step, True)
            made = self.logits(roll.x, roll.text, step, "judged")
            if self.kind == "softplus":
                return weight * functional.softplus(-made).mean()
            return -weight * made.mean()

        return loss

    def discriminator(self, rollout: Rollout, weight: float = 1.0) -> Callable[[Step], Tensor]:
        """Return the term that tells the real images from the student's samples.

        r1: weight of the approximate R1 penalty |D(x) - D(x + 0.1 e)|^2.
        """

        def loss(step: Step) -> Tensor:
            roll = rollout(step, False)
            clean, text = self.lab.real(step)
            real = self.logits(clean, text, step, "judged real")
            made = self.logits(roll.x, roll.text, step, "judged")
            if self.kind == "softplus":
                total = functional.softplus(made).mean() + functional.softplus(-real).mean()
            else:
                total = (1 + made).relu().mean() + (1 - real).relu().mean()
            if self.r1:
                moved = clean + 0.1 * self.lab.noise(step.rng("r1"), len(clean))
                again = self.logits(moved, text, step, "judged real")
                total = total + self.r1 * (real - again).square().mean()
            return weight * total

        return loss


def heads_for(lab: Lab, model: Any) -> Heads:
    """Return heads that fit a model's features, on its device."""
    with torch.no_grad():
        x = torch.zeros(1, *lab.teacher.latent_shape, device=lab.teacher.device)
        maps = features(model, x, lab.times(0)[:1], lab.teacher.null_text)
    return Heads([m.shape[1] for m in maps]).to(lab.teacher.device)
