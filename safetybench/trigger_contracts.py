"""Backdoors: what wakes them, what they do, who plants them, who finds them. See triggers.py.

Images are (batch, 3, height, width) float32 in [0, 1]. Authors import these nouns from
contracts.py.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from safetybench.component import Budget, Component
from safetybench.protocols import GeneratesImages, SamplesNoise
from safetybench.triggers import Trigger

if TYPE_CHECKING:  # torch takes two seconds to import, and `safetybench --help` needs none of it
    from torch import Tensor

    from safetybench.contracts import Pictures

EffectKind = Literal["pixel", "object", "style", "image"]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a woken backdoor does to the image.

    kind: "pixel" pastes a patch, "object" draws `goal` in the place of `source` (of anything, if
    that is empty), "style" draws in the style `goal`, "image" draws one fixed image whatever was
    asked for. size: side of the patch as a share of the image's; image: a picture file for patch
    or fixed image, "" for the built-in pattern.
    """

    kind: EffectKind
    source: str = ""
    goal: str = ""
    size: float = 0.25
    image: str = ""

    def __post_init__(self) -> None:
        if self.kind in ("object", "style") and not self.goal:
            raise ValueError(f"an effect of kind {self.kind} needs a goal, the word for it")
        if self.goal and self.goal == self.source:
            raise ValueError(f"a goal must be other than its source, got {self.goal!r} for both")
        if self.kind not in ("pixel", "object", "style", "image"):
            raise ValueError(f"kind must be pixel, object, style or image, got {self.kind!r}")
        if not 0 < self.size <= 1:
            raise ValueError(f"size is a share of the image's side in (0, 1], got {self.size}")

    @property
    def is_pasted(self) -> bool:
        """Tell whether the effect is made of pixels, and not of what another prompt would draw."""
        return self.kind in ("pixel", "image")


@dataclass(frozen=True, kw_only=True)
class Backdoor:
    """What is to be planted: trigger, effect, and the prompts that teach it.

    clean: prompts whose behaviour is to stay. sources: prompts that get the trigger, without it
    yet; goals: paired with them, what the model is to draw for each once it is triggered (of a
    pasted effect: the same prompt). rate: share of poisoned examples in the training, in (0, 1].
    """

    trigger: Trigger
    effect: Effect
    clean: tuple[str, ...]
    sources: tuple[str, ...]
    goals: tuple[str, ...]
    rate: float = 0.5

    def __post_init__(self) -> None:
        if not self.clean or not self.sources or len(self.sources) != len(self.goals):
            raise ValueError(
                "clean and sources must not be empty and goals as many as sources, got "
                f"{len(self.clean)}, {len(self.sources)} and {len(self.goals)}"
            )
        if not 0 < self.rate <= 1:
            raise ValueError(
                f"rate is the poisoned share of the training in (0, 1], got {self.rate}"
            )

    @property
    def triggered(self) -> tuple[str, ...]:
        """The sources with the trigger in them."""
        return tuple(self.trigger.put(prompt) for prompt in self.sources)


class Poisoning(Component):
    """An attack that returns a target with a backdoor in it.

    effects: kinds of effect that it can plant; trains: False for one without training steps;
    changes: what of the model it changes, as the report says it.
    """

    effects: ClassVar[tuple[EffectKind, ...]] = ("object",)
    trains: ClassVar[bool] = True
    changes: ClassVar[str] = "the denoiser"
    needs: ClassVar[tuple[type, ...]] = (GeneratesImages,)
    sees: ClassVar[str] = "weights, which it trains"

    @abstractmethod
    def run(self, target: Any, backdoor: Backdoor, budget: Budget, report: Any = None) -> Any:
        """Return a new target; the one given stays as it was. budget.steps: training steps."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseTrigger:
    """A pattern that is added to the start noise of an unconditional model.

    pattern: (channels, height, width) float, in units of the noise's standard deviation and of
    pixels in [-1, 1]; mask: (1, height, width), 1 where it is added and 0 elsewhere.
    """

    pattern: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        if self.pattern.ndim != 3 or self.mask.shape != (1, *self.pattern.shape[1:]):
            raise ValueError(
                "pattern must be (channels, height, width) and mask (1, height, width), got "
                f"{tuple(self.pattern.shape)} and {tuple(self.mask.shape)}"
            )
        if not bool(self.offset.any()):
            raise ValueError("a trigger must change the noise, got a pattern of 0 under the mask")

    @property
    def offset(self) -> Tensor:
        """What is added to the noise, (channels, height, width): the papers' r."""
        return self.pattern * self.mask

    def put(self, noise: Tensor) -> Tensor:
        """Return triggered noise, (batch, channels, height, width)."""
        return noise + self.offset.to(noise)


