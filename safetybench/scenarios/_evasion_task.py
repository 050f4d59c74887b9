"""What a subject of an evasion suite is: its models, the test images, and the probes of masking."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from safetybench import registry
from safetybench.class_contracts import Evasion
from safetybench.contracts import Budget, Labelled
from safetybench.store import digest
from safetybench.suite_evasion import source_told
from safetybench.vision.data import Source, source_of

FOLDER = "attacks/evasion"
NOISE, TRANSFER = f"{FOLDER}/random_noise", f"{FOLDER}/transfer"
# Draws of noise that stand beside an attack: as many as its queries, within these.
DRAWS, MOST_DRAWS = 100, 1000
# Of the threat's radius: where the curve of accuracy over epsilon is measured.
RADII = (0.25, 0.5, 2.0, 4.0)
WIDE = 0.5  # of each pixel, where a classifier can know nothing any more
UNBOUNDED = 1.0


class Model(NamedTuple):
    """One model of a subject; name: of a student; seed: of its training."""

    role: str
    target: str
    name: str = ""
    seed: int = 0


def models_of(suite: Any, subject: Any) -> list[Model]:
    """Return the models of a subject in the order of the report; families are not evaluated."""
    found = [Model(role, label) for role, label in subject.roles.items()]
    found += [
        Model("student", made.label, made.entry, made.seed)
        for made in suite.made
        if made.subject == subject.name and made.role == "student"
    ]
    return found


@dataclass(frozen=True)
class Task:
    """The test images that are attacked, by name of item."""

    source: Source
    data: Labelled

    @classmethod
    def of(cls, suite: Any) -> Task:
        """Return the task of a suite, the same every time."""
        source = source_of(source_told(suite))
        return cls(source, source.test(suite.data.count, suite.data.seed))

    @property
    def items(self) -> tuple[str, ...]:
        """The names of the images."""
        return tuple(f"t{i}" for i in range(len(self.data.labels)))

    def rows(self, items: Any) -> Labelled:
        """Return the images of some items, in their order."""
        places = [int(item[1:]) for item in items]
        return Labelled(self.data.images[places], self.data.labels[places])

    def digest(self, suite: Any) -> str:
        """Return what changes with any image or label that is attacked."""
        return digest([self.source.digest, suite.data.count, suite.data.seed])[:12]


class Probe(NamedTuple):
    """One attack that looks for masked gradients; what each is for, see `_evasion_masking`."""

    name: str
    attack: str
    options: dict[str, Any]
    budget: Budget


def probes(suite: Any) -> Iterator[Probe]:
    """Yield the probes of a suite's masking checks, all in the threat's norm."""
    told, threat = suite.masking, suite.threat

    def probe(
        name: str, attack: str, *, at: float | None = None, times: int = 1, **options: Any
    ) -> Probe:
        epsilon = threat.epsilon if at is None else at
        budget = Budget(
            steps=told.steps * times, queries=told.queries, epsilon=epsilon, norm=threat.norm
        )
        return Probe(name, f"{FOLDER}/{attack}", options, budget)

    yield probe("fgsm", "fgsm")
    yield probe("fgsm-rescaled", "fgsm", temperature=0.0)
    yield probe("pgd", "pgd")
    yield probe("pgd-double", "pgd", times=2, restarts=2)
    yield probe("pgd-margin", "pgd", loss="margin")
    yield probe("pgd-rescaled", "pgd", temperature=0.0)
    yield probe("square", "square")
    yield probe("transfer", "transfer")
    yield probe("noise", "random_noise")
    for radius in radii(suite):
        yield probe(f"pgd-at-{radius:g}", "pgd", at=radius)


def radii(suite: Any) -> list[float]:
    """Return the radii of the curve, without the threat's own; the last two are wide, unbounded."""
    norm, epsilon = suite.threat.norm, suite.threat.epsilon
    scale = 1.0
    if norm == "l2":
        source = Task.of(suite).source
        channels, height, width = source.shape
        scale = float((channels * height * width) ** 0.5)
    wide = [round(WIDE * scale, 4), round(UNBOUNDED * scale, 4)]
    curve = [round(epsilon * share, 6) for share in RADII]
    return [*(radius for radius in curve if radius < wide[0]), *wide]


def budget_of(suite: Any, name: str, given: Budget, seed: int) -> Budget:
    """Return an attack's budget with what its suite leaves open: the threat's ball, its defaults.

    An attack that is minimal keeps epsilon 0, and goes as far as it must.
    """
    attack, threat = registry.load(name), suite.threat
    assert issubclass(attack, Evasion), "checked with the suite's faults"
    norms, epsilon, norm = attack.norms, given.epsilon, given.norm
    if not epsilon:
        norm = threat.norm if threat.norm in norms else norms[0]
        if not attack.is_minimal and norm == threat.norm:
            epsilon = threat.epsilon
    return Budget(
        steps=given.steps or attack.steps,
        queries=given.queries or attack.queries,
        epsilon=epsilon,
        norm=norm,
        seed=seed,
    )


def short(options: dict[str, Any], budget: Budget) -> str:
    """Return what tells two entries of one attack apart in a label."""
    told = {k: v for k, v in options.items() if isinstance(v, str | int | float)}
    sizes = {"e": budget.epsilon, "n": budget.norm, "s": budget.steps, "q": budget.queries}
    return digest(json.dumps([told, sizes], sort_keys=True))[:4]
