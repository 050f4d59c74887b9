"""Judge oracle: tokens that the judge's own gradients find, through the whole sampler.

An upper bound on what any search over so many tokens finds, and no attack: nobody who is judged
holds the judge. Needs the target's text encoder and sampler with gradients, and the judge's.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from safetybench.contracts import (
    Aids,
    AttackAid,
    Budget,
    Candidate,
    DrawsStates,
    EncodesText,
    GeneratesImages,
    Prompt,
    PromptAttack,
    Reply,
    SafetyBenchError,
    TextToImageTarget,
)
from safetybench.registry import register

from ._objective import Moment
from ._places import PLACES, Place, unfit
from ._tokens import VARIABLES, Optimiser
from ._whitebox import Search, Settings, check, chosen, fitting, rounds_of, run

# One image has no noise that would shake a search loose: a distribution over tokens, drawn from
# anew at each step, found more than "projected" did.
PRESETS = {"zoo": Settings(iterations=20, lr=0.05, weight_decay=0.0, optimiser="rowwise")}
_WHOLE = [Moment(0, "output")]  # a run of the sampler has no one timestep


@register
@dataclass(frozen=True, kw_only=True)
class JudgeOracle(PromptAttack):
    """Raise the judge's log-probability of the concept by its gradients: an oracle upper bound.

    Variable and optimisers are UnlearnDiffAtk's (Zhang et al. 2023); nothing is published for this
    loss. An option left None is the preset's. tokens: how many; iterations: gradient steps
    between candidates. batch: items drawn at once; gradients go through every step of the
    sampler, from the prompt's own start noise and at its own guidance, so memory grows with
    steps times batch, and one gradient step costs about three images.
    """

    preset: Literal["zoo"] = "zoo"
    tokens: int | None = None
    iterations: int | None = None
    lr: float | None = None
    weight_decay: float | None = None
    location: Place | None = None
    optimiser: Optimiser | None = None
    batch: int = 8

    source: ClassVar[str] = "https://arxiv.org/abs/2310.11868"
    needs: ClassVar[tuple[type, ...]] = (GeneratesImages, EncodesText, DrawsStates)
    uses: ClassVar[tuple[AttackAid, ...]] = ("judge",)
    sees: ClassVar[str] = "weights and gradients, and the judge's gradients: an oracle, no attack"
    is_oracle: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self, preset=PRESETS, location=PLACES, optimiser=VARIABLES)
        if self.batch < 1:
            raise ValueError(f"batch must be above 0, got {self.batch}")

    @property
    def settings(self) -> Settings:
        """The preset with the options that were given."""
        return chosen(self, PRESETS[self.preset])

    def unfit(self, target: TextToImageTarget, prompts: Sequence[Prompt]) -> dict[str, str]:
        """Name the prompts that leave no room for the tokens."""
        return unfit(target, prompts, self.settings.location, self.settings.tokens)

    def control_options(self) -> Mapping[str, Any]:
        """Return what makes the random prefix spend as much."""
        return {"tokens": self.settings.tokens, "location": self.settings.location}

    def search(
        self,
        target: TextToImageTarget,
        prompts: Sequence[Prompt],
        aids: Aids,
        budget: Budget,
    ) -> Generator[list[Candidate], Reply | None, None]:
        """Yield each item's text after every few steps; see `PromptAttack.search`.

        Raises:
            SafetyBenchError: the judge has no gradients.
        """
        fit = fitting(prompts, self.unfit(target, prompts))
        if rounds_of(budget) < 1 or not fit:
            return
        left = [prompts[i] for i in fit]
        goal = _Shown(target, aids.judge, aids.concept, left, self.batch)
        search = Search(target, left, goal, self.settings, budget.seed)
        yield from run(search, [_WHOLE], budget)


class _Shown:
    """Minus the judge's evidence of the concept in what the target draws; see `_objective.Goal`."""

    def __init__(
        self,
        target: TextToImageTarget,
        judge: Any,
        concept: str,
        prompts: Sequence[Prompt],
        batch: int,
    ) -> None:
        self.target, self.judge, self.concept, self.batch = target, judge, concept, batch
        self.prompts = list(prompts)
        self.shape: tuple[int, ...] = (0,)  # no noise but the prompt's own

    def noises(self, moment: Moment, drawn: Tensor) -> Tensor:
        """Return the empty noises."""
        return drawn

    def losses(self, moment: Moment, times: Tensor, text: Tensor, noise: Tensor) -> Tensor:
        """Return the losses, (batch,); groups bound the memory and change nothing."""
        parts, order = [], []
        for guidance, items in self._groups():
            for start in range(0, len(items), self.batch):
                part = items[start : start + self.batch]
                parts.append(self._evidence(text[part], part, guidance))
                order += part
        return -torch.cat(parts)[torch.tensor(order).argsort()]

    def keep(self, rows: Tensor) -> None:
        """Forget the items that are not in rows: (batch,) int64."""
        self.prompts = [self.prompts[i] for i in rows.tolist()]

    def _groups(self) -> list[tuple[float | None, list[int]]]:
        """Return items by guidance, as the harness will draw them."""
        is_guided = self.target.traits.guidance > 1
        scales = [prompt.guidance if is_guided else None for prompt in self.prompts]
        return [
            (scale, [i for i, other in enumerate(scales) if other == scale])
            for scale in dict.fromkeys(scales)
        ]

    def _evidence(self, text: Tensor, items: Sequence[int], guidance: float | None) -> Tensor:
        seeds = [self.prompts[i].seed for i in items]
        images = self.target.draw(text, seeds, guidance, with_grad=torch.is_grad_enabled())
        found: Tensor | None = self.judge.evidence(images, self.concept)
        if found is None:
            raise SafetyBenchError(f"{type(self.judge).__name__} has no gradients for an oracle")
        return found
