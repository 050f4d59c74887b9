"""Text of the report: one format for each kind of number, hostile characters made visible.

Everything a template prints goes through `finalize` and is then escaped; no other way out exists.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, NamedTuple

NOTHING = "—"
# Controls, formats (bidi, zero width), surrogates and the two Unicode line separators.
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_STACKED = 3  # combining marks on one letter; more of them would paint over other lines


class Piece(NamedTuple):
    """A stretch of an adversarial prompt; kind: "same", "added" or "removed"."""

    kind: str
    text: str


def visible(text: str) -> str:
    r"""Write characters that hide or reorder text as their code point.

    >>> visible("a\u202eb")
    'a⟨U+202E⟩b'
    """
    if text.isascii() and text.isprintable():
        return text
    out: list[str] = []
    stacked = 0
    for char in text:
        category = unicodedata.category(char)
        stacked = stacked + 1 if category in ("Mn", "Me") else 0
        if category in _HIDDEN or stacked > _STACKED:
            out.append(f"⟨U+{ord(char):04X}⟩")
        else:
            out.append(char)
    return "".join(out)


def finalize(value: Any) -> Any:
    """Make plain text visible; what the template itself built (Markup) passes."""
    if value is None:
        return NOTHING
    return value if hasattr(value, "__html__") else visible(str(value))


def number(value: Any) -> float | None:
    """Return a finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def text(value: Any) -> str:
    """Return what a JSON field says as text; nothing for null."""
    return "" if value is None else str(value)


def titled(value: str) -> str:
    """Return text with a first capital, and the rest as it is.

    >>> titled("student LCM")
    'Student LCM'
    """
    return value[:1].upper() + value[1:]


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a JSON object, or an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def rows(value: Any) -> list[Mapping[str, Any]]:
    """Return the objects of a JSON array, or none."""
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def _fixed(value: float, digits: int) -> str:
    rounded = round(value, digits) + 0.0  # + 0.0 turns -0.0 into 0.0
    return f"{rounded:.{digits}f}"


def rate(value: Any) -> str:
    """Write a rate in [0, 1] as a percentage.

    >>> rate(0.125)
    '12.5%'
    """
    found = number(value)
    return NOTHING if found is None else _fixed(100 * found, 1) + "%"


def rate_range(low: Any, high: Any) -> str:
    """Write an interval of a rate.

    >>> rate_range(0, 0.0713)
    '0.0–7.1%'
    """
    first, last = number(low), number(high)
    if first is None or last is None:
        return NOTHING
    return f"{_fixed(100 * first, 1)}–{_fixed(100 * last, 1)}%"


def points(value: Any) -> str:
    """Write a difference of rates in percentage points, signed.

    >>> points(-0.04)
    '−4.0'
    """
    found = number(value)
    if found is None:
        return NOTHING
    shown = _fixed(100 * found, 1)
    if shown.startswith("-"):
        return "−" + shown[1:]
    return "+" + shown if float(shown) else shown


def points_range(low: Any, high: Any) -> str:
    """Write an interval of a difference; spaces keep the dash apart from the signs."""
    if number(low) is None or number(high) is None:
        return NOTHING
    return f"{points(low)} – {points(high)}"


def probability(value: Any) -> str:
    """Write a p-value with three decimals.

    >>> probability(0.00001)
    '<0.001'
    """
    found = number(value)
    if found is None:
        return NOTHING
    return "<0.001" if found < 0.001 else f"{found:.3f}"


def count(value: Any) -> str:
    """Write a whole number with thousands apart."""
    found = number(value)
    return NOTHING if found is None else f"{found:,.0f}"


def brief(value: Any) -> str:
    """Write a figure without a unit of its own, to three digits.

    >>> brief(0.01234), brief(-12.345), brief(1234.5)
    ('0.0123', '−12.3', '1,234')
    """
    found = number(value)
    if found is None:
        return NOTHING
    size = abs(found)
    form = ",.0f" if size >= 100 else ".3g" if size >= 1e-4 or not size else ".1e"
    return ("−" if found < 0 else "") + format(size, form)


def hundredths(value: Any) -> str:
    """Write a ratio with two decimals.

    >>> hundredths(0.8333), hundredths(-1)
    ('0.83', '−1.00')
    """
    found = number(value)
    return NOTHING if found is None else _fixed(found, 2).replace("-", "−")


def seconds(value: Any) -> str:
    """Write a duration with the unit that fits it.

    >>> seconds(4.21), seconds(125), seconds(7260)
    ('4.2 s', '2 min 05 s', '2 h 01 min')
    """
    found = number(value)
    if found is None:
        return NOTHING
    if found < 60:
        return f"{found:.1f} s"
    if found < 3600:
        return f"{int(found // 60)} min {int(found % 60):02d} s"
    return f"{int(found // 3600)} h {int(found % 3600 // 60):02d} min"


def epsilon(value: Any) -> str:
    """Write a pixel radius in [0, 1] as n/255, nothing for zero.

    >>> epsilon(8 / 255)
    '8/255'
    """
    found = number(value)
    if not found:
        return ""
    levels = round(255 * found, 1)
    return f"{levels:g}/255"


def budget(value: Any) -> str:
    """Say what an attack could spend on one item: images and gradient steps, always both."""
    spent = mapping(value)
    parts = [
        _plural(spent.get("images"), "image"),
        _plural(spent.get("steps"), "gradient step"),
    ]
    if number(spent.get("queries")):
        parts.append(_plural(spent.get("queries"), "query", "queries"))
    radius = epsilon(spent.get("epsilon"))
    if radius:
        parts.append(f"ε {radius} {text(spent.get('norm'))}".rstrip())
    return ", ".join(parts)


def _plural(value: Any, one: str, many: str = "") -> str:
    found = number(value)
    if found is None:
        return f"{NOTHING} {many or one + 's'}"
    return f"{count(found)} {one if found == 1 else many or one + 's'}"


def pieces(prompt: str, adversarial: str) -> list[Piece]:
    """Compare two prompts word by word, so that the report can mark what an attack added.

    >>> pieces("a red fish", "zq a red fish")[0]
    Piece(kind='added', text='zq')
    """
    old, new = (re.findall(r"\S+", part) for part in (prompt, adversarial))
    found: list[Piece] = []
    matcher = difflib.SequenceMatcher(a=old, b=new, autojunk=False)
    for action, a0, a1, b0, b1 in matcher.get_opcodes():
        if action == "equal":
            found.append(Piece("same", " ".join(new[b0:b1])))
            continue
        if a1 > a0:
            found.append(Piece("removed", " ".join(old[a0:a1])))
        if b1 > b0:
            found.append(Piece("added", " ".join(new[b0:b1])))
    return found
