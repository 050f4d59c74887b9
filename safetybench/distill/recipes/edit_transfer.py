"""Edit transfer: add to a student's weights what unlearning added to those of its teacher.

The student was distilled before. Needs the weights of all three models; no training, no data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from safetybench.contracts import Budget, Means, Pictures, Recipe, Unavailable
from safetybench.registry import register
from safetybench.targets.finding import find
from safetybench.targets.loading import load_target
from safetybench.targets.spec import TargetSpec


@register
@dataclass(frozen=True, kw_only=True)
class EditTransfer(Recipe):
    """Transfer a teacher's edit to its student (Gandikota and Bau 2025).

    original: the target before unlearning; student: distilled from it; zoo:NAME or a directory.
    scale: of the edit, which is the difference of all weights and not a LoRA as published.
    Prompts, images and the steps of the budget are not used.
    """

    original: str = ""
    student: str = ""
    scale: float = 1.0

    source: ClassVar[str] = "https://arxiv.org/abs/2503.10637"
    trains: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise ValueError(f"scale must be a finite number, got {self.scale}")

    @property
    def data(self) -> str:
        """What the student saw in its distillation, as its card tells; nothing is seen here."""
        card = find(TargetSpec.parse(self.student)).card if self.student else {}
        return str(card.get("traits", {}).get("data", "unknown"))

    def run(self, target: Any, prompts: Sequence[str], budget: Budget, report: Any = None, *,
            images: Pictures | None = None, means: Means | None = None) -> Any:  # fmt: skip
        """Return the student with its own sampler and traits, changed as the target was.

        Raises:
            Unavailable: a model is not named, is on the hub, or fits not the others.
        """
        if not self.original or not self.student:
            raise Unavailable("EditTransfer needs the options original and student, got "
                              f"{self.original!r}, {self.student!r}")  # fmt: skip
        if means is not None and means.lora:
            raise Unavailable("EditTransfer trains nothing, so it makes no LoRA")
        like: dict[str, Any] = {"device": target.device, "dtype": target.dtype, "offline": True}
        original, student = (load_target(spec, **like) for spec in (self.original, self.student))
        if any(model.adapter is not None for model in (target, original, student)):
            raise Unavailable("EditTransfer cannot move an edit where there is a guidance adapter")
        for part in ("unet", "text_encoder", "text_encoder_2"):
            self._add(part, *(getattr(model, part, None) for model in (target, original, student)))
        return student.with_sampler(student.sampler)  # its digest was that of the files

    @torch.no_grad()
    def _add(self, part: str, *networks: Any) -> None:
        """Add to the last network what the first has more than the second, in place."""
        ours, theirs, its = [{} if network is None else dict(network.named_parameters())
                             for network in networks]  # fmt: skip
        shapes = [{k: w.shape for k, w in each.items()} for each in (ours, theirs, its)]
        if shapes != shapes[:1] * 3:
            raise Unavailable(f"the {part} of target, {self.original!r} and {self.student!r} must "
                              "have the same weights; a LoRA must be fused first")  # fmt: skip
        for name, weight in its.items():
            weight += self.scale * (ours[name] - theirs[name])
