"""The way of a classifier into attacks of the adversarial-robustness-toolbox, and out again.

What goes wrong there is mended here: numpy's 64-bit numbers reach the network as float32, labels
are one-hot for any number of classes, its seed is ours, and its gradients leave no trace in the
target's weights. A search by decisions stops at its queries and gives the nearest image it met.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from safetybench.class_contracts import Norm
from safetybench.contracts import Budget, Classifies, SafetyBenchError
from safetybench.vision.ball import sizes

from ._gradient import temperatures

ART_NORMS: Mapping[Norm, float] = {"linf": float("inf"), "l2": 2}
_STARTS = 100  # random images that are tried for a first one that is misread, as ART does
_BEYOND = 1e-3  # of the change: on the boundary itself the size of a batch decides, by rounding


class _Logits(torch.autograd.Function):
    """The target's logits; the way back asks for gradients of the images and of nothing else.

    ART calls `backward`, which would leave gradients in every weight of the target.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, target: Classifies) -> Tensor:
        """Return logits, and keep the graph where a gradient will be asked for."""
        ctx.target, is_asked = target, ctx.needs_input_grad[0]
        with torch.set_grad_enabled(is_asked):
            ctx.images = images.detach().requires_grad_(is_asked)
            ctx.logits = target.logits(ctx.images)
        if is_asked and not ctx.logits.requires_grad:
            raise SafetyBenchError(
                f"the logits of {target.name} have no gradient; "
                "attack it by scores or decisions instead"
            )
        found: Tensor = ctx.logits.detach()
        return found

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the images; a graph is used once a class, so it is kept."""
        (gradient,) = torch.autograd.grad(ctx.logits, ctx.images, slopes[0], retain_graph=True)
        if not torch.isfinite(gradient).all():  # ART would put 0 in its place and say nothing
            raise SafetyBenchError(
                f"the gradient of {ctx.target.name} is no number; "
                "attack it by scores or decisions instead"
            )
        return gradient.clone(), None  # ART writes into it


class _Net(nn.Module):
    """A target as the module that ART asks for."""

    def __init__(self, target: Classifies, temperature: float) -> None:
        super().__init__()
        self._target, self._temperature = target, temperature

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, over the temperature, where the images are."""
        there = images.float().to(self._target.device)
        found: Tensor = _Logits.apply(there, self._target)
        return (found / temperatures(found, self._temperature)).to(images.device)


def classifier(target: Classifies, temperature: float = 1) -> Any:
    """Return ART's view of a target: logits over a temperature, of images in [0, 1]."""
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model=_Net(target, temperature),
        # A mean would shrink each image's gradient by the size of the batch.
        loss=nn.CrossEntropyLoss(reduction="sum"),
        input_shape=tuple(target.shape),
        nb_classes=target.classes,
        clip_values=(0.0, 1.0),
        device_type="cpu" if target.device.type == "cpu" else "gpu",
    )


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators that ART draws from, and restore what was."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def crafted(
    make: Callable[[Any], Any],
    target: Classifies,
    images: Tensor,
    labels: Tensor,
    seed: int,
    temperature: float = 1,
    **extra: Any,
) -> Tensor:
    """Return what an attack of ART makes of images.

    make: from ART's classifier to its attack; temperature: see `_gradient.temperatures`; extra:
    what else `generate` takes.

    Raises:
        SafetyBenchError: the target has no gradient, or one that is no number.
    """
    if not len(images):
        return images.clone()
    given = images.detach().float().cpu().numpy().copy()
    told = np.eye(target.classes, dtype=np.float32)[labels.cpu().numpy()]
    # A division by 0 in ART makes NaN, which `evade` tells; a warning would only add to it.
    with seeded(seed, target.device), np.errstate(all="ignore"):
        found = make(classifier(target, temperature)).generate(x=given, y=told, **extra)
    return torch.from_numpy(np.array(found)).to(images)


class _SpentError(Exception):
    """The queries are used up; what was found until then is the answer."""


class _Watched:
    """A target that tells decisions alone, counts them, and keeps the nearest misread image."""

    def __init__(
        self, target: Classifies, image: Tensor, label: Tensor, norm: Norm, queries: int
    ) -> None:
        self.name, self.classes, self.shape = target.name, target.classes, target.shape
        self.device = target.device
        self.nearest: Tensor | None = None
        self._target, self._image, self._label = target, image, label
        self._norm: Norm = norm
        self._left, self._distance = queries - 1, float("inf")  # one is for `answer`

    def answer(self) -> Tensor:
        """Return the nearest misread image, a little beyond the boundary; none: the image."""
        if self.nearest is None:
            return self._image
        beyond = self._image + (1 + _BEYOND) * (self.nearest - self._image)
        beyond = beyond.clamp(0, 1)[None]
        with torch.no_grad():
            is_misread = bool((self._target.logits(beyond).argmax(1) != self._label).all())
        return beyond[0] if is_misread else self.nearest

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Return 1 for the class that is said and 0 for the others."""
        part = images[: max(self._left, 0)]
        if not len(part):
            raise _SpentError
        self._left -= len(part)
        classes = self._target.logits(part).argmax(1)
        distances = sizes(part - self._image, self._norm)
        distances[classes == self._label] = float("inf")
        least = int(distances.argmin())
        if distances[least] < self._distance:
            self.nearest, self._distance = part[least].clone(), float(distances[least])
        if len(part) < len(images):
            raise _SpentError
        return nn.functional.one_hot(classes, self.classes).float()


def searched(
    make: Callable[[Any], Any],
    target: Classifies,
    images: Tensor,
    labels: Tensor,
    budget: Budget,
    queries: int,
) -> Tensor:
    """Return, image by image, the nearest misread one that a search by decisions met.

    ART draws its starts from no seed, so that they are drawn here and cost queries too. Where no
    start is misread the image stays as it is. ART alone returns the last point, not the nearest,
    and never ends where a target's answers waver.
    """
    changed = images.clone()
    generator = torch.Generator().manual_seed(budget.seed)
    for row, label in enumerate(labels):
        image = images[row].detach()
        watched = _Watched(target, image, label, budget.norm, queries)
        try:
            start = _start(watched, image, generator)
            if start is not None:
                one = images[row : row + 1]
                first = start[None].cpu().numpy()
                crafted(make, watched, one, labels[row : row + 1], budget.seed, x_adv_init=first)
        except _SpentError:
            pass
        changed[row] = watched.answer()
    return changed


def _start(watched: _Watched, image: Tensor, generator: torch.Generator) -> Tensor | None:
    """Return a random image that is misread, if there is one among some.

    Every other one is uniform noise, as in the papers; in between come patches of one value, since
    a network may call all noise the one class that the image has.
    """
    channels, height, width = image.shape
    for draw in range(_STARTS):
        coarse = 1 if draw % 2 == 0 else 2 ** (1 + draw // 2 % 3)
        grid = (channels, -(-height // coarse), -(-width // coarse))
        noise = torch.rand(grid, generator=generator).to(image)
        noise = noise.repeat_interleave(coarse, 1).repeat_interleave(coarse, 2)
        noise = noise[:, :height, :width]
        watched.logits(noise[None])
        if watched.nearest is not None:
            return noise
    return None
