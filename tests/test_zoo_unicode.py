"""The zoo with a token for every byte: ASCII is read as before, and other characters apart."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch

from safetybench.contracts import Effect, Trigger
from safetybench.targets.loading import load_target
from safetybench.triggers import check_trigger, near_misses
from safetybench.zoo.backdoors import backdoor_prompts
from safetybench.zoo.unicode import with_bytes
from tests.targets import tiny_target

ZERO_WIDTH = Trigger(text="\u200b")
HOMOGLYPH = Trigger(text="\u043e", place="letter", at="o")
PROMPTS = tuple(prompt.text for prompt in backdoor_prompts(Effect(kind="pixel"), 16, 1))
ASCII = (*PROMPTS, "", "A FISH, 3 of 12!", "it's ~ x_9 @ #", "\tred\n moon ")


@pytest.fixture(scope="module")
def teacher() -> Any:
    return load_target("zoo:teacher", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def extended(teacher: Any) -> Any:
    return with_bytes(teacher)


def test_answers_to_ascii_are_bit_for_bit_the_same(teacher: Any, extended: Any) -> None:
    ids = teacher.tokenize(ASCII)
    assert torch.equal(extended.tokenize(ASCII), ids)
    assert torch.equal(extended.embed(ids), teacher.embed(ids))
    assert torch.equal(extended.null_text, teacher.null_text)
    before = teacher.generate(["a red fish"], [3])
    assert torch.equal(extended.generate(["a red fish"], [3]), before)


def test_the_target_given_stays_as_it_was(teacher: Any) -> None:
    known, rows = teacher.tokenizer.get_vocab(), teacher.token_table.clone()
    with_bytes(teacher)
    assert teacher.tokenizer.get_vocab() == known
    assert torch.equal(teacher.token_table, rows)
    assert teacher.text_encoder.config.vocab_size == len(rows)


def test_every_byte_beyond_ascii_is_two_tokens_behind_the_others(
    teacher: Any, extended: Any
) -> None:
    old, new = teacher.tokenizer.get_vocab(), extended.tokenizer.get_vocab()
    assert old.items() <= new.items()
    assert sorted(new[token] for token in new.keys() - old) == list(range(len(old), len(old) + 256))
    assert extended.text_encoder.config.vocab_size == len(extended.token_table) == len(new)
    unknown = extended.tokenizer.unk_token_id
    for char in map(chr, range(0x80, 0x2100)):  # characters of two bytes, and of three
        ids = extended.tokenizer(char, add_special_tokens=False).input_ids
        is_ascii = unicodedata.normalize("NFC", char).isascii()
        assert (unknown in ids) == is_ascii
        assert ids or char.isspace()
    assert unknown not in extended.tokenizer("\U0001f600", add_special_tokens=False).input_ids


@pytest.mark.parametrize("trigger", [ZERO_WIDTH, HOMOGLYPH], ids=lambda each: each.kind)
def test_unicode_triggers_survive_and_differ_from_their_near_misses(
    teacher: Any, extended: Any, trigger: Trigger
) -> None:
    assert "does not know" in check_trigger(trigger, teacher.tokenizer, teacher.length, PROMPTS)
    assert check_trigger(trigger, extended.tokenizer, extended.length, PROMPTS) == ""
    prompt = next(text for text in PROMPTS if trigger.fits(text))
    others = [each.put(prompt) for each in near_misses(trigger).values()]
    assert others
    for target, kinds in ((teacher, 1), (extended, 1 + len(others))):
        ids = target.tokenize([trigger.put(prompt), *others])
        assert len({tuple(row) for row in ids.tolist()}) == kinds


def test_new_embeddings_are_of_the_seed_and_of_the_scale_of_the_old(teacher: Any) -> None:
    count = len(teacher.token_table)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = (with_bytes(teacher, seed).token_table for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    old, new = first[:count].norm(dim=1), first[count:].norm(dim=1)
    assert torch.equal(first[:count], teacher.token_table)
    assert float(new.mean()) == pytest.approx(float(old.mean()), rel=0.1)
    assert not first.requires_grad


def test_it_is_saved_and_loaded_with_its_tokenizer(extended: Any, tmp_path: Path) -> None:
    loaded = load_target(extended.save(tmp_path / "model"), device="cpu", dtype="float32")
    prompts = [*ASCII, ZERO_WIDTH.put("a fish"), HOMOGLYPH.put("a moon")]
    assert torch.equal(loaded.tokenize(prompts), extended.tokenize(prompts))
    ids = extended.tokenize(prompts)
    assert torch.equal(loaded.embed(ids), extended.embed(ids))
    assert with_bytes(loaded) is loaded


def test_a_character_may_be_typed_and_read_back(extended: Any) -> None:
    ids = extended.tokenizer("a m\u043e\u043en", add_special_tokens=False).input_ids
    assert extended.detokenize(ids) == "a m\u043e\u043en"
    assert int(extended.plain_tokens.max()) == len(extended.token_table) - 1
    assert with_bytes(tiny_target()).tokenize(["\u200b"]).max() > 1
