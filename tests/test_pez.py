"""PEZ: texts without the prompt, made on the original or on the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from safetybench import registry
from safetybench.contracts import Budget, Candidate, Prompt, SafetyBenchError
from tests import toys_attack as toys

NAME = "attacks/prompts/pez"
FAST = {"tokens": 3, "iterations": 12, "draws": 2, "weight_decay": 0.0}


def attack(**options: Any) -> Any:
    return registry.create(NAME, {**FAST, **options})


def last(made: Any, target: Any, prompts: Sequence[Prompt], **aids: Any) -> list[Candidate]:
    # Without noise in the image: Adam takes a noisy colour's gradient for as large as any.
    texts, seeds = [p.text for p in prompts], [p.seed for p in prompts]
    references = toys.original(noise=0.0).generate(texts, seeds)
    given = toys.aids(prompts, references=references, **aids)
    search = made.search(target, prompts, given, Budget(images=5, steps=100))
    rounds: list[list[Candidate]] = list(search)
    return rounds[-1]


class Blackbox:
    """Images and a tokenizer; anything else asked of it fails."""

    name = "closed"

    def __init__(self) -> None:
        inside = toys.vulnerable()
        self.tokenize, self.generate = inside.tokenize, inside.generate


def test_default_is_the_published_setting() -> None:
    found = registry.create(NAME).settings
    assert (found.tokens, found.lr, found.weight_decay) == (16, 0.1, 0.1)
    assert (found.location, found.optimiser, found.loss) == ("alone", "projected", "denoise")
    assert found.is_decoupled
    assert attack().control_options() == {"tokens": 3, "location": "alone"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "clip"}, "model is one of original, target, got 'clip'"),
        ({"preset": "sd"}, "preset is one of published, zoo, got 'sd'"),
        ({"tokens": 0}, "tokens must be above 0, got 0"),
        ({"objective": "x"}, "objective is one of auto, denoise, output, got 'x'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        registry.load(NAME)(**options)


def test_on_the_original_the_target_is_a_black_box() -> None:
    # What says fish on the original: its own word, which is no prompt's here.
    prompts = toys.prompts(4)
    found = last(attack(), Blackbox(), prompts)
    assert all("fish" in c.text.split() for c in found)
    assert all(len(c.text.replace(toys.MERGED, "merged").split()) == 3 for c in found)
    assert attack().aids == ("references", "original")


def test_on_a_black_box_no_text_can_be_made() -> None:
    message = r"^Pez on the target needs one with Denoises, EncodesImages, got closed$"
    with pytest.raises(SafetyBenchError, match=message):
        last(attack(model="target"), Blackbox(), toys.prompts(2))


def test_on_the_target_it_finds_what_the_target_reads_as_fish() -> None:
    prompts = toys.prompts(4)
    found = last(attack(model="target"), toys.vulnerable(), prompts, original=None)
    assert all({"w11", "w93"} & set(c.text.split()) for c in found)
    assert attack(model="target").aids == ("references",)


def test_trace_compares_with_the_first_tokens_not_with_the_prompt() -> None:
    # The prompt itself is the best text on the original: no search could lower its loss.
    for candidate in last(attack(), toys.vulnerable(), toys.prompts(4)):
        assert candidate.trace["loss_with"] < candidate.trace["loss_without"]


def test_a_batch_gives_what_single_items_give() -> None:
    prompts, budget = toys.prompts(3), Budget(images=4, steps=30, seed=3)

    def texts(items: Sequence[Prompt]) -> list[list[str]]:
        search = attack().search(toys.vulnerable(), items, toys.aids(items), budget)
        return [[c.text for c in r] for r in search]

    together = texts(prompts)
    for i, prompt in enumerate(prompts):
        assert [r[0] for r in texts([prompt])] == [r[i] for r in together]


def test_too_many_tokens_are_refused_for_all() -> None:
    prompts = toys.prompts(2)
    made = attack(tokens=7)
    assert set(made.unfit(toys.robust(), prompts)) == {p.id for p in prompts}
    search = made.search(toys.robust(), prompts, toys.aids(prompts), Budget(images=3, steps=9))
    assert list(search) == []
