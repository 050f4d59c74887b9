"""Run an attack on a classifier, held to its ball and to [0, 1], and say what it achieved.

What an author could get wrong is here: images already misread are not attacked, a change is cut to
the ball, the answer is judged on what is left of it, in evaluation mode, on logits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from safetybench.class_contracts import Classifies, Evasion
from safetybench.component import Budget, SafetyBenchError
from safetybench.vision.ball import clip, sizes

# Of what float32 rounds: a sum of squares over some 1e5 pixels, and a difference near 1.
_SLACK = 1e-5


class Evaded(NamedTuple):
    """What an attack did to a batch; every field has the batch as its first axis.

    images: changed, in the ball and in [0, 1]; logits: the target's on them; linf, l2: sizes of
    the changes. was_right: whether the image was classified rightly before, else it was not tried.
    is_wrong: whether it is misclassified now, by the true label.
    """

    images: Tensor
    logits: Tensor
    linf: Tensor
    l2: Tensor
    was_right: Tensor
    is_wrong: Tensor


def evade(
    attack: Evasion,
    target: Classifies,
    images: Tensor,
    labels: Tensor,
    budget: Budget,
    surrogate: Classifies | None = None,
) -> Evaded:
    """Attack images and judge what comes out.

    An attack that is minimal and has epsilon 0 may go as far as it must; with epsilon above 0 it
    succeeds where its change fits into the ball, and is undone elsewhere. Changes of an attack
    that is natural are cut to [0, 1] alone.

    Raises:
        SafetyBenchError: images, labels or logits are not what they must be; the attack returns
            another shape, or values that are no number.
    """
    check_images(images, target)
    check_labels(labels, images, target)
    if budget.norm not in attack.norms and not attack.is_natural:
        raise SafetyBenchError(
            f"{type(attack).__name__} is held to {' or '.join(attack.norms)}, got {budget.norm}"
        )
    if attack.uses_surrogate and surrogate is None:
        raise SafetyBenchError(f"{type(attack).__name__} needs a surrogate, got none")
    was_right = predict(target, images).argmax(1) == labels
    changed = images.clone()
    if was_right.any():
        tried, told = images[was_right].clone(), labels[was_right]
        found = attack.perturb(target, tried, told, budget, surrogate).detach()
        name = type(attack).__name__
        if found.shape != tried.shape:
            raise SafetyBenchError(
                f"{name} must return images of shape {tuple(tried.shape)}, got {tuple(found.shape)}"
            )
        if not torch.isfinite(found).all():
            raise SafetyBenchError(f"{name} returned values that are no numbers")
        changed[was_right] = _held(attack, found.to(images), images[was_right], budget)
    logits = predict(target, changed)
    change = changed - images
    return Evaded(
        images=changed,
        logits=logits,
        linf=sizes(change, "linf"),
        l2=sizes(change, "l2"),
        was_right=was_right,
        is_wrong=logits.argmax(1) != labels,
    )


def _held(attack: Evasion, found: Tensor, images: Tensor, budget: Budget) -> Tensor:
    if attack.is_natural:
        return found.clamp(0, 1)
    if not attack.is_minimal:
        return clip(found, images, budget.epsilon, budget.norm)
    found = found.clamp(0, 1)
    if not budget.epsilon:
        return found
    is_inside = sizes(found - images, budget.norm) <= budget.epsilon + _SLACK
    return torch.where(is_inside[:, None, None, None], found, images)


@torch.inference_mode()
def predict(target: Classifies, images: Tensor, size: int = 256) -> Tensor:
    """Return logits of images, batch by batch, without gradients.

    Raises:
        SafetyBenchError: the target answers with another shape, with probabilities, or with values
            that are no numbers.
    """
    found = torch.cat([target.logits(part) for part in images.split(size)])
    check_logits(found, len(images), target)
    return found.clone()


def check_images(images: Tensor, target: Classifies) -> None:
    """Refuse images that are not of the target's shape or leave [0, 1]."""
    if images.ndim != 4 or tuple(images.shape[1:]) != tuple(target.shape):
        raise SafetyBenchError(
            f"images must be (batch, {', '.join(map(str, target.shape))}), "
            f"got {tuple(images.shape)}"
        )
    if not images.is_floating_point():
        raise SafetyBenchError(f"images must be float in [0, 1], got {images.dtype}")
    if len(images) and not (images.min() >= 0 and images.max() <= 1):
        raise SafetyBenchError(
            f"images must lie in [0, 1], got {images.min():.4g} to {images.max():.4g}; "
            "what a network subtracts or scales belongs inside the target"
        )


def check_labels(labels: Tensor, images: Tensor, target: Classifies) -> None:
    """Refuse labels that the target has no class for."""
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise SafetyBenchError(
            f"labels must be ({len(images)},) int64, got {tuple(labels.shape)} {labels.dtype}"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < target.classes):
        raise SafetyBenchError(
            f"labels must be below {target.classes}, the classes of {target.name}, "
            f"got {labels.min()} to {labels.max()}"
        )


def check_logits(logits: Tensor, count: int, target: Classifies) -> None:
    """Refuse what is no batch of finite logits; probabilities would blunt every attack."""
    if tuple(logits.shape) != (count, target.classes):
        raise SafetyBenchError(
            f"{target.name} must answer ({count}, {target.classes}) logits, "
            f"got {tuple(logits.shape)}"
        )
    if not torch.isfinite(logits).all():
        raise SafetyBenchError(f"{target.name} answers with values that are no numbers")
    if count > 1 and is_probabilities(logits):
        raise SafetyBenchError(
            f"{target.name} answers with probabilities, and attacks need logits; "
            "leave the softmax out of the network"
        )


def is_probabilities(logits: Tensor) -> bool:
    """Tell rows that are all in [0, 1] and sum to 1, as a softmax leaves them."""
    inside = bool((logits >= 0).all() and (logits <= 1).all())
    return inside and bool(((logits.double().sum(1) - 1).abs() < 1e-4).all())
