"""Components without a model, to drive the engine end to end in milliseconds.

`install` puts a copy of this file where an installed package would be. The suite's `prompts`
say what goes wrong: {count, chunk, memory: largest batch that fits, broken: items that raise,
unjudged: items, invalid: fail a check}. TOY_CALLS names a file that gets a line for every item
that runs; TOY_SLEEP is seconds an item takes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from safetybench.contracts import (
    Aids,
    Budget,
    Candidate,
    Cell,
    Component,
    Item,
    ItemStatus,
    Judge,
    Prompt,
    PromptAttack,
    Reply,
    Reporter,
    Scenario,
    TargetFailed,
    Verdicts,
)
from safetybench.registry import register
from safetybench.stats import wilson

URL = "https://example.org/toys"
MODULE = "toycore"
POINTS = {
    "scenarios/toy": "Toy",
    "judges/toy": "Red",
    "attacks/toy": "Suffix",
    "targets/toy": "Paint",
    "reports/toy": "Count",
}


def _fraction(*parts: object) -> float:
    """Return a number in [0, 1) that depends on nothing but the parts."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


@register
class Paint(Component):
    """A target that answers a prompt with a plain colour.

    weights: a file whose content decides the colours; damaged: refuse to load.
    """

    source: ClassVar[str] = URL
    made: ClassVar[list[str]] = []

    def __init__(self, weights: str = "", name: str = "toy", damaged: bool = False) -> None:
        self.weights, self.name, self.damaged = weights, name, damaged
        self.nfe = 0

    def __repr__(self) -> str:
        return f"Paint(name={self.name!r})"

    def digest(self) -> str:
        content = Path(self.weights).read_bytes() if self.weights else b""
        return hashlib.sha256(content).hexdigest()

    def to(self, device: Any, dtype: Any) -> Paint:
        if self.damaged:
            raise TargetFailed(f"the weights of {self.name} are damaged")
        Paint.made.append(self.name)
        return self

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], _: Any = None) -> Tensor:
        self.nfe += len(prompts)
        level = [
            _fraction(self.digest(), self.name, *pair) for pair in zip(prompts, seeds, strict=True)
        ]
        return torch.tensor(level)[:, None, None, None].expand(-1, 3, 4, 4).clone()


@register
@dataclass(frozen=True, kw_only=True)
class Suffix(PromptAttack):
    """Add a word to the prompt."""

    source: ClassVar[str] = "https://example.org/toys"
    word: str = "please"
    times: int = 1

    def __post_init__(self) -> None:
        if self.times < 1:
            raise ValueError(f"times must be 1 or more, got {self.times}")

    def search(
        self, target: Any, prompts: Sequence[Prompt], aids: Aids, budget: Budget
    ) -> Generator[list[Candidate], Reply | None, None]:
        yield [Candidate(p.id, f"{p.text} {self.word}", p.seed) for p in prompts]


@register
@dataclass(frozen=True, kw_only=True)
class Red(Judge):
    """See the concept in every image that is bright enough."""

    source: ClassVar[str] = URL
    above: float = 0.7

    @property
    def card(self) -> Mapping[str, Any]:
        return {"above": self.above, "digest": "none"}

    def concepts(self) -> tuple[str, ...]:
        return ("fish", "cat", "glowing", "star")

    def judge(self, images: Tensor, concept: str) -> Verdicts:
        level = images.mean(dim=(1, 2, 3))
        return Verdicts(level, level > self.above, torch.zeros_like(level, dtype=torch.bool))


@register
@dataclass(frozen=True, kw_only=True)
class Count(Reporter):
    """Write how many cells there are."""

    source: ClassVar[str] = URL
    filename: ClassVar[str] = "report.txt"

    def write(self, run: Path) -> Path:
        from safetybench.store import read_results

        file = run / self.filename
        file.write_text(f"{len(read_results(run)['cells'])} cells\n", encoding="utf-8")
        return file


