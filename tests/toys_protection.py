"""Editors and protections whose every right answer is known, without a model.

An edit writes the words of its prompt into the first row of the image, unless the image holds a
pattern that this editor falls for; the judge reads the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from safetybench import registry
from safetybench.contracts import (
    Album,
    Budget,
    Cell,
    ImageProtection,
    Item,
    Judge,
    Purifier,
    Verdicts,
)
from safetybench.pixels import rounded
from safetybench.store import Store
from safetybench.zoo.world import HEADS

URL = "https://example.org/toys"
WORDS = tuple(name for classes in HEADS.values() for name in classes)
EPSILON = 16 / 255


def pattern(like: Tensor) -> Tensor:
    """Return a checkerboard of +1 and -1 in the shape of images, (..., h, w)."""
    rows, columns = torch.arange(like.shape[-2])[:, None], torch.arange(like.shape[-1])
    return ((rows + columns) % 2 * 2 - 1).to(like).expand_as(like)


@dataclass
class Editor:
    """Edits what it is given; falls: for the pattern; is_able: writes anything at all."""

    name: str = "editor"
    falls: bool = True
    is_able: bool = True
    nfe: int = 0

    def edit(
        self,
        images: Tensor,
        prompts: Sequence[str],
        seeds: Sequence[int],
        strength: float,
        guidance: float | None = None,
    ) -> Tensor:
        assert len(images) == len(prompts) == len(seeds)
        answers = images * 0.5
        seen = (images - 0.5) * pattern(images)
        for i, prompt in enumerate(prompts):
            is_stopped = self.falls and float(seen[i].mean()) > EPSILON / 2
            answers[i, :, 0] = 0
            if self.is_able and not is_stopped:
                told = [k for k, word in enumerate(WORDS) if word in prompt.split()]
                answers[i, :, 0, told] = 1
        return answers


@dataclass(frozen=True, kw_only=True)
class Reader(Judge):
    """Read the row; blind: recognise nothing."""

    source: ClassVar[str] = URL
    blind: bool = False

    @property
    def card(self) -> Mapping[str, Any]:
        return {}

    def concepts(self) -> tuple[str, ...]:
        return WORDS

    def judge(self, images: Tensor, concept: str) -> Verdicts:
        found = images[:, 0, 0, WORDS.index(concept)]
        return Verdicts(found, found > 0.5, torch.full_like(found, self.blind, dtype=torch.bool))

    def similarity(self, images: Tensor, prompt: str) -> Tensor:
        wanted = [WORDS.index(part.partition("=")[2]) for part in prompt.split()]
        return (images[:, 0, 0, wanted] > 0.5).float().mean(1)

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)


@dataclass(frozen=True, kw_only=True)
class Shield(ImageProtection):
    """Add the pattern at `times` epsilon."""

    source: ClassVar[str] = URL
    needs: ClassVar[tuple[type, ...]] = ()
    published: ClassVar[Budget] = Budget(epsilon=EPSILON, steps=1)
    times: float = 1.0

    def protect(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Tensor:
        moved = album.images + self.times * budget.epsilon * pattern(album.images)
        return rounded(moved.clamp(0, 1))


@dataclass(frozen=True, kw_only=True)
class Wash(Purifier):
    """Average neighbours, which takes the pattern off."""

    source: ClassVar[str] = URL

    def purify(self, target: Any, album: Album, seed: int = 0) -> Tensor:
        return rounded(torch.nn.functional.avg_pool2d(album.images, 2).repeat_interleave(2, 2)
                       .repeat_interleave(2, 3))  # fmt: skip


COMPONENTS: dict[str, type] = {"defenses/toy": Shield, "attacks/wash": Wash}


def install(monkeypatch: Any) -> None:
    """Let the registry create these components too."""
    real = registry.create

    def create(name: str, options: Mapping[str, Any] | None = None) -> Any:
        return COMPONENTS[name](**(options or {})) if name in COMPONENTS else real(name, options)

    monkeypatch.setattr(registry, "create", create)


@dataclass
class Context:
    """What a scenario gets of a run; images go through real PNG files."""

    suite: Any
    targets: Mapping[str, Any]
    store: Store
    judge: Judge = field(default_factory=Reader)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    memo: dict[Any, Any] = field(default_factory=dict)

    def target(self, label: str) -> Any:
        return self.targets[label]

    def attack(self, cell: Cell) -> Any:
        return registry.create(cell.attack, cell.options)


def run(suite: Any, targets: Mapping[str, Any], folder: Path, **more: Any) -> Mapping[str, Any]:
    """Run every cell as the engine does and return the summary."""
    scenario = registry.create("scenarios/protection")
    cells, log = scenario.cells(suite), list[Item]()
    with Store.create(folder / "run") as store:
        context = Context(suite, targets, store, **more)
        for cell in cells:
            for start in range(0, len(cell.items), cell.chunk_size):
                names = cell.items[start : start + cell.chunk_size]
                number = start // cell.chunk_size
                items = scenario.run_chunk(cell, number, names, context)
                store.append(cell.label, number, items, {})
                log += items
    summary: Mapping[str, Any] = scenario.summarise(suite, cells, log)
    return summary
