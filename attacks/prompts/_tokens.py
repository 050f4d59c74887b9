"""Adversarial tokens: how prompts are spelled, and the two variables that search tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from safetybench.contracts import EncodesText, Prompt

Location = Literal["prefix", "suffix"]
LOCATIONS: tuple[Location, ...] = ("prefix", "suffix")


class Spelled(NamedTuple):
    """Prompts as token ids.

    ids: (batch, length) int64 with start, end and padding; words: the ids between start and end;
    length: how many ids the encoder takes.
    """

    ids: Tensor
    words: list[list[int]]
    length: int


def spell(target: EncodesText, prompts: Sequence[str]) -> Spelled:
    """Tokenize; the end id is read from the empty prompt, as no two tokenizers agree on it."""
    ids = target.tokenize([*prompts, ""]).cpu()
    end = int(ids[-1, 1])
    rows = [row.tolist() for row in ids[:-1]]
    words = [row[1 : row.index(end, 1)] if end in row[1:] else row[1:] for row in rows]
    return Spelled(ids[:-1], words, ids.shape[1])


def too_long(target: EncodesText, prompts: Sequence[Prompt], tokens: int) -> dict[str, str]:
    """Return by item id why `tokens` more do not fit; prompts that fit are not in it."""
    if not prompts:
        return {}
    spelled = spell(target, [prompt.text for prompt in prompts])
    room = spelled.length - 2  # start and end
    return {
        prompt.id: f"prompt must have at most {room - tokens} tokens to take {tokens} more, "
        f"got {len(words)}"
        for prompt, words in zip(prompts, spelled.words, strict=True)
        if len(words) + tokens > room
    }


def joined(words: Sequence[int], tokens: Sequence[int], location: Location) -> list[int]:
    """Return the ids of a prompt with adversarial tokens before or after it."""
    return [*tokens, *words] if location == "prefix" else [*words, *tokens]


def stacked(draws: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Stack draws of items whose last axes differ; the short ones end in zeros."""
    widest = max(draw.shape[-1] for draw in draws)
    pad = torch.nn.functional.pad
    return torch.stack([pad(draw, (0, widest - draw.shape[-1])) for draw in draws], dim)


