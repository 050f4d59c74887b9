"""Response distillation: the student is tuned on what the teacher answered.

Needs no more of the teacher than its answers, so that teacher and student may have different
vocabularies. Greedy answers, or sampled ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from safetybench.contracts import Budget, Lesson, TextRecipe
from safetybench.language.tuning import Schedule, train
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class Response(TextRecipe):
    """Sequence-level knowledge distillation (Kim and Rush 2016), without their beam search.

    temperature, top_k, top_p: how the teacher writes, 0 for greedily. rate, size: of AdamW and its
    batches; lora: rank of a LoRA in the place of all weights, 0 for none.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    rate: float = 4e-3
    size: int = 64
    lora: int = 0

    source: ClassVar[str] = "https://arxiv.org/abs/1606.07947"

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(
                "temperature and top_k must be 0 or more and top_p in (0, 1], got "
                f"{self.temperature}, {self.top_k} and {self.top_p}"
            )

    @property
    def decoding(self) -> Mapping[str, float]:
        """With what options of `complete` the teacher writes the answers."""
        return {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}

    def run(
        self, teacher: Any, student: Any, lesson: Lesson, budget: Budget, report: Any = None
    ) -> Any:
        """Return the student, tuned on the answers of the lesson; see `TextRecipe.run`."""
        schedule = Schedule(budget.steps, self.rate, self.size, budget.seed, lora=self.lora)
        return train(student, lesson.samples, schedule, report=report)
