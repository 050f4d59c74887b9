"""Look at a classifier's gradients, and at its loss around an image: there masking shows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from safetybench.class_contracts import Classifies
from safetybench.component import Budget
from safetybench.vision.ball import steepest
from safetybench.vision.evading import check_images, check_labels

REACH = 2.0  # of the threat's radius, in each direction
GRID = 21  # points a side


def gradient(target: Classifies, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits, (batch, classes), and the gradient of each image's own cross-entropy.

    A network that cuts its answer off from its input has a gradient of 0.
    """
    with torch.enable_grad():
        watched = images.detach().clone().requires_grad_()
        logits = target.logits(watched)
        if not logits.requires_grad:
            return logits, torch.zeros_like(images)
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        (found,) = torch.autograd.grad(loss, watched)
    return logits.detach(), found


def gradients(target: Classifies, images: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """Return by image what its cross-entropy's gradient and its logits are like.

    right: it is classified rightly; zero: every entry of the gradient is exactly 0; finite: all
    are numbers; size: its l2 norm; gap: between the two largest logits; random: a second call
    answers otherwise.
    """
    check_images(images, target)
    check_labels(labels, images, target)
    logits, found = gradient(target, images, labels)
    again = target.logits(images).detach()
    top = logits.topk(min(2, logits.shape[1]), dim=1).values
    gap = top[:, 0] - top[:, -1]
    flat = found.flatten(1)
    return [
        {
            "right": bool(logits[i].argmax() == labels[i]),
            "zero": not bool(flat[i].any()),
            "finite": bool(torch.isfinite(flat[i]).all()),
            "size": _short(flat[i].norm()),
            "gap": _short(gap[i]),
            "largest": _short(logits[i].abs().max()),
            "random": not bool(torch.equal(logits[i], again[i])),
        }
        for i in range(len(images))
    ]


def landscapes(
    target: Classifies, images: Tensor, labels: Tensor, budget: Budget
) -> list[dict[str, Any]]:
    """Return by image the loss on a plane around it, as rows of `GRID` values each way.

    Across: the steepest direction of the cross-entropy, or where its gradient is 0 a second random
    one. Down: a random direction of the same norm. reach: the distance of the outermost points.
    loss: cross-entropy; margin: largest other logit minus the true class's, negative where right.
    """
    check_images(images, target)
    check_labels(labels, images, target)
    _, found = gradient(target, images, labels)
    generator = torch.Generator().manual_seed(budget.seed)
    reach = REACH * budget.epsilon
    steps = torch.linspace(-reach, reach, GRID)
    drawn = []
    for image, label, slope in zip(images, labels, found, strict=True):
        noise = torch.randn(2, *image.shape, generator=generator).to(image)
        first = slope[None] if bool(slope.any()) else noise[1:]
        across, down = steepest(first, budget.norm)[0], steepest(noise[:1], budget.norm)[0]
        plane = image + (
            steps.to(image)[None, :, None, None, None] * across
            + steps.to(image)[:, None, None, None, None] * down
        )
        points = plane.flatten(0, 1).clamp(0, 1)
        with torch.inference_mode():
            logits = target.logits(points)
        told = label.expand(len(points))
        loss = functional.cross_entropy(logits, told, reduction="none")
        own = logits.gather(1, told[:, None])[:, 0]
        others = logits.scatter(1, told[:, None], -torch.inf).amax(1)
        drawn.append(
            {
                "reach": reach,
                "is_steepest": bool(slope.any()),
                "loss": _grid(loss),
                "margin": _grid(others - own),
            }
        )
    return drawn


def _grid(values: Tensor) -> list[list[float | None]]:
    return [[_short(value) for value in row] for row in values.reshape(GRID, GRID)]


def _short(value: Tensor) -> float | None:
    """Return a figure for the log, None for what is no number: JSON has none."""
    return float(f"{float(value):.4g}") if torch.isfinite(value) else None
