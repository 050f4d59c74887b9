"""Instruction tuning: the loss on answers alone, of all weights or of a LoRA."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safetybench.contracts import Sample
from safetybench.targets.language_model import IGNORED, Batch, LanguageModel, pack

_LARGE = 10_000  # tokens
_TOLD_EVERY = 50  # steps
Report = Callable[[int, float], None] | None
Loss = Callable[[Batch, Sequence[int]], Tensor]


class Schedule(NamedTuple):
    """How a language model is trained; rate: of AdamW, after a warm-up, down a cosine to 0."""

    steps: int
    rate: float = 4e-3
    size: int = 64
    seed: int = 0
    warm_up: int = 20
    lora: int = 0


def steps_of(epochs: float, count: int, size: int) -> int:
    """Return how many batches of `size` so many epochs over `count` samples are, at least 1."""
    return max(1, math.ceil(epochs * count / size))


def order(count: int, schedule: Schedule) -> Iterator[list[int]]:
    """Yield the rows of each batch: every sample once an epoch, shuffled by the seed."""
    draw = torch.Generator().manual_seed(schedule.seed)
    waiting: list[int] = []
    for _ in range(schedule.steps):
        while len(waiting) < min(schedule.size, count):
            waiting += torch.randperm(count, generator=draw).tolist()
        yield waiting[: schedule.size]
        waiting = waiting[schedule.size :]


def train(
    target: LanguageModel,
    samples: Sequence[Sample],
    schedule: Schedule,
    loss: Loss | None = None,
    report: Report = None,
) -> LanguageModel:
    """Train a model in place and return it, frozen again.

    loss: of a batch and the rows it holds; cross-entropy of the answers by default.
    """
    if not samples:
        raise ValueError("there are no samples to train on")
    _with_lora(target, schedule)
    model = target.model.train().requires_grad_(not schedule.lora)
    if schedule.lora:
        for name, weight in model.named_parameters():
            weight.requires_grad_("lora_" in name)
    weights = [w for w in model.parameters() if w.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=schedule.rate, betas=(0.9, 0.98), weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share(step, schedule))
    pairs = [(target.prompt_ids(s.prompt), target.response_ids(s.response)) for s in samples]
    loss = loss or (lambda batch, rows: answer_loss(target, batch))
    for step, rows in enumerate(order(len(samples), schedule)):
        batch = pack([pairs[row] for row in rows], target.end, target.device)
        found = loss(batch, rows)
        if step % _TOLD_EVERY == 0 or step == schedule.steps - 1:  # .item() waits for the device
            if not math.isfinite(value := found.item()):
                raise FloatingPointError(f"the loss is {value} at step {step}; lower the rate")
            if report is not None:
                report(step + 1, value)
        optimiser.zero_grad(set_to_none=True)
        found.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        rate.step()
    _without_lora(target, schedule)
    target.model.eval().requires_grad_(False)
    return target


def answer_loss(target: LanguageModel, batch: Batch) -> Tensor:
    """Return the cross-entropy of answers, without scores of what is no answer where they cost.

    Over a vocabulary of 50,000 the scores of instructions alone are most of the computing.
    """
    if target.model.config.vocab_size < _LARGE:
        return cross_entropy(target.logits(batch), batch.labels)
    labels = batch.labels[:, 1:]
    return torch.nn.functional.cross_entropy(
        target.answer_logits(batch).float(), labels[labels != IGNORED]
    )


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over the tokens of answers, each predicted from what stands before it."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def _share(step: int, schedule: Schedule) -> float:
    warm = min(schedule.warm_up, max(schedule.steps // 10, 1))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(schedule.steps - warm, 1)))


def _with_lora(target: LanguageModel, schedule: Schedule) -> None:
    if schedule.lora:
        import peft

        config = peft.LoraConfig(
            r=schedule.lora,
            lora_alpha=2 * schedule.lora,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # peft 0.21 asks for an attribute by the name that it had before transformers 5.24
            warnings.simplefilter("ignore", FutureWarning)
            torch.manual_seed(schedule.seed)
            target.model = peft.get_peft_model(target.model, config)


def _without_lora(target: LanguageModel, schedule: Schedule) -> None:
    """Merge the LoRA, so that what follows sees one plain model."""
    if schedule.lora:
        merged: Any = target.model.merge_and_unload()
        target.model = merged
