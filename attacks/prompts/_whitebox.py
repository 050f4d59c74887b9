"""The batched loop of a white-box prompt attack: gradient steps, and a text after every few."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safetybench.contracts import Budget, Candidate, EncodesText, Prompt, Reply
from safetybench.draws import item_generator

from ._objective import Goal, Loss, Moment
from ._places import Layout, Place, slots
from ._tokens import VARIABLES, Adam, Optimiser, Variable, spell, stacked


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The values a preset fixes; the defaults are those of UnlearnDiffAtk's authors.

    location "spread" puts one token behind every `spacing` of the prompt's, `tokens` at most;
    is_decoupled: weight decay as in AdamW.
    """

    tokens: int = 3
    timesteps: int = 50
    iterations: int = 40
    draws: int = 1
    lr: float = 0.01
    weight_decay: float = 0.1
    location: Place = "prefix"
    optimiser: Optimiser = "simplex"
    loss: Loss = "denoise"
    spacing: int = 3
    is_decoupled: bool = False


def chosen(attack: Any, preset: Settings) -> Settings:
    """Return the preset with those options of the attack that were given."""
    given = {f.name: getattr(attack, f.name, None) for f in fields(Settings)}
    return replace(preset, **{name: value for name, value in given.items() if value is not None})


def check(attack: Any, **choices: Collection[str]) -> None:
    """Raise ValueError for an option of an attack that is out of its range or choices."""
    for name, allowed in choices.items():
        value = getattr(attack, name)
        if value is not None and value not in allowed:
            raise ValueError(f"{name} is one of {', '.join(allowed)}, got {value!r}")
    for name in ("tokens", "timesteps", "iterations", "draws", "lr", "spacing"):
        value = getattr(attack, name, None)
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    decay = getattr(attack, "weight_decay", None)
    if decay is not None and decay < 0:
        raise ValueError(f"weight_decay must be 0 or more, got {decay}")


class _Steps(NamedTuple):
    """What a round's gradient steps saw, each (iterations, batch)."""

    loss: Tensor
    gradient: Tensor


