"""The climb of APGD: one run from one start, with the step halved where progress stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from safetybench.contracts import Budget
from safetybench.vision.ball import clip, steepest

from ._gradient import Slope, fooled

# The published first, smallest and next-smaller distance of checkpoints, in shares of the steps,
# and the share of a step that is not momentum.
_FIRST, _LEAST, _LESS, _FRESH = 0.22, 0.06, 0.03, 0.75

Ask = Callable[[Tensor, Tensor], Slope]  # points, and their rows in the batch


class Ended(NamedTuple):
    """Per image the first point that fools, or else that of greatest loss; and which it is."""

    images: Tensor
    is_fooled: Tensor


class _Climb(NamedTuple):
    """Images that are not fooled yet; every field has them as its first axis.

    rows: their places in the batch; at and before: this and the last point; best: the point of
    greatest loss, with gradient; marked: that loss at the last checkpoint; rises: steps since then
    that raised the loss; is_halved: whether that checkpoint halved the step.
    """

    rows: Tensor
    at: Tensor
    before: Tensor
    gradient: Tensor
    loss: Tensor
    logits: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    marked: Tensor
    rises: Tensor
    is_halved: Tensor
    step: Tensor

    def only(self, chosen: Tensor) -> _Climb:
        return _Climb(*(part[chosen] for part in self))


def ascend(
    ask: Ask,
    images: Tensor,
    labels: Tensor,
    begun: Tensor,
    budget: Budget,
    rho: float,
    *,
    is_random: bool = False,
) -> Ended:
    """Climb from `begun` for budget.steps, and drop images as they are fooled.

    is_random: answers are means of draws, so that one that fools ends nothing, and the point of
    greatest loss is what is found.

    rho: share of steps that must raise the loss between two checkpoints.
    """
    steps = budget.steps
    window, waited = max(int(_FIRST * steps), 1), 0
    climb = _begin(ask, begun, budget.epsilon)
    found = begun.clone()
    for turn in range(steps + 1):
        is_fooled = fooled(climb.logits, labels[climb.rows])
        if is_fooled.any() and not is_random:
            found[climb.rows[is_fooled]] = climb.at[is_fooled]
            climb = climb.only(~is_fooled)
        if turn == steps or not len(climb.rows):
            break
        if waited == window:
            climb = _checked(climb, rho * window)
            waited, window = 0, max(window - max(int(_LESS * steps), 1), int(_LEAST * steps), 1)
        climb = _moved(climb, images[climb.rows], budget, _FRESH if turn else 1.0)
        climb = _seen(climb, ask(climb.at, climb.rows))
        waited += 1
    found[climb.rows] = climb.best
    is_lost = torch.ones(len(images), dtype=torch.bool, device=images.device)
    is_lost[climb.rows] = False
    if is_random and len(images):
        is_lost = fooled(ask(climb.best, climb.rows).logits, labels)
    return Ended(found, is_lost)


def _begin(ask: Ask, begun: Tensor, epsilon: float) -> _Climb:
    rows = torch.arange(len(begun), device=begun.device)
    here = ask(begun, rows)
    return _Climb(
        rows=rows,
        at=begun,
        before=begun,
        gradient=here.gradient,
        loss=here.loss,
        logits=here.logits,
        best=begun,
        best_gradient=here.gradient,
        best_loss=here.loss,
        marked=here.loss,
        rises=torch.zeros_like(rows),
        is_halved=torch.ones_like(rows, dtype=torch.bool),  # as published: no halving for a tie yet
        step=torch.full_like(here.loss, 2 * epsilon),
    )


def _moved(climb: _Climb, images: Tensor, budget: Budget, fresh: float) -> _Climb:
    """Step up the gradient, and keep a share of the last step as momentum."""
    there = climb.at + _wide(climb.step) * steepest(climb.gradient, budget.norm)
    there = clip(there, images, budget.epsilon, budget.norm)
    there = climb.at + fresh * (there - climb.at) + (1 - fresh) * (climb.at - climb.before)
    there = clip(there, images, budget.epsilon, budget.norm)
    return climb._replace(at=there, before=climb.at)


def _seen(climb: _Climb, here: Slope) -> _Climb:
    """Take in what was found at the new point."""
    is_best = here.loss > climb.best_loss
    return climb._replace(
        gradient=here.gradient,
        loss=here.loss,
        logits=here.logits,
        rises=climb.rises + (here.loss > climb.loss),
        best=torch.where(_wide(is_best), climb.at, climb.best),
        best_gradient=torch.where(_wide(is_best), here.gradient, climb.best_gradient),
        best_loss=torch.maximum(here.loss, climb.best_loss),
    )


def _checked(climb: _Climb, enough: float) -> _Climb:
    """Halve the step, and go back to the best point, where too few steps rose or none helped."""
    is_stuck = ~climb.is_halved & (climb.marked >= climb.best_loss)
    halves = (climb.rises <= enough) | is_stuck
    return climb._replace(
        step=torch.where(halves, climb.step / 2, climb.step),
        at=torch.where(_wide(halves), climb.best, climb.at),
        gradient=torch.where(_wide(halves), climb.best_gradient, climb.gradient),
        loss=torch.where(halves, climb.best_loss, climb.loss),
        marked=climb.best_loss,
        is_halved=halves,
        rises=torch.zeros_like(climb.rises),
    )


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]
