"""A text and what it is to be told from, as one string: the concept column of a table of edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MARK = " // "


class Contrasted(NamedTuple):
    """A text, and the texts that it must beat."""

    text: str
    contrasts: tuple[str, ...]


def joined(text: str, contrasts: Sequence[str]) -> str:
    """Return the concept of a text and its contrasts; see `parted`.

    >>> joined("a man in jail", ["a man", "a man at sea"])
    'a man in jail // a man // a man at sea'

    Raises:
        ValueError: a text holds the mark that stands between them.
    """
    parts = [part.strip() for part in (text, *contrasts)]
    for part in parts:
        if MARK.strip() in part:
            raise ValueError(f"a text must not hold {MARK.strip()!r}, got {part!r}")
    return MARK.join(parts)


def parted(concept: str) -> Contrasted:
    """Return the text and the contrasts of a concept.

    >>> parted("a man in jail // a man")
    Contrasted(text='a man in jail', contrasts=('a man',))
    """
    text, *contrasts = (part.strip() for part in concept.split(MARK.strip()))
    return Contrasted(text, tuple(part for part in contrasts if part))
