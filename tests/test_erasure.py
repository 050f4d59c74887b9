"""An Erasure from a user's words and files, and what a tokenizer makes of them."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safetybench import erasure as module
from safetybench.contracts import SafetyBenchError
from safetybench.erasure import (
    NEUTRAL,
    TEMPLATES,
    check_word,
    cut_pairs,
    erasure_from_words,
    read_forget,
    read_retain,
    read_templates,
)
from tests.targets import tiny_tokenizer


def test_the_example_runs() -> None:
    assert doctest.testmod(module).attempted
    assert doctest.testmod(module).failed == 0


# Words


@pytest.mark.parametrize("kind", ["object", "style"])
def test_built_in_texts_are_many_and_each_has_one_place(kind: Any) -> None:
    assert len(TEMPLATES[kind]) >= {"object": 30, "style": 20}[kind]
    assert all(text.count("{}") == 1 for text in TEMPLATES[kind])
    for texts in (TEMPLATES[kind], NEUTRAL[kind]):
        assert len(set(texts)) == len(texts)
    made = erasure_from_words("zeppelin", "balloon", templates=kind)
    assert len(made.forget) == len(TEMPLATES[kind])
    assert len(made.retain) == len(set(made.retain)) == 2 * len(NEUTRAL[kind])
    # Every template is used for what stays as well, so that no sentence tells the two apart.
    shapes = {re.sub("|".join(NEUTRAL[kind]), "{}", text, count=1) for text in made.retain}
    assert len(shapes) >= len(TEMPLATES[kind]) - 2


@given(st.sampled_from(["object", "style"]), st.sampled_from(["church", "Van Gogh", "a.b"]))
def test_forget_and_anchor_differ_by_the_concept_alone(kind: Any, concept: str) -> None:
    made = erasure_from_words(concept, "a tower", templates=kind)
    for ours, theirs in zip(made.forget, made.anchor, strict=True):
        assert ours.count(concept) == 1
        assert ours.replace(concept, "a tower") == theirs


def test_what_the_concept_names_itself_is_neither_kept_nor_a_template() -> None:
    made = erasure_from_words("dog", "fox", synonyms=["cat", "Dog"])
    assert made.bare == ("dog", "cat")
    assert not [text for text in made.retain if re.search(r"\b(dog|cat)\b", text)]
    assert len(made.retain) == 2 * (len(NEUTRAL["object"]) - 2)
    photo = erasure_from_words("photo", "drawing")
    assert [text for text in photo.forget if text.count("photo") > 1] == []
    assert "drawing" in photo.anchor
    assert "a painting of drawing" in photo.anchor


def test_spaces_are_one_and_a_word_in_a_word_is_another_word() -> None:
    made = erasure_from_words(
        " Van  Gogh ",
        "art",
        forget=["by van\u00a0gogh", "Van Gogh, vangogh"],
        retain=["by vangogh"],
    )
    assert made.bare == ("Van Gogh",)
    assert made.anchor == ("by art", "art, vangogh")


def test_prompts_may_name_a_synonym_and_the_longest_name_wins() -> None:
    made = erasure_from_words(
        "gogh", r"\1 art", synonyms=["vincent van gogh"], forget=["Vincent van Gogh, gogh"]
    )
    assert made.anchor == (r"\1 art, \1 art",)


BAD_WORDS: dict[str, dict[str, Any]] = {
    "the concept must be a word or a few, got ' '": {"concept": " "},
    "the anchor must be a word or a few, got ''": {"anchor": ""},
    "the synonym must be a word or a few, got ''": {"synonyms": ["carp", ""]},
    "the anchor is what takes the concept's place and must not name it, got 'a Fish' for 'fish'": {
        "anchor": "a Fish"
    },
    "a template has one {} where the concept goes, got 0 in 'a red fish'": {
        "templates": ["a {}", "a red fish"]
    },
    "a template has one {} where the concept goes, got 2 in '{} {}'": {"templates": ["{} {}"]},
    "a prompt to forget must name 'fish' or 'carp', got 'goldfish'": {
        "forget": ["a carp", "goldfish"], "synonyms": ["carp"]
    },
    "a prompt to keep must not name 'FISH', got 'one FISH'": {"retain": ["a dog", "one FISH"]},
}  # fmt: skip


@pytest.mark.parametrize("message", BAD_WORDS)
def test_words_that_do_not_fit(message: str) -> None:
    with pytest.raises(SafetyBenchError) as error:
        erasure_from_words(**{"concept": "fish", "anchor": "star", **BAD_WORDS[message]})
    assert str(error.value) == message


# Files


def test_files_are_read_with_comments_and_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text("# to forget\n\na fish\n  a red Fish \n", encoding="utf-8")
    assert read_forget(file, "fish") == ("a fish", "a red Fish")
    file.write_text("a dog\na fishing boat\n", encoding="utf-8")
    assert read_retain(file, "fish") == ("a dog", "a fishing boat")
    file.write_text("a {}\n", encoding="utf-8")
    assert read_templates(file) == ("a {}",)


def test_a_fault_is_told_with_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text("# a comment\na red fish\n\na {} star\n", encoding="utf-8")
    faults: dict[str, Callable[[], Any]] = {
        f"{file}:2: a template has one {{}} where the concept goes, got 0 in 'a red fish'": (
            lambda: read_templates(file)
        ),
        f"{file}:4: a prompt to forget must name 'fish', got 'a {{}} star'": (
            lambda: read_forget(file, "fish")
        ),
        f"{file}:2: a prompt to keep must not name 'red', got 'a red fish'": (
            lambda: read_retain(file, "fishes", ["red"])
        ),
    }
    for message, read in faults.items():
        with pytest.raises(SafetyBenchError) as error:
            read()
        assert str(error.value) == message
    file.write_text("# nothing else\n", encoding="utf-8")
    with pytest.raises(SafetyBenchError, match="holds only comments and blank lines"):
        read_templates(file)


# Tokenizers


class WordLevel:
    """A tokenizer that knows whole words: 0 is unknown, 1 starts, 2 ends."""

    unk_token_id = 0

    def __init__(self, *known: str) -> None:
        self.known = known

    def __call__(self, text: Any, *, add_special_tokens: bool = True, **options: Any) -> Any:
        if not isinstance(text, str):
            return SimpleNamespace(input_ids=[self(each, **options).input_ids for each in text])
        ids = [self.known.index(word) + 3 if word in self.known else 0 for word in text.split()]
        if add_special_tokens:
            ids = [1, *ids[: options.get("max_length", 99) - 2], 2]
        return SimpleNamespace(input_ids=ids)


def test_a_word_that_a_vocabulary_lacks_is_refused() -> None:
    tokenizer = WordLevel("van", "a", "fish")
    assert check_word(tokenizer, "fish") == ""
    for word, what in (
        ("gogh", "1 of its 1 pieces are unknown"),
        ("van gogh", "1 of its 2 pieces are unknown"),
        ("", "nothing of it is read"),
    ):
        with pytest.raises(SafetyBenchError) as error:
            check_word(tokenizer, word)
        assert str(error.value) == (
            f"the model's tokenizer does not know {word!r}: {what}; take words of its vocabulary"
        )


def test_byte_pairs_spell_what_they_have_letters_for() -> None:
    tokenizer = tiny_tokenizer()
    assert check_word(tokenizer, "red fish") == ""
    assert check_word(tokenizer, "zoo") == ""  # three letters
    assert check_word(tokenizer, "church") == (
        "the model's tokenizer spells 'church' in 6 pieces, so the model may hardly know it; look "
        "at its images of it first"
    )
    with pytest.raises(SafetyBenchError, match="3 of its 3 pieces are unknown"):
        check_word(tokenizer, "\u2603")


def test_pairs_that_the_model_reads_as_one() -> None:
    tokenizer = WordLevel("a", "big", "fish", "star")
    forget = ["a fish", "a big big big fish", "a big fish"]
    made = erasure_from_words("fish", "star", forget=forget)
    assert cut_pairs(tokenizer, made, 99) == []
    assert cut_pairs(tokenizer, made, 5) == [1]
    assert cut_pairs(tokenizer, made, 4) == [1, 2]
