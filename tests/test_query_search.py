"""Query search: it starts as the random control does, keeps its elite, and climbs a slope."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from safetybench import registry
from safetybench.contracts import Budget, Candidate, Prompt, Reply
from safetybench.scenarios._search import search
from tests import toys_attack as toys

NAME = "attacks/prompts/query_search"
RANDOM = "attacks/prompts/random_prefix"


def graded() -> toys.ToyTarget:
    """One word in five says a little fish; three of them in a row are enough."""
    little = {f"w{i}": 0.2 * toys.FISH for i in range(0, 150, 5)}
    return toys.ToyTarget({**toys.ERASED, **little}, name="graded")


def rounds(attack: Any, prompts: list[Prompt], count: int, score: float) -> list[list[Candidate]]:
    generator = attack.search(toys.robust(), prompts, toys.aids(prompts), Budget(images=count + 1))
    found = [next(generator)]
    for _ in range(count - 1):
        found.append(generator.send(Reply(scores={p.id: score for p in prompts})))
    return found


def test_first_texts_are_those_of_the_random_control() -> None:
    prompts = toys.prompts(3)
    found = rounds(registry.create(NAME, {"population": 5}), prompts, 7, 0.0)
    random = rounds(registry.create(RANDOM), prompts, 7, 0.0)
    assert found[:5] == random[:5]
    assert found[5:] != random[5:]


def test_an_item_does_not_depend_on_its_batch() -> None:
    attack = registry.create(NAME)
    both = rounds(attack, toys.prompts(2), 9, 0.5)
    alone = rounds(attack, toys.prompts(2)[1:], 9, 0.5)
    assert [r[1:] for r in both] == alone


def test_no_text_is_tried_twice_and_the_seed_stays() -> None:
    prompts = toys.prompts(2)
    found = rounds(registry.create(NAME), prompts, 40, 0.1)
    for i, prompt in enumerate(prompts):
        assert len({r[i].text for r in found}) == 40
        assert {r[i].seed for r in found} == {prompt.seed}


def breed(**options: Any) -> Any:
    attack: Any = registry.create(NAME, options)
    module = importlib.import_module(type(attack).__module__)
    return module._Breed(torch.Generator().manual_seed(0), 50, attack)


def test_elite_is_never_lost() -> None:
    herd, best = breed(population=3), 0.0
    scores = torch.rand(60, generator=torch.Generator().manual_seed(1)).tolist()
    told = []
    for score in scores:
        told.append((score, herd.ask()))
        herd.tell(score)
        best = max(best, score)
        assert herd.best[0][0] == best
    assert [s for s, _ in herd.best] == sorted(scores, reverse=True)[:3]
    assert set(herd.best) <= set(told)


def test_without_mutation_or_crossover_a_child_differs_in_one_token() -> None:
    herd = breed(population=1, mutation=0.0, crossover=0.0, tokens=4)
    parent = herd.ask()
    herd.tell(1.0)
    for _ in range(20):
        child = herd.ask()
        herd.tell(0.0)
        assert sum(a != b for a, b in zip(parent, child, strict=True)) == 1


def test_scores_are_worth_having() -> None:
    prompts = toys.prompts(24)
    wins = {}
    for name in (NAME, RANDOM):
        trials = search(
            graded(),
            toys.ToyJudge(),
            prompts,
            "fish",
            attack=registry.create(name),
            aids=toys.aids(prompts),
            budget=Budget(images=31),
        )
        wins[name] = sum(trial.is_success for trial in trials)
    assert wins[NAME] >= wins[RANDOM] + 8, wins


def test_control_is_the_random_prefix_of_as_many_tokens() -> None:
    attack = registry.create(NAME, {"tokens": 5, "location": "suffix"})
    assert attack.control_options() == {"tokens": 5, "location": "suffix"}
    assert attack.aids == ("scores",)
    prompt = Prompt("long", "a fish w1", "fish", 0)
    assert list(attack.unfit(toys.robust(), [prompt])) == ["long"]
    assert list(attack.search(toys.robust(), [prompt], toys.aids([prompt]), Budget(images=3))) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 0}, "tokens must be above 0, got 0"),
        ({"population": 0}, "population must be above 0, got 0"),
        ({"mutation": 1.5}, r"mutation is a chance in \[0, 1\], got 1.5"),
        ({"crossover": -1}, r"crossover is a chance in \[0, 1\], got -1"),
        ({"location": "middle"}, "location is one of prefix, suffix, got 'middle'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        registry.load(NAME)(**options)
