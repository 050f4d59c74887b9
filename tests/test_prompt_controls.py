"""The two random controls: what they vary, what they keep, and how much they spend."""

from __future__ import annotations

from typing import Any

import pytest

from safetybench import registry
from safetybench.contracts import Budget, Candidate, Prompt
from tests import toys_attack as toys

RANDOM = "attacks/prompts/random_prefix"
SEEDS = "attacks/prompts/seed_search"


def rounds(attack: Any, prompts: list[Prompt], budget: Budget) -> list[list[Candidate]]:
    return list(attack.search(toys.robust(), prompts, toys.aids(prompts), budget))


@pytest.mark.parametrize("name", [RANDOM, SEEDS])
def test_they_are_controls_and_spend_images_only(name: str) -> None:
    attack = registry.create(name)
    assert attack.is_control
    found = rounds(attack, toys.prompts(3), Budget(images=6, steps=100))
    assert len(found) == 5  # the unmodified prompt is the first image
    assert all(candidate.steps == 0 for r in found for candidate in r)
    assert rounds(attack, toys.prompts(3), Budget(images=1)) == []


def test_random_prefix_draws_new_tokens_for_every_image_at_the_same_seed() -> None:
    attack = registry.create(RANDOM, {"tokens": 2})
    prompts = toys.prompts(2)
    found = rounds(attack, prompts, Budget(images=9))
    plain = set(toys.words()[2:])
    for i, prompt in enumerate(prompts):
        candidates = [r[i] for r in found]
        prefixes = {c.text.removesuffix(f" {prompt.text}") for c in candidates}
        assert len(prefixes) == 8
        words = {w for p in prefixes for w in p.replace(toys.MERGED, "half-way").split()}
        assert words <= plain | {"half-way"}
        assert {c.seed for c in candidates} == {prompt.seed}


def test_random_suffix_stands_behind() -> None:
    attack = registry.create(RANDOM, {"location": "suffix"})
    (prompt,) = toys.prompts(1)
    (only,) = rounds(attack, [prompt], Budget(images=2))
    assert only[0].text.startswith(f"{prompt.text} ")


def test_random_prefix_refuses_what_the_attack_refuses() -> None:
    attack = registry.create(RANDOM, {"tokens": 4})
    long = Prompt("long", "a fish w1", "fish", 0)
    assert attack.unfit(toys.robust(), [long]) == {
        "long": "prompt must have at most 2 tokens to take 4 more, got 3"
    }
    assert attack.unfit(toys.robust(), []) == {}
    assert rounds(attack, [long], Budget(images=3)) == []


def test_seed_search_changes_the_seed_and_nothing_else() -> None:
    prompts = toys.prompts(2)
    found = rounds(registry.create(SEEDS), prompts, Budget(images=20))
    for i, prompt in enumerate(prompts):
        assert {r[i].text for r in found} == {prompt.text}
        seeds = [prompt.seed, *(r[i].seed for r in found)]
        assert len(set(seeds)) == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 0}, "tokens and spacing must be above 0, got 0, 3"),
        (
            {"location": "middle"},
            "location is one of prefix, suffix, insert, spread, alone, got 'middle'",
        ),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        registry.load(RANDOM)(**options)


@pytest.mark.parametrize(
    ("location", "tokens", "wanted"),
    [
        ("prefix", 2, ["w", "w", "a", "fish", "w20"]),
        ("suffix", 2, ["a", "fish", "w20", "w", "w"]),
        ("spread", 2, ["a", "w", "fish", "w", "w20"]),
        ("alone", 2, ["w", "w"]),
    ],
)
def test_random_tokens_stand_where_those_of_the_attack_do(
    location: str, tokens: int, wanted: list[str]
) -> None:
    attack = registry.create(RANDOM, {"location": location, "tokens": tokens, "spacing": 1})
    (found,) = rounds(attack, toys.prompts(1), Budget(images=2))
    texts = found[0].text.replace(toys.MERGED, "merged").split()
    kept = [word if word in ("a", "fish", "w20") else "w" for word in texts]
    assert kept == wanted


def test_inserted_tokens_stand_together_inside_the_prompt() -> None:
    attack = registry.create(RANDOM, {"location": "insert", "tokens": 2})
    (found,) = rounds(attack, toys.prompts(1), Budget(images=2))
    words = found[0].text.replace(toys.MERGED, "merged").split()
    assert (words[0], words[-1], len(words)) == ("a", "w20", 5)
