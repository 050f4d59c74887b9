"""What a recipe works with: teacher, student, prompts, real images, and draws from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from safetybench.contracts import Means, Pictures
from safetybench.distill.schedule import Step
from safetybench.distill.views import draw, lora_view


class Draw(NamedTuple):
    """Text states, (batch, length, width), standard normal noise and the prompts' rows."""

    text: Tensor
    noise: Tensor
    rows: Tensor


@dataclass(kw_only=True)
class Lab:
    """One distillation: who teaches, who learns, on what.

    ids: (prompts, length) token ids; latents, captions: of the real images, if there are any.
    """

    teacher: Any
    student: Any
    ids: Tensor
    batch: int
    means: Means = field(default_factory=Means)
    latents: Tensor | None = None
    captions: Tensor | None = None

    @classmethod
    def open(
        cls,
        teacher: Any,
        prompts: Sequence[str],
        batch: int,
        means: Means,
        images: Pictures | None = None,
    ) -> Lab:
        """Return a lab whose student is a frozen copy of the teacher."""
        lab = cls(
            teacher=teacher,
            student=teacher.clone(),
            ids=teacher.tokenize(list(prompts)),
            batch=batch,
            means=means,
        )
        if images is not None:
            with torch.no_grad():
                lab.latents = torch.cat([teacher.encode(part.to(teacher.device))
                                         for part in images.images.split(32)])  # fmt: skip
            lab.captions = teacher.tokenize(list(images.captions))
        return lab

    @property
    def process(self) -> Any:
        """The noise process that everyone shares."""
        return self.teacher.process

    def weights(self, lora: int = 0) -> list[nn.Parameter]:
        """Make the student trainable and return what learns: all of it, or a LoRA of this rank.

        The rank that the user gave (`Means.lora`) wins.
        """
        rank = self.means.lora or lora
        if rank:
            self.student, chosen = lora_view(self.student, rank)
        else:
            chosen = list(self.student.unet.requires_grad_(True).parameters())
        if self.means.recompute:
            self.student.unet.enable_gradient_checkpointing()
        return chosen

    def follower(self, lora: int = 0) -> tuple[Any, list[nn.Parameter]]:
        """Return a fake score that starts as the teacher: a copy, or a LoRA on its weights."""
        if lora:
            return lora_view(self.teacher, lora, seed=1)
        fake = self.teacher.trainable_copy()
        return fake, list(fake.unet.parameters())

    @torch.no_grad()
    def text(self, rows: Tensor) -> Tensor:
        """Return the text states of these prompts, (rows, length, width)."""
        states: Tensor = self.teacher.embed(self.ids[rows.to(self.ids.device)])
        return states

    def draw(self, step: Step) -> Draw:
        """Return prompts and start noise for one turn."""
        rows = draw(len(self.ids), self.batch, step.rng("prompts"))
        return Draw(self.text(rows), self.noise(step.rng("start")), rows)

    def noise(self, rng: torch.Generator, count: int | None = None) -> Tensor:
        """Return standard normal noise, (batch, channels, h, w)."""
        shape = (self.batch if count is None else count, *self.teacher.latent_shape)
        return torch.randn(shape, generator=rng).to(self.teacher.device)

    def times(self, value: int) -> Tensor:
        """Return one time for the whole batch, (batch,) int64."""
        return torch.full((self.batch,), value, device=self.teacher.device)

    def real(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return latents of real images and the text states of their captions."""
        assert self.latents is not None
        assert self.captions is not None
        rows = draw(len(self.latents), self.batch, step.rng("real")).to(self.latents.device)
        with torch.no_grad():
            return self.latents[rows], self.teacher.embed(self.captions[rows])
