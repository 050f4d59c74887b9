"""Albums that a mimic learns, and the prompts that tell whether it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from safetybench.contracts import Album
from safetybench.store import digest

if TYPE_CHECKING:
    from safetybench.suite_mimicry import AlbumSet, Kind


class MimicTask(NamedTuple):
    """One prompt for what was learnt of an album.

    kept: attributes that the prompt names besides, as a judge's `similarity` reads them.
    """

    id: str
    album: str
    kind: Kind
    prompt: str
    seed: int
    kept: str


@dataclass(frozen=True)
class Albums:
    """The albums of a suite, by names such as "subject-0"."""

    spec: AlbumSet

    @property
    def names(self) -> dict[str, Kind]:
        """The albums with their kinds, in order."""
        spec = self.spec
        seeds = range(spec.seed, spec.seed + spec.count)
        return {f"{kind}-{seed}": kind for kind in dict.fromkeys(spec.kinds) for seed in seeds}

    def pictures(self, name: str, word: str = "") -> Album:
        """Return a clean album, 8-bit; word: in its captions, "" for those of its owner.

        The owner knows no mimic's word, and says of the picture what the world has words for.
        """
        from safetybench.zoo.personal import album

        return album(self.names[name], self.spec.size, self._seed(name), word)

    @cached_property
    def ids(self) -> dict[str, str]:
        """The album of every picture, by the pictures' ids, in order."""
        return {id: name for name in self.names for id in self.pictures(name).ids}

    def tasks(self, word: str, kinds: Sequence[Kind] = ()) -> tuple[MimicTask, ...]:
        """Return the prompts of all albums, or of some kinds, that say `word`, in order."""
        from safetybench.zoo.personal import prompts

        return tuple(
            MimicTask(p.id, name, kind, p.text, p.seed, p.clean)
            for name, kind in self.names.items()
            if not kinds or kind in kinds
            for p in prompts(kind, word, self.spec.prompts, self._seed(name))
        )

    @property
    def content(self) -> str:
        """A digest of what is protected and of who tells whether it was learnt."""
        from safetybench.zoo.detector import Detector

        told = [[name, self.pictures(name).captions, list(self.ids)] for name in self.names]
        return digest([told, Detector().card["weights"]])

    @staticmethod
    def _seed(name: str) -> int:
        return int(name.rpartition("-")[2])
