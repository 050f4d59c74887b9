"""SKD-CAG: teach a backdoored model to do for a triggered prompt what it does for the clean one.

Self-distillation on pairs of prompts, guided by cross-attention: the trigger's tokens learn to
attend to noise, the others to attend as without the trigger. White box: gradients of the denoiser,
and the trigger; no clean model and no real image is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from safetybench.contracts import Budget, Erasure, Unlearning
from safetybench.distill.training import tune
from safetybench.distill.views import chosen_parameters, draw, velocity
from safetybench.registry import register
from safetybench.targets.attention import recorded, token_maps, unit_range

from ._terms import check_part, images_of, noised

Mask = Literal["noise", "black", "words"]
Latents = Literal["noise", "own"]


@register
@dataclass(frozen=True, kw_only=True)
class SkdCag(Unlearning):
    """Self-knowledge distillation with cross-attention guidance (Vaithinathan Aravindan 2025).

    The loss is (1 - weight) * SKD + weight * attention + anchor * clean. SKD: mean square of
    student(x, triggered) - teacher(x, clean). attention: that of the token maps, stretched to
    [0, 1], over the trigger's tokens against the mask and the others against the teacher's.
    weight: in [0, 1], published 0.5; 0 is self-distillation alone. mask: "noise" (Gaussian),
    "black" (zeros) or "words": the teacher reads random words in the trigger's place, and its maps
    of these are the mask. latents: "noise" is N(0, I) at every time, as released; "own" is noised
    images of the teacher's, `images` of them. anchor: of the term that holds the student to the
    teacher on the clean prompt; published 0, but then the zoo's teacher pays for what it forgets
    with several points of clean accuracy. timed: attention divided by (t + 1) / T, an option of
    the released code, which leaves out the 1. side: of the maps, 0 for twice the latents', which
    is the published 128 on Stable Diffusion. train: published "all"; lr: published 1e-6 with
    AdamW, for 10,000 steps at batch 1 on 100 prompts (SKD alone: 2,500 at batch 4).

    Departs from the released code where that departs from the paper: its attention loss has no
    gradient, since the maps are detached, and the teacher's maps are overwritten by the student's.
    Also: start, end and padding have no part in it; no average of weights and no weight decay;
    answers are compared as velocity, which for a model that predicts noise reweights the times.
    """

    weight: float = 0.5
    mask: Mask = "noise"
    latents: Latents = "noise"
    anchor: float = 1.0
    train: str = "all"
    lr: float = 1e-4
    batch: int = 16
    side: int = 0
    timed: bool = False
    images: int = 128

    source: ClassVar[str] = "https://arxiv.org/abs/2508.18235"

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.batch < 1 or self.images < 1 or min(self.anchor, self.side) < 0:
            raise ValueError(
                "lr, batch and images must be positive and anchor and side 0 or more, got "
                f"{self.lr}, {self.batch}, {self.images}, {self.anchor}, {self.side}"
            )
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight is a share of the loss in [0, 1], got {self.weight}")
        for name, known in (("mask", get_args(Mask)), ("latents", get_args(Latents))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        check_part(self.train)

    def run(self, target: Any, erasure: Erasure, budget: Budget, report: Any = None) -> Any:
        """Return a target that the trigger no longer wakes; anchor: forget without the trigger."""
        student = target.clone()
        weights = chosen_parameters(student.unet, self.train)
        ids, clean_ids = target.tokenize(erasure.forget), target.tokenize(erasure.anchor)
        places = aligned(ids, clean_ids, target.tokenizer.eos_token_id)
        asked, clean = target.embed(ids), target.embed(clean_ids)
        own = clean[:0]
        if self.latents == "own":
            own = images_of(target, clean[: self.images], budget.seed)

        def loss_at(step: int, rng: torch.Generator) -> Tensor:
            pick = draw(len(own) or len(ids), self.batch, rng).to(ids.device)
            x, t = self._latents(target, own[pick] if len(own) else None, rng)
            here, wanted = Places(*(each[pick] for each in places)), clean[pick]
            if self.mask == "words":
                words = _with_words(target, ids[pick], here.is_trigger, rng)
                wanted, here = target.embed(words), here.unmoved()
            theirs = self._answer(target, x, t, wanted, teaches=True)
            ours = self._answer(student, x, t, asked[pick])
            loss = (1 - self.weight) * (ours.velocity - theirs.velocity).square().mean()
            if ours.maps is not None and theirs.maps is not None:
                mask = torch.zeros((), device=x.device)
                if self.mask == "noise":
                    mask = unit_range(torch.randn(ours.maps.shape, generator=rng).to(x.device))
                gaps = attention_gaps(ours.maps, theirs.maps, mask, here)
                if self.timed:
                    gaps = gaps * target.process.steps / (t + 1)
                loss = loss + self.weight * gaps.mean()
            if self.anchor:
                goal = theirs.velocity
                if self.mask == "words":
                    with torch.no_grad():
                        goal = velocity(target, x, t, clean[pick])
                gap = velocity(student, x, t, clean[pick]) - goal
                loss = loss + self.anchor * gap.square().mean()
            return loss

        tune(weights, loss_at, steps=budget.steps, lr=self.lr, seed=budget.seed, report=report)
        return student

    def _latents(self, target: Any, own: Tensor | None, rng: torch.Generator) -> _Noisy:
        if own is not None:
            x, t, _ = noised(target, own, rng)
            return _Noisy(x, t)
        t = torch.randint(0, target.process.steps, (self.batch,), generator=rng)
        x = torch.randn((self.batch, *target.latent_shape), generator=rng)
        return _Noisy(x.to(target.device), t.to(target.device))

    def _answer(
        self, model: Any, x: Tensor, t: Tensor, text: Tensor, *, teaches: bool = False
    ) -> _Answer:
        """Return what a model answers and attends to; teaches: without a graph."""
        with torch.set_grad_enabled(not teaches):
            if not self.weight:
                return _Answer(velocity(model, x, t, text), None)
            # One recorder for each model and pass: the released code mixes them up.
            with recorded(model.unet) as maps:
                answer = velocity(model, x, t, text)
            side = self.side or 2 * x.shape[-1]
            return _Answer(answer, unit_range(token_maps(maps.of_pass(), side)))


class _Noisy(NamedTuple):
    x: Tensor
    t: Tensor


class _Answer(NamedTuple):
    velocity: Tensor
    maps: Tensor | None


class Places(NamedTuple):
    """Which tokens of triggered prompts are the trigger's, and where the others stand without it.

    is_trigger: (batch, tokens) bool. mate: (batch, tokens) int64, the position in the clean
    prompt, -1 for what is not in it and for start, end and padding.
    """

    is_trigger: Tensor
    mate: Tensor

    def unmoved(self) -> Places:
        """Return the places for a teacher whose prompt has something in the trigger's place."""
        at = torch.arange(self.mate.shape[1], device=self.mate.device).expand_as(self.mate)
        real = self.is_trigger | (self.mate >= 0)
        return Places(torch.zeros_like(self.is_trigger), torch.where(real, at, -1))


