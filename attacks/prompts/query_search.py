"""Query search: tokens bred by the scores that the target's own images get from a judge.

Black box: needs the target's tokenizer and the judge's score of every image, no gradient and no
weights. What a patient user can do who sees how close each image came.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

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
    TextToImageTarget,
)
from safetybench.draws import item_generator
from safetybench.registry import register

from ._tokens import LOCATIONS, Location, joined, spell, too_long

# Children tried for one that is new; with a vocabulary of any size the first is.
_ATTEMPTS = 20


@register
@dataclass(frozen=True, kw_only=True)
class QuerySearch(PromptAttack):
    """Breed k prepended tokens by score (after Maus et al. 2023, who prepend tokens by queries).

    tokens: k. population: texts an item breeds from: at first the random prefixes that
    `random_prefix` tries with the same seed, afterwards the best seen so far. crossover: chance
    of a child to mix two parents, token by token; any other is one parent of which a token is
    drawn anew, and with the chance `mutation` each of the others too.

    Departs from the paper in the optimiser: the authors move in the space of token embeddings by
    Bayesian optimisation, for thousands of queries; this is a steady-state evolution of the
    tokens themselves, for tens. SneakyPrompt (Yang et al. 2024) is another threat: it replaces
    the words that a text filter refuses, rewarded by the likeness of image and prompt.

    It climbs only where scores are graded. The zoo's judge gives nearly 0 until an image shows the
    concept, and there it does no better than its control.
    """

    tokens: int = 3
    location: Location = "prefix"
    population: int = 3
    crossover: float = 0.5
    mutation: float = 0.0

    source: ClassVar[str] = "https://arxiv.org/abs/2302.04237"
    needs: ClassVar[tuple[type, ...]] = (GeneratesImages, EncodesText)
    uses: ClassVar[tuple[AttackAid, ...]] = ("scores",)
    sees: ClassVar[str] = "the tokenizer, and the judge's score of every image"

    def __post_init__(self) -> None:
        for name in ("tokens", "population"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("crossover", "mutation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a chance in [0, 1], got {getattr(self, name)}")
        if self.location not in LOCATIONS:
            raise ValueError(f"location is one of {', '.join(LOCATIONS)}, got {self.location!r}")

    def unfit(self, target: TextToImageTarget, prompts: Sequence[Prompt]) -> dict[str, str]:
        """Name the prompts that leave no room for the tokens."""
        return too_long(target, prompts, self.tokens)

    def control_options(self) -> Mapping[str, Any]:
        """Return what makes the random prefix spend as much."""
        return {"tokens": self.tokens, "location": self.location}

    def search(
        self,
        target: TextToImageTarget,
        prompts: Sequence[Prompt],
        aids: Aids,
        budget: Budget,
    ) -> Generator[list[Candidate], Reply | None, None]:
        """Yield one text an item and round, bred from the scores before; see `PromptAttack`."""
        unfit = self.unfit(target, prompts)
        spelled = spell(target, [prompt.text for prompt in prompts]).words
        plain = target.plain_tokens.tolist()
        items = {
            prompt: (words, _Breed(item_generator(budget.seed, prompt.id), len(plain), self))
            for prompt, words in zip(prompts, spelled, strict=True)
            if prompt.id not in unfit
        }
        for _ in range(budget.images - 1):
            if not items:
                return
            candidates = []
            for prompt, (words, breed) in items.items():
                chosen = [plain[i] for i in breed.ask()]
                ids = joined(words, chosen, self.location)
                candidates.append(Candidate(prompt.id, target.detokenize(ids), prompt.seed))
            reply = (yield candidates) or Reply()
            for prompt, (_, breed) in items.items():
                breed.tell(reply.scores.get(prompt.id, 0.0))
            items = {p: state for p, state in items.items() if p.id not in reply.won}


_Genes = tuple[int, ...]


@dataclass
class _Breed:
    """The texts of one item: asked for one after the other, told the score of each.

    count: of tokens to draw from; best: (score, genes) of those it breeds from, best first.
    """

    generator: torch.Generator
    count: int
    options: QuerySearch
    best: list[tuple[float, _Genes]] = field(default_factory=list)
    tried: set[_Genes] = field(default_factory=set)
    last: _Genes = ()

    def ask(self) -> _Genes:
        """Return the tokens to try next, as rows of the plain tokens."""
        if len(self.best) < self.options.population:
            self.last = self._random()
        else:
            children = (self._child() for _ in range(_ATTEMPTS))
            self.last = next((c for c in children if c not in self.tried), self._random())
        return self.last

    def tell(self, score: float) -> None:
        """Keep the tokens asked for last if they are among the best, the newer of equals first."""
        self.tried.add(self.last)
        ranked = sorted([(score, self.last), *self.best], key=lambda pair: -pair[0])
        self.best = ranked[: self.options.population]

    def _random(self) -> _Genes:
        return self._genes(self.options.tokens)

    def _genes(self, count: int) -> _Genes:
        return tuple(torch.randint(self.count, (count,), generator=self.generator).tolist())

    def _child(self) -> _Genes:
        """Return the tokens of two parents mixed, or of one with some drawn anew."""
        tokens, rng = self.options.tokens, self.generator
        chances = torch.rand(tokens + 1, generator=rng).tolist()
        # The better of two draws: a tournament, so that the best breeds most.
        ranks = torch.randint(len(self.best), (2, 2), generator=rng).amin(1).tolist()
        one, other = (self.best[rank][1] for rank in ranks)
        if chances[-1] < self.options.crossover and one != other:
            pairs = zip(chances, one, other, strict=False)
            return tuple(a if chance < 0.5 else b for chance, a, b in pairs)
        fresh, forced = self._genes(tokens), int(torch.randint(tokens, (1,), generator=rng))
        return tuple(
            fresh[i] if i == forced or chances[i] < self.options.mutation else gene
            for i, gene in enumerate(one)
        )
