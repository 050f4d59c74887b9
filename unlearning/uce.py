"""UCE: rewrite the layers that read the text, in closed form, so that a concept reads as another.

One least-squares problem for each key and value layer of cross-attention; no training and no
images. White box: the text encoder and the denoiser's weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from safetybench.contracts import Budget, Erasure, Unlearning
from safetybench.registry import register

from ._closed_form import Tokens, check, edit, phrases_of, rows_of


@register
@dataclass(frozen=True, kw_only=True)
class Uce(Unlearning):
    """Unified concept editing (Gandikota et al. 2024), equation 7.

    erase, preserve: weights of the two sums, published 1 and 1; ridge: of staying at the old
    weights, published 0.5 (0.1 in the first code). tokens: which embeddings of a phrase are
    edited, "last" as in the released code, "from_last" as in the first, or "all".
    templates: forget prompts, cut behind the concept, beside the bare phrases (published: 0, or
    5 templates a concept). kept: retain prompts to preserve (published: a list of the user's,
    empty by default), of which with "last" the last token is kept and otherwise every one.
    For the published method set tokens="last", templates=0, kept=0.
    The budget's steps and seed are not used.
    """

    erase: float = 1.0
    preserve: float = 1.0
    ridge: float = 0.5
    tokens: Tokens = "from_last"
    templates: int = 64
    kept: int = 256

    source: ClassVar[str] = "https://arxiv.org/abs/2308.14761"
    trains: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self)

    def run(self, target: Any, erasure: Erasure, budget: Budget, report: Any = None) -> Any:
        """Return a target that reads the concept as its anchor."""
        phrases = phrases_of(erasure, templates=self.templates, kept=self.kept)
        rows = rows_of(target, phrases, self.tokens)
        made = target.clone()
        edit(made.unet, rows, erase=self.erase, preserve=self.preserve, ridge=self.ridge)
        return made