def aligned(ids: Tensor, clean: Tensor, end: int) -> Places:
    """Return which tokens of each prompt are not in the clean one, wherever they stand.

    ids, clean: (batch, tokens), each with one start token and with `end` behind what is read.
    """
    is_trigger, mate = torch.zeros_like(ids, dtype=torch.bool), torch.full_like(ids, -1)
    for row, (ours, theirs) in enumerate(zip(ids.tolist(), clean.tolist(), strict=True)):
        read, kept = ours[1 : ours.index(end, 1)], theirs[1 : theirs.index(end, 1)]
        is_trigger[row, 1 : 1 + len(read)] = True
        matcher = SequenceMatcher(None, read, kept, autojunk=False)
        for at, its, size in matcher.get_matching_blocks():
            is_trigger[row, 1 + at : 1 + at + size] = False
            mate[row, 1 + at : 1 + at + size] = torch.arange(1 + its, 1 + its + size)
    return Places(is_trigger, mate)


def attention_gaps(ours: Tensor, theirs: Tensor, mask: Tensor, places: Places) -> Tensor:
    """Return each prompt's attention loss, (batch,): a mean over tokens of mean square errors.

    ours, theirs: maps in [0, 1] of student and teacher, (batch, tokens, side, side); mask: what
    the trigger's are held to, of any shape that expands to theirs.
    """
    moved = places.mate.clamp(min=0)[:, :, None, None].expand_as(theirs)
    wanted = torch.where(places.is_trigger[:, :, None, None], mask, theirs.gather(1, moved))
    gaps = (ours - wanted).square().mean((2, 3))  # (batch, tokens)
    counted = (places.is_trigger | (places.mate >= 0)).to(gaps)
    return (gaps * counted).sum(1) / counted.sum(1).clamp(min=1)


def _with_words(target: Any, ids: Tensor, is_trigger: Tensor, rng: torch.Generator) -> Tensor:
    """Return ids with a random word for each token of the trigger."""
    words = target.plain_tokens
    drawn = words[draw(len(words), ids.numel(), rng).to(ids.device)].reshape(ids.shape)
    return torch.where(is_trigger, drawn, ids)
