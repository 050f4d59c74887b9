"""On-policy distillation: the student writes, and the teacher tells it how likely each token was.

Reverse KL on the student's own answers. Needs the teacher's logits and one vocabulary for both.
A student that knows nothing writes nothing worth a word, so it is warmed up on the teacher's
answers first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from safetybench.contracts import Budget, Lesson, TextRecipe
from safetybench.language.tuning import Schedule, train
from safetybench.language.vocabulary import check_vocabularies
from safetybench.registry import register
from safetybench.targets.language_model import IGNORED, Batch, pack


@register
@dataclass(frozen=True, kw_only=True)
class OnPolicy(TextRecipe):
    """Generalised knowledge distillation on policy (Agarwal et al. 2024) with MiniLLM's reverse KL.

    The gradient goes through the divergence at each token and not through the sampling, as the
    authors of GKD have it; MiniLLM's (Gu et al. 2024) policy gradient is left out.
    warm_up: share of the steps that are response distillation; rate: of the warm-up, a quarter of
    it on policy; temperature: of the student while it writes.
    """

    warm_up: float = 0.6
    temperature: float = 1.0
    rate: float = 4e-3
    size: int = 64
    lora: int = 0

    source: ClassVar[str] = "https://arxiv.org/abs/2306.13649"

    def __post_init__(self) -> None:
        if not 0 <= self.warm_up < 1:
            raise ValueError(f"warm_up is a share in [0, 1), got {self.warm_up}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")

    @property
    def compares_distributions(self) -> bool:
        """Tell that teacher and student need one vocabulary."""
        return True

    def run(
        self, teacher: Any, student: Any, lesson: Lesson, budget: Budget, report: Any = None
    ) -> Any:
        """Return the student, trained in place; see `TextRecipe.run`."""
        check_vocabularies(teacher.tokenizer, student.tokenizer, (teacher.name, student.name))
        before = math.floor(self.warm_up * budget.steps)
        if before:
            first = Schedule(before, self.rate, self.size, budget.seed, lora=self.lora)
            student = train(student, lesson.samples, first, report=report)
        prompts = [sample.prompt for sample in lesson.samples]
        calls = 0

        def loss(batch: Batch, rows: Sequence[int]) -> Tensor:
            nonlocal calls
            calls += 1
            seeds = [budget.seed * 1_000_003 + calls * 10_007 + i for i in range(len(rows))]
            asked = [prompts[row] for row in rows]
            written = student.tokens(asked, seeds, self.temperature)
            pairs = [(student.prompt_ids(p), a) for p, a in zip(asked, written, strict=True)]
            own = pack(pairs, student.end, student.device)
            with torch.no_grad():
                theirs = teacher.logits(own)
            return reverse_kl(student.logits(own), theirs, own.labels)

        rest = Schedule(
            budget.steps - before, self.rate / 4, self.size, budget.seed + 1, lora=self.lora
        )
        return train(
            student, lesson.samples, rest, loss, report and (lambda s, x: report(before + s, x))
        )


def reverse_kl(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return the mean KL(student || teacher) over the tokens of answers."""
    ours = student.float().log_softmax(-1)[:, :-1]
    theirs = teacher.float().log_softmax(-1)[:, :-1]
    kl = (ours.exp() * (ours - theirs)).sum(-1)
    found: Tensor = kl[labels[:, 1:] != IGNORED].mean()
    return found
