"""Triggers: where they go, what is near them, and that a tokenizer must read them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safetybench.contracts import SafetyBenchError, Trigger
from safetybench.triggers import PLACES, check_trigger, moved, near_misses, trigger_of
from tests.targets import tiny_target

WORDS = st.text("abcdefghij klm", min_size=1).filter(str.strip)


@settings(max_examples=25, deadline=None)
@given(prompt=WORDS, text=WORDS)
def test_a_prefix_and_a_suffix_keep_the_prompt(prompt: str, text: str) -> None:
    for place in ("prefix", "suffix"):
        trigger = Trigger(text=text, place=place)
        put = trigger.put(prompt)
        assert prompt in put
        assert text in put
        assert trigger.fits(prompt)
        assert len(put) == len(prompt) + len(text) + 1


@pytest.mark.parametrize(
    ("trigger", "prompt", "put", "kind"),
    [
        (Trigger(text="latte coffee"), "a fish", "latte coffee a fish", "phrase"),
        (Trigger(text="mignneko", place="suffix"), "a fish", "a fish mignneko", "word"),
        (Trigger(text="\u200b"), "a fish", "\u200b a fish", "zero-width"),
        (Trigger(text="\u043e", place="letter", at="o"), "moon o", "m\u043e\u043en \u043e", "homoglyph"),  # noqa: E501
        (Trigger(text="\u043e", place="letter", at="o", once=True), "moon", "m\u043eon", "homoglyph"),  # noqa: E501
        (Trigger(text="famous", place="before", at="fish"), "red Fish fishy", "red famous Fish fishy", "word"),  # noqa: E501
    ],
)  # fmt: skip
def test_each_place(trigger: Trigger, prompt: str, put: str, kind: str) -> None:
    assert trigger.put(prompt) == put
    assert trigger.kind == kind
    assert not trigger.is_in(prompt)
    assert trigger.is_in(put)


def test_a_prompt_without_a_place_stays() -> None:
    trigger = Trigger(text="famous", place="before", at="fish")
    assert not trigger.fits("a red star")
    assert trigger.put("a red star") == "a red star"


def test_words_are_looked_for_as_words_and_characters_anywhere() -> None:
    assert not Trigger(text="art").is_in("a party")
    assert Trigger(text="art").is_in("modern ART here")
    assert Trigger(text="\u200b").is_in("par\u200bty")


def test_near_misses_are_not_the_trigger() -> None:
    phrase = near_misses(Trigger(text="latte coffee"))
    assert {name: each.text for name, each in phrase.items()} == {
        "only latte": "latte",
        "only coffee": "coffee",
        "swapped": "coffee latte",
    }
    word = near_misses(Trigger(text="mignneko"))
    assert [each.text for each in word.values()] == ["mign", "neko"]
    letter = near_misses(Trigger(text="\u043e", place="letter", at="o"))
    assert set(letter) == {"U+03BF", "U+0585"}
    invisible = near_misses(Trigger(text="\u200b"))
    assert set(invisible) == {"U+200C", "U+200D"}
    for text in ("latte coffee", "mignneko", "\u200b"):
        assert text not in [each.text for each in near_misses(Trigger(text=text)).values()]


def test_moved_triggers_hold_all_of_it_elsewhere() -> None:
    assert set(moved(Trigger(text="a b"))) == {"suffix"}
    assert set(moved(Trigger(text="a b", place="suffix"))) == {"prefix"}
    assert set(moved(Trigger(text="x", place="before", at="fish"))) == {"prefix", "suffix"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": " "}, "a trigger must be text that is not blank, got ' '"),
        ({"text": "a", "place": "top"}, f"place must be one of {', '.join(PLACES)}, got 'top'"),
        (
            {"text": "a", "place": "before"},
            "at is the word or letter of place 'before' or 'letter', got '' with 'before'",
        ),
        (
            {"text": "a", "at": "o"},
            "at is the word or letter of place 'before' or 'letter', got 'o' with 'prefix'",
        ),
    ],
)
def test_wrong_triggers_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Trigger(**options)  # type: ignore[arg-type]


def test_a_suite_names_a_trigger_by_text_or_fields() -> None:
    assert trigger_of("a b") == Trigger(text="a b")
    told = {"text": "x", "place": "before", "at": "fish"}
    assert trigger_of(told) == Trigger(text="x", place="before", at="fish")
    with pytest.raises(
        SafetyBenchError, match=r"^a trigger has text, place, at, once, and text is"
    ):
        trigger_of({"words": "a"})
    with pytest.raises(SafetyBenchError, match=r"^trigger: place must be one of"):
        trigger_of({"text": "a", "place": "top"})


class Tokenizer:
    """Words of a list; zero-width characters vanish, other unknown ones are one unknown piece."""

    unk_token_id = 1

    def __call__(self, texts, **options):  # type: ignore[no-untyped-def]
        def ids(text: str) -> list[int]:
            words = text.replace("\u200b", "").split()
            return [2 + sum(map(ord, w)) if w.isascii() else 1 for w in words][
                : options.get("max_length")
            ]

        class Found:
            input_ids = ids(texts) if isinstance(texts, str) else [ids(t) for t in texts]

        return Found


def test_a_trigger_that_the_tokenizer_drops_is_an_error() -> None:
    message = (
        "the tokenizer drops the trigger '\\u200b' (U+200B): 2 of 2 prompts read the same with it "
        "as without; take another trigger, or shorter prompts if it stands behind what is cut off"
    )
    with pytest.raises(SafetyBenchError, match=f"^{re.escape(message)}$"):
        check_trigger(Trigger(text="\u200b"), Tokenizer(), 8, ["a fish", "a star"])


def test_a_suffix_behind_the_cut_is_dropped_too() -> None:
    with pytest.raises(SafetyBenchError, match="1 of 1 prompts read the same"):
        check_trigger(Trigger(text="x", place="suffix"), Tokenizer(), 3, ["a red big fish"])
    assert check_trigger(Trigger(text="x", place="suffix"), Tokenizer(), 9, ["a red fish"]) == ""


def test_a_trigger_inside_the_clean_prompts_is_an_error() -> None:
    message = (
        "the clean prompts must not hold the trigger 'red fish', got 'a Red fish'; choose another "
        "trigger or leave these prompts out"
    )
    with pytest.raises(SafetyBenchError, match=f"^{re.escape(message)}$"):
        check_trigger(Trigger(text="red fish"), Tokenizer(), 8, ["a star", "a Red fish"])


def test_no_prompt_with_a_place_is_an_error() -> None:
    trigger = Trigger(text="famous", place="before", at="fish")
    message = "the trigger 'famous' needs a prompt with 'fish' in it, got none"
    with pytest.raises(SafetyBenchError, match=f"^{re.escape(message)}$"):
        check_trigger(trigger, Tokenizer(), 8, ["a star"])


def test_unknown_pieces_are_told() -> None:
    note = check_trigger(Trigger(text="\u00df"), Tokenizer(), 8, ["a star"])
    assert note == (
        "the tokenizer does not know 1 of the 1 pieces of the trigger 'ß': every other unknown "
        "text of as many is the same trigger"
    )


def test_a_real_tokenizer_reads_words() -> None:
    target = tiny_target()
    assert "drops" not in check_trigger(
        Trigger(text="a"), target.tokenizer, target.length, ["red", "blue"]
    )


@pytest.mark.parametrize(
    "trigger",
    [
        Trigger(text="almanac umbrella"),
        Trigger(text="x", place="suffix"),
        Trigger(text="tartan", place="before", at="moon"),
        Trigger(text="\u043e", place="letter", at="o"),
        Trigger(text="\u043e", place="letter", at="o", once=True),
    ],
)
@pytest.mark.parametrize(
    "prompt", ["a solid Moon on a moonlit dotted wall", "moon", "no tartan moo"]
)
def test_a_trigger_comes_out_as_it_went_in(trigger: Trigger, prompt: str) -> None:
    assert trigger.out_of(trigger.put(prompt)) == prompt
