"""Guidance policies: which network is asked under which condition and at what scale.

Scales are Ho's: f = f(null) + w (f(text) - f(null)), so 1 is the condition alone, 0 the empty
prompt alone, and a negative one points away from the condition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Scale = float | tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Triple:
    """The guidance space of the fake-score family: scales of three uses of a score.

    train: of the fake score while it learns; fake, real: of the fake and the teacher's score in
    the student's gradient. A pair (low, high) is drawn uniformly at every step, and draws that
    are the same pair get the same number. (1, 1, w) is DMD, (1, w, w) SwiftBrush,
    (1, (a, b), (a, b)) PG-SB, (w, w, w) LSG, (0, 0, 1) Zero-CFG and (-1, -1, 1) Anti-CFG.
    """

    train: Scale = 1.0
    fake: Scale = 1.0
    real: Scale = 1.0


def resolve(scale: Scale, rng: torch.Generator) -> float:
    """Return a scale, drawn if it is a range."""
    if not isinstance(scale, tuple):
        return scale
    low, high = scale
    return low + (high - low) * float(torch.rand((), generator=rng))


def swapped(lab: Any, prompts: Sequence[str]) -> Callable[[Any], Tensor]:
    """Return a condition for the teacher other than the student's: prompt for prompt another text.

    What a student learns to draw for its own prompts is then what the teacher draws for these
    (Score Forgetting Distillation, removal of triggers). prompts: one for each of the lab's.

    Raises:
        ValueError: not as many prompts as the student's.
    """
    if len(prompts) != len(lab.ids):
        raise ValueError(f"{len(lab.ids)} prompts to swap for, got {len(prompts)}")
    ids = lab.teacher.tokenize(list(prompts))

    def text(roll: Any) -> Tensor:
        with torch.no_grad():
            states: Tensor = lab.teacher.embed(ids[roll.rows.to(ids.device)])
        return states

    return text


def guided(
    model: Any,
    x: Tensor,
    t: Tensor,
    text: Tensor,
    scale: float | Tensor = 1.0,
    negative: Tensor | None = None,
) -> Tensor:
    """Return the guided x0-prediction, (batch, channels, h, w).

    scale: one number, or (batch,), one an image; 1 and 0 as numbers cost a single pass.
    negative: text states in the place of the empty prompt's, (1 or batch, length, width).
    """
    null = (model.null_text if negative is None else negative).expand(len(x), -1, -1)
    if isinstance(scale, Tensor):
        scale = scale.reshape(-1, 1, 1, 1)
    elif scale in (0.0, 1.0):
        alone: Tensor = model.x0(x, t, text if scale else null)
        return alone
    bare, aimed = model.x0(
        torch.cat([x, x]), torch.cat([t, t]), torch.cat([null, text])
    ).chunk(2)  # fmt: skip
    answer: Tensor = bare + scale * (aimed - bare)
    return answer
