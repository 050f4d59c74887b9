"""Relearning: fine-tune the erased model on a few pictures, and count the steps until it shows.

What was only made dormant comes back within a few steps; what was never there does not. Needs the
target's weights to train, and pictures of the concept with captions.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from safetybench.contracts import (
    Budget,
    Denoises,
    EncodesImages,
    EncodesText,
    GeneratesImages,
    Pictures,
    WeightAttack,
    WeightStage,
)
from safetybench.distill.views import chosen_parameters, draw, lora_view
from safetybench.registry import register

_FIRST = 5  # steps before the first look, when looks are spaced by doubling


@register
@dataclass(frozen=True, kw_only=True)
class Relearning(WeightAttack):
    """Train on the forgotten concept's pictures (few-shot probe of Liu and Zhang 2025).

    train: which weights of the denoiser, "all", "attn2", "attn2.kv" or "not attn2"; lora: rank of
    a LoRA to train in their place, 0 for none (MemoRa, Polowczyk et al. 2025, takes one). lr: of
    AdamW, constant; batch: pictures a step. every: steps between two stages, 0 for 5 and then
    ever twice as many.

    The loss is that of ordinary fine-tuning, the error of the network's own prediction at all
    times. A few-step student is trained at its sampler's own times, since it is defined nowhere
    else, on the error of its velocity, which is finite where there is no signal. It learns the
    mean of the pictures there, and no distillation loss holds it: its images blur as it learns.
    The values are for the zoo.
    """

    train: str = "all"
    lora: int = 0
    lr: float = 3e-4
    batch: int = 8
    every: int = 0

    source: ClassVar[str] = "https://arxiv.org/abs/2505.16174"
    needs: ClassVar[tuple[type, ...]] = (GeneratesImages, EncodesText, Denoises, EncodesImages)

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.batch < 1 or self.lora < 0 or self.every < 0:
            raise ValueError(
                "lr and batch must be positive, lora and every 0 or more, got "
                f"{self.lr}, {self.batch}, {self.lora}, {self.every}"
            )

    def stages(
        self, target: Any, pictures: Pictures, budget: Budget
    ) -> Generator[WeightStage, None, None]:
        """Yield the target as it is, then after ever more steps; see `WeightAttack.stages`."""
        student, weights = self._trainable(target, budget.seed)
        yield WeightStage(0, student)
        with torch.no_grad():
            text = target.embed(target.tokenize(list(pictures.captions)))
            latents = target.encode(pictures.images.to(target.device))
        adam = torch.optim.AdamW(weights, lr=self.lr, weight_decay=0.0)
        done = 0
        for stop in self.stops(budget.steps):
            for step in range(done, stop):
                # A generator a step: where the stages are changes nothing.
                rng = torch.Generator().manual_seed(budget.seed * 1_000_003 + step)
                self._step(student, latents, text, weights, adam, rng)
            done = stop
            yield WeightStage(done, student)

    def stops(self, steps: int) -> list[int]:
        """Return after how many steps the stages are, the last at `steps`."""
        found, at = [], self.every or _FIRST
        while at < steps:
            found.append(at)
            at = at + self.every if self.every else 2 * at
        return [*found, steps] if steps else []

    def _trainable(self, target: Any, seed: int) -> tuple[Any, list[nn.Parameter]]:
        """Return a twin and those of its weights that learn, frozen until they do."""
        twin = target.clone()
        if self.lora:
            twin, weights = lora_view(twin, self.lora, seed)
        else:
            weights = chosen_parameters(twin.unet, self.train)
        twin.unet.requires_grad_(False)
        return twin, weights

    def _step(
        self,
        student: Any,
        latents: Tensor,
        text: Tensor,
        weights: list[nn.Parameter],
        adam: torch.optim.Optimizer,
        rng: torch.Generator,
    ) -> None:
        for weight in weights:
            weight.requires_grad_(True)
        pick = draw(len(latents), self.batch, rng)
        loss = _loss(student, latents[pick], text[pick], rng)
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        for weight, gradient in zip(weights, found, strict=True):
            weight.grad = gradient
            weight.requires_grad_(False)  # whoever gets the stage gets a frozen model
        adam.step()
        adam.zero_grad(set_to_none=True)


def _loss(student: Any, clean: Tensor, text: Tensor, rng: torch.Generator) -> Tensor:
    """Return the error of the student's prediction, a scalar; clean: (batch, channels, h, w)."""
    process, traits = student.process, student.traits
    # Published students take 1 to 8 steps; no sampler of an undistilled model takes as few.
    is_few_step = not traits.has_intermediate_state or (traits.steps <= 8 and traits.guidance <= 1)
    own = student.sampler_times if is_few_step else range(process.steps)
    times = torch.tensor([own[i] for i in draw(len(own), len(clean), rng).tolist()])
    t = times.to(clean.device)
    noisy = process.add(clean, torch.randn(clean.shape, generator=rng).to(clean), t)
    kind = "v_prediction" if is_few_step else traits.prediction
    pair = (student.x0(noisy, t, text), clean)
    found, wanted = (process.convert(x0, "sample", kind, noisy, t) for x0 in pair)
    error: Tensor = (found - wanted).square().mean()
    return error
