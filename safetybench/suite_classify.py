"""Keys of a suite of classifiers: data, threat, the targets that a run trains, masking checks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from safetybench.suite_schema import Portable, Strict, TargetSpec, Word

SOURCES = ("digits", "fashion-mnist", "world")  # of images, beside folders
Whole = Annotated[int, Field(ge=1)]
Zero = Annotated[int, Field(ge=0)]


class ClassData(Strict):
    """Images with classes. source: "digits", "fashion-mnist", "world", or a folder of images.

    train: how many are trained on, 0 for all; count: how many of the test images are attacked;
    seed: of both draws.
    """

    source: Word = "digits"
    train: Zero = 0
    count: Whole = 256
    seed: Zero = 0


class Threat(Strict):
    """The ball in which attacks must stay to count: epsilon of pixels in [0, 1], and its norm."""

    epsilon: Annotated[float, Field(gt=0)]
    norm: Literal["linf", "l2"] = "linf"

    @model_validator(mode="after")
    def _fits(self) -> Threat:
        if self.norm == "linf" and self.epsilon > 1:
            raise ValueError(f"epsilon is at most 1 in linf, got {self.epsilon:g}")
        return self


class Masking(Strict):
    """The checks for masked gradients. count: images that are probed, 0 for no checks.

    steps: of the probing PGD, queries: of the probing Square attack; landscapes: images whose loss
    is drawn around them.
    """

    count: Zero = 128
    steps: Whole = 40
    queries: Whole = 1000
    landscapes: Zero = 2


class Member(Strict):
    """One network out of a family that is trained at once; choice: see `vision.nets`."""

    name: Portable
    choice: dict[str, Any]


class Trained(Strict):
    """A classifier that the run trains, as `targets` may say it.

    trained: the way, a component of defenses/evasion; base: a network, e.g. `{net: cnn}`, or a
    classifier to start from; teacher: label of the target it distils, if it does.
    """

    trained: Word
    base: TargetSpec
    options: dict[str, Any] = Field(default_factory=dict)
    epochs: Annotated[float, Field(gt=0)] = 6.0
    seed: Zero = 1
    teacher: str = ""