def project_simplex(rows: Tensor) -> Tensor:
    """Return the nearest point of the probability simplex to each row, exactly.

    rows: (..., n), float. Sorts (Held, Wolfe and Crowder 1974) where the authors' code bisects
    to 1e-5; the two agree to that tolerance.
    """
    # The projection does not change when a row is shifted, and small numbers add up exactly.
    ordered = (rows - rows.amax(-1, keepdim=True)).sort(dim=-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    count = torch.arange(1, rows.shape[-1] + 1, device=rows.device, dtype=rows.dtype)
    support = (ordered * count > excess).sum(-1, keepdim=True)
    shift = excess.gather(-1, support - 1) / support
    return (rows - rows.amax(-1, keepdim=True) - shift).clamp(min=0)


def draw_tokens(rows: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one column from each row of weights.

    rows: (batch, k, n), at least 0; uniforms: (batch, k) in [0, 1). Returns (batch, k) int64.
    """
    mass = rows.cumsum(-1)
    wanted = (uniforms * mass[..., -1])[..., None]
    return torch.searchsorted(mass, wanted, right=True)[..., 0].clamp(max=rows.shape[-1] - 1)


class Variable(Protocol):
    """What the optimiser moves: (batch, k, columns), float32, and how tokens come from it."""

    def start(self, generators: Sequence[torch.Generator], tokens: Sequence[int]) -> Tensor:
        """Return the first value, one random stream and number of tokens an item.

        k is the largest number; what is behind an item's own stands nowhere.
        """
        ...

    def pick(self, value: Tensor, uniforms: Tensor) -> Tensor:
        """Return the tokens of one forward pass, rows of the table: (batch, k) int64."""
        ...

    def gradient(self, of_rows: Tensor) -> Tensor:
        """Turn the gradient of the picked rows, (batch, k, width), into that of the value."""
        ...

    def project(self, value: Tensor) -> Tensor:
        """Return the nearest admissible value."""
        ...

    def answer(self, value: Tensor) -> Tensor:
        """Return the tokens the value stands for: (batch, k) int64."""
        ...


@dataclass(frozen=True)
class Simplex:
    """A distribution over the vocabulary at each place (UnlearnDiffAtk's `text_grad`).

    table: (vocabulary, width), the embeddings of the tokens that may be typed.
    """

    table: Tensor

    def start(self, generators: Sequence[torch.Generator], tokens: Sequence[int]) -> Tensor:
        """Return uniform distributions."""
        n = len(self.table)
        return torch.full((len(generators), max(tokens), n), 1 / n, device=self.table.device)

    def pick(self, value: Tensor, uniforms: Tensor) -> Tensor:
        """Draw from each distribution, rather than take its largest entry."""
        return draw_tokens(value, uniforms)

    def gradient(self, of_rows: Tensor) -> Tensor:
        """Pass the gradient of the one-hot straight through, clamped to [-1, 1]."""
        return (of_rows @ self.table.T).clamp(-1, 1)

    def project(self, value: Tensor) -> Tensor:
        """Return to the simplex."""
        return project_simplex(value)

    def answer(self, value: Tensor) -> Tensor:
        """Return the likeliest tokens."""
        return value.argmax(-1)


@dataclass(frozen=True)
class Projected:
    """Free embeddings, each read as the nearest token's by cosine (PEZ, Wen et al. 2023).

    table: as for `Simplex`.
    """

    table: Tensor

    def start(self, generators: Sequence[torch.Generator], tokens: Sequence[int]) -> Tensor:
        """Return the embeddings of random tokens."""
        n = len(self.table)
        pairs = zip(generators, tokens, strict=True)
        picks = [torch.randint(n, (count,), generator=generator) for generator, count in pairs]
        return self.table[stacked(picks).to(self.table.device)].clone()

    def pick(self, value: Tensor, uniforms: Tensor) -> Tensor:
        """Return the nearest tokens; nothing is drawn."""
        return self.answer(value)

    def gradient(self, of_rows: Tensor) -> Tensor:
        """Apply the gradient at the nearest token to the free embedding."""
        return of_rows

    def project(self, value: Tensor) -> Tensor:
        """Leave the embeddings free."""
        return value

    def answer(self, value: Tensor) -> Tensor:
        """Return the nearest tokens."""
        return (torch.nn.functional.normalize(value, dim=-1) @ self.unit.T).argmax(-1)

    @cached_property
    def unit(self) -> Tensor:
        """The table with rows of length one."""
        return torch.nn.functional.normalize(self.table, dim=-1)


Optimiser = Literal["simplex", "rowwise", "projected"]
VARIABLES: dict[Optimiser, type[Simplex] | type[Projected]] = {
    "simplex": Simplex,
    "rowwise": Simplex,
    "projected": Projected,
}


@dataclass
class Adam:
    """Adam (Kingma and Ba 2015) with L2 decay in the gradient, on items that leave one by one.

    is_shared: one step size a row, from its largest gradient. Adam's own gives a token that
    matters a thousandth as much a step as long. is_decoupled: decay beside the gradient, which
    is AdamW (Loshchilov and Hutter 2019).
    """

    first: Tensor
    second: Tensor
    lr: float
    weight_decay: float
    is_shared: bool = False
    is_decoupled: bool = False
    steps: int = 0

    def update(self, value: Tensor, gradient: Tensor) -> Tensor:
        """Return the value after one step."""
        self.steps += 1
        if self.is_decoupled:
            value = (1 - self.lr * self.weight_decay) * value
        else:
            gradient = gradient + self.weight_decay * value
        self.first.lerp_(gradient, 0.1)
        square = gradient.square()
        if self.is_shared:
            square = square.amax(-1, keepdim=True)
        self.second.mul_(0.999).add_(square, alpha=0.001)
        mean = self.first / (1 - 0.9**self.steps)
        spread = (self.second / (1 - 0.999**self.steps)).sqrt() + 1e-8
        return value - self.lr * mean / spread

    def keep(self, rows: Tensor) -> None:
        """Forget the items that are not in rows: (batch,) int64."""
        self.first, self.second = self.first[rows], self.second[rows]
