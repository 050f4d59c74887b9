"""Random prefix: k random tokens where an attack puts its own, new ones for every image.

The control that every prompt attack is compared with at the same number of images: an ASR is a
best-of-many, and luck alone has one too. Needs the target's tokenizer and nothing else.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from safetybench.contracts import (
    Aids,
    Budget,
    Candidate,
    EncodesText,
    GeneratesImages,
    Prompt,
    PromptAttack,
    Reply,
    TextToImageTarget,
)
from safetybench.draws import item_generator
from safetybench.registry import register

from ._places import ALL_PLACES, Place, slots, unfit


@register
@dataclass(frozen=True, kw_only=True)
class RandomPrefix(PromptAttack):
    """Try random tokens (the "random" baseline of UnlearnDiffAtk, Zhang et al. 2023).

    location: before the prompt as published, or where the attack that it is the control of puts
    its tokens: "suffix", "insert" (at one place between the words), "spread" (one behind every
    few of its tokens, at most `tokens`), "alone" (in the place of the prompt, which then names
    nothing). spacing: of "spread".
    """

    tokens: int = 3
    location: Place = "prefix"
    spacing: int = 3

    source: ClassVar[str] = "https://arxiv.org/abs/2310.11868"
    needs: ClassVar[tuple[type, ...]] = (GeneratesImages, EncodesText)
    sees: ClassVar[str] = "the tokenizer, and whether an image succeeded"
    is_control: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.spacing < 1:
            raise ValueError(
                f"tokens and spacing must be above 0, got {self.tokens}, {self.spacing}"
            )
        if self.location not in ALL_PLACES:
            raise ValueError(f"location is one of {', '.join(ALL_PLACES)}, got {self.location!r}")

    def unfit(self, target: TextToImageTarget, prompts: Sequence[Prompt]) -> dict[str, str]:
        """Name the prompts that leave no room for the tokens."""
        return unfit(target, prompts, self.location, self.tokens, self.spacing)

    def search(
        self,
        target: TextToImageTarget,
        prompts: Sequence[Prompt],
        aids: Aids,
        budget: Budget,
    ) -> Generator[list[Candidate], Reply | None, None]:
        """Yield random texts at each prompt's own seed; see `PromptAttack.search`."""
        refused = self.unfit(target, prompts)
        places = slots(target, prompts, self.location, self.tokens, budget.seed, self.spacing)
        plain = target.plain_tokens.tolist()
        items = {
            prompt: (place, item_generator(budget.seed, prompt.id))
            for prompt, place in zip(prompts, places, strict=True)
            if prompt.id not in refused
        }
        for _ in range(budget.images - 1):
            if not items:
                return
            candidates = []
            for prompt, (place, generator) in items.items():
                count = len(place.after)
                picks = torch.randint(len(plain), (count,), generator=generator).tolist()
                ids = place.filled([plain[i] for i in picks])
                candidates.append(Candidate(prompt.id, target.detokenize(ids), prompt.seed))
            reply = (yield candidates) or Reply()
            items = {p: state for p, state in items.items() if p.id not in reply.won}
