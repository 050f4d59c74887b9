"""Logit distillation: the student learns the teacher's whole distribution of each next token.

Needs the teacher's logits and one vocabulary for both. The partner, an independent teacher that
its user trusts, may be mixed in: an anchor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from safetybench.contracts import Budget, Lesson, TextRecipe
from safetybench.language.tuning import Schedule, train
from safetybench.language.vocabulary import check_vocabularies
from safetybench.registry import register
from safetybench.targets.language_model import IGNORED, Batch


@register
@dataclass(frozen=True, kw_only=True)
class Logit(TextRecipe):
    """Forward KL to the teacher on its own answers (Hinton et al. 2015), token by token.

    temperature: that both distributions are softened with (the loss is multiplied by its square,
    as the authors do). top_k: tokens of the teacher that are kept, renormalised; 0 for all.
    anchor: share of the partner's distribution in the one that is learnt (this project's defense;
    0.5 is an ensemble of two teachers). writing: temperature of the answers, 0 for greedy.
    """

    temperature: float = 1.0
    top_k: int = 0
    anchor: float = 0.0
    writing: float = 0.0
    rate: float = 4e-3
    size: int = 64
    lora: int = 0

    source: ClassVar[str] = "https://arxiv.org/abs/1503.02531"

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.writing < 0 or self.top_k < 0:
            raise ValueError(
                "temperature must be above 0, writing and top_k 0 or more, got "
                f"{self.temperature}, {self.writing} and {self.top_k}"
            )
        if not 0 <= self.anchor <= 1:
            raise ValueError(f"anchor is a share in [0, 1], got {self.anchor}")

    @property
    def needs_partner(self) -> bool:
        """Whether a second teacher is mixed in."""
        return self.anchor > 0

    @property
    def compares_distributions(self) -> bool:
        """Tell that teacher and student need one vocabulary."""
        return True

    @property
    def decoding(self) -> Mapping[str, float]:
        """With what options of `complete` the teacher writes the answers."""
        return {"temperature": self.writing}

    def run(
        self, teacher: Any, student: Any, lesson: Lesson, budget: Budget, report: Any = None
    ) -> Any:
        """Return the student, trained in place; see `TextRecipe.run`."""
        others = [teacher, *([lesson.partner] if self.anchor else [])]
        for other in others:
            check_vocabularies(other.tokenizer, student.tokenizer, (other.name, student.name))

        def loss(batch: Batch, rows: Sequence[int]) -> Tensor:
            with torch.no_grad():
                wanted = self.target([other.logits(batch) for other in others])
            return self.divergence(student.logits(batch), wanted, batch.labels)

        schedule = Schedule(budget.steps, self.rate, self.size, budget.seed, lora=self.lora)
        return train(student, lesson.samples, schedule, loss, report)

    def target(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the distribution to learn, (batch, length, vocabulary), of one or two teachers."""
        softened = [(each.float() / self.temperature).softmax(-1) for each in logits]
        mixed = softened[0]
        if self.anchor:
            mixed = (1 - self.anchor) * softened[0] + self.anchor * softened[1]
        if 0 < self.top_k < mixed.shape[-1]:
            least = mixed.topk(self.top_k, dim=-1).values[..., -1:]
            mixed = mixed * (mixed >= least)
            mixed = mixed / mixed.sum(-1, keepdim=True)
        return mixed

    def divergence(self, logits: Tensor, wanted: Tensor, labels: Tensor) -> Tensor:
        """Return the mean KL(wanted || student) over the tokens of answers, times T squared."""
        told = (logits.float() / self.temperature).log_softmax(-1)[:, :-1]
        goal, is_answer = wanted[:, :-1], labels[:, 1:] != IGNORED
        kl = (torch.xlogy(goal, goal) - goal * told).sum(-1)
        return self.temperature**2 * kl[is_answer].mean()
