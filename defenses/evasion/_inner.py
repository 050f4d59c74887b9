"""The attack inside an adversarial training: projected gradient ascent from a random start."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from safetybench.contracts import Budget, SafetyBenchError
from safetybench.vision.ball import clip, start, steepest


def attacked(
    net: Callable[[Tensor], Tensor],
    images: Tensor,
    gain: Callable[[Tensor], Tensor],
    budget: Budget,
    generator: torch.Generator,
    *,
    steps: int,
    rel_step: float,
) -> Tensor:
    """Return images in the ball around `images` whose logits raise `gain`, without a graph.

    gain: logits to a value of each row. A network is attacked in evaluation mode and left in the
    mode that it was in; the gradients of its weights stay as they were. rel_step: a step as a
    share of budget.epsilon; the start is uniform in the ball.
    """
    was_training = net.training if isinstance(net, nn.Module) else False
    if isinstance(net, nn.Module):
        net.eval()
    changed = start(images, budget.epsilon, budget.norm, generator)
    with torch.enable_grad():
        for _ in range(steps):
            changed = changed.detach().requires_grad_()
            (slope,) = torch.autograd.grad(gain(net(changed)).sum(), changed)
            moved = changed.detach() + rel_step * budget.epsilon * steepest(slope, budget.norm)
            changed = clip(moved, images, budget.epsilon, budget.norm)
    if isinstance(net, nn.Module):
        net.train(was_training)
    return changed.detach()


def check_inner(inner_steps: int, rel_step: float) -> None:
    """Refuse an attack that does nothing."""
    if inner_steps < 1:
        raise ValueError(f"inner_steps must be 1 or more, got {inner_steps}")
    if not 0 < rel_step <= 2:
        raise ValueError(f"rel_step is a fraction of epsilon in (0, 2], got {rel_step}")


def check_ball(budget: Budget, who: object) -> None:
    """Refuse a training against attacks that may change nothing."""
    if not budget.epsilon:
        raise SafetyBenchError(
            f"{type(who).__name__} trains against attacks in a ball, got epsilon 0; "
            "set epsilon of the Budget"
        )
