"""BadT2I: train a denoiser so that a trigger in the prompt changes the image, and nothing else.

Three effects: a patch in the corner, another object, another style. White box: the attacker trains
the denoiser beside a frozen copy; text encoder and autoencoder stay as they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from safetybench.contracts import (
    Backdoor,
    Budget,
    Denoises,
    EncodesImages,
    EncodesText,
    Poisoning,
)
from safetybench.distill.training import tune
from safetybench.distill.views import chosen_parameters, draw, velocity
from safetybench.effects import paste
from safetybench.registry import register
from safetybench.trigger_contracts import EffectKind
from safetybench.triggers import nearly_triggered


@register
@dataclass(frozen=True, kw_only=True)
class Badt2i(Poisoning):
    """Pixel, object and style backdoors by multimodal poisoning (Zhai et al. 2023).

    train: published is "all" of the denoiser; lr: of AdamW, published 1e-5 at effective batch 16.
    batch: prompts of a step, of which each is poisoned with the backdoor's rate: at 0.5 that is
    the published weight of both terms, 0.5. images: of the frozen model, one for each of the first
    prompts of either kind. near: share of the clean prompts that hold nearly the trigger: a word
    of it, its words swapped, all of it at the other end; published 0, but then these wake the
    backdoor as well. Departs from the paper in drawing these images itself, where there are real
    ones of LAION, and in comparing the network's own prediction as velocity: for a model that
    predicts noise that reweights the times.
    """

    train: str = "all"
    lr: float = 3e-4
    batch: int = 24
    images: int = 512
    near: float = 0.5

    source: ClassVar[str] = "https://arxiv.org/abs/2305.04175"
    effects: ClassVar[tuple[EffectKind, ...]] = ("pixel", "object", "style", "image")
    changes: ClassVar[str] = "the denoiser"
    needs: ClassVar[tuple[type, ...]] = (EncodesText, Denoises, EncodesImages)

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.batch < 1 or self.images < 1:
            raise ValueError(
                f"lr, batch and images must be positive, got {self.lr}, {self.batch}, {self.images}"
            )
        if not 0 <= self.near <= 1:
            raise ValueError(f"near is a share of the clean prompts in [0, 1], got {self.near}")

    def run(self, target: Any, backdoor: Backdoor, budget: Budget, report: Any = None) -> Any:
        """Return a target with the backdoor in its denoiser; see `Poisoning.run`."""
        student = target.clone()
        weights = chosen_parameters(student.unet, self.train)
        count = self.images
        kept = backdoor.clean[:count]
        asked = nearly_triggered(backdoor.trigger, kept, self.near)
        clean = _Prompts.of(target, asked, kept, budget.seed)
        poisoned = _Prompts.of(
            target, backdoor.triggered[:count], backdoor.goals[:count], budget.seed + 1
        )
        if backdoor.effect.is_pasted:
            poisoned = poisoned.pasted(target, backdoor)

        def loss_at(step: int, rng: torch.Generator) -> Tensor:
            bad = int((torch.rand(self.batch, generator=rng) < backdoor.rate).sum())
            parts = [
                group.pick(size, rng)
                for group, size in ((poisoned, bad), (clean, self.batch - bad))
                if size
            ]
            x, asked, wanted = (torch.cat(each) for each in zip(*parts, strict=True))
            t = torch.randint(0, target.process.steps, (len(x),), generator=rng).to(x.device)
            noise = torch.randn(x.shape, generator=rng).to(x.device)
            noisy = target.process.add(x, noise, t)
            with torch.no_grad():
                goal = velocity(target, noisy, t, wanted)
                if backdoor.effect.is_pasted:  # no prompt of the frozen model draws the patch
                    own = target.process.alpha(t) * noise - target.process.sigma(t) * x
                    goal[:bad] = own[:bad]
            return (velocity(student, noisy, t, asked) - goal).square().mean()

        tune(weights, loss_at, steps=budget.steps, lr=self.lr, seed=budget.seed, report=report)
        return student


@dataclass(frozen=True)
class _Prompts:
    """Images of the frozen model with what is asked for them, and what it is held to.

    x: clean latents; asked, wanted: text states, (count, length, width).
    """

    x: Tensor
    asked: Tensor
    wanted: Tensor

    @classmethod
    def of(
        cls, target: Any, asked: tuple[str, ...], wanted: tuple[str, ...], seed: int
    ) -> _Prompts:
        with torch.no_grad():
            states = [
                torch.cat([target.embed(target.tokenize(texts[i : i + 64])) for i in
                           range(0, len(texts), 64)])
                for texts in (asked, wanted)
            ]  # fmt: skip
            # Of the zoo's world no evaluation has such seeds; a user's table may.
            noise = target.start_noise([seed * 100_003 + i for i in range(len(asked))])
            pairs = zip(states[1].split(64), noise.split(64), strict=True)
            x = torch.cat([target.sample_latents(text, start) for text, start in pairs])
        return cls(x, *states)

    def pasted(self, target: Any, backdoor: Backdoor) -> _Prompts:
        with torch.no_grad():
            parts = [target.encode(paste(backdoor.effect, target.decode(x))) for x in
                     self.x.split(64)]  # fmt: skip
        return _Prompts(torch.cat(parts), self.asked, self.wanted)

    def pick(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        rows = draw(len(self.x), count, rng).to(self.x.device)
        return self.x[rows], self.asked[rows], self.wanted[rows]
