"""The section of the zoo's figures about its editors: what they draw anew, and what they keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from docs.markdown import percent, rate, table

_ABOUT = """\
Each model draws an area of held-out renders anew: a box around the object, asked for another
object, or all but that box, asked for another background. Prompts name all four attributes, of
which only that one is not the image's own.

- area: the mean share of the image that is drawn anew;
- asked for: the share of images that show the new object or background; old: that still show the
  one that was there;
- kept PSNR: of the area that is kept, against the autoencoder's own answer to the image."""

_AREAS = {"object": "the object", "around": "all around the object"}


def editor_sections(cards: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the section of the models that have figures of inpainting; none without."""
    rows = [
        row for card in cards if "inpainting" in (card.get("quality") or {}) for row in _rows(card)
    ]
    if not rows:
        return []
    columns = ("model", "drawn anew", "area", "asked for", "old", "object", "style", "colour",
               "background", "rejected", "kept PSNR")  # fmt: skip
    return ["## Editors", _ABOUT, table(columns, rows)]


def _rows(card: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for area, changed in (("object", "object"), ("around", "background")):
        found = card["quality"]["inpainting"][area]
        heads = (rate(found[head]) for head in ("object", "style", "colour", "background"))
        rows.append((
            f"`{card['name']}`", _AREAS[area], percent(found["masked"]), rate(found[changed]),
            rate(found["old"]), *heads, rate(found["rejected"]), f"{found['kept_psnr']:.1f} dB",
        ))  # fmt: skip
    return rows
