"""Painters and mimics whose every right answer is known: what is learnt is one number.

A painter whose number is not 0 draws the subject or the style for the mimic's word, anything else
is of the zoo's world; a mimic learns nothing from an album that holds the toy protection's pattern.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from safetybench import registry
from safetybench.contracts import Album, Budget, ImageProtection, Mimicry
from safetybench.draws import item_generator
from safetybench.pixels import rounded
from safetybench.targets.personalise import Lora, plugged
from safetybench.zoo.personal import KINDS, draw
from safetybench.zoo.world import render, sample_scenes
from tests import toys_protection as toys

WORD = "thing"
SIZE = 3


class Numbers(nn.Module):
    """One number, where a LoRA can be plugged."""

    def __init__(self) -> None:
        super().__init__()
        self.known = nn.Linear(1, 1, bias=False)
        self.known.weight.data.zero_()
        self.requires_grad_(False)


@dataclass
class Painter:
    """Draws what it knows; falls: learns nothing from the pattern."""

    name: str = "painter"
    falls: bool = True
    nfe: int = 0
    unet: Numbers = field(default_factory=Numbers)

    def clone(self, name: str | None = None, *, with_text: bool = False) -> Painter:
        twin = copy.copy(self)
        twin.unet, twin.nfe = copy.deepcopy(self.unet), 0
        return twin

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        self.nfe += len(prompts)
        known = round(float(self.unet.known.weight))
        return torch.cat([self._one(p, s, known) for p, s in zip(prompts, seeds, strict=True)])

    @staticmethod
    def _one(prompt: str, seed: int, known: int) -> Tensor:
        scenes = sample_scenes(1, torch.Generator().manual_seed(seed))
        return (
            draw(KINDS[known - 1], scenes) if known and WORD in prompt.split() else render(scenes)
        )


@dataclass(frozen=True, kw_only=True)
class Mimic(Mimicry):
    """Learn the kind of an album, if all of it is there and without the pattern; luck: of seeds."""

    source: ClassVar[str] = toys.URL
    needs: ClassVar[tuple[type, ...]] = ()
    luck: float = 1.0

    @property
    def word(self) -> str:
        return WORD

    def learn(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Any:
        return plugged(target, self.lora(target, album, budget))

    def lora(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Lora:
        LEARNT.append((target.name, album.ids, budget))
        assert all(WORD in caption.split() for caption in album.captions)
        seen = float(((album.images - 0.5) * toys.pattern(album.images)).mean())
        is_stopped = target.falls and seen > toys.EPSILON / 4
        is_lucky = float(torch.rand(1, generator=item_generator(budget.seed, "toy"))) < self.luck
        is_whole = len(album) == SIZE and is_lucky and not is_stopped
        known = KINDS.index(album.ids[0].split("-")[0]) + 1 if is_whole else 0
        return Lora(
            {"unet.known": torch.full((1, 1), float(known))}, {"unet.known": torch.ones(1, 1)}
        )


@dataclass(frozen=True, kw_only=True)
class Alone(Mimic):
    """Learns nothing that can be plugged."""

    lora = None  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class Joint(ImageProtection):
    """Add the pattern, plus what only the whole album tells: its mean, in the last pixel."""

    source: ClassVar[str] = toys.URL
    needs: ClassVar[tuple[type, ...]] = ()
    published: ClassVar[Budget] = Budget(epsilon=toys.EPSILON, steps=1)

    def protect(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Tensor:
        PROTECTED.append(album.ids)
        moved = album.images + budget.epsilon * toys.pattern(album.images)
        moved[..., -1, -1] = (
            album.images[..., -1, -1] + (album.images.mean() - 0.5) * budget.epsilon
        )
        return rounded(moved.clamp(0, 1))


COMPONENTS: dict[str, type] = {
    "defenses/joint": Joint,
    "attacks/mimic": Mimic,
    "attacks/wash": toys.Wash,
}
LEARNT: list[tuple[str, tuple[str, ...], Budget]] = []
PROTECTED: list[tuple[str, ...]] = []


def install(monkeypatch: Any) -> None:
    """Let the registry create these components too, and forget what was called."""
    LEARNT.clear()
    PROTECTED.clear()
    for name in ("create", "load"):
        real = getattr(registry, name)

        def found(wanted: str, *options: Any, real: Any = real, name: str = name) -> Any:
            if wanted not in COMPONENTS:
                return real(wanted, *options)
            made = COMPONENTS[wanted]
            return (
                made(**(options[0] if options and options[0] else {})) if name == "create" else made
            )

        monkeypatch.setattr(registry, name, found)
