"""Words and runs of words of an answer: by white space, in lower case."""

from __future__ import annotations


def plain(text: str) -> str:
    """Return text in lower case with single spaces."""
    return " ".join(text.lower().split())


def ngrams(text: str, length: int) -> set[tuple[str, ...]]:
    """Return the runs of `length` words of a text; of a shorter text, all of it."""
    words = tuple(text.lower().split())
    last = max(len(words) - length, 0)
    return {words[at : at + length] for at in range(last + 1)} if words else set()
