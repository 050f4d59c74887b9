"""Unicode triggers in the zoo: its models, made to tell every character beyond ASCII from others.

The zoo's vocabulary was made of ASCII words alone, so that any other character is read as unknown
pieces, and all of as many bytes as one trigger. CLIP's has a symbol for each byte. Here the zoo's
get those of the bytes that UTF-8 uses beyond ASCII, with untrained embeddings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from safetybench.targets.text_to_image import TextToImage

_END = "</w>"  # CLIP's mark of the last piece of a word


def with_bytes(target: TextToImage, seed: int = 0) -> TextToImage:
    r"""Return the target with a token for each byte beyond ASCII, within and at the end of a word.

    New tokens stand behind the old ones, whose ids and embeddings stay: prompts in ASCII are read
    as before, those with digits or signs that the zoo does not know among them. New rows of the
    embedding table are normal, with the mean and deviation of the old rows in each column.
    Returns the target itself where its tokenizer knows all bytes, as that of every CLIP does.

    Example:
        >>> from safetybench.targets.loading import load_target
        >>> target = load_target("zoo:teacher", device="cpu")
        >>> with_bytes(target).tokenizer.tokenize("a \u200b")
        ['a</w>', 'â', 'Ģ', 'ĭ</w>']
    """
    known = target.tokenizer.get_vocab()
    new = [token for token in _byte_tokens() if token not in known]
    if not new:
        return target
    twin = target.clone(with_text=True)
    twin.tokenizer = _extended(target.tokenizer, new)
    _grow(twin.text_encoder, len(new), seed)
    twin._plain, twin._null = None, None  # what the old vocabulary gave
    return twin


def _byte_tokens() -> Iterator[str]:
    """Yield the symbols of the bytes 128 to 255, as byte-level byte-pair encoding writes them.

    Bytes that are printable in Latin-1 stand for themselves, the others for characters from 256
    on, which 33 ASCII bytes and 127 use first.
    """
    printable = {*range(ord("!"), 127), *range(0xA1, 0xAD), *range(0xAE, 256)}
    unprintable = [byte for byte in range(256) if byte not in printable]
    for byte in range(128, 256):
        symbol = chr(byte if byte in printable else 256 + unprintable.index(byte))
        yield symbol
        yield symbol + _END


def _extended(tokenizer: Any, new: list[str]) -> Any:
    """Return a tokenizer of the same kind and settings with `new` behind its vocabulary.

    As part of the byte-pair model: tokens that are merely added would split words around them.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    vocabulary |= {token: len(vocabulary) + i for i, token in enumerate(new)}
    merges = [tuple(pair) for pair in model["merges"]]
    length = tokenizer.model_max_length
    return type(tokenizer)(vocab=vocabulary, merges=merges, model_max_length=length)


@torch.no_grad()
def _grow(encoder: Any, count: int, seed: int) -> None:
    """Add `count` rows to the embedding table of a text encoder, in place."""
    old = encoder.get_input_embeddings().weight
    rng = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, old.shape[1], generator=rng).to(old)
    rows = torch.cat([old, old.mean(0) + old.std(0) * drawn])
    encoder.set_input_embeddings(nn.Embedding.from_pretrained(rows, freeze=True))
    encoder.config.vocab_size = len(rows)
