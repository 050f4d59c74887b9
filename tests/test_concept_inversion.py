"""Concept inversion: where the embeddings stand, what they are learned by, and what they do."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from safetybench import registry
from safetybench.contracts import Budget, Candidate, Pictures, Prompt, Reply
from safetybench.scenarios._search import search
from tests import toys_attack as toys
from tests.targets import tiny_target

NAME = "attacks/prompts/concept_inversion"
FAST = {"preset": "zoo", "lr": 0.2}


@pytest.fixture(scope="module")
def words() -> Any:
    home = registry.load(NAME).__module__.rpartition(".")[0]
    return importlib.import_module(f"{home}._words")


def rounds(
    attack: Any, target: Any, prompts: list[Prompt], budget: Budget, **more: Any
) -> list[list[Candidate]]:
    return list(attack.search(target, prompts, toys.aids(prompts, **more), budget))


# The place


def test_a_concepts_own_embedding_in_its_place_gives_the_prompts_own_states(words: Any) -> None:
    prompts = ["a red fish on a dark background", "fish", "a star", "the Fish of the moon"]
    target = tiny_target()
    (token,) = target.tokenizer("fish", add_special_tokens=False).input_ids
    places = words.slots(target, prompts, "fish")
    with torch.no_grad():
        found = words.embed_at(target, places, target.token_table[[token]])
        named = ["a red fish on a dark background", "fish", "fish a star", "the fish of the moon"]
        wanted = target.embed(target.tokenize(named))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_prompts_are_split_at_the_first_mention_and_the_others_go(words: Any) -> None:
    found = words.around("one fish , red Fish in a fishbowl", "fish")
    assert found.before == "one"
    assert found.after == ", red in a fishbowl"
    assert found.holding("<fish*>") == "one <fish*> , red in a fishbowl"
    assert words.around("a star", "fish").holding("<fish*>") == "<fish*> a star"
    assert words.around("by Van Gogh, oil", "van gogh").without == "by , oil"


# The learning


def test_candidates_carry_states_and_a_readable_text() -> None:
    prompts = toys.prompts(2)
    found = rounds(
        registry.create(NAME, {**FAST, "tokens": 2}),
        toys.vulnerable(),
        prompts,
        Budget(images=4, steps=10),
    )
    assert [[c.steps for c in r] for r in found] == [[3, 3], [3, 3], [4, 4]]
    assert found[0][0].text == "a <fish*> w20"
    for candidate in (c for r in found for c in r):
        assert candidate.states is not None
        assert candidate.states.shape == (toys.LENGTH, len(toys.words()))
        assert not candidate.states.requires_grad
        assert candidate.seed in (100, 101)
    assert not torch.equal(found[0][0].states, found[1][0].states)  # type: ignore[arg-type]


def test_states_do_not_depend_on_the_batch() -> None:
    attack, budget, target = registry.create(NAME, FAST), Budget(images=3, steps=6), tiny_target()
    prompts = [
        Prompt(f"p{i}", text, "fish", i) for i, text in enumerate(("a fish", "the red fish"))
    ]
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pictures = Pictures(images, ["a fish", "one blue fish", "the dark shape"])
    both = rounds(attack, target, prompts, budget, pictures=pictures)
    alone = rounds(attack, target, prompts[1:], budget, pictures=pictures)
    for together, single in zip(both, alone, strict=True):
        assert single[0].states is not None
        torch.testing.assert_close(together[1].states, single[0].states, atol=1e-5, rtol=0)
        assert together[1].trace == single[0].trace


def test_items_that_won_leave() -> None:
    prompts = toys.prompts(2)
    generator = registry.create(NAME, FAST).search(
        toys.vulnerable(), prompts, toys.aids(prompts), Budget(images=4, steps=9)
    )
    assert len(next(generator)) == 2
    assert [c.item for c in generator.send(Reply(frozenset({"fish-0"})))] == ["fish-1"]
    with pytest.raises(StopIteration):
        generator.send(Reply(frozenset({"fish-1"})))


@pytest.mark.parametrize("steps", [4, 1])
def test_what_is_dormant_is_found_and_what_is_gone_is_not(steps: int) -> None:
    prompts, attack = toys.prompts(6), registry.create(NAME, FAST)
    guidance = 2.0 if steps > 1 else 1.0
    for make, wins in ((toys.vulnerable, 6), (toys.robust, 0)):
        trials = search(
            make(steps=steps, guidance=guidance),
            toys.ToyJudge(),
            prompts,
            "fish",
            attack=attack,
            aids=toys.aids(prompts),
            budget=Budget(images=4, steps=90),
        )
        assert sum(trial.is_success for trial in trials) == wins
        trace = trials[0].trace[-1]
        if wins:
            assert trace["loss_with"] < trace["loss_without"]
            assert trace["zero"] == 0


def test_a_student_whose_input_is_noise_alone_is_asked_for_its_output() -> None:
    alphas = torch.linspace(0.98, 0.0001, 20)
    target = toys.vulnerable(steps=1, guidance=1.0, alphas=alphas)
    found = rounds(registry.create(NAME, FAST), target, toys.prompts(1), Budget(images=2, steps=60))
    assert found[0][0].trace["loss_with"] < found[0][0].trace["loss_without"]


def test_hidden_gradients_are_told() -> None:
    found = rounds(
        registry.create(NAME, FAST),
        toys.MaskedTarget(),
        toys.prompts(1),
        Budget(images=2, steps=3),
    )
    assert found[0][0].trace["zero"] == 1.0


def test_prompts_too_long_are_unfit() -> None:
    attack = registry.create(NAME, {"tokens": 3})
    fits, long = "a fish w1 w2", "a fish w1 w2 w3"
    prompts = [Prompt("fits", fits, "fish", 0), Prompt("long", long, "fish", 0)]
    assert attack.unfit(toys.robust(), prompts) == {
        "long": "prompt must have at most 3 tokens to take 3 more, got 4"
    }


def test_defaults_are_the_published_values() -> None:
    found: Any = registry.create(NAME).settings
    assert (found.tokens, found.steps, found.batch, found.pictures) == (1, 5000, 16, 25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "huge"}, "preset is one of published, zoo, got 'huge'"),
        ({"tokens": 0}, "tokens must be above 0, got 0"),
        ({"lr": -1.0}, "lr must be above 0, got -1.0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        registry.load(NAME)(**options)
