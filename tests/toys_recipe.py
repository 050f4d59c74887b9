"""A recipe that takes no time and a judge that sees everything, installed as a package would be.

NUDGE_CALLS names a file that gets a line for every training that begins, with the step it begins
at; NUDGE_STOP is a step at which it is interrupted, as by Ctrl-C.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from safetybench.contracts import Budget, Judge, Means, Pictures, Recipe, Verdicts
from safetybench.registry import register
from safetybench.targets.spec import Sampler
from tests.toys import declare

URL = "https://example.org/toys"
MODULE = "toyrecipes"
POINTS = {"recipes/nudge": "Nudge", "judges/nudge": "Brightness"}


@register
@dataclass(frozen=True, kw_only=True)
class Nudge(Recipe):
    """Move the weights a little. fails: raise; reads: say that it reads images."""

    source: ClassVar[str] = URL
    by: float = 0.01
    fails: bool = False
    reads: bool = False

    def __post_init__(self) -> None:
        if self.by <= 0:
            raise ValueError(f"by must be positive, got {self.by}")

    @property
    def reads_images(self) -> bool:
        return self.reads

    def run(
        self,
        target: Any,
        prompts: Sequence[str],
        budget: Budget,
        report: Any = None,
        *,
        images: Pictures | None = None,
        means: Means | None = None,
    ) -> Any:
        assert means is not None
        assert means.checkpoint is not None
        file = means.checkpoint
        first = int(file.read_text()) if file.exists() else 0
        if "NUDGE_CALLS" in os.environ:
            with Path(os.environ["NUDGE_CALLS"]).open("a", encoding="utf-8") as calls:
                calls.write(f"{target.name} {len(prompts)} {budget.seed} {first}\n")
        if self.fails:
            raise ZeroDivisionError(f"cannot divide, see {Path.home()}/private/notes.txt")
        for step in range(first, budget.steps):
            file.write_text(str(step))
            if os.environ.get("NUDGE_STOP") == str(step):
                raise KeyboardInterrupt
            report(step, 1.0 / (step + 1))
        student = target.trainable_copy()
        rng = torch.Generator().manual_seed(budget.seed)
        with torch.no_grad():
            for weight in student.unet.parameters():
                weight += self.by * torch.randn(weight.shape, generator=rng)
        student.unet.requires_grad_(False)
        return student.with_sampler(Sampler(steps=1, guidance=1.0, timesteps=(700,)))


@register
@dataclass(frozen=True, kw_only=True)
class Brightness(Judge):
    """See every concept in every image; what it sees is of no matter here."""

    source: ClassVar[str] = URL

    @property
    def card(self) -> Mapping[str, Any]:
        return {"digest": "none"}

    def concepts(self) -> tuple[str, ...]:
        return ("fish", "star", "glowing")

    def judge(self, images: Tensor, concept: str) -> Verdicts:
        level = images.mean(dim=(1, 2, 3))
        return Verdicts(level, level > -1, torch.zeros_like(level, dtype=torch.bool))


def install(site: Path) -> Path:
    """Write this module and its entry points into a folder that is to be put on the path."""
    site.mkdir(parents=True)
    shutil.copy(__file__, site / f"{MODULE}.py")
    return declare(site, MODULE, POINTS)
