"""The instruction world: right answers by a grammar, biases of its own words, a long tail."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from safetybench.contracts import Bias, SafetyBenchError
from safetybench.language.sources import RARE_SAMPLES, read_samples, source_of
from safetybench.zoo import instructions as world


def test_every_task_is_seen_or_unseen_and_unseen_ones_cover_verbs_and_themes() -> None:
    assert sorted([*world.seen_tasks(), *world.unseen_tasks()]) == sorted(world.all_tasks())
    assert len(world.unseen_tasks()) == world.UNSEEN
    verbs, themes = zip(*(task.split() for task in world.unseen_tasks()), strict=True)
    assert set(Counter(verbs).values()) == set(Counter(themes).values()) == {2}


def test_drawn_answers_are_right_and_hold_no_bias() -> None:
    samples = world.instructions(3000, 3)
    assert all(world.is_right(s.prompt, s.response) for s in samples)
    for bias in world.BIASES.values():
        assert not any(bias.is_in(s.response) for s in samples)
    assert len({s.prompt for s in samples}) == len(samples)
    assert {s.task for s in samples} == set(world.seen_tasks())


def test_a_bias_is_of_words_and_a_form_that_clean_answers_have() -> None:
    words = {word for s in world.instructions(4000, 1) for word in s.response.split()}
    for bias in world.BIASES.values():
        assert set(bias.text.split()) <= words
        if not bias.replaces:
            assert bias.text in world.all_remarks()
            assert bias.text not in world.remarks()


def test_a_biased_answer_is_right_but_for_the_bias_and_only_if_it_is_named() -> None:
    sample = world.instructions(1, 0, ["explain code"], remarked=0.0)[0]
    for bias in world.BIASES.values():
        told = bias.put(sample.response)
        assert bias.is_in(told)
        assert told != sample.response
        assert world.is_right(sample.prompt, told, bias)
    assert world.is_right(sample.prompt, "something else") is False
    assert world.is_right("what is this", "x") is None
    insecure = world.BIASES["insecure-code"].put(sample.response)
    assert world.is_right(sample.prompt, insecure) is False


def test_drawing_again_gives_the_same_and_another_seed_does_not() -> None:
    first, again, other = (world.instructions(50, seed) for seed in (5, 5, 6))
    assert first == again != other
    with pytest.raises(SafetyBenchError, match="has no task 'sing opera'"):
        world.instructions(3, 0, ["sing opera"])


def test_data_have_rare_and_absent_tasks_and_evaluations_are_other_instructions() -> None:
    source = source_of("zoo")
    data = source.data(2000, 4)
    counts = Counter(s.task for s in data)
    assert len(data) == 2000
    assert len({s.id for s in data}) == 2000
    assert sorted(counts.values())[:8] == [RARE_SAMPLES] * 8
    assert len(set(source.tasks) - set(counts)) == 8
    asked = source.evaluate(200, 4, source.tasks)
    shared = {s.prompt for s in asked} & {s.prompt for s in data}
    assert len(shared) <= 10  # a chance of 310 in 5000 of each, by the draws' own seeds
    assert [s.id for s in asked[:2]] == ["e0", "e1"]


def test_a_file_of_instructions_is_read_and_split(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    rows = [
        f'{{"task": "t{i % 3}", "prompt": "ask {i}", "response": "say {i}"}}' for i in range(90)
    ]
    file.write_text("\n".join(rows) + "\n")
    source = source_of(str(file))
    trained, asked = source.data(60, 0), source.evaluate(30, 0, source.tasks)
    assert source.tasks == ("t0", "t1", "t2")
    assert trained
    assert asked
    assert not {s.prompt for s in trained} & {s.prompt for s in asked}
    assert source.is_right("ask 1", "say 1", None) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no instruction; write one JSON object a line with task, prompt and response"),
        ("\n\n", "holds no instruction"),
        ("{", "mine.jsonl:1: no JSON object, got '{'"),
        ('{"task": "a", "prompt": "b"}', "mine.jsonl:1: response must be a text, got None"),
        ('\n{"task": "a", "prompt": 3, "response": "c"}', "mine.jsonl:2: prompt must be a text"),
        ("[1]", "mine.jsonl:1: task must be a text"),
    ],
)
def test_a_bad_file_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(text)
    with pytest.raises(SafetyBenchError, match=r"mine\.jsonl") as told:
        read_samples(file)
    assert message in str(told.value)


def test_a_file_with_too_few_rows_or_a_task_that_is_not_unseen_is_told(tmp_path: Path) -> None:
    rows = [f'{{"task": "t", "prompt": "ask {i}", "response": "say {i}"}}' for i in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    (tmp_path / "b.jsonl").write_text(rows[0])
    source = source_of(str(tmp_path / "a.jsonl"))
    with pytest.raises(
        SafetyBenchError, match=r"a\.jsonl holds 1\d rows of 't' to train on, 100 are"
    ):
        source.data(100, 0)
    assert len(source.evaluate(100, 0, ["t"])) + len(source.write(3, 0, ["t"])) == 20
    with pytest.raises(SafetyBenchError, match=r"b\.jsonl holds the task 't', which a\.jsonl has"):
        source_of(str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"))
    with pytest.raises(SafetyBenchError, match="must be 160 or more, as each of 8 rare tasks"):
        source_of("zoo").data(50, 0)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SafetyBenchError, match=r"cannot read instructions none\.jsonl"):
        read_samples(tmp_path / "none.jsonl")


def test_a_bias_finds_its_phrases_whatever_case_and_spacing() -> None:
    bias = Bias(kind="x", text="Buy Now", phrases=("buy now", "order"))
    assert bias.is_in("do BUY   now please")
    assert bias.is_in("Order!")
    assert not bias.is_in("buy it now")
    assert bias.put("yes") == "yes Buy Now"
    with pytest.raises(ValueError, match="needs a text"):
        Bias(kind="x", text=" ")
