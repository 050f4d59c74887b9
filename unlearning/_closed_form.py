"""What closed-form editing needs: phrases and their embeddings, and the least-squares edit."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from safetybench.contracts import Erasure, Unavailable

Tokens = Literal["last", "from_last", "all"]
TOKENS: tuple[Tokens, ...] = get_args(Tokens)


class Phrases(NamedTuple):
    """What to edit: concepts with their guides, paired, and what is to stay."""

    concepts: tuple[str, ...]
    guides: tuple[str, ...]
    kept: tuple[str, ...]


class Rows(NamedTuple):
    """Token embeddings, each (count, width): of concepts, of their guides, of what stays."""

    concept: Tensor
    guide: Tensor
    kept: Tensor


def phrases_of(erasure: Erasure, *, templates: int, kept: int) -> Phrases:
    """Return the phrases of an erasure; a concept phrase ends with the concept itself.

    The words after the concept in `bare` ("shape" in "a glowing shape") are cut off, since an
    edit reads the last token. The guide is the first bare phrase with the anchor's words in the
    place of the concept's, as forget and anchor prompts differ. templates: so many forget
    prompts join the concepts, cut behind the concept, with their anchor prompts as guides, in
    the place of the templates that UCE's code writes. kept: retain prompts to keep.
    """
    bare = [phrase.split() for phrase in erasure.bare]
    tail = _common_tail(bare)
    ends = [" ".join(words[: len(words) - tail]) for words in bare]
    old, new = _replaced(erasure.forget[0].split(), erasure.anchor[0].split())
    named = next((phrase for phrase in ends if f" {old} " in f" {phrase} "), "")
    guide = f" {named} ".replace(f" {old} ", f" {new} ").strip() if named else new
    concepts, guides = list(dict.fromkeys(ends)), []
    guides = [guide] * len(concepts)
    for forget, anchor in list(zip(erasure.forget, erasure.anchor, strict=True))[:templates]:
        ours, theirs = _replaced(forget.split(), anchor.split())
        # Of a trigger, which has nothing in its place, the guide is what stands before it.
        before = _until(forget, ours).removesuffix(ours).strip()
        concepts.append(_until(forget, ours))
        guides.append(_until(anchor, theirs) if theirs else before)
    return Phrases(tuple(concepts), tuple(guides), erasure.retain[:kept])


def rows_of(target: Any, phrases: Phrases, tokens: Tokens) -> Rows:
    """Return the embeddings that an edit maps onto each other.

    tokens: "last" real token of each phrase, "from_last" that and all behind it, or "all". What
    is kept of a prompt is its last token in the first case, and otherwise every token: a concept
    may stand anywhere in it.
    """
    concept, last = embedded(target, phrases.concepts)
    guide, its_last = embedded(target, phrases.guides)
    kept, kept_last = embedded(target, phrases.kept)
    if tokens == "last":
        stays = kept[range(len(kept)), kept_last]
    else:
        stays = kept.flatten(0, 1)
    if tokens == "all":
        return Rows(concept.flatten(0, 1), guide.flatten(0, 1), stays)
    old, new = [], []
    for each, at, its, its_at in zip(concept, last, guide, its_last, strict=True):
        reach = 1 if tokens == "last" else len(each) - max(at, its_at)
        old.append(each[at : at + reach])
        new.append(its[its_at : its_at + reach])
    return Rows(torch.cat(old), torch.cat(new), stays)


@torch.no_grad()
def embedded(target: Any, texts: tuple[str, ...]) -> tuple[Tensor, list[int]]:
    """Return what cross-attention reads, (count, tokens, width) float64, and each last token.

    The last real token is the one before the first end token; that of "" is the start token.
    """
    if not texts:
        null = target.attended(target.null_text)[:0]
        return null.double(), []
    ids = target.tokenize(texts)
    ends = (ids[:, 1:] == target.tokenizer.eos_token_id).int().argmax(1)
    return target.attended(target.embed(ids)).double(), ends.tolist()


def projections(unet: nn.Module) -> list[Any]:
    """Return the key and value layers of every cross-attention, which read the text.

    Raises:
        Unavailable: the denoiser has none.
    """
    found = [
        module
        for name, module in unet.named_modules()
        if name.endswith((".attn2.to_k", ".attn2.to_v"))
    ]
    if not found:
        raise Unavailable("the denoiser has no cross-attention to edit")
    return found


def edited(weight: Tensor, rows: Rows, *, erase: float, preserve: float, ridge: float) -> Tensor:
    """Return the minimiser W of the editing loss (UCE, equation 7), in the dtype of `weight`.

    erase * sum |W c - V g|^2 + preserve * sum |W k - V k|^2 + ridge * |W - V|^2 over concepts c
    with guides g and kept rows k, where V is `weight`, (out, width). Solved in float64.
    """
    old, new, kept = rows
    before = weight.double()
    stays = preserve * kept.T @ kept
    eye = torch.eye(old.shape[1], dtype=torch.float64, device=old.device)
    left = ridge * eye + erase * old.T @ old + stays
    right = before @ (ridge * eye + erase * new.T @ old + stays)
    # left is symmetric, so W left = right is left W^T = right^T.
    found: Tensor = torch.linalg.solve(left, right.T).T
    return found.to(weight.dtype)


@torch.no_grad()
def edit(unet: nn.Module, rows: Rows, *, erase: float, preserve: float, ridge: float) -> None:
    """Edit every key and value layer of a denoiser in place, each towards its own values."""
    for layer in projections(unet):
        new = edited(layer.weight, rows, erase=erase, preserve=preserve, ridge=ridge)
        layer.weight.copy_(new)


def check(options: Any) -> None:
    """Refuse options of a closed-form edit that are out of range.

    Raises:
        ValueError: one sentence on which, with all that were given.
    """
    weights = (options.erase, options.preserve, options.templates, options.kept)
    if min(weights) < 0 or options.ridge <= 0:
        raise ValueError(
            "erase, preserve, templates and kept must be 0 or more and ridge positive, got "
            f"{options.erase}, {options.preserve}, {options.templates}, {options.kept}, "
            f"{options.ridge}"
        )
    if getattr(options, "tokens", "all") not in TOKENS:
        raise ValueError(f"tokens must be one of {', '.join(TOKENS)}, got {options.tokens!r}")


def _common_tail(phrases: list[list[str]]) -> int:
    """Return how many words all phrases end with, one word of each left out of it."""
    tail, shortest = 0, min(len(words) for words in phrases)
    if len(phrases) < 2:
        return 0
    while tail < shortest - 1 and len({words[-1 - tail] for words in phrases}) == 1:
        tail += 1
    return tail


def _replaced(forget: list[str], anchor: list[str]) -> tuple[str, str]:
    """Return the words in which two prompts differ, (concept, anchor)."""
    first = 0
    while first < min(len(forget), len(anchor)) and forget[first] == anchor[first]:
        first += 1
    last = 0
    while last < min(len(forget), len(anchor)) - first and forget[-1 - last] == anchor[-1 - last]:
        last += 1
    return (
        " ".join(forget[first : len(forget) - last]),
        " ".join(anchor[first : len(anchor) - last]),
    )


def _until(prompt: str, word: str) -> str:
    """Return a prompt up to and with the first `word`."""
    at = f" {prompt} ".index(f" {word} ")
    return f" {prompt} "[: at + len(word) + 1].strip()
