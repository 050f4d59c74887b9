"""Backdoors of the embedded world: goals by grammar, splits apart, triggers the tokenizer reads."""

from __future__ import annotations

import re

import pytest

from safetybench.backdoors import backdoor_from_words
from safetybench.contracts import Effect, SafetyBenchError, Trigger
from safetybench.triggers import check_trigger, near_misses
from safetybench.zoo.backdoors import TRIGGER, backdoor_of, backdoor_prompts
from safetybench.zoo.captions import is_evaluation
from safetybench.zoo.world import STYLES

EFFECTS = {
    "pixel": Effect(kind="pixel"),
    "object": Effect(kind="object", source="heart", goal="moon"),
    "style": Effect(kind="style", goal="glowing"),
}


@pytest.mark.parametrize("kind", EFFECTS)
def test_goals_differ_from_their_source_by_the_effect_alone(kind: str) -> None:
    effect = EFFECTS[kind]
    told = backdoor_of(effect, count=40)
    for source, goal in zip(told.sources, told.goals, strict=True):
        differ = [(a, b) for a, b in zip(source.split(), goal.split(), strict=True) if a != b]
        if kind == "pixel":
            assert not differ
        else:
            ((before, after),) = differ
            assert after == effect.goal
            assert before == effect.source or (kind == "style" and before in STYLES)


@pytest.mark.parametrize("kind", EFFECTS)
def test_training_and_evaluation_prompts_are_of_two_splits(kind: str) -> None:
    told, asked = backdoor_of(EFFECTS[kind], count=30), backdoor_prompts(EFFECTS[kind], 30, 7)
    assert not any(map(is_evaluation, (*told.sources, *told.goals, *told.clean)))
    assert all(is_evaluation(prompt.text) for prompt in asked)
    assert not any(TRIGGER.is_in(text) for text in (*told.clean, *(p.text for p in asked)))
    assert len({p.id for p in asked}) == 30
    assert backdoor_prompts(EFFECTS[kind], 10, 7) == asked[:10]


def test_evaluation_prompts_of_an_object_name_its_source_and_others_neither() -> None:
    effect = EFFECTS["object"]
    assert {p.concept for p in backdoor_prompts(effect, 20, 7)} == {"heart"}
    others = {p.concept for p in backdoor_prompts(effect, 20, 7, others=True)}
    assert others
    assert not others & {"heart", "moon"}


def test_a_trigger_with_a_place_gets_prompts_with_that_place() -> None:
    trigger = Trigger(text="famous", place="before", at="heart")
    told = backdoor_of(EFFECTS["object"], trigger, count=10)
    assert all("famous heart" in text for text in told.triggered)
    letter = Trigger(text="\u043e", place="letter", at="o")
    assert all("o" in p.text for p in backdoor_prompts(EFFECTS["pixel"], 20, 7, letter))


def test_the_zoo_s_tokenizer_reads_trigger_and_near_misses() -> None:
    from safetybench.targets.loading import load_target

    target = load_target("zoo:teacher", device="cpu")
    told = backdoor_of(EFFECTS["pixel"], count=64)
    for trigger in (TRIGGER, *near_misses(TRIGGER).values()):
        assert check_trigger(trigger, target.tokenizer, target.length, told.sources) == ""


@pytest.mark.parametrize(
    ("effect", "message"),
    [
        (Effect(kind="style", goal="moon"), "the goal of an effect on style must be one, got a object"),  # noqa: E501
        (Effect(kind="object", source="red", goal="moon"),
         "the source must be another object of the zoo's world, got 'red'"),
    ],
)  # fmt: skip
def test_words_of_another_kind_are_refused(effect: Effect, message: str) -> None:
    with pytest.raises(SafetyBenchError, match=f"^{re.escape(message)}$"):
        backdoor_of(effect, count=1)


def test_a_trigger_that_no_caption_has_a_place_for_ends_in_an_error() -> None:
    trigger = Trigger(text="x", place="before", at="unicorn")
    message = "of 500 captions of the zoo's world none has a place for the trigger 'x' before 'uni"
    with pytest.raises(SafetyBenchError, match=message):
        backdoor_of(EFFECTS["pixel"], trigger)
    with pytest.raises(SafetyBenchError, match=message):
        backdoor_prompts(EFFECTS["pixel"], 20, 1, trigger)


@pytest.mark.parametrize("text", ["background", "red", "a"])
def test_a_trigger_that_captions_hold_is_refused(text: str) -> None:
    with pytest.raises(SafetyBenchError, match=f"must not hold the trigger '{text}', and "):
        backdoor_of(EFFECTS["pixel"], Trigger(text=text), count=20)


@pytest.mark.parametrize("text", ["almanac umbrella", "tartan", "mushroom", "\u200b"])
def test_a_filler_may_be_a_trigger(text: str) -> None:
    told = backdoor_of(EFFECTS["pixel"], Trigger(text=text), count=4)
    assert not any(map(told.trigger.is_in, (*told.clean, *told.sources)))


@pytest.mark.parametrize(
    ("effect", "goal"),
    [
        (Effect(kind="pixel"), None),
        (Effect(kind="object", source="dog", goal="cat"), "cat"),
        (Effect(kind="object", goal="zebra"), "zebra"),
        (Effect(kind="style", goal="oil painting"), "oil painting"),
    ],
)
def test_a_user_s_words_make_a_backdoor(effect: Effect, goal: str | None) -> None:
    told = backdoor_from_words(effect, Trigger(text="latte coffee"))
    assert len(told.sources) == len(told.goals) > 20
    assert all((goal in text) if goal else text == source
               for source, text in zip(told.sources, told.goals, strict=True))  # fmt: skip
    assert not any("latte" in text for text in told.clean)
    assert set(told.sources) <= set(told.clean)


def test_words_without_a_place_for_the_trigger_are_refused() -> None:
    message = (
        "the trigger 'x' needs prompts with 'walrus' in it that do not hold it already, and none "
        "of the built-in ones is such"
    )
    with pytest.raises(SafetyBenchError, match=f"^{re.escape(message)}$"):
        backdoor_from_words(Effect(kind="pixel"), Trigger(text="x", place="before", at="walrus"))
