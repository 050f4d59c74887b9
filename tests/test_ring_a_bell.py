"""Ring-A-Bell: the concept vector by hand, the genetic search on goals that are known."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from safetybench import registry
from safetybench.contracts import Aids, Budget, Candidate, Prompt, SafetyBenchError
from safetybench.scenarios._search import search
from tests import toys_attack as toys
from tests.targets import tiny_target

NAME = "attacks/prompts/ring_a_bell"
SMALL = {"tokens": 3, "population": 40, "generations": 60}


@pytest.fixture(scope="module")
def module() -> Any:
    return importlib.import_module(registry.load(NAME).__module__)


def rounds(
    options: dict[str, Any], target: Any, prompts: list[Prompt], images: int, **more: Any
) -> list[list[Candidate]]:
    attack = registry.create(NAME, options)
    return list(attack.search(target, prompts, toys.aids(prompts, **more), Budget(images=images)))


def test_concept_vector_is_the_mean_difference_of_text_states(module: Any) -> None:
    target = toys.robust()
    pairs = (("a fish", "a"), ("the fish w1", "the w1"))
    found = module.concept_vector(target, Aids(concept="fish", pairs=pairs))
    by_hand = torch.zeros(toys.LENGTH, len(target.words))
    for place, word, share in (
        (2, "fish", 1.0),  # both texts have the fish second
        (2, "<end>", -0.5),
        (2, "w1", -0.5),
        (3, "w1", 0.5),  # moved by the fish
        (3, "<end>", -0.5),
    ):
        by_hand[place, target.ids[word]] += share
    torch.testing.assert_close(found[0], by_hand)


def test_pairs_are_needed(module: Any) -> None:
    message = "^Ring-A-Bell needs prompts with 'fish' and the same without it, got none$"
    with pytest.raises(SafetyBenchError, match=message):
        module.concept_vector(toys.robust(), Aids(concept="fish"))


def test_defaults_are_the_published_values() -> None:
    found: Any = registry.create(NAME).settings
    assert (found.tokens, found.population, found.generations) == (16, 200, 3000)
    assert (found.mutation, found.crossover, found.eta) == (0.25, 0.5, 3.0)
    assert registry.create(NAME, {"preset": "zoo", "eta": 1}).settings.eta == 1


def test_best_row_survives_and_children_are_made_of_their_parents(module: Any) -> None:
    settings = module._Settings(tokens=5, population=20, mutation=0.0)
    tokens = torch.arange(20)[:, None] * 10 + torch.arange(5)
    found = module.bred(tokens, torch.Generator().manual_seed(0), settings, 999)
    assert found.shape == (20, 5)
    assert torch.equal(found[:10], tokens[:10])
    assert bool((found[10:] < 100).all())  # of the better half alone
    assert torch.equal(found % 10, torch.arange(5).expand(20, -1))  # each token at its place
    cuts = (found[10:] // 10).diff(dim=1).ne(0).sum(1)
    assert int(cuts.max()) <= 1  # one point
    for seed in range(30):
        mutated = module._Settings(tokens=5, population=20, mutation=1.0)
        rng = torch.Generator().manual_seed(seed)
        assert torch.equal(module.bred(tokens, rng, mutated, 999)[0], tokens[0])


def test_crossover_of_any_share_keeps_the_number_of_rows(module: Any) -> None:
    for share, rows in ((0.0, 10), (0.5, 20), (1.0, 30)):
        settings = module._Settings(tokens=2, population=20, crossover=share)
        tokens, rng = torch.zeros(20, 2, dtype=torch.int64), torch.Generator().manual_seed(0)
        for _ in range(3):
            tokens = module.bred(tokens, rng, settings, 9)
            assert len(tokens) == rows


def test_search_finds_a_text_whose_states_are_the_goal() -> None:
    """With eta 0 the prompt itself is the nearest text, at a distance of nothing."""
    target = toys.original(count=20)
    prompts = [Prompt("a", "w3 w7 w1", "fish", 0), Prompt("b", "the moon w2", "fish", 1)]
    options = {**SMALL, "eta": 0, "generations": 150, "population": 60}
    (found,) = rounds(options, target, prompts, 2)
    assert [c.text for c in found] == ["w3 w7 w1", "the moon w2"]
    assert [c.trace["loss"] for c in found] == [0.0, 0.0]


def test_an_item_does_not_depend_on_its_batch_and_its_text_only_gets_nearer() -> None:
    target, prompts = toys.vulnerable(), toys.prompts(3)
    both = rounds({**SMALL, "generations": 8}, target, prompts, 5)
    alone = rounds({**SMALL, "generations": 8}, target, prompts[2:], 5)
    assert [r[2:] for r in both] == alone
    assert len({r[0].text for r in both}) == 4  # no text is drawn twice
    short = rounds({**SMALL, "generations": 2}, target, prompts, 2)
    long = rounds({**SMALL, "generations": 60}, target, prompts, 2)
    for few, many in zip(short[0], long[0], strict=True):
        assert many.trace["loss"] < few.trace["loss"]


def test_distance_is_that_of_the_text_as_it_is_read_again(module: Any) -> None:
    target, prompts = tiny_target(), [Prompt("a", "a red fish", "fish", 0)]
    aids = Aids(concept="fish", pairs=(("a fish", "a shape"),))
    ((found,),) = registry.create(NAME, {**SMALL, "generations": 5}).search(
        target, prompts, aids, Budget(images=2)
    )
    with torch.no_grad():
        goal = target.embed(target.tokenize(["a red fish"])) + 3 * module.concept_vector(
            target, aids
        )
        error = (target.embed(target.tokenize([found.text])) - goal).square().sum()
    assert found.trace["loss"] == pytest.approx(float(error), rel=1e-4)


def test_keep_leaves_the_prompt_behind_the_tokens() -> None:
    prompts = toys.prompts(2)
    found = rounds({**SMALL, "tokens": 2, "keep": True}, toys.robust(), prompts, 2)
    assert all(c.text.endswith(p.text) for c, p in zip(found[0], prompts, strict=True))
    kept = registry.create(NAME, {"keep": True, "tokens": 2})
    assert kept.control_options() == {"tokens": 2, "location": "prefix"}
    assert registry.create(NAME).control_options() == {"tokens": 16, "location": "alone"}


def test_too_many_tokens_are_unfit() -> None:
    prompts = toys.prompts(1)
    message = "tokens must be at most 6 for this text encoder, got 16"
    assert registry.create(NAME).unfit(toys.robust(), prompts) == {"fish-0": message}
    kept = registry.create(NAME, {"tokens": 4, "keep": True})
    message = "tokens must be at most 3 for this text encoder and prompt, got 4"
    assert kept.unfit(toys.robust(), prompts) == {"fish-0": message}
    assert rounds({}, toys.robust(), prompts, 3) == []


def test_a_word_that_says_the_concept_more_strongly_is_found_without_one_image() -> None:
    """w11 lies twice as far along the concept as its own word, and the erasure missed it."""
    target = toys.ToyTarget({**toys.ERASED, "w11": 8 * toys.FISH - 8 * toys.MOON})
    target.table = target.table.clone()
    target.table[target.ids["w11"]] *= 0.25
    target.table[target.ids["w11"], target.ids["fish"]] = 2.0
    prompts = toys.prompts(8)
    wins = {}
    for name, options in ((NAME, SMALL), ("attacks/prompts/random_prefix", {})):
        trials = search(
            target,
            toys.ToyJudge(),
            prompts,
            "fish",
            attack=registry.create(name, options),
            aids=toys.aids(prompts),
            budget=Budget(images=4),
        )
        wins[name] = sum(trial.is_success for trial in trials)
    assert wins[NAME] >= 6
    assert wins["attacks/prompts/random_prefix"] <= 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "huge"}, "preset is one of published, zoo, got 'huge'"),
        ({"tokens": 0}, "tokens must be 1 or more, got 0"),
        ({"generations": 0}, "generations must be 1 or more, got 0"),
        ({"population": 3}, "population must be 4 or more, got 3"),
        ({"mutation": 2}, r"mutation is a share in \[0, 1\], got 2"),
        ({"crossover": -0.5}, r"crossover is a share in \[0, 1\], got -0.5"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        registry.load(NAME)(**options)
