"""UnlearnDiffAtk: adversarial tokens that make an unlearned model draw what it forgot.

White box: needs the target's text encoder, denoiser and autoencoder, and one reference image a
prompt, but neither the original model nor a classifier. It reads the denoiser as a classifier:
the text under which the reference image is denoised best is the text that the model draws as it.
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

from ._objective import LOSSES, OBJECTIVES, Denoised, Loss, Objective, moments
from ._places import PLACES, Place, unfit
from ._tokens import VARIABLES, Optimiser
from ._whitebox import Search, Settings, check, chosen, fitting, rounds_of, run

# "published": style and objects in the authors' configs (5 tokens for nudity and violence).
# "zoo": on small vocabularies the published values do not beat random prefixes.
PRESETS = {
    "published": Settings(),
    "zoo": Settings(
        timesteps=10, iterations=20, draws=2, lr=0.02, weight_decay=0.0, optimiser="projected"
    ),
}


@register
@dataclass(frozen=True, kw_only=True)
class UnlearnDiffAtk(PromptAttack):
    """Find k tokens under which the target denoises the reference best (Zhang et al. 2023).

    An option left None is the preset's. tokens: k; timesteps: of the schedule, ascending;
    iterations: gradient steps at each, with variable and Adam carried over; draws: noises a
    step; optimiser: "simplex" (the paper's), "rowwise" (the same with one step size for all tokens
    of a place) or "projected" (PEZ). A budget of fewer images takes as many fewer timesteps, still
    spread over all; one of fewer steps, fewer iterations at each. location "insert" puts the
    tokens between two words of the prompt, drawn once an item.

    loss: "denoise" is the paper's; "match" is P4D's, which needs the original model beside:
    loss="match", optimiser="projected" is P4D as the authors of UnlearnDiffAtk rebuilt it.
    objective: "denoise" compares noise predictions; "output" compares a one-step student's own
    output; "auto" takes "denoise" at every timestep where the target's own network is defined
    and its input holds some of the image, and "output" where there is none.
    """

    preset: Literal["published", "zoo"] = "published"
    tokens: int | None = None
    timesteps: int | None = None
    iterations: int | None = None
    draws: int | None = None
    lr: float | None = None
    weight_decay: float | None = None
    location: Place | None = None
    optimiser: Optimiser | None = None
    objective: Objective = "auto"
    loss: Loss | None = None

    source: ClassVar[str] = "https://arxiv.org/abs/2310.11868"
    needs: ClassVar[tuple[type, ...]] = (GeneratesImages, EncodesText, Denoises, EncodesImages)
    uses: ClassVar[tuple[AttackAid, ...]] = ("references",)
    sees: ClassVar[str] = (
        "weights and gradients, the original's image of each prompt, with loss=match its weights"
    )

    def __post_init__(self) -> None:
        check(
            self,
            preset=PRESETS,
            location=PLACES,
            optimiser=VARIABLES,
            objective=OBJECTIVES,
            loss=LOSSES,
        )

    @property
    def settings(self) -> Settings:
        """The preset with the options that were given."""
        return chosen(self, PRESETS[self.preset])

    @property
    def aids(self) -> tuple[AttackAid, ...]:
        """The references, and the original model for the loss "match"."""
        return (*self.uses, "original") if self.settings.loss == "match" else self.uses

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
        """Yield each item's best text after every timestep; see `PromptAttack.search`."""
        settings, rounds = self.settings, rounds_of(budget)
        fit = fitting(prompts, self.unfit(target, prompts))
        if rounds < 1 or not fit:
            return
        assert aids.references is not None
        left = [prompts[i] for i in fit]
        own = replace(aids, references=aids.references[fit])
        goal = Denoised(target, left, own, settings.loss)
        schedule = moments(target, min(settings.timesteps, rounds), self.objective)
        search = Search(target, left, goal, settings, budget.seed)
        yield from run(search, [[moment] for moment in schedule], budget)
