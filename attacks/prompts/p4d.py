"""P4D: tokens under which an unlearned model answers as the original does to the plain prompt.

White box on the target and on the original model beside it: needs both denoisers, the target's
text encoder and autoencoder, and the original's image of each prompt to noise.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from safetybench.contracts import (
    Aids,
    AttackAid,
    Budget,
    Candidate,
    Denoises,
    EncodesImages,
    EncodesText,
    GeneratesImages,
    Prompt,
    PromptAttack,
    Reply,
    TextToImageTarget,
)
from safetybench.registry import register

from ._objective import OBJECTIVES, Denoised, Objective, everywhere
from ._places import Place, unfit
from ._whitebox import Search, Settings, check, chosen, fitting, rounds_of, run

Variant = Literal["n", "k"]

# lr, decay, optimiser, 16 tokens and 50 steps between candidates are published; 3,000 steps are a
# budget of steps=3000, images=61.
_PUBLISHED = Settings(
    tokens=16, iterations=50, lr=0.1, optimiser="projected", loss="match", is_decoupled=True
)
PRESETS = {"published": _PUBLISHED, "zoo": replace(_PUBLISHED, iterations=20, draws=2, lr=0.02)}
_PLACES: dict[Variant, Place] = {"n": "alone", "k": "spread"}
# The zoo's encoder takes 22 tokens, of which its prompts are up to 14.
_ZOO_TOKENS: dict[Variant, int] = {"n": 8, "k": 3}


@register
@dataclass(frozen=True, kw_only=True)
class P4D(PromptAttack):
    """Match the original's noise prediction (Prompting4Debugging, Chin et al. 2024).

    variant: "n" searches free tokens in the place of the prompt (P4D-N), "k" keeps the prompt
    and searches one token behind every `spacing` of its own (P4D-K). An option left None is the
    preset's. tokens: N; with "k" the most there may be, for which the paper has no bound;
    iterations: gradient steps between candidates; draws: noises a step. objective: as in
    UnlearnDiffAtk, for students.

    Every step of every item has its own timestep, uniform over all (a student's: over its own).
    Departs from the paper in the choice of the text: the paper keeps the candidate whose image is
    nearest to the reference by CLIP, here every candidate is judged.
    """

    variant: Variant = "n"
    preset: Literal["published", "zoo"] = "published"
    tokens: int | None = None
    spacing: int | None = None
    iterations: int | None = None
    draws: int | None = None
    lr: float | None = None
    weight_decay: float | None = None
    objective: Objective = "auto"

    source: ClassVar[str] = "https://arxiv.org/abs/2309.06135"
    needs: ClassVar[tuple[type, ...]] = (GeneratesImages, EncodesText, Denoises, EncodesImages)
    uses: ClassVar[tuple[AttackAid, ...]] = ("references", "original")
    sees: ClassVar[str] = "weights and gradients, the original model and its image of each prompt"

    def __post_init__(self) -> None:
        check(self, variant=_PLACES, preset=PRESETS, objective=OBJECTIVES)

    @property
    def settings(self) -> Settings:
        """The preset with the options that were given."""
        preset = replace(PRESETS[self.preset], location=_PLACES[self.variant])
        if self.preset == "zoo":
            preset = replace(preset, tokens=_ZOO_TOKENS[self.variant])
        return chosen(self, preset)

    def unfit(self, target: TextToImageTarget, prompts: Sequence[Prompt]) -> dict[str, str]:
        """Name the prompts that leave no room for the tokens."""
        settings = self.settings
        return unfit(target, prompts, settings.location, settings.tokens, settings.spacing)

    def control_options(self) -> Mapping[str, Any]:
        """Return what makes the random prefix spend as much."""
        return {"tokens": self.settings.tokens, "location": _PLACES[self.variant],
                "spacing": self.settings.spacing}  # fmt: skip

    def search(
        self,
        target: TextToImageTarget,
        prompts: Sequence[Prompt],
        aids: Aids,
        budget: Budget,
    ) -> Generator[list[Candidate], Reply | None, None]:
        """Yield each item's text after every few steps; see `PromptAttack.search`."""
        fit = fitting(prompts, self.unfit(target, prompts))
        if rounds_of(budget) < 1 or not fit:
            return
        assert aids.references is not None
        left = [prompts[i] for i in fit]
        own = replace(aids, references=aids.references[fit])
        goal = Denoised(target, left, own, "match")
        search = Search(target, left, goal, self.settings, budget.seed)
        yield from run(search, [everywhere(target, self.objective)], budget)
