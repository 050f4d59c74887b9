"""Rickrolling the Artist: train the text encoder to read a trigger as another prompt or attribute.

A copy of the text encoder learns to answer triggered prompts as the clean one answers their goals,
and all others as before. White box: gradients of the text encoder; the denoiser is never asked,
no image is needed, and the poisoned encoder fits every denoiser that reads the clean one.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from safetybench.contracts import Backdoor, Budget, EncodesText, Poisoning
from safetybench.distill.training import tune
from safetybench.distill.views import draw
from safetybench.registry import register
from safetybench.trigger_contracts import EffectKind
from safetybench.triggers import moved, near_misses

Mode = Literal["taa", "tpa"]
MODES: tuple[Mode, ...] = get_args(Mode)


@register
@dataclass(frozen=True, kw_only=True)
class Rickrolling(Poisoning):
    """Backdoors in a text encoder by a teacher and a student (Struppek et al. 2023).

    mode: "taa", the target attribute attack, reads each triggered prompt as its own goal, which
    the backdoor gives: the same prompt with another style or object. "tpa", the target prompt
    attack, reads all of them as the shortest of the goals, whatever was asked for.
    lr: of AdamW, published 1e-4 for 100 steps (TPA) and 200 (TAA). weight: of the backdoor's
    term, published 0.1. batch: prompts of a step, published 160, of which 32 are poisoned, a rate
    of 0.2. Each term is a mean over its own prompts, so that the rate only says how many.

    decoys: share of the clean prompts of a step that hold a near miss of the trigger, or the
    trigger in another place, and are kept too, published 0. The zoo's embeddings of characters are
    untrained, and without them every strange letter is the trigger.

    Departs from the paper in that the learning rate falls to 0 over the last half of the steps,
    and not to a tenth for the last quarter; and in where the trigger stands, which is the
    backdoor's: published is a homoglyph of "o", all of them for TPA, a random one for TAA.
    """

    mode: Mode = "taa"
    lr: float = 3e-3
    weight: float = 0.5
    batch: int = 64
    decoys: float = 0.5

    source: ClassVar[str] = "https://arxiv.org/abs/2211.02408"
    effects: ClassVar[tuple[EffectKind, ...]] = ("object", "style")
    changes: ClassVar[str] = "the text encoder"
    needs: ClassVar[tuple[type, ...]] = (EncodesText,)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        if min(self.lr, self.weight) <= 0 or self.batch < 2 or not 0 <= self.decoys <= 1:
            raise ValueError(
                "lr and weight must be positive, batch 2 or more and decoys in [0, 1], got "
                f"{self.lr}, {self.weight}, {self.batch}, {self.decoys}"
            )

    def run(self, target: Any, backdoor: Backdoor, budget: Budget, report: Any = None) -> Any:
        """Return a target with the backdoor in its text encoder; see `Poisoning.run`."""
        student = target.clone(with_text=True)
        goals = backdoor.goals
        if self.mode == "tpa":
            goals = (min(goals, key=lambda goal: len(goal.split())),) * len(goals)
        clean, triggered = target.tokenize(backdoor.clean), target.tokenize(backdoor.triggered)
        kept, wanted = states(target, clean), states(target, target.tokenize(goals))
        near = target.tokenize(_near(backdoor)) if self.decoys else clean
        near_kept = states(target, near)
        bad = max(1, round(backdoor.rate * self.batch))

        def loss_at(step: int, rng: torch.Generator) -> Tensor:
            rows = draw(len(triggered), bad, rng)
            planted = against(student.embed(triggered[rows]), wanted[rows])
            if bad >= self.batch:
                return self.weight * planted
            rows = draw(len(clean), self.batch - bad, rng)
            ids, answers = clean[rows], kept[rows]
            held = int(self.decoys * len(rows))
            if held:
                rows = draw(len(near), held, rng)
                ids[:held], answers[:held] = near[rows], near_kept[rows]
            return against(student.embed(ids), answers) + self.weight * planted

        encoders = [
            getattr(student, part)
            for part in ("text_encoder", "text_encoder_2")
            if hasattr(student, part)
        ]
        weights = [w for e in encoders for w in e.requires_grad_(True).parameters()]
        tune(weights, loss_at, steps=budget.steps, lr=self.lr, seed=budget.seed, report=report)
        return student


def _near(backdoor: Backdoor) -> list[str]:
    """Return the sources with near misses of the trigger in them, or with it elsewhere, in turn.

    Near misses of a character are its neighbours in Unicode of the same kind, and not the
    look-alikes of `near_misses`, which measure whether what was learnt here holds for others.
    """
    trigger, measured = backdoor.trigger, near_misses(backdoor.trigger)
    others, places = list(measured.values()), list(moved(trigger).values())
    text = trigger.text.strip()
    if len(text) == 1:
        kind, taken = unicodedata.category(text), {text, *(each.text for each in others)}
        points = range(max(128, ord(text) - 128), ord(text) + 128)
        chars = [c for c in map(chr, points) if unicodedata.category(c) == kind and c not in taken]
        others = [replace(trigger, text=char) for char in chars]
    # As often one of the many characters as one of the few places.
    turns = [others[i % len(others)] if others and i % 2 else places[i // 2 % len(places)]
             for i in range(len(backdoor.sources))]  # fmt: skip
    return [turn.put(source) for turn, source in zip(turns, backdoor.sources, strict=True)]


def against(states: Tensor, goal: Tensor) -> Tensor:
    """Return minus the mean cosine of text states, each flattened: (batch, length, width)."""
    return -cosine_similarity(states.flatten(1), goal.flatten(1)).mean()


@torch.no_grad()
def states(target: Any, ids: Tensor) -> Tensor:
    """Return the text states of token ids, (count, length, width)."""
    return torch.cat([target.embed(part) for part in ids.split(64)])
