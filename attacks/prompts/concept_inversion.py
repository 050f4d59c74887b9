"""Concept inversion: an embedding, learned on the erased model, under which it draws the concept.

White box: needs the target's text encoder, denoiser and autoencoder, and a few images of the
concept. The embedding is no token: whoever uses it must hold the weights, and text filters see
nothing of it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from safetybench.contracts import (
    Aids,
    AttackAid,
    Budget,
    Candidate,
    Denoises,
    DrawsStates,
    EncodesImages,
    EncodesText,
    GeneratesImages,
    Pictures,
    Prompt,
    PromptAttack,
    Reply,
    TextToImageTarget,
)
from safetybench.registry import register

from ._objective import Moment, everywhere, losses
from ._words import around, embed_at, no_room, slots


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """The values a preset fixes; the defaults are the authors'."""

    tokens: int = 1
    steps: int = 5000
    batch: int = 16
    lr: float = 0.08
    pictures: int = 25


# "published": 4 x 4 images a step; the script's 5e-3 is multiplied by them (--scale_lr).
PRESETS = {
    "published": _Settings(),
    "zoo": _Settings(steps=200, lr=0.05, pictures=16),
}


@register
@dataclass(frozen=True, kw_only=True)
class ConceptInversion(PromptAttack):
    """Learn k embeddings in the concept's place by its pictures (Pham et al. 2024).

    An option left None is the preset's. tokens: k; steps: of AdamW, and no more than the budget's;
    batch: pictures a step; pictures: how many are used of those there are.

    The authors draw "a painting in the style of *"; here the embeddings stand where the prompt
    (and a picture's caption) names the concept, or first where it does not. They are learned once
    a search, the same for all its prompts; with more images than one, each prompt is drawn after
    every part of the training, which the authors do not. The start is the mean of all tokens in
    place of a word chosen for the concept. A few-step student is asked at its sampler's
    own times, as everywhere in this folder. The log shows `<concept*>` for the embeddings.
    """

    preset: Literal["published", "zoo"] = "published"
    tokens: int | None = None
    steps: int | None = None
    batch: int | None = None
    lr: float | None = None
    pictures: int | None = None

    source: ClassVar[str] = "https://arxiv.org/abs/2308.01508"
    needs: ClassVar[tuple[type, ...]] = (
        GeneratesImages,
        EncodesText,
        DrawsStates,
        Denoises,
        EncodesImages,
    )
    uses: ClassVar[tuple[AttackAid, ...]] = ("pictures",)
    sees: ClassVar[str] = "weights and gradients, and images of the concept"

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset is one of {', '.join(PRESETS)}, got {self.preset!r}")
        for name, value in asdict(self.settings).items():
            if value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")

    @property
    def settings(self) -> _Settings:
        """The preset with the options that were given."""
        given = {f.name: getattr(self, f.name) for f in fields(_Settings)}
        chosen = {name: value for name, value in given.items() if value is not None}
        return _Settings(**{**asdict(PRESETS[self.preset]), **chosen})

    def unfit(self, target: TextToImageTarget, prompts: Sequence[Prompt]) -> dict[str, str]:
        """Name the prompts that leave no room for the embeddings."""
        found: dict[str, str] = {}
        for concept in dict.fromkeys(prompt.concept for prompt in prompts):
            same = [prompt for prompt in prompts if prompt.concept == concept]
            found |= no_room(target, same, concept, self.settings.tokens)
        return found

    def search(
        self,
        target: TextToImageTarget,
        prompts: Sequence[Prompt],
        aids: Aids,
        budget: Budget,
    ) -> Generator[list[Candidate], Reply | None, None]:
        """Yield each prompt with what is learned so far in its place; see `PromptAttack.search`."""
        steps = min(self.settings.steps, budget.steps)
        rounds = min(budget.images - 1, steps)
        unfit = self.unfit(target, prompts)
        chosen = [prompt for prompt in prompts if prompt.id not in unfit]
        if rounds < 1 or not chosen:
            return
        assert aids.pictures is not None
        inversion = _Inversion(target, aids.pictures, aids.concept, self.settings, budget.seed)
        for number in range(rounds):
            done, then = (steps * i // rounds for i in (number, number + 1))
            trace = inversion.learn(then - done)
            reply = yield _candidates(target, chosen, aids.concept, inversion, then - done, trace)
            won = (reply or Reply()).won
            chosen = [prompt for prompt in chosen if prompt.id not in won]
            if not chosen:
                return


def _candidates(
    target: TextToImageTarget,
    prompts: Sequence[Prompt],
    concept: str,
    inversion: _Inversion,
    steps: int,
    trace: Mapping[str, float],
) -> list[Candidate]:
    texts = [prompt.text for prompt in prompts]
    with torch.no_grad():
        states = embed_at(target, slots(target, texts, concept), inversion.typed)
    return [
        Candidate(p.id, around(p.text, concept).holding(f"<{concept}*>"), p.seed, steps, trace, s)
        for p, s in zip(prompts, states, strict=True)
    ]


class _Batch(NamedTuple):
    """Which pictures to learn from; latents and noise: (batch, channels, h, w), t: (batch,)."""

    which: list[int]
    latents: Tensor
    noise: Tensor
    t: Tensor


class _Inversion:
    """Learns the embeddings; its randomness is the seed's alone, whatever prompts are attacked.

    rows: (k, width) float32.
    """

    def __init__(
        self,
        target: TextToImageTarget,
        pictures: Pictures,
        concept: str,
        settings: _Settings,
        seed: int,
    ) -> None:
        self.target, self.batch = target, settings.batch
        captions = list(pictures.captions)[: settings.pictures]
        table = target.token_table.detach()
        with torch.no_grad():
            images = pictures.images[: settings.pictures].to(table.device)
            self.latents = target.encode(images)
            self.named = target.embed(target.tokenize(captions))
        self.slots = slots(target, captions, concept)
        mean = table[target.plain_tokens.to(table.device)].float().mean(0)
        self.rows = mean.expand(settings.tokens, -1).clone().requires_grad_()
        self.adam = torch.optim.AdamW([self.rows], lr=settings.lr)
        self.rng = torch.Generator().manual_seed(seed)
        self.schedule = everywhere(target, "auto")
        self.check = self._draw(torch.Generator().manual_seed(seed))

    @property
    def typed(self) -> Tensor:
        """The embeddings in the number format of the encoder's table."""
        return self.rows.to(self.target.token_table.dtype)

    def learn(self, steps: int) -> dict[str, float]:
        """Take gradient steps; return figures for the gradient-masking checks."""
        norms = []
        for _ in range(steps):
            batch = self._draw(self.rng)
            loss = self._loss(batch, embed_at(self.target, self.slots.of(batch.which), self.typed))
            gradient = torch.zeros_like(self.rows)
            if loss.requires_grad:  # a defense may hide its gradients; the trace will say so
                (gradient,) = torch.autograd.grad(loss, self.rows, materialize_grads=True)
            self.rows.grad = gradient.nan_to_num(0, 0, 0)
            norms.append(self.rows.grad.norm())
            self.adam.step()
        with torch.no_grad():
            index = self.check.which
            learned = embed_at(self.target, self.slots.of(index), self.typed)
            with_it = self._loss(self.check, learned)
            without = self._loss(self.check, self.named[index])
        found = torch.stack(norms)
        return {
            "loss": float(with_it),
            "loss_with": float(with_it),
            "loss_without": float(without),
            "gradient": float(found.mean()),
            "zero": float((found == 0).float().mean()),
        }

    def _draw(self, rng: torch.Generator) -> _Batch:
        index = torch.randint(len(self.latents), (self.batch,), generator=rng).tolist()
        latents = self.latents[index]
        noise = torch.randn(latents.shape, generator=rng).to(latents)
        picks = torch.randint(len(self.schedule), (self.batch,), generator=rng).tolist()
        times = torch.tensor([self.schedule[i].t for i in picks], device=latents.device)
        return _Batch(index, latents, noise, times)

    def _loss(self, batch: _Batch, text: Tensor) -> Tensor:
        """Return the error of the network's own prediction, as textual inversion takes it."""
        target, (_, clean, noise, t) = self.target, batch
        if self.schedule[0].loss == "output":  # a student whose input holds nothing of an image
            moment = Moment(self.schedule[0].t, "output")
            return losses(target, moment, clean, text, noise[:, None]).mean()
        noisy = target.process.add(clean, noise, t)
        kind, found = target.traits.prediction, target.x0(noisy, t, text)
        own, wanted = (
            target.process.convert(x0, "sample", kind, noisy, t) for x0 in (found, clean)
        )
        return (own - wanted).square().mean()