class Search:
    """Open items of one attack; every field is in the order of `prompts`.

    model: whose text encoder the tokens go through; goal: what they are to lower.
    """

    def __init__(
        self,
        model: EncodesText,
        prompts: Sequence[Prompt],
        goal: Goal,
        settings: Settings,
        seed: int,
    ) -> None:
        self.model, self.goal, self.settings = model, goal, settings
        self.prompts = list(prompts)
        self.plain = model.plain_tokens
        table = model.token_table.detach()
        self.rows = table[self.plain.to(table.device)].float()  # (vocabulary, width)
        self.variable: Variable = VARIABLES[settings.optimiser](self.rows)
        self.generators = [item_generator(seed, prompt.id) for prompt in prompts]
        place, count = settings.location, settings.tokens
        self.layout = Layout(model, slots(model, prompts, place, count, seed, settings.spacing))
        texts = ["" if place == "alone" else prompt.text for prompt in prompts]
        self.ids = spell(model, texts).ids.to(table.device)
        self.value = self.variable.start(self.generators, self._counts())
        with torch.no_grad():
            self.unmodified = self._before()
        self.adam = Adam(
            torch.zeros_like(self.value),
            torch.zeros_like(self.value),
            settings.lr,
            settings.weight_decay,
            settings.optimiser == "rowwise",
            settings.is_decoupled,
        )

    def drop(self, items: Collection[str]) -> None:
        """Take items out of the batch."""
        kept = [i for i, prompt in enumerate(self.prompts) if prompt.id not in items]
        if len(kept) == len(self.prompts):
            return
        self.prompts = [self.prompts[i] for i in kept]
        self.generators = [self.generators[i] for i in kept]
        if not kept:
            return
        self.layout.keep(kept)
        rows = torch.tensor(kept, dtype=torch.int64, device=self.value.device)
        for name in ("ids", "unmodified", "value"):
            setattr(self, name, getattr(self, name)[rows])
        self.adam.keep(rows)
        self.goal.keep(rows)

    def round(self, moments: Sequence[Moment], iterations: int) -> list[Candidate]:
        """Take gradient steps and return each item's text.

        moments: one for all steps, or several of one kind, of which each step of each item
        draws its own.
        """
        # One draw an item and round, not one a step: the loop below never waits for the CPU.
        uniforms = self._uniforms(iterations)
        drawn = self._draw(torch.randn, iterations, self.settings.draws, *self.goal.shape)
        noises = self.goal.noises(moments[0], drawn)
        times = self._times(moments, iterations)
        seen: list[_Steps] = []
        for uniform, noise, time in zip(uniforms, noises, times, strict=True):
            seen.append(self._step(moments[0], time, uniform, noise))
        steps = _Steps(*(torch.stack(parts) for parts in zip(*seen, strict=True)))
        return self._candidates(moments[0], times[-1], noises[-1], steps)

    def _counts(self) -> list[int]:
        return [len(slot.after) for slot in self.layout.slots]

    def _uniforms(self, iterations: int) -> Tensor:
        """Return (iterations, batch, k) numbers in [0, 1), each item's from its own stream."""
        pairs = zip(self._counts(), self.generators, strict=True)
        draws = [torch.rand((iterations, count), generator=stream) for count, stream in pairs]
        found = stacked(draws, 1).to(self.value)
        # An item with more tokens may have left; the value keeps its width.
        return torch.nn.functional.pad(found, (0, self.value.shape[1] - found.shape[2]))

    def _draw(self, draw: Callable[..., Tensor], *shape: int) -> Tensor:
        """Return (iterations, batch, ...) numbers, each item's from its own stream."""
        draws = [draw(shape, generator=generator) for generator in self.generators]
        return torch.stack(draws, 1).to(self.value)

    def _times(self, moments: Sequence[Moment], iterations: int) -> Tensor:
        """Return (iterations, batch) timesteps; one moment leaves the random streams alone."""
        known = torch.tensor([moment.t for moment in moments])
        shape = (iterations, len(self.prompts))
        if len(moments) == 1:
            return known.expand(shape).to(self.value.device)
        draws = [
            torch.randint(len(known), (iterations,), generator=generator)
            for generator in self.generators
        ]
        return known[torch.stack(draws, 1)].to(self.value.device)

    def _step(self, moment: Moment, times: Tensor, uniform: Tensor, noise: Tensor) -> _Steps:
        picked = self.variable.pick(self.value, uniform)  # (batch, k)
        rows = self.rows[picked].requires_grad_()  # (batch, k, width)
        loss = self.goal.losses(moment, times, self.layout.embed(self.ids, rows), noise)
        gradient = torch.zeros_like(rows)
        if loss.requires_grad:  # a defense may hide its gradients; the trace will say so
            (gradient,) = torch.autograd.grad(loss.sum(), rows, materialize_grads=True)
        gradient = gradient.nan_to_num(0, 0, 0)
        of_value = self.variable.gradient(gradient)
        self.value = self.variable.project(self.adam.update(self.value, of_value))
        return _Steps(loss.detach(), gradient.flatten(1).norm(dim=1))

    def _before(self) -> Tensor:
        """Return text states before the search: the prompt's, or the first tokens' without one."""
        if self.settings.location != "alone":
            return self.model.embed(self.ids)
        return self.layout.embed(self.ids, self.rows[self.variable.answer(self.value)])

    def _candidates(
        self, moment: Moment, times: Tensor, noise: Tensor, steps: _Steps
    ) -> list[Candidate]:
        picked = self.variable.answer(self.value)
        with torch.no_grad():
            text = self.layout.embed(self.ids, self.rows[picked])
            with_tokens = self.goal.losses(moment, times, text, noise)
            without = self.goal.losses(moment, times, self.unmodified, noise)
        last = -(-len(steps.loss) // 4)
        trace = {
            "loss": steps.loss[-last:].mean(0),
            "loss_with": with_tokens,
            "loss_without": without,
            "gradient": steps.gradient.mean(0),
            "zero": (steps.gradient == 0).float().mean(0),
        }
        figures = torch.stack([value.float() for value in trace.values()], 1).tolist()
        tokens = self.plain.to(picked.device)[picked].tolist()
        return [
            Candidate(
                item=prompt.id,
                text=self.model.detokenize(slot.filled(found)),
                seed=prompt.seed,
                steps=len(steps.loss),
                trace=dict(zip(trace, row, strict=True)),
            )
            for prompt, slot, found, row in zip(
                self.prompts, self.layout.slots, tokens, figures, strict=True
            )
        ]


def rounds_of(budget: Budget) -> int:
    """Return how many texts a search tries: the unmodified prompt is the first image."""
    return min(budget.images - 1, budget.steps)


def run(
    search: Search, schedule: Sequence[Sequence[Moment]], budget: Budget
) -> Generator[list[Candidate], Reply | None, None]:
    """Yield a text an item after every round of steps, until the budget is spent.

    schedule: the moments of each round, from the start again where it is shorter; fewer steps
    in the budget mean fewer in each round.
    """
    rounds = rounds_of(budget)
    iterations = min(search.settings.iterations, budget.steps // rounds)
    for i in range(rounds):
        reply = yield search.round(schedule[i % len(schedule)], iterations)
        search.drop((reply or Reply()).won)
        if not search.prompts:
            return


def fitting(prompts: Sequence[Prompt], unfit: Mapping[str, str]) -> list[int]:
    """Return the positions of the prompts that an attack can be made on."""
    return [i for i, prompt in enumerate(prompts) if prompt.id not in unfit]
