"""Transfer: texts of the surrogate, judged on the target, and nothing else asked of the target."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from safetybench import registry
from safetybench.contracts import (
    Aids,
    Budget,
    Candidate,
    Prompt,
    PromptAttack,
    Reply,
    SafetyBenchError,
    Traits,
)
from safetybench.scenarios._search import search
from tests import toys_attack as toys

NAME = "attacks/prompts/transfer"
UDA = "attacks/prompts/unlearndiffatk"
FAST = {"tokens": 2, "timesteps": 4, "iterations": 12, "lr": 0.1, "draws": 2, "weight_decay": 0.0}


def attack(inner: str = UDA, **options: Any) -> Any:
    return registry.create(NAME, {"attack": inner, "options": {**FAST, **options}})


def loaded() -> Any:
    return registry.load(NAME)


class ImagesOnly:
    """A target behind an interface: no tokenizer, no weights."""

    name = "behind"

    def __init__(self, inside: toys.ToyTarget) -> None:
        self.generate = inside.generate
        self.traits: Traits = inside.traits


def test_texts_are_those_of_the_attack_on_the_surrogate() -> None:
    prompts, budget = toys.prompts(3), Budget(images=4, steps=40)
    given = toys.aids(prompts, surrogate=toys.vulnerable())
    found = list(attack().search(ImagesOnly(toys.robust()), prompts, given, budget))
    direct = registry.create(UDA, FAST).search(toys.vulnerable(), prompts, given, budget)
    assert found == list(direct)


def test_it_succeeds_where_surrogate_and_target_leak_alike_and_only_there() -> None:
    prompts, budget = toys.prompts(6), Budget(images=5, steps=48)
    won = {}
    for label, target in (("leaky", toys.vulnerable()), ("clean", toys.robust())):
        trials = search(
            ImagesOnly(target), toys.ToyJudge(), prompts, "fish", attack=attack(),
            aids=toys.aids(prompts, surrogate=toys.vulnerable()), budget=budget,
        )  # fmt: skip
        won[label] = sum(trial.is_success for trial in trials)
    assert won == {"leaky": 6, "clean": 0}


def test_items_that_won_on_the_target_leave_the_search() -> None:
    prompts = toys.prompts(2)
    given = toys.aids(prompts, surrogate=toys.vulnerable())
    made = attack().search(toys.robust(), prompts, given, Budget(images=4, steps=40))
    next(made)
    assert [c.item for c in made.send(Reply(frozenset({"fish-0"})))] == ["fish-1"]


def test_what_it_is_comes_from_the_attack() -> None:
    made = attack(loss="match")
    assert made.aids == ("references", "original", "surrogate")
    assert made.control_options() == {"tokens": 2, "location": "prefix"}
    long = [Prompt("long", " ".join(["fish"] * 6), "fish", 0)]
    assert set(made.unfit(toys.robust(), long)) == {"long"}
    assert made.unfit(ImagesOnly(toys.robust()), long) == {}


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ("attacks/prompts/random_prefix", "attack must be one with a surrogate to learn from"),
        ("attacks/prompts/query_search", "attack must be one with a surrogate to learn from"),
        ("attacks/prompts/judge_oracle", "attack must be one with a surrogate to learn from"),
        ("attacks/prompts/transfer", "attack must be one with a surrogate to learn from"),
        ("judges/zoo", "attack must be one of attacks/prompts"),
    ],
)
def test_wrong_attacks_are_refused(inner: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}, got '{inner}'$"):
        loaded()(attack=inner)


def test_an_unknown_attack_is_refused() -> None:
    with pytest.raises(SafetyBenchError, match="no component is called"):
        loaded()(attack="attacks/prompts/unlearndifatk")


def test_a_surrogate_without_what_the_attack_needs_is_refused() -> None:
    prompts = toys.prompts(1)
    given = toys.aids(prompts, surrogate=ImagesOnly(toys.robust()))
    with pytest.raises(SafetyBenchError, match="needs a surrogate with EncodesText"):
        next(attack().search(toys.robust(), prompts, given, Budget(images=3, steps=9)))


def test_states_of_the_surrogate_are_no_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Embeddings(PromptAttack):
        source = "https://example.org"

        def search(
            self, target: Any, prompts: Sequence[Prompt], aids: Aids, budget: Budget
        ) -> Generator[list[Candidate], Reply | None, None]:
            yield [Candidate("fish-0", "<fish*>", 0, states=torch.zeros(2, 2))]

    made, prompts = attack(), toys.prompts(1)
    monkeypatch.setattr(registry, "create", lambda name, options: Embeddings())
    given = toys.aids(prompts)
    with pytest.raises(SafetyBenchError, match="tries no texts that could be transferred"):
        next(made.search(toys.robust(), prompts, given, Budget(images=3, steps=9)))
