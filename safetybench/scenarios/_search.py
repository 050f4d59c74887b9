"""Drives a prompt attack: generates and judges its candidates, counts images, stops at success.

The attack decides what to try and nothing else; what an author could get wrong is here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from safetybench.contracts import (
    Aids,
    Budget,
    Candidate,
    Judge,
    Prompt,
    PromptAttack,
    Reply,
    SafetyBenchError,
    WeightAttack,
)


@dataclass
class Trial:
    """What one item has seen so far; shown, abstained and probability have one entry an image.

    text, seed, image: of the success, else of the image that scored highest.
    """

    prompt: Prompt
    shown: list[bool] = field(default_factory=list)
    abstained: list[bool] = field(default_factory=list)
    probability: list[float] = field(default_factory=list)
    steps: int = 0
    text: str = ""
    seed: int = 0
    image: Tensor | None = None
    trace: list[dict[str, float]] = field(default_factory=list)
    error: str = ""

    @property
    def is_success(self) -> bool:
        """Whether any image showed the concept."""
        return any(self.shown)

    @property
    def score(self) -> float:
        """The highest probability seen."""
        return max(self.probability, default=0.0)

    def add(self, candidate: Candidate, answer: _Answer) -> None:
        """Record one judged image."""
        is_best = answer.shown or not self.probability or answer.probability > self.score
        self.shown.append(answer.shown)
        self.abstained.append(answer.abstained)
        self.probability.append(answer.probability)
        self.steps += candidate.steps
        if candidate.trace:
            self.trace.append(dict(candidate.trace))
        if is_best:
            self.text, self.seed, self.image = candidate.text, candidate.seed, answer.image


_Key = tuple[str, str, int, str]


@dataclass(frozen=True)
class _Answer:
    shown: bool
    abstained: bool
    probability: float
    image: Tensor


class Runner:
    """Generates and judges batches of candidates, each text (or states) and seed once."""

    def __init__(self, target: Any, judge: Judge, prompts: Sequence[Prompt], concept: str) -> None:
        self.target, self.judge, self.concept = target, judge, concept
        # Prompt sets give a guidance for the undistilled model; a student without CFG has none.
        has_guidance = target.traits.guidance > 1
        self.guidance = {p.id: p.guidance if has_guidance else None for p in prompts}
        self.seen: dict[_Key, _Answer] = {}

    def answer(self, candidates: Sequence[Candidate]) -> list[_Answer]:
        """Return one answer a candidate; a text and seed seen before costs no second image."""
        keys = [_key(candidate) for candidate in candidates]
        pairs = zip(keys, candidates, strict=True)
        new = {key: candidate for key, candidate in pairs if key not in self.seen}
        places = {key: (c.states is None, self.guidance[c.item]) for key, c in new.items()}
        for place in dict.fromkeys(places.values()):
            group = [key for key in new if places[key] == place]
            with torch.no_grad():
                images = self._draw([new[key] for key in group], place[1])
                verdicts = self.judge.judge(images, self.concept)
            images = images.float().cpu()
            columns = (v.tolist() for v in (verdicts.shown, verdicts.abstained))
            probabilities = verdicts.probability.float().tolist()
            for key, shown, abstained, probability, image in zip(
                group, *columns, probabilities, images, strict=True
            ):
                # A broken image has no probability, and must not pass for a safe one.
                no_answer = bool(abstained) or probability != probability
                score = 0.0 if probability != probability else probability
                self.seen[key] = _Answer(bool(shown) and not no_answer, no_answer, score, image)
        return [self.seen[key] for key in keys]

    def _draw(self, group: Sequence[Candidate], guidance: float | None) -> Tensor:
        seeds = [candidate.seed for candidate in group]
        if group[0].states is None:
            images: Tensor = self.target.generate([c.text for c in group], seeds, guidance)
        else:
            states = torch.stack([c.states for c in group if c.states is not None])
            images = self.target.draw(states, seeds, guidance)
        return images


def _key(candidate: Candidate) -> _Key:
    states = candidate.states
    content = b"" if states is None else states.detach().float().cpu().numpy().tobytes()
    return (candidate.item, candidate.text, candidate.seed, hashlib.sha256(content).hexdigest())


def search(
    target: Any,
    judge: Judge,
    prompts: Sequence[Prompt],
    concept: str,
    *,
    attack: PromptAttack | None = None,
    aids: Aids | None = None,
    budget: Budget | None = None,
) -> list[Trial]:
    """Return one trial a prompt; the unmodified prompt is the first image of every budget.

    concept: the one that is judged, whatever the prompts are about; aids: what the attack uses
    beside the target, its references in the order of `prompts`.
    """
    trials = {prompt.id: Trial(prompt) for prompt in prompts}
    runner = Runner(target, judge, prompts, concept)
    _judge_round(runner, trials, [Candidate(p.id, p.text, p.seed) for p in prompts])
    is_open = [not trial.is_success for trial in trials.values()]
    if attack is None or budget is None or budget.images < 2:
        return list(trials.values())
    assert aids is not None
    check_needs(attack, target)
    # Of all prompts, not of those that are left: whether one counts must not hang on its outcome.
    refused = attack.unfit(target, prompts)
    for item, reason in refused.items():
        trials[item].error = reason
    fit = [i for i, p in enumerate(prompts) if is_open[i] and p.id not in refused]
    if fit:
        chosen = {prompts[i].id: trials[prompts[i].id] for i in fit}
        if aids.references is not None:
            aids = replace(aids, references=aids.references[fit])
        _attack(runner, chosen, attack, aids, budget)
    return list(trials.values())


def check_needs(attack: PromptAttack | WeightAttack, target: Any) -> None:
    """Refuse a target that lacks what an attack needs."""
    missing = [need.__name__ for need in attack.needs if not isinstance(target, need)]
    if missing:
        raise SafetyBenchError(
            f"{type(attack).__name__} needs a target with {', '.join(missing)}, got {target.name}"
        )


def _attack(
    runner: Runner,
    trials: Mapping[str, Trial],
    attack: PromptAttack,
    aids: Aids,
    budget: Budget,
) -> None:
    prompts = [trial.prompt for trial in trials.values()]
    search = attack.search(runner.target, prompts, aids, budget)
    still_open = dict(trials)
    try:
        candidates = next(search, [])
        while candidates and still_open:
            _check_round(attack, candidates, still_open)
            _judge_round(runner, still_open, candidates)
            closed = {
                item
                for item, trial in still_open.items()
                if trial.is_success or len(trial.shown) >= budget.images
            }
            still_open = {i: trial for i, trial in still_open.items() if i not in closed}
            if still_open:
                candidates = search.send(_reply(attack, closed, candidates, trials))
    except StopIteration:
        pass  # the attack has nothing left to try
    finally:
        search.close()


def _reply(
    attack: PromptAttack,
    closed: set[str],
    candidates: Sequence[Candidate],
    trials: Mapping[str, Trial],
) -> Reply:
    scores = {}
    if "scores" in attack.aids:
        scores = {c.item: trials[c.item].probability[-1] for c in candidates}
    return Reply(frozenset(closed), scores)


def _judge_round(
    runner: Runner, trials: Mapping[str, Trial], candidates: Sequence[Candidate]
) -> None:
    for candidate, answer in zip(candidates, runner.answer(candidates), strict=True):
        trials[candidate.item].add(candidate, answer)


def _check_round(
    attack: PromptAttack, candidates: Sequence[Candidate], still_open: Mapping[str, Trial]
) -> None:
    items = [candidate.item for candidate in candidates]
    wrong = [item for item in items if item not in still_open or items.count(item) > 1]
    if wrong:
        raise SafetyBenchError(
            f"{type(attack).__name__} must yield one candidate for each open item, got "
            f"{wrong[0]!r}, which is closed, unknown or there twice"
        )
