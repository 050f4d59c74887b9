"""Unicode normalisation: let the model read what a person sees, without invisible characters.

Takes zero-width and look-alike triggers out of a prompt, and does nothing to one of plain words.
Access: the prompt alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from safetybench.contracts import PromptFilter
from safetybench.registry import register

from ._fold import fold


@register
@dataclass(frozen=True, kw_only=True)
class UnicodeNormalisation(PromptFilter):
    """NFKC, no format characters, look-alikes as Latin letters (UTS 39; see Boucher et al. 2021).

    homoglyphs: whether Cyrillic, Greek and other look-alikes become Latin, in words that mix
    scripts or have no other letters; invisible: whether characters that are not drawn go. The
    table of look-alikes is of some eighty characters, `safetybench.confusables`; one that is not
    in it passes, as accents do. The seed is not used.
    """

    homoglyphs: bool = True
    invisible: bool = True

    source: ClassVar[str] = "https://arxiv.org/abs/2106.09898"

    def rewrite(self, prompts: Sequence[str], seed: int = 0) -> list[str]:
        """Return prompts of the same visible text; see `PromptFilter.rewrite`."""
        return [
            fold(prompt, homoglyphs=self.homoglyphs, invisible=self.invisible) for prompt in prompts
        ]
