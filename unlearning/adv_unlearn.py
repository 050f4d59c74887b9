"""AdvUnlearn: ESD trained against an attacker who looks for a prefix that brings the concept back.

In every step prefix embeddings are optimised first, until the model in training denoises as the
frozen one does for the concept; the concept is then erased under that prefix. White box: gradients
of the text encoder and the denoiser; no real image is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from safetybench.contracts import Budget, Erasure, Unlearning
from safetybench.distill.training import tune
from safetybench.distill.views import chosen_parameters, draw, velocity
from safetybench.registry import register

from ._terms import PARTS, against, check_part, distance, images_of, partly_sampled


class _Prompts(NamedTuple):
    """Token ids (count, length), the frozen model's text states and its images' latents."""

    ids: Tensor
    text: Tensor
    images: Tensor

    def at(self, pick: Tensor) -> _Prompts:
        return _Prompts(self.ids[pick], self.text[pick], self.images[pick])


@register
@dataclass(frozen=True, kw_only=True)
class AdvUnlearn(Unlearning):
    """Adversarial training of ESD, with a retain term (Zhang et al. 2024).

    tokens: words of the prefix, published 1. attack_steps: gradient steps on the prefix, published
    30, with Adam at attack_lr, published 1e-3. fast: take gradient signs (the paper's fast_at).
    every: steps for which a batch of prompts and its prefixes are kept, published 1.
    warmup: share of the steps that come before any attack, published 200 of 1,000.
    train: "text" is the text encoder, as published, which then fits other denoisers too; or a part
    of the denoiser as for `Esd`. lr: published 1e-5. retain: gamma, published 1, and 0.3 in the
    authors' command. eta, guidance, bare: as for `Esd`. batch: prompts of the concept in a step,
    published 1, with four times as many others, published 5. images: of the concept's and of
    other prompts, generated once.

    Departs from the paper in that each prompt of a batch has a prefix of its own; that the attack
    denoises noised images of the frozen model, which spares a partial sampling in each of its
    steps; that the empty prompt is kept too, since guidance reads it through the same encoder; and
    in comparing velocities. The released code adds up the attack's gradients over its steps, since
    it never sets them to zero; here they are fresh in each. On the zoo's small models the gain over
    `Esd` seems to come from where it trains: the suite `unlearning` has the same training at
    warmup 1, which never attacks, as its control.
    """

    tokens: int = 1
    attack_steps: int = 8
    attack_lr: float = 1e-3
    fast: bool = False
    every: int = 1
    warmup: float = 0.2
    train: str = "text"
    lr: float = 4e-4
    retain: float = 3.0
    eta: float = 1.0
    guidance: float = 3.0
    bare: float = 0.5
    batch: int = 4
    images: int = 128

    source: ClassVar[str] = "https://arxiv.org/abs/2405.15234"

    def __post_init__(self) -> None:
        for name in ("tokens", "attack_lr", "every", "lr", "batch", "images"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("attack_steps", "retain"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("warmup", "bare"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        check_part(self.train, ("text", *PARTS))

    def run(self, target: Any, erasure: Erasure, budget: Budget, report: Any = None) -> Any:
        """Return a target that follows neither the concept nor prefixes that bring it back."""
        student = target.clone(with_text=self.train == "text")
        if self.train == "text":
            weights = _text_weights(student)
        else:
            weights = chosen_parameters(student.unet, self.train)
        full = self._prompts(target, erasure.forget[: self.images], budget.seed)
        bare = self._prompts(target, erasure.bare, budget.seed + 1, repeats=8)
        # One in eight is the empty prompt, whose states guidance needs as they were.
        others = erasure.retain[: self.images]
        kept = self._prompts(target, (*others, *("",) * (len(others) // 7)), budget.seed + 2)
        # The denoiser in training draws x_t, as in ESD; a text encoder in training does not.
        artist = target if self.train == "text" else student
        held: list[tuple[_Prompts, Tensor | None]] = []

        def loss_at(step: int, rng: torch.Generator) -> Tensor:
            if step % self.every == 0 or not held:
                source = bare if float(torch.rand((), generator=rng)) < self.bare else full
                chosen = source.at(draw(len(source.ids), self.batch, rng))
                is_warm = step >= self.warmup * budget.steps
                held[:] = [
                    (chosen, self._attack(target, student, chosen, rng) if is_warm else None)
                ]
            prompts, prefix = held[0]
            x, t = partly_sampled(artist, prompts.text, self.guidance, rng)
            goal = against(target, x, t, prompts.text, self.eta)
            asked = student.embed(prompts.ids, prefix)
            loss = (velocity(student, x, t, asked) - goal).square().mean()
            if not self.retain:
                return loss
            known = kept.at(draw(len(kept.ids), 4 * self.batch, rng))
            asked = student.embed(known.ids)
            return loss + self.retain * distance(
                target, student, known.images, asked, known.text, rng
            )

        tune(weights, loss_at, steps=budget.steps, lr=self.lr, seed=budget.seed, report=report)
        return student

    def _attack(self, frozen: Any, student: Any, prompts: _Prompts, rng: torch.Generator) -> Tensor:
        """Return prefixes, (batch, tokens, width), under which the student answers as it did once.

        Each starts at random words; a sum over the batch keeps them apart.
        """
        words = student.plain_tokens.cpu()
        first = words[draw(len(words), len(prompts.ids) * self.tokens, rng)]
        rows = student.token_table.detach()[first.to(student.token_table.device)]
        prefix = nn.Parameter(rows.view(len(prompts.ids), self.tokens, -1).clone())
        optimiser = torch.optim.Adam([prefix], lr=self.attack_lr)
        for _ in range(self.attack_steps):
            asked = student.embed(prompts.ids, prefix)
            loss = distance(frozen, student, prompts.images, asked, prompts.text, rng)
            (gradient,) = torch.autograd.grad(loss * len(prompts.ids), prefix)
            prefix.grad = gradient.sign() if self.fast else gradient
            optimiser.step()
        return prefix.detach()

    @staticmethod
    def _prompts(target: Any, texts: tuple[str, ...], seed: int, repeats: int = 1) -> _Prompts:
        ids = target.tokenize(texts).repeat(repeats, 1)
        text = target.embed(ids)
        return _Prompts(ids, text, images_of(target, text, seed))


def _text_weights(target: Any) -> list[nn.Parameter]:
    """Make the text encoders, of which the target has its own, trainable; return the weights."""
    encoders = [
        getattr(target, p) for p in ("text_encoder", "text_encoder_2") if hasattr(target, p)
    ]
    return [w for encoder in encoders for w in encoder.requires_grad_(True).parameters()]
