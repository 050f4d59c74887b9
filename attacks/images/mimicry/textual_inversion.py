"""Textual inversion: find the embedding of a new word under which a model draws a few pictures.

White box: needs gradients of the denoiser down to the text encoder's input. No weight changes
but the new rows of the embedding table, so nothing is learnt that the model could not draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from safetybench.contracts import (
    Album,
    Budget,
    Denoises,
    EncodesImages,
    EncodesText,
    GeneratesImages,
    Mimicry,
)
from safetybench.distill.training import tune
from safetybench.registry import register
from safetybench.targets.personalise import examples_of, picture_loss, with_tokens

from ._captions import captions_of, check_album, check_template


@register
@dataclass(frozen=True, kw_only=True)
class TextualInversion(Mimicry):
    """Learn the embedding of a new word by the denoising loss (Gal et al. 2023).

    name: of the new word, which prompts then write as <name>. tokens: rows to learn; of several
    the word is <name1> <name2> ... start: a word of the model to begin at, "" for the mean of all
    that can be typed. template: of a caption where the album's own does not say the word. lr: of
    AdamW; batch: pictures a step; tries: see
    `safetybench.targets.personalise.picture_loss`.

    Published: 5,000 steps, batch 4 on each of 2 GPUs, lr 5e-3 times the pictures of a step (0.04),
    one token that begins at a coarse word for the subject, and 27 templates about photos. The
    defaults are for the zoo. The learning rate falls to 0 over the second half and gradients are
    clipped; `tries`, for few-step students, is ours.
    """

    name: str = "sks"
    tokens: int = 1
    start: str = "shape"
    template: str = "a {}"
    lr: float = 2e-2
    batch: int = 8
    tries: int = 8

    source: ClassVar[str] = "https://arxiv.org/abs/2208.01618"
    needs: ClassVar[tuple[type, ...]] = (GeneratesImages, EncodesText, Denoises, EncodesImages)

    def __post_init__(self) -> None:
        check_template(self.template)
        if not (self.name.isalnum() and self.name == self.name.lower()):
            raise ValueError(f"name must be lower-case letters and digits, got {self.name!r}")
        if self.lr <= 0 or min(self.tokens, self.batch, self.tries) < 1:
            raise ValueError(
                "lr, tokens, batch and tries must be positive, got "
                f"{self.lr}, {self.tokens}, {self.batch}, {self.tries}"
            )

    @property
    def word(self) -> str:
        """Return the new word, or words, as prompts write them."""
        return " ".join(self._words)

    @property
    def _words(self) -> list[str]:
        if self.tokens == 1:
            return [f"<{self.name}>"]
        return [f"<{self.name}{i + 1}>" for i in range(self.tokens)]

    def learn(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Any:
        """Return a target whose text encoder knows `word`; see `Mimicry.learn`.

        It shares the denoiser and the autoencoder with the one given.

        Raises:
            ValueError: an album without images, a budget without steps, a start word that is no
                token of the model, or a caption too long to hold the new word.
        """
        check_album(album, budget.steps)
        rows = nn.Parameter(self._first_rows(target))
        twin, ids = with_tokens(target, self._words, rows.detach())
        captions = captions_of(album, self.word, self.template)
        pictures = examples_of(twin, album.images, captions)
        for text, tokens in zip(captions, pictures.tokens.tolist(), strict=True):
            if not set(ids) <= set(tokens):
                raise ValueError(f"captions must leave room for {self.word}, got {text!r}")

        def loss_at(step: int, rng: torch.Generator) -> Tensor:
            with _learning(twin, ids, rows):
                return picture_loss(twin, pictures.drawn(self.batch, rng), rng, self.tries)

        tune([rows], loss_at, steps=budget.steps, lr=self.lr, seed=budget.seed, report=report)
        return with_tokens(target, self._words, rows.detach())[0]

    def _first_rows(self, target: Any) -> Tensor:
        """Return the rows to begin at, (tokens, width) float32."""
        table: Tensor = target.token_table.detach().float()
        if not self.start:
            return table[target.plain_tokens].mean(0).repeat(self.tokens, 1)
        ids = target.tokenizer(self.start, add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise ValueError(f"start must be one token of {target.name}, got {self.start!r}")
        return table[ids].repeat(self.tokens, 1)


@contextmanager
def _learning(twin: Any, ids: Sequence[int], rows: Tensor) -> Iterator[None]:
    """Let the twin's text encoders read `rows`, (tokens, width), for the new ids; with gradient."""
    parts = [part for part in ("text_encoder", "text_encoder_2") if hasattr(twin, part)]
    tables = [getattr(twin, part).get_input_embeddings() for part in parts]
    split = rows.split([table.weight.shape[1] for table in tables], dim=1)
    with ExitStack() as stack:
        for table, own in zip(tables, split, strict=True):
            hook = table.register_forward_hook(_replacer(ids, own.to(table.weight.dtype)))
            stack.callback(hook.remove)
        yield


def _replacer(ids: Sequence[int], rows: Tensor) -> Any:
    def replace(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        for token, row in zip(ids, rows, strict=True):
            output = torch.where((args[0] == token)[..., None], row, output)
        return output

    return replace
