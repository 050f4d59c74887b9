"""The models of an evasion run from its log: what misleads each, in which ball, and how surely."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from safetybench.harness.plan import PARTNER
from safetybench.suite_classify import Threat

from ._evasion_masking import Probes, Sign, signs, verdict
from ._evasion_task import radii
from ._log import CellLog

SLACK = 1e-5  # of what float32 rounds in a distance
_CHECKED = {"control", "shift"}


@dataclass(frozen=True)
class Training:
    """All cells of one model of one training seed."""

    logs: tuple[CellLog, ...]
    threat: Threat

    def of_kind(self, *kinds: str) -> list[CellLog]:
        """Return the cells of these kinds."""
        return [log for log in self.logs if log.cell.kind in kinds]

    @property
    def claim(self) -> dict[str, Any] | None:
        """What a model card claims of the model."""
        found = [log.cell.options.get("claim") for log in self.of_kind("clean")]
        return dict(found[0]) if found and found[0] else None

    @cached_property
    def clean(self) -> dict[str, bool]:
        """Whether each image is misclassified as it is."""
        found = self.of_kind("clean")
        return found[0].outcomes if found else {}

    def inside(self, log: CellLog) -> dict[str, bool]:
        """Whether an attack misled the model in the threat's ball, by image that was tried.

        An image that is misclassified as it is counts as misled.
        """
        found = {}
        for item in log.items:
            if item.status != "ok":
                continue
            size = item.extra[self.threat.norm]
            is_small = size <= self.threat.epsilon + SLACK
            found[item.item] = bool(item.success) and (is_small or not item.extra["was_right"])
        return found

    @cached_property
    def attacked(self) -> dict[str, bool]:
        """Whether any attack of the suite misled the model in the ball; of images all answered."""
        return self._misled([self.inside(log) for log in self.of_kind("attack")])

    @cached_property
    def worst(self) -> dict[str, bool]:
        """The same, where the probes of masked gradients have misled it too."""
        return self.over(self.faced)

    @cached_property
    def faced(self) -> frozenset[str]:
        """Which attacks and probes the model went through, as all models of a suite name them."""
        return frozenset(map(_attack_key, self.of_kind("attack", "probe")))

    def over(self, keys: Collection[str]) -> dict[str, bool]:
        """Whether any of these attacks misled the model in the ball.

        Of images that every attack answered; probes look at some images only.
        """
        found = self._misled(
            [self.inside(log) for log in self.of_kind("attack") if _attack_key(log) in keys]
        )
        for log in self.of_kind("probe"):
            if _attack_key(log) in keys:
                for item, is_misled in self.inside(log).items():
                    if is_misled and item in found:
                        found[item] = True
        return found

    def _misled(self, attacks: Sequence[Mapping[str, bool]]) -> dict[str, bool]:
        if not attacks:
            return {}
        shared = [item for item in self.clean if all(item in found for found in attacks)]
        return {i: self.clean[i] or any(found[i] for found in attacks) for i in shared}

    @cached_property
    def shifted(self) -> dict[str, bool]:
        """Whether each image is misclassified under each shift that nobody chose against it."""
        return {
            f"{log.cell.kind} {i} {item}": is_wrong
            for i, log in enumerate(self.of_kind("shift"))
            for item, is_wrong in log.outcomes.items()
        }

    @cached_property
    def winners(self) -> dict[str, str]:
        """By image, the first attack that misled the model in the ball."""
        won: dict[str, str] = {}
        for log in self.of_kind("attack"):
            for item, is_misled in self.inside(log).items():
                if is_misled and not self.clean.get(item, True):
                    won.setdefault(item, log.cell.attack)
        return won

    def signs(self, suite: Any, classes: int) -> list[Sign]:
        """Return what tells whether gradients are masked."""
        named = {str(log.cell.defense["probe"]): log for log in self.of_kind("probe")}
        if not named:
            return []
        *_, wide, unbounded = radii(suite)
        curve = [
            (log.cell.budget.epsilon, log)
            for name, log in named.items()
            if name == "pgd" or name.startswith("pgd-at-")
        ]
        own = {name: log for name, log in named.items() if not name.startswith("pgd-at-")}
        looked = self.of_kind("gradients")
        return signs(
            Probes(
                own, curve, wide, unbounded, looked[0] if looked else None, self.attacked, classes
            )
        )


@dataclass(frozen=True)
class Entry:
    """One model of a subject with all its trainings, by seed."""

    subject: str
    role: str
    name: str
    target: str
    trainings: Mapping[int, Training]

    def verdicts(self, suite: Any, classes: int) -> dict[int, tuple[str, list[Sign]]]:
        """Return by seed what the signs of masking say, and the signs."""
        found = {}
        for seed, training in self.trainings.items():
            told, worst = training.signs(suite, classes), training.worst
            left = 1 - sum(worst.values()) / len(worst) if worst else None
            found[seed] = (verdict(told, left), told)
        return found


def entries_of(logs: Mapping[str, CellLog], threat: Threat) -> list[Entry]:
    """Return the models in the order of the plan."""
    found: dict[tuple[str, str, str], dict[int, list[CellLog]]] = {}
    for log in logs.values():
        cell = log.cell
        name, seed = _training(cell.student)
        place = (cell.subject, cell.role, name)
        found.setdefault(place, {}).setdefault(seed, []).append(log)
    return [
        Entry(
            *place,
            next(iter(by_seed.values()))[0].cell.target,
            {seed: Training(tuple(some), threat) for seed, some in by_seed.items()},
        )
        for place, by_seed in found.items()
    ]


def _attack_key(log: CellLog) -> str:
    """Return what an attack is, whichever model it is on."""
    cell = log.cell
    told = sorted((k, repr(v)) for k, v in cell.options.items() if k != PARTNER)
    return repr((cell.kind, cell.attack, told, cell.budget, cell.seed))


def _training(student: str) -> tuple[str, int]:
    """Return the name of a student, and the seed of its training, 0 for one that was there."""
    name, _, last = student.rpartition(".")
    seed = last.removeprefix("seed")
    return (name, int(seed)) if name and last != seed and seed.isdigit() else (student, 0)


def curve_of(training: Training) -> list[tuple[float, float]]:
    """Return the accuracy under probing PGD by radius, 0 first."""
    points = {}
    for log in training.of_kind("probe"):
        name = str(log.cell.defense["probe"])
        if (name == "pgd" or name.startswith("pgd-at-")) and log.n:
            points[log.cell.budget.epsilon] = 1 - log.successes / log.n
            tried = [training.clean[item] for item in log.outcomes if item in training.clean]
            if tried:
                points[0.0] = 1 - sum(tried) / len(tried)
    return sorted(points.items())


def attacks_of(entry: Entry) -> Iterator[tuple[CellLog, dict[int, CellLog]]]:
    """Yield each attack, control and shift on a model with its cells by training seed."""
    groups: dict[str, dict[int, CellLog]] = {}
    for seed, training in entry.trainings.items():
        for log in training.of_kind("attack", *_CHECKED):
            groups.setdefault(_attack_key(log), {})[seed] = log
    for by_seed in groups.values():
        yield next(iter(by_seed.values())), by_seed


def sizes_of(logs: Sequence[CellLog]) -> dict[str, float | None]:
    """Return the mean size, in each norm, of the changes that misled a model that was right."""
    rows = [
        item.extra
        for log in logs
        for item in log.items
        if item.status == "ok" and item.success and item.extra["was_right"]
    ]
    return {
        norm: sum(row[norm] for row in rows) / len(rows) if rows else None
        for norm in ("linf", "l2")
    }
