"""What the ways of training classifiers share: a divergence, a teacher's answers, checks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from safetybench.contracts import Classifies, ClassLesson, SafetyBenchError
from safetybench.vision.evading import predict


def kl(logits: Tensor, goal: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(softmax(goal / T) || softmax(logits / T)) of each row: (batch,).

    It is summed over the classes. Where released code averages over them too, its gradients are
    these divided by their number, which AdamW, the optimiser here, all but undoes.
    """
    told, asked = (part.div(temperature).log_softmax(1) for part in (goal, logits))
    return (told.exp() * (told - asked)).sum(1)


def ce(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each row: (batch,)."""
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def teacher_of(lesson: ClassLesson, who: object) -> Classifies:
    """Return the lesson's teacher.

    Raises:
        SafetyBenchError: there is none, or it takes images of another shape.
    """
    name, teacher = type(who).__name__, lesson.teacher
    if teacher is None:
        raise SafetyBenchError(f"{name} needs a teacher, got none; set teacher of the ClassLesson")
    shape = tuple(lesson.data.images.shape[1:])
    if tuple(teacher.shape) != shape:
        raise SafetyBenchError(
            f"{name} needs a teacher of images of shape {shape}, got {tuple(teacher.shape)}"
        )
    return teacher


def answers(lesson: ClassLesson, who: object, device: object) -> Tensor:
    """Return the teacher's logits on all of the lesson's images, which no step changes."""
    teacher = teacher_of(lesson, who)
    # Cloned outside of inference mode, as what a gradient is to pass by must be.
    return predict(teacher, lesson.data.images.to(teacher.device)).clone().to(str(device))


@torch.no_grad()
def logits_of(net: nn.Module, images: Tensor, size: int = 256) -> Tensor:
    """Return a network's logits of images, where it lives; it is left in evaluation mode."""
    device = device_of(net)
    net.eval()
    return torch.cat([net(part.to(device)) for part in images.split(size)])


def device_of(net: nn.Module) -> str:
    """Return where a network lives."""
    return str(next(net.parameters()).device)


def check_training(size: int, rate: float) -> None:
    """Refuse a batch without images and a rate that is not above 0."""
    if size < 1:
        raise ValueError(f"size must be 1 or more, got {size}")
    if not 0 < rate < float("inf"):
        raise ValueError(f"rate must be above 0, got {rate}")


def check_temperature(temperature: float) -> None:
    """Refuse what no softmax can be divided by."""
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be above 0, got {temperature}")


def check_share(name: str, value: float) -> None:
    """Refuse what is no share."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")
