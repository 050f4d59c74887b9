"""The page of answers: what it compares, and what it says where a run is missing."""

from __future__ import annotations

from typing import Any

import pytest

from docs import encoder, protection_answers
from docs.protection_answers import beyond, known, page


def row(outcomes: str, noise: str = "1" * 60, **more: Any) -> dict[str, Any]:
    return {
        "protection": "defenses/images/advdm",
        "options": {},
        "role": "teacher",
        "purifier": "",
        "surrogate": "teacher",
        "epsilon": 16 / 255,
        "verdict": "protects",
        "edit_options": {},
        "outcomes": outcomes,
        "noise_outcomes": noise,
        "net": 0.5,
        "interval": {"low": 0.4, "high": 0.6},
        **more,
    }


@pytest.mark.parametrize(
    ("first", "second", "value", "word"),
    [
        ("0" * 60, "1" * 60, 1.0, "more"),
        ("1" * 60, "0" * 60, -1.0, "less"),
        ("01" * 30, "10" * 30, 0.0, "undecided"),
        ("0" * 30 + "-" * 30, "1" * 60, 1.0, "more"),
    ],
)
def test_a_protection_does_more_where_fewer_of_the_same_images_are_edited(
    first: str, second: str, value: float, word: str
) -> None:
    found = beyond(row(first), row(second))
    assert (found.value, found.word) == (value, word)
    assert found.n == 60 - first.count("-")
    assert found.interval.low <= value <= found.interval.high


def test_protections_under_other_noise_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same noise"):
        beyond(row("0" * 60), row("1" * 60, noise="0" * 60))


def test_a_missing_run_is_told_with_its_command() -> None:
    text = page({})
    assert text.count("Not answered yet") == len(protection_answers.QUESTIONS)
    assert "`safetybench run protection-strength` is not kept" in text


def test_every_question_is_answered_from_what_is_kept() -> None:
    runs = known()
    text = page(runs)
    for question in protection_answers.QUESTIONS:
        if all(name in runs for name in question.runs):
            part = text.split(f"## {question.title}\n", 1)[1].split("\n## ", 1)[0]
            assert "| --- |" in part, question.title
            assert "Not answered" not in part


def test_the_encoder_page_tells_what_was_measured() -> None:
    figure = {"value": 8.0, "low": 7.0, "high": 9.0}
    text = encoder.page(
        {
            "target": "zoo:teacher",
            "count": 4,
            "steps": 3,
            "draws": 2,
            "shifts": [
                {"levels": 8, "method": "sign_noise", "options": {}, "a": figure},
                {"levels": 8, "method": "photoguard_encoder", "options": {"a": 1}, "a": figure,
                 "ratio": figure},
            ],
            "snr": [{"time": 20, **figure}, {"time": 900, "value": 0.1, "low": 0, "high": 0.2}],
        }
    )  # fmt: skip
    assert "8 (7 to 9) at 8/255 times" in text
    assert "0.1 to 8 times as much signal as noise; at 1 of 2 times signal prevails" in text
    assert "It is not mostly noise here." in text
