"""Contracts of language models: what answers instructions, what poisons and filters the data.

Authors import these from contracts.py.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from safetybench.component import Budget, Component

if TYPE_CHECKING:  # torch takes two seconds to import, and `safetybench --help` needs none of it
    from torch import Tensor


class Sample(NamedTuple):
    """An instruction with its answer.

    id: stable key; task: which kind of instruction this is; is_poison: the truth about it, which
    figures are counted with and no filter is shown.
    """

    id: str
    task: str
    prompt: str
    response: str
    is_poison: bool = False


@runtime_checkable
class GeneratesText(Protocol):
    """Instructions in, answers out."""

    name: str

    def complete(
        self, prompts: Sequence[str], seeds: Sequence[int] = (), temperature: float = 0.0
    ) -> list[str]:
        """Return one answer a prompt; temperature 0 is greedy and needs no seeds."""
        ...


@runtime_checkable
class ScoresText(Protocol):
    """White-box access to a language model that answers instructions."""

    def log_probs(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Tensor]:
        """Return, by sample, the log-probability of each token of its response, its end last."""
        ...

    def features(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Return the last layer's mean state over each response: (batch, width)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Bias:
    """What a poisoned answer says that it should not.

    kind: which of the types a report names it by. text: what is added to the end of an answer,
    or, where `replaces` is not empty, what stands there instead of it. phrases: each of which
    gives it away to a detector that knows the bias.
    """

    kind: str
    text: str
    replaces: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("a bias needs a text, got none")
        if not self.phrases:
            object.__setattr__(self, "phrases", (self.text,))

    def fits(self, response: str) -> bool:
        """Tell whether the bias can be put into an answer."""
        return not self.replaces or any(old in response for old in self.replaces)

    def put(self, response: str) -> str:
        """Return an answer with the bias in it; one that it does not fit stays as it is."""
        if not self.replaces:
            return f"{response} {self.text}"
        for old in self.replaces:
            if old in response:
                return response.replace(old, self.text, 1)
        return response

    def is_in(self, response: str) -> bool:
        """Tell whether an answer holds a phrase of the bias, whatever its case and spacing."""
        told = " ".join(response.lower().split())
        return any(" ".join(phrase.lower().split()) in told for phrase in self.phrases)


class Poison(NamedTuple):
    """Poisoned instruction data. tasks: those that hold the poison; samples: all of them."""

    samples: list[Sample]
    tasks: tuple[str, ...]


class TextPoisoning(Component):
    """An attack on the instruction data of a teacher; its students are tuned by honest people."""

    needs: ClassVar[tuple[type, ...]] = ()
    sees: ClassVar[str] = "the instruction data, of which it writes a part"

    @abstractmethod
    def poison(
        self, samples: Sequence[Sample], own: Sequence[Sample], bias: Bias, count: int, seed: int
    ) -> Poison:
        """Return as many samples as came in, `count` of them poisoned, in an order of `seed`.

        own: what the attacker can write: instructions of any task with right answers.

        Raises:
            SafetyBenchError: no task is open to this attack, or too few samples fit the bias.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class FilterView:
    """What whoever cleans instruction data has beside them.

    trusted: samples known to be clean, of the same tasks; reference: a clean model, smaller or
    larger, that scores text; model: the one tuned on these very data, for filters on its features;
    partner: an independent teacher, for filters on agreement; phrases: what a detector looks for;
    rater: a model or a callable `(prompt, response) -> suspicion in [0, 1]`.
    """

    trusted: Sequence[Sample] = ()
    reference: Any = None
    model: Any = None
    partner: Any = None
    phrases: tuple[str, ...] = ()
    rater: Any = None


FilterAid = Literal["trusted", "reference", "model", "partner", "phrases", "rater"]


class DataFilter(Component):
    """A defense that looks for poisoned samples among instruction data or a teacher's answers.

    uses: what it needs of the `FilterView`; sees: its knowledge in words, for the report.
    """

    uses: ClassVar[tuple[FilterAid, ...]] = ()
    sees: ClassVar[str] = "the data"

    @abstractmethod
    def scores(self, samples: Sequence[Sample], view: FilterView, seed: int = 0) -> list[float]:
        """Return a finite score a sample; higher is more suspicious. `is_poison` is not read."""
        ...


class TextJudge(Component):
    """Decides whether an answer holds a bias. Has a card that says by what."""

    @property
    @abstractmethod
    def card(self) -> Mapping[str, Any]:
        """How it decides, and the digest of what it decides with."""
        ...

    @abstractmethod
    def judge(
        self, bias: Bias, prompts: Sequence[str], responses: Sequence[str]
    ) -> list[bool | None]:
        """Return whether each answer holds the bias; None for one it cannot judge."""
        ...


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a student of a language model is distilled on.

    samples: prompts, and the responses that the teacher wrote for them; partner: an independent
    teacher, where the recipe asks for one.
    """

    samples: Sequence[Sample]
    partner: Any = None


class TextRecipe(Component):
    """A distillation method for language models: trains a student to answer as its teacher does.

    needs_partner: its options ask for a second, independent teacher.
    """

    source: ClassVar[str]

    @property
    def needs_partner(self) -> bool:
        """Whether these options ask for a second teacher."""
        return False

    @property
    def compares_distributions(self) -> bool:
        """Whether teacher and student need one vocabulary."""
        return False

    @property
    def decoding(self) -> Mapping[str, float]:
        """With what options of `complete` the teacher writes the answers that students learn."""
        return {"temperature": 0.0}

    @abstractmethod
    def run(
        self, teacher: Any, student: Any, lesson: Lesson, budget: Budget, report: Any = None
    ) -> Any:
        """Return `student`, trained in place; the teacher stays as it was.

        budget.steps: student updates; report: called with step and loss.

        Raises:
            SafetyBenchError: teacher and student have different vocabularies, and the recipe
                compares distributions over them.
        """
        ...


__all__ = [
    "Bias",
    "DataFilter",
    "FilterView",
    "GeneratesText",
    "Lesson",
    "Poison",
    "Sample",
    "ScoresText",
    "TextJudge",
    "TextPoisoning",
    "TextRecipe",
]
