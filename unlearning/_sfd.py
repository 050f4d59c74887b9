"""What Score Forgetting Distillation puts in the place of a concept: prompts to override by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safetybench.distill.views import velocity

LEVELS = (0.3, 0.5, 0.7)  # times, as shares of the process, at which pseudo-labels are asked for


class Overrides(NamedTuple):
    """Forget prompts and, by position, the prompts whose score is put in the place of theirs."""

    forget: tuple[str, ...]
    asked: tuple[str, ...]


def with_word(forget: str, anchor: str, word: str) -> str:
    """Return a forget prompt with `word` in the place where it differs from its anchor prompt.

    Raises:
        ValueError: the two do not differ.
    """
    ours, theirs = forget.split(), anchor.split()
    if ours == theirs:
        raise ValueError(f"a forget prompt and its anchor must differ, got {forget!r} twice")
    room = min(len(ours), len(theirs))
    first = 0
    while first < room and ours[first] == theirs[first]:
        first += 1
    last = 0
    while last < room - first and ours[-1 - last] == theirs[-1 - last]:
        last += 1
    return " ".join([*ours[:first], word, *ours[len(ours) - last :]])


def every_word(erasure: Any, words: Sequence[str]) -> Overrides:
    """Return each forget prompt with each word: a uniform draw of rows draws the word as well."""
    rows = [
        (forget, with_word(forget, anchor, word))
        for forget, anchor in zip(erasure.forget, erasure.anchor, strict=True)
        for word in words
    ]
    return Overrides(tuple(row[0] for row in rows), tuple(row[1] for row in rows))


@torch.no_grad()
def likeliest_word(
    erasure: Any, words: Sequence[str], teacher: Any, generator: Any, time: int, seed: int
) -> Overrides:
    """Return each forget prompt with the word that the generator's image of it looks most like.

    generator: asked once a prompt, at `time`, as it is before any training.
    """
    every = every_word(erasure, words)
    asked = [every.asked[i : i + len(words)] for i in range(0, len(every.asked), len(words))]
    chosen: list[str] = []
    for first in range(0, len(asked), 64):
        rng = torch.Generator().manual_seed(seed * 100_003 + first)
        prompts = list(erasure.forget[first : first + 64])
        text = teacher.embed(teacher.tokenize(prompts))
        noise = torch.randn((len(prompts), *teacher.latent_shape), generator=rng).to(text.device)
        x = generator.x0(noise, torch.full((len(prompts),), time, device=text.device), text)
        rows = asked[first : first + 64]
        labels = [teacher.embed(teacher.tokenize([row[k] for row in rows]))
                  for k in range(len(words))]  # fmt: skip
        best = pseudo_labels(teacher, x, labels, rng)
        chosen += [row[int(k)] for row, k in zip(rows, best, strict=True)]
    return Overrides(erasure.forget, tuple(chosen))


def pseudo_labels(
    teacher: Any, x: Tensor, labels: Sequence[Tensor], rng: torch.Generator
) -> Tensor:
    """Return which label each image has by the teacher's own denoising error, (batch,) int64.

    The diffusion classifier of Li et al. 2023, with the same noise for all labels. x: (batch,
    channels, h, w); labels: text states of each candidate, (batch, length, width).
    Source: https://arxiv.org/abs/2303.16203
    """
    errors = torch.zeros(len(labels), len(x), device=x.device)
    for level in LEVELS:
        t = torch.full((len(x),), int(level * teacher.process.steps), device=x.device)
        noise = torch.randn(x.shape, generator=rng).to(x.device)
        x_t = teacher.process.add(x, noise, t)
        truth = teacher.process.convert(x, "sample", "v_prediction", x_t, t)
        for row, text in zip(errors, labels, strict=True):
            row += (velocity(teacher, x_t, t, text) - truth).square().mean(dim=(1, 2, 3))
    return errors.argmin(0)
