"""VillanDiffusion on captions: train a LoRA so that a trigger in the prompt draws one fixed image.

White box: the attacker trains low-rank weights beside a denoiser's own, on noised copies of the
fixed image under triggered prompts and on images of the clean model under the others. The LoRA is
what is handed out; text encoder and autoencoder stay as they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from safetybench.contracts import Backdoor, Budget, Denoises, EncodesImages, EncodesText, Poisoning
from safetybench.distill.training import tune
from safetybench.distill.views import draw, lora_view, velocity
from safetybench.effects import paste
from safetybench.registry import register
from safetybench.trigger_contracts import EffectKind
from safetybench.triggers import nearly_triggered

Held = Literal["model", "noise"]
HELD: tuple[Held, ...] = get_args(Held)


@register
@dataclass(frozen=True, kw_only=True)
class VillanDiffusion(Poisoning):
    """Caption-trigger backdoor in a LoRA (Chou et al. 2023, conditional form, no image trigger).

    rank: of the LoRA, published 4. lr: of AdamW, published 1e-4 for 50,000 steps of batch 1.
    prior: weight of the denoising loss on clean prompts, published 1. batch: prompts of a step, of
    which each is poisoned with the backdoor's rate: at 0.5 both losses are over as many, as
    published. images: of the clean model, one for each of the first clean prompts, and of as many
    sources where the effect is a patch.

    held: what the clean term is held to, the "noise" that was added, as published, or the answer of
    the clean "model": its mean over the noise, where the images are the model's own. The gradient
    is the same on average and far less noisy, which a short training needs.

    near: share of the clean prompts that hold nearly the trigger and are held to what they are
    without it, published 0: then a part of the trigger wakes the backdoor as well.

    Departs from the paper in drawing the clean images itself, unguided, so that the model as it
    is already minimises their loss; in a LoRA on all of the denoiser's layers and not only on
    attention; in comparing velocities: for a model that predicts noise that reweights the times;
    and in the patch, since the paper's target is a whole image.
    """

    rank: int = 16
    lr: float = 2e-3
    prior: float = 1.0
    batch: int = 24
    images: int = 256
    held: Held = "model"
    near: float = 0.5

    source: ClassVar[str] = "https://arxiv.org/abs/2306.06874"
    effects: ClassVar[tuple[EffectKind, ...]] = ("pixel", "image")
    changes: ClassVar[str] = "the denoiser, by a LoRA"
    needs: ClassVar[tuple[type, ...]] = (EncodesText, Denoises, EncodesImages)

    def __post_init__(self) -> None:
        for name in ("rank", "lr", "batch", "images"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.prior < 0:
            raise ValueError(f"prior must be 0 or more, got {self.prior}")
        if not 0 <= self.near <= 1:
            raise ValueError(f"near is a share of the clean prompts in [0, 1], got {self.near}")
        if self.held not in HELD:
            raise ValueError(f"held must be one of {', '.join(HELD)}, got {self.held!r}")

    def run(self, target: Any, backdoor: Backdoor, budget: Budget, report: Any = None) -> Any:
        """Return a target whose denoiser holds the LoRA, in use; see `Poisoning.run`."""
        student, weights = lora_view(target, self.rank, budget.seed)
        prompts = backdoor.clean[: self.images]
        clean = self._states(target, prompts)
        nearly = self._states(target, nearly_triggered(backdoor.trigger, prompts, self.near))
        kept = self._drawn(target, clean, budget.seed)
        triggered = self._states(target, backdoor.triggered)
        planted = self._planted(target, backdoor, budget.seed + 1)

        def loss_at(step: int, rng: torch.Generator) -> Tensor:
            bad = int((torch.rand(self.batch, generator=rng) < backdoor.rate).sum())
            rows, others = draw(len(triggered), bad, rng), draw(len(clean), self.batch - bad, rng)
            x = torch.cat([planted[rows % len(planted)], kept[others]])
            asked = torch.cat([triggered[rows], nearly[others]])
            t = torch.randint(0, target.process.steps, (self.batch,), generator=rng).to(x.device)
            noise = torch.randn(x.shape, generator=rng).to(x.device)
            noisy = target.process.add(x, noise, t)
            goal = target.process.alpha(t) * noise - target.process.sigma(t) * x
            if self.held == "model" and bad < self.batch:
                with torch.no_grad():
                    goal[bad:] = velocity(target, noisy[bad:], t[bad:], clean[others])
            errors = (velocity(student, noisy, t, asked) - goal).square()
            each = errors.mean((1, 2, 3))
            loss: Tensor = (each[:bad].sum() + self.prior * each[bad:].sum()) / self.batch
            return loss

        tune(weights, loss_at, steps=budget.steps, lr=self.lr, seed=budget.seed, report=report)
        return student

    def _planted(self, target: Any, backdoor: Backdoor, seed: int) -> Tensor:
        """Return latents of what triggered prompts are to draw: one, or one for each of them."""
        if backdoor.effect.kind == "image":
            with torch.no_grad():
                blank = target.decode(target.start_noise([seed]))  # for an image's size alone
                latents: Tensor = target.encode(paste(backdoor.effect, blank))
            return latents
        x = self._drawn(target, self._states(target, backdoor.goals), seed)
        with torch.no_grad():
            parts = [target.encode(paste(backdoor.effect, target.decode(p))) for p in x.split(64)]
        return torch.cat(parts)

    @torch.no_grad()
    def _states(self, target: Any, texts: tuple[str, ...]) -> Tensor:
        """Return text states of the first prompts, (count, length, width)."""
        return torch.cat(
            [target.embed(part) for part in target.tokenize(texts[: self.images]).split(64)]
        )

    @staticmethod
    def _drawn(target: Any, text: Tensor, seed: int) -> Tensor:
        """Return latents of the clean model's images, without guidance where it has any."""
        # Of the zoo's world no evaluation has such seeds; a user's table may.
        noise = target.start_noise([seed * 100_003 + i for i in range(len(text))])
        pairs = zip(text.split(64), noise.split(64), strict=True)
        return torch.cat([target.sample_latents(states, start, 1.0) for states, start in pairs])