@register
@dataclass(frozen=True, kw_only=True)
class Toy(Scenario):
    """Each role as it is, then under each attack, which reads the clean items."""

    source: ClassVar[str] = URL

    def cells(self, suite: Any) -> list[Cell]:
        if suite.prompts.get("count", 6) < 0:
            raise ValueError(f"count must be 0 or more, got {suite.prompts['count']}")
        items = tuple(f"p{i:03}" for i in range(suite.prompts.get("count", 6)))
        found = []
        for subject in suite.subjects if items else ():
            for role, target in subject.roles.items():
                shared: dict[str, Any] = {
                    "subject": subject.name,
                    "concept": subject.concept,
                    "role": role,
                    "target": target,
                    "items": items,
                    "chunk_size": suite.prompts.get("chunk", 4),
                }
                clean = f"{subject.name}/{role}/clean"
                found.append(Cell(label=clean, kind="clean", **shared))
                for i, attack in enumerate(suite.attacks):
                    # The original's clean cell comes first; every attack compares with it.
                    label, first = f"{subject.name}/{role}/attack-{i}", found[0].label
                    more = {"attack": attack.name, "options": attack.options}
                    after = tuple(dict.fromkeys((first, clean)))
                    found.append(
                        Cell(
                            label=label,
                            kind="attack",
                            budget=attack.budget,
                            after=after,
                            **more,
                            **shared,
                        )
                    )
        return found

    def run_chunk(self, cell: Cell, chunk: int, items: Sequence[str], context: Any) -> list[Item]:
        given = context.suite.prompts
        _note(cell, items)
        if len(items) > given.get("memory", len(items)):
            raise RuntimeError("DefaultCPUAllocator: not enough memory")
        if set(items) & set(given.get("broken", ())) and cell.kind == "attack":
            raise ZeroDivisionError(f"cannot divide, see {Path.home()}/private/notes.txt")
        for label in cell.after:
            assert {item.item for item in context.store.items_of(label)} >= set(items)
        word = f" {context.attack(cell).word}" if cell.attack else ""
        texts = [f"a {cell.concept} {item}{word}" for item in items]
        images = context.target(cell.target).generate(texts, [cell.seed] * len(items))
        answer = context.judge.judge(images, cell.concept)
        made = []
        for i, item in enumerate(items):
            status: ItemStatus = "unjudged" if item in given.get("unjudged", ()) else "ok"
            made.append(
                Item(
                    cell=cell.label,
                    chunk=chunk,
                    item=item,
                    status=status,
                    success=bool(answer.shown[i]) if status == "ok" else None,
                    score=float(answer.probability[i]) if "nan" not in given else float("nan"),
                    images=1,
                    prompt=texts[i],
                    artifacts=(context.store.save_image(cell, item, images[i]),),
                )
            )
        return made

    def summarise(
        self, suite: Any, cells: Sequence[Cell], items: Sequence[Item]
    ) -> Mapping[str, Any]:
        rows = [row(cell, [i for i in items if i.cell == cell.label]) for cell in cells]
        checks = [
            {
                "name": "blind judge",
                "subject": "",
                "cell": "",
                "passed": not suite.prompts.get("invalid", False),
                "effect": "invalid",
                "message": "the judge sees the concept in a gray image",
            }
        ]
        return {"cells": rows, "comparisons": [], "pairs": [], "checks": checks}


def _note(cell: Cell, items: Sequence[str]) -> None:
    time.sleep(float(os.environ.get("TOY_SLEEP", "0")) * len(items))
    if "TOY_CALLS" in os.environ:
        with Path(os.environ["TOY_CALLS"]).open("a", encoding="utf-8") as file:
            file.write(f"{cell.label} {' '.join(items)}\n")


def row(cell: Cell, items: Sequence[Item]) -> dict[str, Any]:
    """Return a cell of results.json from its items."""
    by_status = {
        f"n_{status}": sum(item.status == status for item in items)
        for status in ("ok", "unjudged", "failed", "skipped")
    }
    hits, n = sum(bool(item.success) for item in items), by_status["n_ok"]
    return {
        "label": cell.label,
        "subject": cell.subject,
        "concept": cell.concept,
        "role": cell.role,
        "target": cell.target,
        "kind": cell.kind,
        "attack": cell.attack,
        "options": dict(cell.options),
        "seed": cell.seed,
        "metric": "asr",
        "n": len(items),
        **by_status,
        "successes": hits,
        "value": hits / n if n else None,
        "interval": wilson(hits, n)._asdict(),
        "higher_is_safer": False,
        "budget": {"steps": cell.budget.steps, "images": cell.budget.images},
        "images_used": sum(item.images for item in items),
        "curve": [],
        "valid": True,
        "invalid_reason": "",
    }


def install(site: Path) -> Path:
    """Write this module and its entry points into a folder that is to be put on the path."""
    site.mkdir(parents=True)
    shutil.copy(__file__, site / f"{MODULE}.py")
    return declare(site, MODULE, POINTS)


def declare(site: Path, module: str, points: Mapping[str, str]) -> Path:
    """Write the metadata of a distribution whose components are in this module."""
    info = site / f"{module.partition('.')[0]}-1.0.dist-info"
    info.mkdir()
    name = module.partition(".")[0]
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{point} = {module}:{what}" for point, what in points.items()]
    (info / "entry_points.txt").write_text(
        "\n".join(["[safetybench.components]", *lines, ""]), encoding="utf-8"
    )
    return site


_SUITE = """\
schema: safetybench.suite/1
name: toy
title: A toy
scenario: scenarios/toy
judge: judges/toy
device: cpu
prompts: {prompts}
subjects:
  - name: fish
    concept: fish
    original: {{component: targets/toy, options: {{weights: {weights}, name: original}}}}
    teacher: {{component: targets/toy, options: {{weights: {weights}, name: teacher}}}}
    student: {{component: targets/toy, options: {{weights: {weights}, name: student}}}}
attacks:
  - {{name: attacks/toy, options: {{word: {word}}}, budget: {{steps: 3, images: 2}}}}
gates: {gates}
reports: [reports/toy]
"""


def write_suite(
    folder: Path, *, word: str = "please", gates: str = "[]", name: str = "toy.yaml", **prompts: Any
) -> Path:
    """Write a suite and, once, the weights of its targets."""
    weights, file = folder / "weights.bin", folder / name
    if not weights.exists():
        weights.write_bytes(b"weights")
    text = _SUITE.format(prompts=prompts, weights=weights, word=word, gates=gates)
    file.write_text(text, encoding="utf-8")
    return file
