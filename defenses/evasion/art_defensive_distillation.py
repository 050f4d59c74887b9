"""The adversarial-robustness-toolbox's defensive distillation, which has no temperature.

Here to be compared with `defensive_distillation`, which it is not. Needs labelled images alone, it
makes its own teacher.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from safetybench.contracts import Budget, ClassLesson, Hardening, SafetyBenchError
from safetybench.registry import register
from safetybench.vision.fitting import Batch, fit

from ._fresh import fresh
from ._terms import ce, check_training, device_of, logits_of


@register
@dataclass(frozen=True, kw_only=True)
class ArtDefensiveDistillation(Hardening):
    """Let ART 1.20 distil a teacher like the student (after Papernot et al. 2016).

    Both networks are wrapped in a softmax, which ART asks for, so that its cross-entropy takes
    the softmax of one. The teacher is trained on logits, for budget.steps updates; the student
    for as many whole epochs as these make, on the first images if they do not make one. The
    answer is the student without its wrapper. ART trains by Adam at a constant rate.
    """

    size: int = 128
    rate: float = 1e-3

    source: ClassVar[str] = "https://arxiv.org/abs/1511.04508"

    def __post_init__(self) -> None:
        check_training(self.size, self.rate)

    def run(
        self, net: nn.Module, lesson: ClassLesson, budget: Budget, report: Any = None
    ) -> nn.Module:
        """Return `net`, trained; see `Hardening.run`. Reports the teacher's steps, then one."""
        from art.defences.transformer.evasion import DefensiveDistillation

        def loss(net: nn.Module, batch: Batch) -> Tensor:
            return ce(net(batch.images), batch.labels).mean()

        own = replace(budget, seed=budget.seed + 1)
        teacher = fit(
            fresh(net, own.seed), lesson, own, loss, size=self.size, rate=self.rate, report=report
        )
        images = lesson.data.images[: budget.steps * self.size].cpu()
        epochs = max(1, budget.steps * self.size // len(images))
        defense = DefensiveDistillation(
            self._wrapped(teacher, lesson), batch_size=self.size, nb_epochs=epochs
        )
        with torch.random.fork_rng(devices=[]):  # ART shuffles by the global generator
            torch.manual_seed(budget.seed)
            defense(images.numpy().astype(np.float32), self._wrapped(net, lesson))
        net.eval()
        seen = logits_of(net, images[: self.size]).cpu()
        last = float(ce(seen, lesson.data.labels[: self.size].cpu()).mean())
        if last != last:
            raise SafetyBenchError(f"the loss is {last} after the last step; a lower rate may help")
        if report is not None:
            report(budget.steps, last)
        return net

    def _wrapped(self, net: nn.Module, lesson: ClassLesson) -> Any:
        from art.estimators.classification import PyTorchClassifier

        shape = tuple(lesson.data.images.shape[1:])
        classes = logits_of(net, lesson.data.images[:1]).shape[1]
        return PyTorchClassifier(
            model=nn.Sequential(net, nn.Softmax(dim=1)),
            loss=nn.CrossEntropyLoss(),
            optimizer=torch.optim.Adam(net.parameters(), lr=self.rate),
            input_shape=shape,
            nb_classes=classes,
            device_type="cpu" if device_of(net) == "cpu" else "gpu",
        )
