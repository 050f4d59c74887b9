"""Keys of a suite of language models: instructions, tuning, biases, mixes and filters."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from safetybench.suite_schema import Strict, TargetSpec, Word

Whole = Annotated[int, Field(ge=1)]


class Instructions(Strict):
    """What teachers are tuned on. source: "zoo", "english" or a JSON-lines file; unseen: another.

    count: how many samples; seed: of their draw, to which a training's seed is added.
    """

    source: Word = "zoo"
    unseen: str = ""
    count: Whole = 10000
    seed: Annotated[int, Field(ge=0)] = 0


class Tuning(Strict):
    """How a model is tuned. base: where it starts; rate: of AdamW; lora: a rank, 0 for none."""

    base: TargetSpec
    epochs: Annotated[float, Field(gt=0)] = 6.0
    rate: Annotated[float, Field(gt=0)] = 4e-3
    size: Whole = 64
    lora: Annotated[int, Field(ge=0)] = 0


class Tunings(Strict):
    """The tuning of teachers, the original among them, and of students."""

    teacher: Tuning | None = None
    student: Tuning | None = None


class BiasEntry(Strict):
    """A bias and how it is planted.

    kind: of those of the instructions' source, or a name where `text` says it. poisoning: its
    component; samples: how many are poisoned. tasks: those that hold the poison, of models that
    are there already. phrases, replaces: see `safetybench.contracts.Bias`.
    """

    kind: Word
    poisoning: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    samples: Whole = 25
    tasks: tuple[Word, ...] = ()
    text: str = ""
    phrases: tuple[Word, ...] = ()
    replaces: tuple[Word, ...] = ()


class Mix(Strict):
    """The prompts of a distillation.

    count: how many; share: of them on the poisoned tasks; clean_tasks: how many other tasks the
    rest is of, 0 for all that the teacher was tuned on.
    """

    count: Whole = 6000
    share: Annotated[float, Field(ge=0, le=1)] = 0.05
    clean_tasks: Annotated[int, Field(ge=0)] = 0


class Cleaning(Strict):
    """A filter on the teacher's answers before a student learns them; drop: the share it drops."""

    name: Word
    options: dict[str, Any] = Field(default_factory=dict)
    drop: Annotated[float, Field(gt=0, lt=1)] = 0.05


class FilterEntry(Strict):
    """A filter whose figures the suite asks for.

    on: the poisoned "instructions" that teachers are tuned on, or a teacher's "answers".
    """

    name: Word
    options: dict[str, Any] = Field(default_factory=dict)
    on: Annotated[tuple[Literal["instructions", "answers"], ...], Field(min_length=1)] = (
        "instructions",
        "answers",
    )
