"""The one training loop: groups of weights that take turns, averaged weights, exact resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from safetybench.contracts import SafetyBenchError
from safetybench.distill import checkpoint as files
from safetybench.distill.schedule import Average, Group, Stage, Step

Report = Callable[[int, float], None]


def train(
    stages: Sequence[Stage],
    *,
    seed: int,
    average: Average | None = None,
    checkpoint: Path | None = None,
    save_every: int = 50,
    report: Report | None = None,
) -> None:
    """Run the stages one after the other; learning rates anneal to zero over each last half.

    average: taken over the last stage and applied at its end. checkpoint: where to resume from
    and to save to; at the end it is left to the caller, who removes it once the result is kept.
    A loss is differentiated for its own group's weights alone: no group touches another's.

    Raises:
        SafetyBenchError: a loss is not finite, or the checkpoint is damaged, cannot be written or
            is of another training.
    """
    training = [seed, *(f"{s.steps} {g.name} {g.lr} {g.repeats}" for s in stages for g in s.groups)]
    kept = files.load(checkpoint, training)
    # Of all stages: a later one may read what only an earlier one trained.
    groups = {f"{n} {g.name}": g.weights for n, s in enumerate(stages) for g in s.groups}
    keeps = [module for s in stages for module in s.keeps]
    for number, stage in enumerate(stages):
        is_last = number == len(stages) - 1
        averages = average.values if average is not None else []
        first = 0
        optimisers = _optimisers(stage)
        if kept is not None and number < kept["stage"]:
            continue
        if kept is not None and number == kept["stage"]:
            assert checkpoint is not None
            files.restore(kept, checkpoint, groups, optimisers, keeps, averages)
            first = kept["step"]
        elif average is not None and is_last:
            average.values = [w.detach().clone() for w in average.weights]
        before = sum(s.steps for s in stages[:number])
        for index in range(first, stage.steps):
            step = Step(index=index, total=stage.steps, seed=seed, stage=number)
            value = _take(stage, optimisers, step)
            if average is not None and is_last:
                average.update(step)
            is_saved = checkpoint is not None and (index + 1) % save_every == 0
            # Also before a checkpoint: one that holds no numbers could never be continued.
            if index % 10 == 0 or is_saved or index == stage.steps - 1:
                _look(value, before + index, report if index % 10 == 0 else None)
            if checkpoint is not None and is_saved:
                files.save(checkpoint, {
                    "training": training,
                    "stage": number,
                    "step": index + 1,
                    "weights": {n: [w.detach() for w in group] for n, group in groups.items()},
                    "optimisers": [o.state_dict() for o in optimisers],
                    "keeps": [m.state_dict() for m in keeps],
                    "averages": average.values if average is not None else [],
                })  # fmt: skip
    if average is not None:
        average.apply()


def _optimisers(stage: Stage) -> list[torch.optim.Optimizer]:
    return [
        torch.optim.AdamW(g.weights, lr=g.lr, betas=g.betas, weight_decay=0.0) for g in stage.groups
    ]


def _take(stage: Stage, optimisers: Sequence[torch.optim.Optimizer], step: Step) -> Tensor:
    """Let every group of the stage take its turns; return the last loss."""
    value = torch.zeros(())
    for group, optimiser in zip(stage.groups, optimisers, strict=True):
        if step.index % group.every:
            continue
        for options in optimiser.param_groups:
            options["lr"] = group.lr * min(1.0, 2 * (step.total - step.index) / step.total)
        for turn in range(group.repeats):
            loss = group.loss(replace(step, turn=turn))
            found = torch.autograd.grad(loss, list(group.weights), allow_unused=True)
            for weight, gradient in zip(group.weights, found, strict=True):
                weight.grad = gradient
            nn.utils.clip_grad_norm_(group.weights, group.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            value = loss.detach()
    for hook in stage.after:
        hook(step)
    return value


def _look(value: Tensor, step: int, report: Report | None) -> None:
    loss = value.item()
    if not loss == loss or abs(loss) == float("inf"):
        raise SafetyBenchError(f"the loss is {loss} at step {step}: a lower learning rate may help")
    if report is not None:
        report(step, loss)


def tune(
    weights: Sequence[nn.Parameter],
    loss_at: Callable[[int, torch.Generator], Tensor],
    *,
    steps: int,
    lr: float,
    seed: int,
    report: Report | None = None,
) -> None:
    """Train one group without stages or checkpoints, as unlearning does, and freeze it.

    loss_at: maps the step and its own generator to a scalar.
    """

    def loss(step: Step) -> Tensor:
        return loss_at(step.index, torch.Generator().manual_seed(seed * 1_000_003 + step.index))

    group = Group(name="weights", weights=weights, loss=loss, lr=lr, betas=(0.9, 0.99))
    train([Stage(steps=steps, groups=[group])], seed=seed, report=report)
    for weight in weights:
        weight.requires_grad_(False)
