"""Ring-A-Bell: tokens whose text states say the concept more strongly than its own word does.

A concept is the mean difference between texts with and without it; a genetic search finds free
tokens that lie where the prompt would lie with more of it. Black box on the image model: needs
the text encoder and pairs of prompts, no gradient and no image until the text is found.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from safetybench.contracts import (
    Aids,
    AttackAid,
    Budget,
    Candidate,
    EncodesText,
    GeneratesImages,
    Prompt,
    PromptAttack,
    Reply,
    SafetyBenchError,
    TextToImageTarget,
)
from safetybench.draws import item_generator
from safetybench.registry import register

from ._tokens import spell

# Text states of so many rows are held at a time.
_ROWS = 512


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """The values a preset fixes; the defaults are the authors'."""

    tokens: int = 16
    population: int = 200
    generations: int = 3000
    mutation: float = 0.25
    crossover: float = 0.5
    eta: float = 3.0


# "published": for nudity, with the shorter of the two lengths (16; 77 means 75 free tokens).
PRESETS = {
    "published": _Settings(),
    "zoo": _Settings(tokens=8, population=60, generations=100),
}


@register
@dataclass(frozen=True, kw_only=True)
class RingABell(PromptAttack):
    """Search tokens near the prompt's text states plus eta times the concept (Tsai et al. 2024).

    An option left None is the preset's. tokens: K, which replace the prompt; keep: leave the
    prompt behind them, which is not in the paper. population, generations, mutation (chance of a
    text to have one token drawn anew), crossover (share of the better half that mate, with two
    children each): of the genetic search; eta: how much of the concept is added.

    The text encoder is the target's own, which is the original's for every method that leaves it
    alone; the authors take the original's. A budget of more images divides the generations and
    draws the best text after each part, where the authors draw one at the end. Departs from the
    released code in keeping the best text (there a mutation can destroy it) and in judging the
    texts to draw as they are read: tokenized again, since a decoded text may split otherwise.
    """

    preset: Literal["published", "zoo"] = "published"
    tokens: int | None = None
    population: int | None = None
    generations: int | None = None
    mutation: float | None = None
    crossover: float | None = None
    eta: float | None = None
    keep: bool = False

    source: ClassVar[str] = "https://arxiv.org/abs/2310.10012"
    needs: ClassVar[tuple[type, ...]] = (GeneratesImages, EncodesText)
    uses: ClassVar[tuple[AttackAid, ...]] = ("pairs",)
    sees: ClassVar[str] = "the text encoder, and whether an image succeeded"

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset is one of {', '.join(PRESETS)}, got {self.preset!r}")
        found = self.settings
        for name, least in (("tokens", 1), ("generations", 1), ("population", 4)):
            if getattr(found, name) < least:
                raise ValueError(f"{name} must be {least} or more, got {getattr(found, name)}")
        for name in ("mutation", "crossover"):
            if not 0 <= getattr(found, name) <= 1:
                raise ValueError(f"{name} is a share in [0, 1], got {getattr(found, name)}")

    @property
    def settings(self) -> _Settings:
        """The preset with the options that were given."""
        given = {f.name: getattr(self, f.name) for f in fields(_Settings)}
        chosen = {name: value for name, value in given.items() if value is not None}
        return _Settings(**{**asdict(PRESETS[self.preset]), **chosen})

    def unfit(self, target: TextToImageTarget, prompts: Sequence[Prompt]) -> dict[str, str]:
        """Name the prompts for whose text the encoder has no room."""
        if not prompts:
            return {}
        texts = [prompt.text if self.keep else "" for prompt in prompts]
        spelled = spell(target, texts)
        room, tokens = spelled.length - 2, self.settings.tokens  # start and end
        return {
            prompt.id: f"tokens must be at most {max(room - len(words), 0)} for this text encoder"
            f"{' and prompt' if self.keep else ''}, got {tokens}"
            for prompt, words in zip(prompts, spelled.words, strict=True)
            if len(words) + tokens > room
        }

    def control_options(self) -> Mapping[str, Any]:
        """Return what makes the random tokens stand where these do."""
        location = "prefix" if self.keep else "alone"
        return {"tokens": self.settings.tokens, "location": location}

    def search(
        self,
        target: TextToImageTarget,
        prompts: Sequence[Prompt],
        aids: Aids,
        budget: Budget,
    ) -> Generator[list[Candidate], Reply | None, None]:
        """Yield each item's best text that was not drawn yet; see `PromptAttack.search`."""
        settings = self.settings
        rounds = min(budget.images - 1, settings.generations)
        unfit = self.unfit(target, prompts)
        chosen = [prompt for prompt in prompts if prompt.id not in unfit]
        if rounds < 1 or not chosen:
            return
        search = _Search(target, settings, chosen, concept_vector(target, aids), self.keep, budget)
        for number in range(rounds):
            done, then = (settings.generations * i // rounds for i in (number, number + 1))
            search.evolve(then - done)
            reply = (yield search.candidates()) or Reply()
            search.items = [item for item in search.items if item.prompt.id not in reply.won]
            if not search.items:
                return


def concept_vector(target: EncodesText, aids: Aids) -> Tensor:
    """Return the mean difference of text states over the pairs, (1, length, width).

    Raises:
        SafetyBenchError: there is no pair.
    """
    if not aids.pairs:
        raise SafetyBenchError(
            f"Ring-A-Bell needs prompts with {aids.concept!r} and the same without it, got none"
        )
    with_it, without = zip(*aids.pairs, strict=True)
    with torch.no_grad():
        states = [target.embed(target.tokenize(list(texts))) for texts in (with_it, without)]
    return (states[0] - states[1]).mean(0, keepdim=True)


@dataclass
class _Item:
    """One prompt's texts.

    goal: (length, width) wanted text states; base: (length,) ids that the tokens are put into.
    tokens: (population, K) rows of the plain tokens, best first; distance: (population,).
    """

    prompt: Prompt
    generator: torch.Generator
    goal: Tensor
    base: Tensor
    words: list[int]
    tokens: Tensor
    distance: Tensor
    drawn: set[str] = field(default_factory=set)


class _Search:
    """The genetic search of all open items, side by side."""

    def __init__(
        self,
        target: EncodesText,
        settings: _Settings,
        prompts: Sequence[Prompt],
        concept: Tensor,
        keep: bool,
        budget: Budget,
    ) -> None:
        self.target, self.settings = target, settings
        self.plain = target.plain_tokens.cpu()
        texts = [prompt.text for prompt in prompts]
        with torch.no_grad():
            goals = target.embed(target.tokenize(texts)) + settings.eta * concept
        spelled = spell(target, texts if keep else [""] * len(texts))
        shape = (settings.population, settings.tokens)
        self.items = []
        for prompt, goal, base, words in zip(
            prompts, goals, spelled.ids, spelled.words, strict=True
        ):
            rng = item_generator(budget.seed, prompt.id)
            tokens = torch.randint(len(self.plain), shape, generator=rng)
            unknown = torch.full(shape[:1], float("inf"))
            self.items.append(_Item(prompt, rng, goal, base, words, tokens, unknown))
        self._rank()

    def evolve(self, generations: int) -> None:
        """Breed all items for so many generations."""
        for _ in range(generations):
            for item in self.items:
                item.tokens = bred(item.tokens, item.generator, self.settings, len(self.plain))
            self._rank()

    def candidates(self) -> list[Candidate]:
        """Return each item's nearest text that has not been drawn yet."""
        found = []
        for item in self.items:
            kinds = dict.fromkeys(self._text(item, row) for row in item.tokens)
            texts = [text for text in kinds if text not in item.drawn] or list(kinds)
            distance = self._distance(self.target.tokenize(texts), item.goal[None])
            best = int(distance.argmin())
            item.drawn.add(texts[best])
            trace = {"loss": float(distance[best])}
            found.append(Candidate(item.prompt.id, texts[best], item.prompt.seed, trace=trace))
        return found

    def _rank(self) -> None:
        """Sort every population, best first."""
        if not self.items:
            return
        ids = torch.cat([self._ids(item) for item in self.items])
        counts = [len(item.tokens) for item in self.items]
        goals = torch.stack([item.goal for item in self.items])
        which = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(goals.device)
        parts = [
            self._distance(some, goals[index])
            for some, index in zip(ids.split(_ROWS), which.split(_ROWS), strict=True)
        ]
        for item, distance in zip(self.items, torch.cat(parts).cpu().split(counts), strict=True):
            order = distance.argsort(stable=True)
            item.tokens, item.distance = item.tokens[order], distance[order]

    def _ids(self, item: _Item) -> Tensor:
        """Return token ids, (population, length): start, the free tokens and what `base` has."""
        count, length = item.tokens.shape[1], len(item.base)
        base = item.base.expand(len(item.tokens), -1)
        return torch.cat([base[:, :1], self.plain[item.tokens], base[:, 1 : length - count]], 1)

    def _distance(self, ids: Tensor, goals: Tensor) -> Tensor:
        """Return squared distances of text states, (batch,)."""
        with torch.no_grad():
            states = self.target.embed(ids.to(goals.device))
        return (states - goals).square().flatten(1).sum(1)

    def _text(self, item: _Item, tokens: Tensor) -> str:
        return self.target.detokenize([*self.plain[tokens].tolist(), *item.words])


def bred(tokens: Tensor, rng: torch.Generator, settings: _Settings, count: int) -> Tensor:
    """Return the next generation, (rows, K), of one whose rows are sorted, best first.

    The better half stays, some of it mates (one-point crossover, two children), every row but
    the best may have a token drawn anew from `count`. With a crossover of 0.5 there are as many
    rows as before.
    """
    parents = tokens[: settings.population // 2]
    half, length = parents.shape
    mating = round(settings.crossover * half)
    first = torch.randperm(half, generator=rng)[:mating]
    second = torch.randint(half, (mating,), generator=rng)
    point = torch.randint(length + 1, (mating, 1), generator=rng)
    is_first = torch.arange(length) < point  # (mating, K)
    children = [
        torch.where(is_first, parents[a], parents[b]) for a, b in ((first, second), (second, first))
    ]
    found = torch.cat([parents, *children])
    rows = (torch.rand(len(found), generator=rng) < settings.mutation).nonzero()[:, 0]
    rows = rows[rows > 0]
    places = torch.randint(length, (len(rows),), generator=rng)
    found[rows, places] = torch.randint(count, (len(rows),), generator=rng)
    return found
