"""Contracts of classifiers: what answers with logits, what evades it, what trains it to withstand.

Images are (batch, channels, height, width) float32 in [0, 1], labels (batch,) int64, epsilon is in
the units of a pixel. Authors import these from contracts.py.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from safetybench.component import Budget, Component

if TYPE_CHECKING:  # torch takes two seconds to import, and `safetybench --help` needs none of it
    import torch
    from torch import Tensor, nn

Norm = Literal["linf", "l2"]
Access = Literal["gradients", "scores", "decisions", "surrogate", "nothing"]


@runtime_checkable
class Classifies(Protocol):
    """Images in, logits out; white-box, for gradients flow to the images.

    shape: (channels, height, width) of one image. What a network wants of its input, such as a
    mean subtracted, is inside.
    """

    name: str
    classes: int
    shape: tuple[int, int, int]

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        ...

    def logits(self, images: Tensor) -> Tensor:
        """Return logits (never probabilities): (batch, classes), differentiable in `images`."""
        ...


class Labelled(NamedTuple):
    """Images with their true classes: (count, c, h, w) in [0, 1] and (count,) int64."""

    images: Tensor
    labels: Tensor


class Evasion(Component):
    """An attack that changes an image so that a classifier no longer says its class.

    sees: what it knows of the target, which is the threat model. norms: those that it can be held
    to. is_control: random, knows nothing. is_natural: a shift that nobody chose against the model
    and no norm bounds. is_minimal: looks for the smallest change, however large that is; whether
    it is within epsilon is found afterwards. uses_surrogate: crafts on another model.
    """

    needs: ClassVar[tuple[type, ...]] = (Classifies,)
    sees: ClassVar[Access] = "gradients"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    is_control: ClassVar[bool] = False
    is_natural: ClassVar[bool] = False
    is_minimal: ClassVar[bool] = False
    uses_surrogate: ClassVar[bool] = False
    steps: ClassVar[int] = 0
    queries: ClassVar[int] = 0

    @abstractmethod
    def perturb(
        self,
        target: Classifies,
        images: Tensor,
        labels: Tensor,
        budget: Budget,
        surrogate: Classifies | None = None,
    ) -> Tensor:
        """Return changed images, same shape and dtype; those given stay as they were.

        labels: the true classes; every image given is classified rightly as it is. budget.epsilon
        and norm: the ball, 0 for an attack that is minimal and shall go as far as it must;
        budget.steps and queries: of each image, never both 0 where the class says one;
        budget.seed: of all randomness.
        `safetybench.vision.evading.evade` is what calls this, and holds it to ball and box.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ClassLesson:
    """What a classifier is trained on. data: its images; teacher: to be distilled, if any."""

    data: Labelled
    teacher: Classifies | None = None


class Hardening(Component):
    """A way to train a classifier: a defense, or the plain training that it is compared with.

    needs_teacher: distils one. is_family: trains one network that holds many, see
    `safetybench.vision.nets`.
    """

    needs_teacher: ClassVar[bool] = False
    is_family: ClassVar[bool] = False

    @abstractmethod
    def run(
        self,
        net: nn.Module,
        lesson: ClassLesson,
        budget: Budget,
        report: Callable[[int, float], None] | None = None,
    ) -> nn.Module:
        """Return `net` trained in place, in evaluation mode; a teacher stays as it was.

        net: images in [0, 1] to logits; budget.steps: updates; budget.epsilon and norm: the ball
        that an adversarial training attacks in; report: called with step and loss.
        """
        ...


class ClassJudge(Component):
    """Decides whether a classifier's answer is wrong, which is harm."""

    @property
    @abstractmethod
    def card(self) -> Mapping[str, Any]:
        """How it decides."""
        ...

    @abstractmethod
    def wrong(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return whether each row of logits is wrong of its label: (batch,) bool."""
        ...


__all__ = [
    "Access",
    "ClassJudge",
    "ClassLesson",
    "Classifies",
    "Evasion",
    "Hardening",
    "Labelled",
    "Norm",
]
