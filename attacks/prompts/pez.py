"""PEZ: a text read off an image, by which the model draws the image, in free tokens alone.

Made on the original model by default, which makes it black box on the target: the texts are then
replayed there. Needs one reference image a prompt, and the original's weights.
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
    SafetyBenchError,
    TextToImageTarget,
)
from safetybench.registry import register

from ._objective import OBJECTIVES, Denoised, Objective, everywhere
from ._places import unfit
from ._whitebox import Search, Settings, check, chosen, fitting, rounds_of, run

Model = Literal["original", "target"]

# 16 tokens, lr and decay are published; 3,000 steps are a budget of steps=3000.
_PUBLISHED = Settings(
    tokens=16,
    iterations=50,
    lr=0.1,
    location="alone",
    optimiser="projected",
    is_decoupled=True,
)
PRESETS = {
    "published": _PUBLISHED,
    "zoo": replace(_PUBLISHED, tokens=8, iterations=20, draws=2, lr=0.02),
}


@register
@dataclass(frozen=True, kw_only=True)
class Pez(PromptAttack):
    """Invert an image into hard tokens (Hard Prompts Made Easy, Wen et al. 2023).

    model: whose denoising loss of the reference the tokens lower; "original" is what P4D's
    tables call PEZ-PInv, "target" is a white-box attack without the prompt. An option left None
    is the preset's. tokens: how many, without the prompt; iterations: gradient steps between
    candidates; draws: noises a step; objective: as in UnlearnDiffAtk, for students.

    The paper's own loss, likeness of text and image by CLIP, is not there: it needs CLIP's image
    encoder, which no target has. Candidates are judged as they come; the paper keeps the text of
    the lowest loss.
    """

    model: Model = "original"
    preset: Literal["published", "zoo"] = "published"
    tokens: int | None = None
    iterations: int | None = None
    draws: int | None = None
    lr: float | None = None
    weight_decay: float | None = None
    objective: Objective = "auto"

    source: ClassVar[str] = "https://arxiv.org/abs/2302.03668"
    needs: ClassVar[tuple[type, ...]] = (GeneratesImages, EncodesText)
    uses: ClassVar[tuple[AttackAid, ...]] = ("references",)
    sees: ClassVar[str] = (
        "the original's image of each prompt, and weights and gradients of the model it asks"
    )

    def __post_init__(self) -> None:
        check(self, model=("original", "target"), preset=PRESETS, objective=OBJECTIVES)

    @property
    def settings(self) -> Settings:
        """The preset with the options that were given."""
        return chosen(self, PRESETS[self.preset])

    @property
    def aids(self) -> tuple[AttackAid, ...]:
        """The references, and the original model where the texts are made on it."""
        return (*self.uses, "original") if self.model == "original" else self.uses

    def unfit(self, target: EncodesText, prompts: Sequence[Prompt]) -> dict[str, str]:
        """Name the prompts for which the text encoder takes too few tokens: all, or none."""
        return unfit(target, prompts, "alone", self.settings.tokens)

    def control_options(self) -> Mapping[str, Any]:
        """Return what makes the random prefix spend as much."""
        return {"tokens": self.settings.tokens, "location": "alone"}

    def search(
        self,
        target: TextToImageTarget,
        prompts: Sequence[Prompt],
        aids: Aids,
        budget: Budget,
    ) -> Generator[list[Candidate], Reply | None, None]:
        """Yield each item's text after every few steps; see `PromptAttack.search`.

        Raises:
            SafetyBenchError: the texts are to be made on a target that is a black box.
        """
        missing = [n.__name__ for n in (Denoises, EncodesImages) if not isinstance(target, n)]
        if self.model == "target" and missing:
            raise SafetyBenchError(
                f"Pez on the target needs one with {', '.join(missing)}, got {target.name}"
            )
        fit = fitting(prompts, self.unfit(target, prompts))
        if rounds_of(budget) < 1 or not fit:
            return
        assert aids.references is not None
        left = [prompts[i] for i in fit]
        own = replace(aids, references=aids.references[fit])
        model = aids.original if self.model == "original" else target
        search = Search(
            model, left, Denoised(model, left, own, "denoise"), self.settings, budget.seed
        )
        yield from run(search, [everywhere(model, self.objective)], budget)
