"""Text as it is read by eye: without characters that are drawn as nothing or as a Latin letter."""

from __future__ import annotations

import re
import unicodedata

from safetybench.confusables import ALIKE, ZERO_WIDTH

_LATIN = {char: latin for latin, chars in ALIKE.items() for char in chars}
# Cf: format characters, Cc: control characters, Co and Cn: private and unassigned.
_INVISIBLE = ("Cf", "Cc", "Co", "Cn")


def fold(text: str, *, homoglyphs: bool = True, invisible: bool = True) -> str:
    """Return text in NFKC, with look-alikes as Latin letters, without what is not drawn.

    White space of any kind becomes one space. Letters of another script are folded only in words
    that hold a Latin letter too, or none but look-alikes: a word of that script stays.
    """
    if homoglyphs:  # before NFKC too, which makes another letter of some look-alikes
        text = _latin(text)
    kept = "".join(
        " " if char.isspace() else char
        for char in unicodedata.normalize("NFKC", text)
        if char.isspace()
        or not invisible
        or (unicodedata.category(char) not in _INVISIBLE and char not in ZERO_WIDTH)
    )
    if homoglyphs:
        kept = unicodedata.normalize("NFKC", _latin(kept))
    return re.sub(r"\s+", " ", kept).strip()


def _latin(text: str) -> str:
    return re.sub(r"\w+", lambda found: _folded(found[0]), text)


def _folded(word: str) -> str:
    letters = [char for char in word if char.isalpha()]
    is_ours = any(char.isascii() for char in letters)
    if is_ours or all(char in _LATIN for char in letters):
        return "".join(_LATIN.get(char, char) for char in word)
    return word