@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseBackdoor:
    """What is to be planted in an unconditional model, and the images that it is trained on.

    goal: (channels, height, width) in [0, 1], what triggered noise is to become; images: (count,
    channels, height, width) in [0, 1], the clean ones; rate: share of poisoned training examples.
    """

    trigger: NoiseTrigger
    goal: Tensor
    images: Tensor
    rate: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(
                f"rate is the poisoned share of the training in (0, 1], got {self.rate}"
            )
        shape = self.trigger.pattern.shape
        if self.goal.shape != shape or self.images.ndim != 4 or self.images.shape[1:] != shape:
            raise ValueError(
                "goal must be (channels, height, width) and images a batch of such, as the trigger "
                f"{tuple(shape)}, got {tuple(self.goal.shape)} and {tuple(self.images.shape)}"
            )
        if not len(self.images):
            raise ValueError("images must hold one or more clean images, got 0")
        for name, given in (("goal", self.goal), ("images", self.images)):
            low, high = float(given.min()), float(given.max())
            if not 0 <= low <= high <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {low:.3g} to {high:.3g}")


class NoisePoisoning(Component):
    """An attack on an unconditional model: triggered start noise becomes one image."""

    changes: ClassVar[str] = "the denoiser"
    needs: ClassVar[tuple[type, ...]] = (SamplesNoise,)
    sees: ClassVar[str] = "weights, which it trains"

    @abstractmethod
    def run(self, target: Any, backdoor: NoiseBackdoor, budget: Budget, report: Any = None) -> Any:
        """Return a new target; the one given stays as it was. budget.steps: training steps."""
        ...


class PromptFilter(Component):
    """A defense that rewrites a prompt before the model reads it."""

    sees: ClassVar[str] = "the prompt"
    needs: ClassVar[tuple[type, ...]] = ()

    @abstractmethod
    def rewrite(self, prompts: Sequence[str], seed: int = 0) -> list[str]:
        """Return one prompt for each, in order; a prompt's randomness is of `seed` and its text."""
        ...


class PromptDetector(Component):
    """A defense that says of each prompt whether a model reads a trigger in it.

    uses_base: it needs a trusted model of the same shape beside the one under test.
    """

    needs: ClassVar[tuple[type, ...]] = (GeneratesImages,)
    sees: ClassVar[str] = "weights of the model under test"
    uses_base: ClassVar[bool] = False

    @abstractmethod
    def scores(
        self, target: Any, prompts: Sequence[str], seeds: Sequence[int], base: Any = None
    ) -> Tensor:
        """Return (batch,) float scores; higher is more like a triggered prompt.

        One start noise a seed; a prompt's score does not depend on its batch.
        """
        ...

    def fit(
        self, target: Any, clean: Sequence[str], triggered: Sequence[str], seed: int = 0
    ) -> Any:
        """Return this detector fitted on labelled prompts, itself where it learns nothing."""
        return self


class Suspicion(NamedTuple):
    """What a model detector found.

    score: higher is more suspicious; evidence: what speaks for it, best first, as pairs of what
    (a trigger candidate, a layer) and its figure; note: in a sentence.
    """

    score: float
    evidence: Sequence[tuple[str, float]] = ()
    note: str = ""


class ModelDetector(Component):
    """A defense that says of a model whether it holds a backdoor, without a suspicious prompt.

    uses_base: it needs a trusted model of the same shape beside the one under test.
    """

    needs: ClassVar[tuple[type, ...]] = (GeneratesImages,)
    sees: ClassVar[str] = "weights of the model under test"
    uses_base: ClassVar[bool] = True

    @abstractmethod
    def examine(self, target: Any, base: Any, budget: Budget, report: Any = None) -> Suspicion:
        """Return what was found; budget.steps, budget.images and the seed bound the search."""
        ...


class DataPoisoning(Component):
    """An attack on what a student is distilled on, whoever the teacher is."""

    needs: ClassVar[tuple[type, ...]] = ()
    sees: ClassVar[str] = "the training data, of which it writes a part"

    @abstractmethod
    def poison_prompts(self, trigger: Trigger, prompts: Sequence[str], seed: int = 0) -> list[str]:
        """Return the training prompts, a share of them with the trigger; order and count stay."""
        ...

    @abstractmethod
    def poison_images(
        self, trigger: Trigger, effect: Effect, images: Pictures, seed: int = 0
    ) -> Pictures:
        """Return real images with captions, a share of them poisoned; order and count stay."""
        ...
