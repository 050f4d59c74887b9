"""The nouns of the suite: what a target can do, what a component gets, what it returns.

A component author reads this file and the author page in CONTRIBUTING.md, and nothing else.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from safetybench.class_contracts import (
    Classifies,
    ClassJudge,
    ClassLesson,
    Evasion,
    Hardening,
    Labelled,
)
from safetybench.component import (
    Budget,
    BudgetSpent,
    Component,
    SafetyBenchError,
    TargetFailed,
    Unavailable,
)
from safetybench.image_contracts import (
    Album,
    ImageEdit,
    ImageProtection,
    Mimicry,
    Purifier,
)
from safetybench.protocols import (
    Denoises,
    DrawsStates,
    EditsImages,
    EncodesImages,
    EncodesText,
    GeneratesImages,
    Inpaints,
    SamplesNoise,
    TextToImageTarget,
    Traits,
)
from safetybench.text_contracts import (
    Bias,
    DataFilter,
    FilterView,
    GeneratesText,
    Lesson,
    Poison,
    Sample,
    ScoresText,
    TextJudge,
    TextPoisoning,
    TextRecipe,
)
from safetybench.trigger_contracts import (
    Backdoor,
    DataPoisoning,
    Effect,
    ModelDetector,
    NoiseBackdoor,
    NoisePoisoning,
    NoiseTrigger,
    Poisoning,
    PromptDetector,
    PromptFilter,
    Suspicion,
)
from safetybench.triggers import Trigger

if TYPE_CHECKING:  # torch takes two seconds to import, and `safetybench --help` needs none of it
    from torch import Tensor

# What a target can do stands in protocols.py, what is done to images in image_contracts.py, what
# is planted in models in trigger_contracts.py, what is of language models in text_contracts.py, of
# classifiers in class_contracts.py; authors import all nouns from here.
__all__ = [
    "Aids",
    "Album",
    "AttackAid",
    "Backdoor",
    "Bias",
    "Budget",
    "BudgetSpent",
    "Candidate",
    "Cell",
    "ClassJudge",
    "ClassLesson",
    "Classifies",
    "Component",
    "DataFilter",
    "DataPoisoning",
    "Denoises",
    "DrawsStates",
    "EditsImages",
    "Effect",
    "EncodesImages",
    "EncodesText",
    "Erasure",
    "Evasion",
    "FilterView",
    "GeneratesImages",
    "GeneratesText",
    "Hardening",
    "ImageEdit",
    "ImageProtection",
    "Inpaints",
    "Item",
    "ItemStatus",
    "Judge",
    "Labelled",
    "Lesson",
    "Means",
    "Mimicry",
    "ModelDetector",
    "NoiseBackdoor",
    "NoisePoisoning",
    "NoiseTrigger",
    "Pictures",
    "Poison",
    "Poisoning",
    "Prompt",
    "PromptAttack",
    "PromptDetector",
    "PromptFilter",
    "Purifier",
    "Recipe",
    "Reply",
    "Reporter",
    "SafetyBenchError",
    "Sample",
    "SamplesNoise",
    "Scenario",
    "ScoresText",
    "Suspicion",
    "TargetFailed",
    "TextJudge",
    "TextPoisoning",
    "TextRecipe",
    "TextToImageTarget",
    "Traits",
    "Trigger",
    "Unavailable",
    "Unlearning",
    "Verdicts",
    "WeightAttack",
    "WeightStage",
]


class Prompt(NamedTuple):
    """One item of a text-to-image scenario.

    id: stable key, never a position; concept: the word whose presence is judged;
    seed: of the start noise; guidance: None for the target's own;
    clean: the prompt without its concept, for in-prompt checks.
    """

    id: str
    text: str
    concept: str
    seed: int
    guidance: float | None = None
    clean: str = ""


class Candidate(NamedTuple):
    """One image an attack wants generated and judged: for which item, what text, which seed.

    steps: gradient steps spent on this item since its last candidate; trace: figures for the
    gradient-masking checks ("loss" of the attack's objective, "gradient" norm of its variable).
    states: text states, (length, width), that the image is drawn from where no text says them;
    the target must be a `DrawsStates`, and `text` is then what the log shows.
    """

    item: str
    text: str
    seed: int
    steps: int = 0
    trace: Mapping[str, float] = {}
    states: Tensor | None = None


class Reply(NamedTuple):
    """What an attack hears of its last candidates.

    won: items that succeeded or spent their images; scores: the judge's probability by item, for
    an attack whose `uses` has "scores" and empty for any other.
    """

    won: frozenset[str] = frozenset()
    scores: Mapping[str, float] = {}


class Verdicts(NamedTuple):
    """A judge's answer on a batch of images; every field is (batch,).

    probability: that the concept is shown, float in [0, 1]; shown: the decision, bool;
    abstained: the judge does not recognise the image as of its world, bool (never shown).
    """

    probability: Tensor
    shown: Tensor
    abstained: Tensor


class Pictures(NamedTuple):
    """Real images with their captions, for methods that learn from data.

    images: (count, 3, height, width) float in [0, 1]; captions: one each.
    """

    images: Tensor
    captions: Sequence[str]


AttackAid = Literal[
    "references",
    "original",
    "surrogate",
    "judge",
    "pictures",
    "pairs",
    "synonyms",
    "scores",
    "trigger",
]


@dataclass(frozen=True, kw_only=True)
class Aids:
    """What an attacker has beside the target: only what the attack's `uses` asks for is there.

    references: (batch, 3, height, width) in [0, 1], the original model's image of each prompt at
    the prompt's own seed. original: the undefended model. surrogate: a model to make texts on
    that then meet the target: a student's teacher, or a teacher's original.
    judge: with gradients (`Judge.evidence`), which makes an attack an oracle and no threat.
    pictures: of the concept, drawn by the original for prompts that are not evaluated (of a user's
    table: at seeds that are not). pairs: prompts with the concept and the same without it, alike.
    synonyms: other words for the concept. concept: the word whose presence is judged. trigger:
    of the backdoor that the prompts wake; its references are images of the backdoored model.
    """

    concept: str
    references: Tensor | None = None
    original: Any = None
    surrogate: Any = None
    judge: Any = None
    pictures: Pictures | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    synonyms: tuple[str, ...] = ()
    trigger: Trigger | None = None


class PromptAttack(Component):
    """An attack that looks for a text (or a seed) which makes a target show a concept.

    needs: protocols the target must have, which is the threat model in types; uses: what it has
    beside the target; sees: both in words for the report; is_control: True for the random
    controls; is_oracle: True for one that reads the judge's gradients, which no attacker has.
    """

    needs: ClassVar[tuple[type, ...]] = (GeneratesImages,)
    uses: ClassVar[tuple[AttackAid, ...]] = ()
    sees: ClassVar[str] = "outputs"
    is_control: ClassVar[bool] = False
    is_oracle: ClassVar[bool] = False

    @property
    def aids(self) -> tuple[AttackAid, ...]:
        """What this attack with its options uses; `uses` unless an option changes it."""
        return self.uses

    def unfit(self, target: Any, prompts: Sequence[Prompt]) -> Mapping[str, str]:
        """Return by item id why this attack cannot be made on a prompt, e.g. that it is too long.

        `search` yields no candidate for these; the harness records them as failed, not as safe.
        """
        return {}

    def control_options(self) -> Mapping[str, Any]:
        """Return the options with which `attacks/prompts/random_prefix` spends as much."""
        return {}

    @abstractmethod
    def search(
        self,
        target: Any,
        prompts: Sequence[Prompt],
        aids: Aids,
        budget: Budget,
    ) -> Generator[list[Candidate], Reply | None, None]:
        """Yield rounds of candidates, one for each item still open; receive a reply to each.

        The harness generates and judges every candidate, counts images, stops an item at its
        first success and the search when the image budget is spent; it tries the unmodified
        prompt itself before the first round. An item's randomness must come from
        `budget.seed` and the item alone, never from the batch it happens to be in.
        """
        ...


class WeightStage(NamedTuple):
    """A target after so many training steps of an attack on its weights."""

    steps: int
    target: Any


class WeightAttack(Component):
    """An attack that trains an open model's weights until it shows what it forgot.

    needs, sees: as for `PromptAttack`. The control is the same training on pictures of other
    concepts.
    """

    needs: ClassVar[tuple[type, ...]] = (GeneratesImages,)
    sees: ClassVar[str] = "weights, which it trains"

    @abstractmethod
    def stages(
        self, target: Any, pictures: Pictures, budget: Budget
    ) -> Generator[WeightStage, None, None]:
        """Yield the target after 0, then ever more steps, the last after `budget.steps`.

        The target given stays as it was. The one yielded may be trained on once the next is
        asked for. pictures: what the attacker has of the concept.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """What to erase and what to put there instead.

    forget, anchor: prompts, paired by position: the anchor prompt is the forget prompt with the
    concept replaced; retain: prompts on other concepts, whose behaviour is to stay.
    bare: the concept alone in a few phrasings (synonyms), as ESD takes it.
    """

    forget: tuple[str, ...]
    anchor: tuple[str, ...]
    retain: tuple[str, ...]
    bare: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.forget or len(self.forget) != len(self.anchor):
            raise ValueError(
                "forget and anchor must be non-empty and equally long, got "
                f"{len(self.forget)} and {len(self.anchor)}"
            )


class Unlearning(Component):
    """A method that returns a target in which a concept is erased.

    trains: False for one that takes no training steps.
    """

    trains: ClassVar[bool] = True

    @abstractmethod
    def run(self, target: Any, erasure: Erasure, budget: Budget, report: Any = None) -> Any:
        """Return a new target; the one given stays as it was. budget.steps: training steps."""
        ...


@dataclass(frozen=True, kw_only=True)
class Means:
    """With what means a recipe trains; none of it changes what it trains for.

    checkpoint: file for exact resume, written every `save_every` steps; one that is there is
    continued, and at the end it is left to the caller, to be removed once the student is kept.
    lora: rank of a LoRA to train in the place of all weights, 0 for none. half: bf16 autocast.
    recompute: gradient checkpointing.
    """

    checkpoint: Path | None = None
    save_every: int = 50
    lora: int = 0
    half: bool = False
    recompute: bool = False


class Recipe(Component):
    """A distillation method: makes a few-step student of a text-to-image target.

    trains: False for one that takes no training steps.
    """

    trains: ClassVar[bool] = True

    @abstractmethod
    def run(
        self,
        target: Any,
        prompts: Sequence[str],
        budget: Budget,
        report: Any = None,
        *,
        images: Pictures | None = None,
        means: Means | None = None,
    ) -> Any:
        """Return the student as a new target; the teacher stays as it was.

        prompts: what the student is distilled on; budget.steps: student updates; images: real
        ones, for recipes whose `reads_images` is true; report: called with step and loss.
        """
        ...

    @property
    def reads_images(self) -> bool:
        """Tell whether this recipe, with its options, cannot do without real images."""
        return False


class Judge(Component):
    """Decides whether an image shows a concept. Has a card with measured error rates."""

    @property
    @abstractmethod
    def card(self) -> Mapping[str, Any]:
        """Measured sensitivity, specificity, threshold and the digest of the weights."""
        ...

    @abstractmethod
    def concepts(self) -> tuple[str, ...]:
        """Return the concepts this judge can see."""
        ...

    @abstractmethod
    def judge(self, images: Tensor, concept: str) -> Verdicts:
        """Judge images: (batch, 3, height, width) in [0, 1] for one concept."""
        ...

    def similarity(self, images: Tensor, prompt: str) -> Tensor | None:
        """Return how many of the prompt's other attributes each image shows, in [0, 1]."""
        return None

    def features(self, images: Tensor) -> Tensor | None:
        """Return features for distances between sets of images, (batch, width), if it has any."""
        return None

    def evidence(self, images: Tensor, concept: str) -> Tensor | None:
        """Return how likely it says yes, (batch,) log-probability, differentiable in the images.

        None for a judge without gradients. Where it may reject an image, that is part of it.
        """
        return None


class Reporter(Component):
    """Writes one file from a finished run directory."""

    filename: ClassVar[str]

    @abstractmethod
    def write(self, run: Path) -> Path:
        """Read manifest, plan, items and results of `run`; return the file written into it."""
        ...


class Scenario(Component):
    """One threat model made executable: which cells a suite makes, how a chunk of one runs.

    The harness calls `cells` when it plans, `run_chunk` for every chunk that is not in the log
    yet, and `summarise` on the whole log at the end (and again in `safetybench verify`).
    """

    @abstractmethod
    def cells(self, suite: Any) -> list[Cell]:
        """Expand a validated suite into cells, in the order in which they must run."""
        ...

    @abstractmethod
    def run_chunk(self, cell: Cell, chunk: int, items: Sequence[str], context: Any) -> list[Item]:
        """Run these items of a cell; context: see `safetybench.harness.context.Context`."""
        ...

    @abstractmethod
    def summarise(
        self, suite: Any, cells: Sequence[Cell], items: Sequence[Item]
    ) -> Mapping[str, Any]:
        """Return the cells, comparisons, pairs and checks of results.json from the log alone."""
        ...


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Target x attack x seed: what the plan lists, the log counts and the report shows.

    role: "original" (undefended), "teacher" (unlearned) or "student"; student: its name, where a
    teacher has several. kind: "clean" (no attack), "attack", "control" (random at equal images),
    "floor" (other concepts, judged for this one), "utility" (other concepts, judged for
    themselves), "implicit" (asks for the concept without its name), "relearn" or
    "relearn-control" (after training); of images "protect" (made on this target), "clean",
    "control" (noise alone) or "attack" (of protected images). attack: component name, "" for
    none. defense: what the images went through, {} for nothing.
    after: key-less labels of cells whose items this one reads (their log must be complete).
    """

    label: str
    subject: str
    concept: str
    role: str
    target: str
    kind: str
    student: str = ""
    attack: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    seed: int = 0
    defense: Mapping[str, Any] = field(default_factory=dict)
    items: tuple[str, ...] = ()
    chunk_size: int = 16
    after: tuple[str, ...] = ()


ItemStatus = Literal["ok", "unjudged", "failed", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One prompt through one cell, as the log keeps it.

    status: "ok" judged; "unjudged" when the judge recognised none of the images; "failed" with
    an error; "skipped" when the item does not count (the undefended model never showed the
    concept). Only "ok" items enter a rate. success: the concept was shown.
    score: highest probability seen, higher is more harm. images, steps: what was spent.
    """

    cell: str
    chunk: int
    item: str
    status: ItemStatus
    success: bool | None = None
    score: float | None = None
    images: int = 0
    steps: int = 0
    prompt: str = ""
    adversarial: str = ""
    seed: int = 0
    error: str = ""
    artifacts: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
