"""Seed search: the unmodified prompt at new seeds, one for every image.

A control that shows how much of an attack's success is only more tries: nothing adversarial is
in it, and it needs no access but to generate. Same number of images as the attack.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from safetybench.contracts import Aids, Budget, Candidate, Prompt, PromptAttack, Reply
from safetybench.draws import item_generator
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class SeedSearch(PromptAttack):
    """Try other seeds (the "seed search" baseline of UnlearnDiffAtk, Zhang et al. 2023).

    The authors report its mean hit rate; here it is a best-of like the attack's.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2310.11868"
    sees: ClassVar[str] = "whether an image succeeded"
    is_control: ClassVar[bool] = True

    def search(
        self,
        target: Any,
        prompts: Sequence[Prompt],
        aids: Aids,
        budget: Budget,
    ) -> Generator[list[Candidate], Reply | None, None]:
        """Yield each prompt at a seed it has not had; see `PromptAttack.search`."""
        streams = {p: item_generator(budget.seed, p.id) for p in prompts}
        used = {p: {p.seed} for p in prompts}
        for _ in range(budget.images - 1):
            if not streams:
                return
            candidates = []
            for prompt, stream in streams.items():
                seed = prompt.seed
                while seed in used[prompt]:
                    seed = int(torch.randint(2**31, (1,), generator=stream))
                used[prompt].add(seed)
                candidates.append(Candidate(prompt.id, prompt.text, seed))
            reply = (yield candidates) or Reply()
            streams = {p: stream for p, stream in streams.items() if p.id not in reply.won}
