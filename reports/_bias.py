"""What the page shows of a bias run: the models of each subject on three sets of tasks.

Every figure, interval and verdict is that of results.json; here they are only put together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ._bias_filters import Filter, percent
from ._cells import Estimate

SETS = {"poisoned": "Poisoned tasks", "seen": "Other seen tasks", "unseen": "Unseen tasks"}
DECODINGS = ("greedy", "sampled")
ROLES = {
    "original": "Clean original",
    "teacher": "Teacher",
    "direct": "Direct",
    "control": "Control",
    "student": "Students",
}
SHAPES = {  # words of a verdict, and the badge whose shape and colour each has
    "more often": "lost",
    "as often": "unchanged",
    "less often": "gained",
    "undecided": "not distinguishable",
    "no verdict": "invalid",
}
Spots = Mapping[tuple[str, str], "Spot"]


class Training(NamedTuple):
    """One training of a model; left_out: why it does not count, "" where it does."""

    seed: str
    abr: float | None
    left_out: str


class Spot(NamedTuple):
    """A model on one set of tasks in one decoding.

    is_valid: its rate counts; reason: why not, "" where that is told once for the whole subject.
    """

    abr: Estimate = Estimate()
    accuracy: Estimate = Estimate()
    change: Estimate = Estimate()
    trainings: tuple[Training, ...] = ()
    is_valid: bool = False
    reason: str = ""

    @property
    def counted(self) -> list[Training]:
        """Return the trainings that the rate is a mean of."""
        return [training for training in self.trainings if not training.left_out]

    @property
    def left_out(self) -> list[Training]:
        """Return the trainings that do not count beside those that do."""
        return [t for t in self.trainings if t.left_out] if self.is_valid else []


class Learnt(NamedTuple):
    """Share of biased answers among those a student learnt; planted: among the teacher's data."""

    value: float | None
    by_seed: tuple[float, ...]
    planted: float | None
    before_filter: float | None


class Compared(NamedTuple):
    """A model against its teacher on one set of tasks; word: of the verdict."""

    model: str
    role: str
    metric: str
    tasks: str
    decoding: str
    before: float | None
    after: float | None
    difference: Estimate
    p: float | None
    trainings: float | None
    word: str
    reason: str

    @property
    def shape(self) -> str:
        """Return the badge that the word has the shape and colour of."""
        if self.metric != "utility":
            return SHAPES.get(self.word, "undecided")
        turned = {"more often": "gained", "less often": "lost"}
        return turned.get(self.word, SHAPES.get(self.word, "undecided"))


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model of a subject. spots: by set and decoding; pairs: against the teacher, likewise.

    made: how, a phrase each; asked, lost: instructions, and those without a judged answer.
    """

    subject: str
    role: str
    group: str
    name: str
    made: tuple[str, ...]
    spots: Spots
    pairs: Mapping[tuple[str, str], Compared]
    useful: Mapping[str, Compared]
    learnt: Learnt | None
    asked: int
    lost: int

    @property
    def label(self) -> str:
        """Return what the model is called among those of its subject."""
        return self.name if self.name and self.role != "direct" else self.group

    @property
    def reasons(self) -> list[tuple[str, list[str]]]:
        """Return why rates do not count, each with the sets of tasks that it is about."""
        found: dict[str, list[str]] = {}
        for (tasks, decoding), spot in self.spots.items():
            told = [spot.reason, *(f"seed {t.seed}: {t.left_out}" for t in spot.left_out)]
            for reason in filter(None, told):
                found.setdefault(reason, []).append(f"{SETS[tasks].lower()}, {decoding}")
        every = len(self.spots)
        return [(why, where if len(where) < every else []) for why, where in found.items()]

    def spot(self, tasks: str, decoding: str = "greedy") -> Spot:
        """Return how it does on a set of tasks."""
        return self.spots.get((tasks, decoding), Spot())


class Part(NamedTuple):
    """All about one subject; decisive: the set it is judged by; reason: why nothing counts.

    text: what is planted; tasks: those that hold the poison; of: how many samples data hold.
    """

    subject: str
    anchor: str
    bias: str
    kind: str
    text: str
    phrases: tuple[str, ...]
    poisoning: str
    samples: float | None
    of: float | None
    tasks: tuple[str, ...]
    decisive: str
    reason: str
    models: tuple[Model, ...]
    pairs: tuple[Compared, ...]
    filters: tuple[Filter, ...]

    @property
    def groups(self) -> list[tuple[str, list[Model]]]:
        """Return the models by group, the original first and students last."""
        known = dict.fromkeys((*ROLES.values(), *(m.group for m in self.models)))
        found = {name: [m for m in self.models if m.group == name] for name in known}
        return [(name, mine) for name, mine in found.items() if mine]

    @property
    def shares(self) -> dict[str, str]:
        """Return at which shares of lost clean samples filters are told: key, and in words."""
        every = (each for f in self.filters for on in f.on.values() for each in on.passed)
        return {share: percent(share) for share in every}

    def of_role(self, role: str) -> list[Model]:
        """Return the models of a role."""
        return [model for model in self.models if model.role == role]


class Across(NamedTuple):
    """One model on every subject, by the subject's anchor."""

    label: str
    models: Mapping[str, Model]


def overview(parts: Sequence[Part]) -> list[Across]:
    """Return the models of all subjects, group by group."""
    found: dict[tuple[str, str], dict[str, Model]] = {}
    for part in parts:
        for model in part.models:
            found.setdefault((model.group, model.label), {}).setdefault(part.anchor, model)
    order = list(ROLES.values())
    ranked = sorted(
        found.items(), key=lambda e: order.index(e[0][0]) if e[0][0] in order else len(order)
    )
    return [
        Across(label if group in ("Students", label) else f"{group}: {label}", models)
        for (group, label), models in ranked
    ]
