"""Carlini and Wagner's attack in L-infinity: push every pixel below a limit that keeps falling.

Gradients of the difference of two logits, which no softmax can flatten, so that it sees through
defenses that only hide their gradients. Slower than PGD, and finds a small change, not a ball's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from safetybench.class_contracts import Norm
from safetybench.contracts import Budget, Classifies, Evasion
from safetybench.registry import register
from safetybench.vision.ball import sizes

from ._gradient import fooled, margins, slope

_TINY = 1e-12  # below any gradient that is one


@register
@dataclass(frozen=True, kw_only=True)
class CarliniWagnerLinf(Evasion):
    """Lower a limit on all pixels while the image stays misread (Carlini and Wagner 2017).

    The loss is c times the logits' margin plus what each pixel is above the limit. rate: Adam's
    first step in pixels, falling to a tenth. shrink: the limit, in units of the smallest change
    so far; published 0.9, which leaves it 7 % larger. patience: steps after which c is doubled
    for images that were never misread in them and halved for those that always were. Departs from
    the paper, which starts anew at each limit and only doubles c, from 1e-5 to 20: one descent
    does it all, and c begins where both terms have gradients of one size. A pixel is clamped to
    [0, 1] where the paper writes it as a tanh, which stalls where it is 0 or 1. Not ART's
    CarliniLInfMethod, whose gradient leaves c out: its changes were three times as large.
    """

    rate: float = 0.02
    shrink: float = 0.99
    patience: int = 10

    source: ClassVar[str] = "https://arxiv.org/abs/1608.04644"
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    is_minimal: ClassVar[bool] = True
    steps: ClassVar[int] = 500

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate must be in (0, 1], got {self.rate}")
        if not 0 < self.shrink < 1:
            raise ValueError(f"shrink must be in (0, 1), got {self.shrink}")
        if self.patience < 1:
            raise ValueError(f"patience must be 1 or more, got {self.patience}")

    def perturb(
        self,
        target: Classifies,
        images: Tensor,
        labels: Tensor,
        budget: Budget,
        surrogate: Classifies | None = None,
    ) -> Tensor:
        """Return the least changed images that were misread; see `Evasion.perturb`."""
        best, changed = images.clone(), images.clone()
        nearest = torch.ones(len(images), device=images.device)  # no change can be larger
        weight, misread = torch.zeros_like(nearest), torch.zeros_like(nearest)
        adam = torch.optim.Adam([changed], lr=self.rate)
        steps = budget.steps or self.steps
        for step in range(steps):
            limit = self.shrink * nearest
            here = slope(target, changed, lambda logits: -margins(logits, labels).clamp_max(0))
            if not step:  # both terms then weigh alike, whatever the scale of the logits
                weight = 1 / here.gradient.abs().flatten(1).mean(1).clamp_min(_TINY)
            change = changed - images
            size, is_misread = sizes(change, "linf"), fooled(here.logits, labels)
            is_nearer = is_misread & (size < nearest)
            best[is_nearer], nearest[is_nearer] = changed[is_nearer], size[is_nearer]
            misread += is_misread
            if (step + 1) % self.patience == 0:
                weight[misread == 0] *= 2
                weight[misread == self.patience] /= 2
                misread.zero_()
            is_over = change.abs() > limit[:, None, None, None]
            changed.grad = weight[:, None, None, None] * here.gradient + is_over * change.sign()
            adam.param_groups[0]["lr"] = self.rate * (1 - 0.9 * step / steps)
            adam.step()
            changed.clamp_(0, 1)
        return best
