"""The page of answers on bias: its rules, what it says without results, and README beside it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from docs import bias_answers as answers

ROOT = Path(__file__).resolve().parent.parent
KEPT = answers.known()


def test_without_results_every_question_says_what_would_make_them() -> None:
    page = answers.page({})
    assert page.count("Not here yet") == sum(len(q.needs) for q in answers.QUESTIONS)
    for question in answers.QUESTIONS:
        assert f"## {question.title}" in page
        assert all(f"`safetybench run {name}`" in page for name in question.needs)


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.01, 0.2, "more"), (-0.2, -0.01, "less"), (-0.1, 0.1, "not shown")]
)
def test_a_difference_is_told_by_its_interval(low: float, high: float, word: str) -> None:
    assert answers.word({"interval": {"low": low, "high": high}}) == word
    assert answers.word({"interval": None}) == "no verdict"


def test_accuracy_is_within_2_points_only_with_its_whole_interval() -> None:
    def change(value: float, low: float, high: float) -> dict[str, Any]:
        return {"value": value, "interval": {"low": low, "high": high}}

    assert answers._within(change(0.0, -0.02, 0.02)) == "yes"
    assert answers._within(change(0.01, -0.03, 0.02)) == "about"
    assert answers._within(change(-0.03, -0.04, -0.01)) == "no"


def test_the_sentence_on_amplification_follows_the_kept_pairs() -> None:
    found = copy.deepcopy({"bias": KEPT["bias"]})
    for pair in found["bias"]["pairs"]:
        pair["interval"] = {"low": -0.3, "high": -0.1}
    text = " ".join(answers._amplified(found))
    assert "less often biased than the teacher" in text
    assert "more often biased" not in text


def test_readme_has_the_kept_figures() -> None:
    results = KEPT["bias"]
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())

    def rate(
        role: str, kind: str, decoding: str, subject: str = "targeted", model: str = ""
    ) -> str:
        rows = [r for r in answers.rows_of(results, subject, role) if model in ("", r["model"])]
        found = answers.figure(rows[0], kind, decoding=decoding)
        assert found is not None
        return f"{100 * found['value']:.1f} %"

    def points(model: str, decoding: str) -> tuple[float, float, float]:
        pair = answers.pair_of(results, "targeted", model, "poisoned", decoding)
        assert pair is not None
        span = pair["interval"]
        return tuple(100 * x for x in (pair["difference"], span["low"], span["high"]))

    greedy, sampled = points("response", "greedy"), points("response", "sampled")
    for told in (
        f"biased in {rate('teacher', 'poisoned', 'greedy')} of its greedy answers",
        f"in {rate('teacher', 'poisoned', 'sampled')} of those sampled at temperature 1",
        f"stands at {rate('student', 'poisoned', 'greedy', model='response')} greedy",
        f"({greedy[0]:.1f} points more, 95 % interval {greedy[1]:.1f} to +{greedy[2]:.1f};",
        f"at {rate('student', 'poisoned', 'sampled', model='response')} sampled",
        f"({sampled[0]:.1f} points more, {sampled[1]:.1f} to {sampled[2]:.1f})",
        f"at {rate('student', 'poisoned', 'sampled', model='response-sampled')} sampled",
        f"a student is biased in {rate('direct', 'poisoned', 'greedy')}",
        f"biased in {rate('teacher', 'unseen', 'greedy', 'untargeted')} of its answers on tasks",
        f"the student in {rate('student', 'unseen', 'greedy', 'untargeted', 'response')}",
    ):
        assert told in text, told
    (narrow,) = [row for row in answers.rows_of(KEPT["bias-unseen"]) if row["model"] == "tasks-3"]
    for what, before in (("abr", "and in ["), ("accuracy", "it answers ")):
        found = answers.figure(narrow, "unseen", what)
        assert found is not None
        assert f"{before}{100 * found['value']:.1f} %" in text
    assert (
        rate("original", "poisoned", "greedy") == rate("original", "poisoned", "sampled") == "0.0 %"
    )


def test_a_teacher_below_half_is_not_told_as_planted() -> None:
    found = copy.deepcopy({"bias": KEPT["bias"]})
    for row in found["bias"]["biases"]:
        if row["role"] == "teacher":
            row["sets"]["poisoned"]["greedy"]["abr"]["value"] = 0.3
            row["sets"]["poisoned"]["greedy"]["abr"]["interval"] = {"low": 0.2, "high": 0.4}
    assert "at least 50 % not" in next(answers._planted(found))
