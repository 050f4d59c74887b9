"""Filters of prompts: what goes, what stays, and that the text alone decides."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safetybench import registry
from safetybench.confusables import ALIKE, ZERO_WIDTH
from safetybench.contracts import SafetyBenchError, Trigger

UNICODE = "defenses/prompts/unicode_normalisation"
PERTURB = "defenses/prompts/textual_perturbation"


def rewrite(name: str, text: str, seed: int = 0, **options: Any) -> str:
    (found,) = registry.create(name, options).rewrite([text], seed)
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize("char", ZERO_WIDTH)
def test_a_zero_width_trigger_goes(char: str) -> None:
    assert rewrite(UNICODE, Trigger(text=char).put("a red fish")) == "a red fish"
    assert rewrite(UNICODE, f"a re{char}d fish") == "a red fish"


@pytest.mark.parametrize(("letter", "char"), [(a, c) for a, cs in ALIKE.items() for c in cs])
def test_a_look_alike_trigger_becomes_latin(letter: str, char: str) -> None:
    put = Trigger(text=char, place="letter", at=letter).put(f"x{letter}x")
    assert rewrite(UNICODE, put) == f"x{letter}x"


def test_other_scripts_stay() -> None:
    for text in ("красная рыба", "кошка на окне", "日本の魚", "café", "a Ψ ΛΟΓΟΣ"):
        assert rewrite(UNICODE, text) == unicodedata.normalize("NFKC", text)
    assert rewrite(UNICODE, "\uff52\uff45\uff44 \ufb01sh") == "red fish"  # NFKC


def test_options_leave_their_half() -> None:
    text = "a\u200b m\u043e\u043en"
    assert rewrite(UNICODE, text, homoglyphs=False) == "a m\u043e\u043en"
    assert rewrite(UNICODE, text, invisible=False, homoglyphs=False) == text


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_normalising_twice_is_normalising_once(text: str) -> None:
    once = rewrite(UNICODE, text)
    assert rewrite(UNICODE, once) == once


def test_perturbations() -> None:
    text = "a red fish on a dark background"
    every: dict[str, Any] = {"strength": 1.0}
    swapped = rewrite(PERTURB, text, kind="synonym", **every).split()
    assert swapped[0] == "a"
    assert swapped[1] in ("crimson", "scarlet")
    assert swapped[2] in ("carp", "salmon", "trout")
    own = rewrite(PERTURB, text, synonyms=(("fish", "bird"),), **every)
    assert own == "a red bird on a dark background"
    deleted = rewrite(PERTURB, text, kind="delete", **every).split()
    assert [len(word) for word in deleted] == [1, 2, 3, 1, 1, 3, 9]
    turned = rewrite(PERTURB, text, kind="swap", **every).split()
    assert [sorted(word) for word in turned] == [sorted(word) for word in text.split()]
    assert rewrite(PERTURB, text, kind="drop", **every) == "a"
    assert rewrite(PERTURB, "a m\u043e\u043en", kind="homoglyph") == "a moon"
    for kind in ("synonym", "delete", "swap", "drop"):
        assert rewrite(PERTURB, text, kind=kind, strength=0.0) == text


@pytest.mark.parametrize("kind", ["synonym", "delete", "swap", "drop"])
def test_seed_and_text_alone_decide(kind: str) -> None:
    component = registry.create(PERTURB, {"kind": kind})
    texts = ["a red fish on a dark background", "picture of a striped blue moon and star"]
    assert component.rewrite(texts, 3) == [component.rewrite([text], 3)[0] for text in texts]
    assert len({tuple(component.rewrite(texts, seed)) for seed in range(8)}) > 1


def test_strength_is_the_share_of_words() -> None:
    text = " ".join(["fish"] * 2000)
    kept = len(rewrite(PERTURB, text, kind="drop", strength=0.3).split())
    assert kept == pytest.approx(1400, abs=80)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "x"}, "kind must be one of synonym, homoglyph, delete, swap, drop, got 'x'"),
        ({"strength": 1.5}, "strength is a share of the words in [0, 1], got 1.5"),
        (
            {"synonyms": [["fish"]]},
            "synonyms must be groups of two words or more, got (('fish',),)",
        ),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SafetyBenchError) as caught:
        registry.create(PERTURB, options)
    assert str(caught.value) == f"{PERTURB}: {message}"
