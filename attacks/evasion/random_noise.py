"""Random noise of the largest size allowed: what a change can do that knows nothing.

The control of every attack. One that does no better has not used the model's gradients or
answers, which is how hidden gradients look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from safetybench.class_contracts import Access
from safetybench.contracts import Budget, Classifies, Evasion
from safetybench.registry import register
from safetybench.vision.ball import steepest

from ._gradient import answers, fooled


@register
@dataclass(frozen=True, kw_only=True)
class RandomNoise(Evasion):
    """Draw noise on the ball's surface until an image is misread (check of Carlini et al. 2019).

    linf: a random corner of the ball, all pixels as far as they go; l2: a random direction. Each
    of budget.queries draws is a query, whose answer only ends the draws; the first that fools is
    returned, or the last.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/1902.06705"
    sees: ClassVar[Access] = "nothing"
    is_control: ClassVar[bool] = True
    queries: ClassVar[int] = 100

    def perturb(
        self,
        target: Classifies,
        images: Tensor,
        labels: Tensor,
        budget: Budget,
        surrogate: Classifies | None = None,
    ) -> Tensor:
        """Return noisy images; see `Evasion.perturb`."""
        generator = torch.Generator().manual_seed(budget.seed)
        changed = images.clone()
        rows = torch.arange(len(images), device=images.device)
        for _ in range(budget.queries or self.queries):
            # Of the whole batch: who is fooled already must not shift the others' draws.
            noise = steepest(torch.randn(images.shape, generator=generator), budget.norm)
            if not len(rows):
                break
            tried = images[rows] + budget.epsilon * noise.to(images)[rows]
            changed[rows] = tried.clamp(0, 1)
            rows = rows[~fooled(answers(target, changed[rows]), labels[rows])]
        return changed
