"""What the page shows of an evasion run: what stays right of each model, and whether that holds.

Every figure, interval and verdict is that of results.json; here they are only put together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ._cells import Estimate

ROLES = {"original": "Undefended original", "teacher": "Teacher", "student": "Students"}
SHAPES = {  # words of a verdict, and the badge whose shape and colour each has
    "less often": "lost",
    "as often": "unchanged",
    "more often": "gained",
    "undecided": "not distinguishable",
    "no verdict": "invalid",
}
MASKS = {  # the same of what the signs of masked gradients say
    "masked": "failed",
    "attacks too weak": "warning",
    "not robust": "unchanged",
    "not masked": "passed",
    "not checked": "undecided",
    "no verdict": "invalid",
}
PROBES = {
    "fgsm": "One step (FGSM)",
    "fgsm-rescaled": "One step, logits rescaled",
    "pgd": "PGD",
    "pgd-double": "PGD, twice the steps, two starts",
    "pgd-margin": "PGD on the margin loss",
    "pgd-rescaled": "PGD, logits rescaled",
    "square": "Square, without gradients",
    "transfer": "PGD made on another model",
    "noise": "Random noise",
}
NOTHING_LEFT = 0.10  # of images in the worst case; below it a model withstands next to nothing


class Column(NamedTuple):
    """One attack, control or shift of a suite; size: of its ball; spend: steps and queries.

    is_own: it is held to another ball than the threat's, or to none.
    """

    key: str
    kind: str
    attack: str
    name: str
    size: str
    spend: str
    is_own: bool


class Hit(NamedTuple):
    """What one attack does to one model.

    left: stays right in the threat's ball; own: stays right at the attack's own size; linf, l2:
    mean size of the changes that misled; lost: images without an answer; reason: why it is void.
    """

    left: Estimate
    own: Estimate
    linf: float | None
    l2: float | None
    lost: float | None
    reason: str


class Training(NamedTuple):
    """One training of a model, and what stays right of it in the worst case."""

    seed: str
    left: float | None


class Sign(NamedTuple):
    """One sign of masked gradients over all trainings; message: of the first that failed."""

    code: str
    name: str
    effect: str
    message: str
    failed: int
    of: int

    @property
    def state(self) -> str:
        """Return the word of its badge."""
        return "passed" if not self.failed else "failed" if self.effect == "masked" else "warning"


class Point(NamedTuple):
    """What stays right under PGD at one radius."""

    radius: float
    estimate: Estimate


class Landscape(NamedTuple):
    """The loss on a plane around one image; None where it is no number."""

    item: str
    reach: float
    is_steepest: bool
    loss: tuple[tuple[float | None, ...], ...]
    margin: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """What the probes found of one model; word: of the verdict, and by seed where they differ.

    zero: share of images whose gradient is exactly 0; gap: median between the two largest logits;
    n: images of both. curve, landscapes: of the first training.
    """

    word: str
    by_seed: tuple[tuple[str, str], ...]
    signs: tuple[Sign, ...]
    probes: tuple[tuple[str, Estimate], ...]
    curve: tuple[Point, ...]
    zero: float | None
    gap: float | None
    largest: float | None
    n: float | None
    landscapes: tuple[Landscape, ...]

    @property
    def failed(self) -> list[Sign]:
        """Return the signs that show masked gradients."""
        return [sign for sign in self.signs if sign.state == "failed"]

    @property
    def is_masked(self) -> bool:
        """Tell whether what the model seems to withstand is not there."""
        return self.word == "masked"

    @property
    def is_checked(self) -> bool:
        """Tell whether anything was looked at."""
        return bool(self.signs or self.probes)


class Who(NamedTuple):
    """Images that each side withstands in the worst case, summed over trainings."""

    both: float
    teacher: float
    student: float
    neither: float


class Compared(NamedTuple):
    """A student against its teacher on the same images; word: of the verdict.

    before, after, difference: of images withstood, or of those right as they are: more is better.
    """

    model: str
    metric: str
    before: float | None
    after: float | None
    difference: Estimate
    p: float | None
    trainings: float | None
    word: str
    reason: str
    who: Who | None


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model of a subject. made: how, a phrase each; hits: by key of the column.

    won: attacks that first misled an image, in the suite's order, and how many; reason: why the
    worst case does not count, "" where it does.
    """

    subject: str
    role: str
    group: str
    name: str
    made: tuple[str, ...]
    clean: Estimate
    change: Estimate
    worst: Estimate
    trainings: tuple[Training, ...]
    noise: Estimate
    hits: Mapping[str, Hit]
    won: tuple[tuple[str, float], ...]
    gradients: Gradients
    pair: Compared | None
    useful: Compared | None
    reason: str

    @property
    def label(self) -> str:
        """Return what the model is called among those of its subject."""
        return self.name or ("Student" if self.role == "student" else self.group)

    @property
    def is_valid(self) -> bool:
        """Tell whether its worst case counts."""
        return not self.reason and self.worst.value is not None

    @property
    def word(self) -> str:
        """Return the word of its verdict against the teacher."""
        return self.pair.word if self.pair else "no verdict"


class Part(NamedTuple):
    """All about one subject; ball: the threat's size in words, epsilon and norm in numbers.

    reason: why nothing but the original counts, "" where it does.
    """

    subject: str
    anchor: str
    data: str
    images: float | None
    ball: str
    epsilon: float | None
    norm: str
    reason: str
    models: tuple[Model, ...]
    columns: tuple[Column, ...]

    @property
    def groups(self) -> list[tuple[str, list[Model]]]:
        """Return the models by group, the original first and students last."""
        known = dict.fromkeys((*ROLES.values(), *(m.group for m in self.models)))
        found = {name: [m for m in self.models if m.group == name] for name in known}
        return [(name, mine) for name, mine in found.items() if mine]

    @property
    def signs(self) -> list[tuple[str, str]]:
        """Return code and name of every sign that was looked at in any model."""
        found = {(sign.code, sign.name) for m in self.models for sign in m.gradients.signs}
        return sorted(found, key=lambda sign: (_rank(sign[0]), sign[1]))

    def of_role(self, role: str) -> list[Model]:
        """Return the models of a role."""
        return [model for model in self.models if model.role == role]

    def of_kind(self, *kinds: str) -> list[Column]:
        """Return the attacks of these kinds: "attack", "control", "shift"."""
        return [column for column in self.columns if column.kind in kinds]


def _rank(code: str) -> int:
    digits = "".join(char for char in code if char.isdecimal())
    return int(digits[:6] or 0)


class Across(NamedTuple):
    """One model on every subject, by the subject's anchor."""

    label: str
    models: Mapping[str, Model]


def overview(parts: Sequence[Part]) -> list[Across]:
    """Return the models of all subjects, group by group."""
    found: dict[tuple[str, str], dict[str, Model]] = {}
    for part in parts:
        for _, models in part.groups:
            for model in models:
                found.setdefault((model.group, model.label), {}).setdefault(part.anchor, model)
    order = [*ROLES.values(), *(group for group, _ in found if group not in ROLES.values())]
    ranked = sorted(found.items(), key=lambda entry: order.index(entry[0][0]))
    return [Across(label, models) for (_, label), models in ranked]
