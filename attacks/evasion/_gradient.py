"""What attacks by gradients share: losses of logits, their gradients, who is fooled.

Every loss is (batch,) and the greater, the nearer an image is to being misread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from safetybench.contracts import Classifies, SafetyBenchError

_TINY = 1e-12  # what the authors of the DLR loss add to its denominator
# An answer's last bits change with the batch that an image is in: nearer to a tie is no success.
_ROUNDING = 1e-6

Loss = Callable[[Tensor, Tensor], Tensor]  # logits (batch, classes) and labels to (batch,)


class Slope(NamedTuple):
    """A loss at some images: gradient (batch, c, h, w), loss (batch,), logits (batch, classes)."""

    gradient: Tensor
    loss: Tensor
    logits: Tensor


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the largest logit of another class minus the label's; above 0 is misread."""
    own = logits.gather(1, labels[:, None])[:, 0]
    return logits.scatter(1, labels[:, None], -torch.inf).amax(1) - own


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the margin over the first logit's lead on the third (Croce & Hein 2020)."""
    top = logits.topk(3, dim=1).values
    return margins(logits, labels) / (top[:, 0] - top[:, 2] + _TINY)


def targeted_dlr(logits: Tensor, labels: Tensor, goals: Tensor) -> Tensor:
    """Return the lead of class `goals` on the label over that of the first on the next two."""
    top = logits.topk(4, dim=1).values
    return leads(logits, labels, goals) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


def leads(logits: Tensor, labels: Tensor, goals: Tensor) -> Tensor:
    """Return the logit of class `goals` minus the label's."""
    return (logits.gather(1, goals[:, None]) - logits.gather(1, labels[:, None]))[:, 0]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each image."""
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "dlr": dlr, "margin": margins}


def check_loss(loss: str, known: tuple[str, ...]) -> None:
    """Refuse a loss that an attack does not know."""
    if loss not in known:
        raise ValueError(f"loss must be one of {', '.join(known)}, got {loss!r}")


def check_temperature(temperature: float) -> None:
    """Refuse a temperature below 0 or infinite."""
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be positive, or 0 for each image's, got {temperature}")


def check_counts(**counts: int) -> None:
    """Refuse what must be done at least once and is not."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be 1 or more, got {count}")


def check_classes(loss: str, target: Classifies) -> None:
    """Refuse a DLR loss where its denominator is undefined."""
    least = {"dlr": 3, "dlr-targeted": 4}.get(loss, 2)
    if target.classes < least:
        raise SafetyBenchError(
            f"loss {loss} needs {least} classes or more, {target.name} has {target.classes}; "
            "use loss margin"
        )


def temperatures(logits: Tensor, temperature: float) -> Tensor:
    """Return what to divide logits by, (batch, 1): `temperature`, or with 0 what suits each image.

    That is the lead of the largest logit on the second, which becomes 1, so that no softmax is
    saturated; at least 1 % of their whole range, for a tie has no lead.
    """
    if temperature:
        return torch.full_like(logits[:, :1], temperature)
    sorted_logits = logits.detach().sort(1, descending=True).values
    lead = sorted_logits[:, :1] - sorted_logits[:, 1:2]
    spread = sorted_logits[:, :1] - sorted_logits[:, -1:]
    return torch.maximum(lead, 0.01 * spread).clamp_min(_TINY)


def fooled(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether each image is misread, by more than rounding could undo: (batch,) bool."""
    return margins(logits, labels) > _ROUNDING * logits.abs().amax(1)


def ranked_others(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return the `count` likeliest wrong classes, (batch, count), or all if there are fewer."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.topk(min(count, logits.shape[1] - 1), dim=1).indices


@torch.no_grad()
def answers(target: Classifies, images: Tensor) -> Tensor:
    """Return logits without a graph."""
    return target.logits(images).detach()


def slope(
    target: Classifies, images: Tensor, loss: Callable[[Tensor], Tensor], draws: int = 1
) -> Slope:
    """Return loss and gradient at images; of a randomised model their mean over `draws` answers.

    Raises:
        SafetyBenchError: no gradient reaches the images, or it is not finite.
    """
    found = [_one_slope(target, images, loss) for _ in range(draws)]
    if draws == 1:
        return found[0]
    return Slope(*(torch.stack(parts).mean(0) for parts in zip(*found, strict=True)))


def _one_slope(target: Classifies, images: Tensor, loss: Callable[[Tensor], Tensor]) -> Slope:
    with torch.enable_grad():
        free = images.detach().requires_grad_()
        logits = target.logits(free)
        if not logits.requires_grad:
            raise SafetyBenchError(
                f"the logits of {target.name} have no gradient; "
                "attack it by scores or decisions instead"
            )
        values = loss(logits)
        (gradient,) = torch.autograd.grad(values.sum(), free)
    if not torch.isfinite(gradient).all():
        raise SafetyBenchError(
            f"the gradient of {target.name} is no number on "
            f"{int((~torch.isfinite(gradient)).flatten(1).any(1).sum())} of {len(images)} images; "
            "attack it by scores or decisions instead"
        )
    return Slope(gradient, values.detach(), logits.detach())
