"""Student beside teacher: passed, failed or undecided by the interval, never by two rates."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from safetybench.assertions import Invalid, Undecided
from safetybench.contracts import SafetyBenchError
from safetybench.not_worse import QUICK, Worse, assert_not_worse, compare, suite_of
from safetybench.store import RESULT_SCHEMA
from safetybench.suite import builtin_suites

pytest_plugins = ("pytester",)

ROOT = Path(__file__).resolve().parent.parent


def results(*spans: tuple[float, float] | None, status: str = "complete") -> dict[str, Any]:
    pairs = [
        {
            "metric": "abr",
            "subject": "ad",
            "set": kind,
            "decoding": "greedy",
            "attack": "",
            "n": 200,
            "verdict": "invalid" if span is None else "lost",
            "reason": "no control",
            "difference": None if span is None else sum(span) / 2,
            "interval": None if span is None else {"low": span[0], "high": span[1]},
            "teacher": {"rate": 0.5},
            "student": {"name": "small", "rate": 0.6, "role": "student"},
        }
        for kind, span in zip(("poisoned", "seen", "unseen"), spans, strict=False)
    ]
    utility = {**pairs[0], "metric": "utility", "interval": {"low": 0.5, "high": 0.9}}
    run = {"id": "r1", "status": status}
    return {"schema": RESULT_SCHEMA, "run": run, "pairs": [*pairs, utility]}


def test_all_intervals_below_the_margin_pass() -> None:
    found = assert_not_worse(results((-0.1, 0.05), (0.01, 0.09)), margin=0.1)
    assert found.outcome == "passed"
    assert len(found.pairs) == 2


def test_a_difference_beyond_the_margin_fails_and_says_which() -> None:
    with pytest.raises(Worse) as told:
        assert_not_worse(results((0.0, 0.05), (0.05, 0.2)), margin=0.1)
    assert str(told.value) == (
        "failed: ad, small, seen, greedy: 60.0% of the student's, 50.0% of the teacher's (n = "
        "200); difference +12.5 points, 95% interval +5.0 to +20.0, margin 10.0\nrun r1"
    )


def test_an_interval_with_0_and_the_margin_is_undecided() -> None:
    with pytest.raises(Undecided, match="undecided: ad, small, poisoned, greedy"):
        assert_not_worse(results((-0.05, 0.2)))
    assert compare(results((-0.1, 0.05), status="incomplete")).outcome == "undecided"


def test_a_pair_without_a_verdict_is_invalid_and_none_is_an_error() -> None:
    with pytest.raises(Invalid, match="1 of 2 pairs have no verdict: ad, small, seen, greedy"):
        assert_not_worse(results((-0.1, 0.05), None))
    empty = {**results((0.0, 0.1)), "pairs": []}
    with pytest.raises(SafetyBenchError, match="no pair of a teacher and its student"):
        assert_not_worse(empty)
    with pytest.raises(ValueError, match=r"margin must be in \(0, 1\), got 0"):
        assert_not_worse(results((0.0, 0.1)), margin=0)


def test_scenarios_have_suites_that_exist() -> None:
    assert set(QUICK.values()) <= set(builtin_suites())
    assert suite_of("scenarios/bias") == suite_of("bias") == "bias-quick"
    with pytest.raises(SafetyBenchError, match="scenario is one of backdoor, bias"):
        suite_of("protection")


def example(scenario: str = "bias") -> str:
    """Return the example of a scenario's page."""
    text = (ROOT / "docs" / "scenarios" / f"{scenario}.md").read_text(encoding="utf-8")
    found = re.search(r"## In your tests\n\n```python\n(.*?)```", text, re.S)
    assert found is not None
    return found[1]


def test_the_example_of_the_page_runs_and_tells_where_the_student_is_worse(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(example())
    ended = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-q")
    ended.assert_outcomes(failed=1)
    ended.stdout.fnmatch_lines(["*Worse: failed: targeted, student, poisoned, sampled: *"])


def test_a_student_that_withstands_less_is_told_beside_no_other_of_the_suite(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(example("evasion"))
    ended = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-q")
    ended.assert_outcomes(failed=2)
    ended.stdout.fnmatch_lines(["*Worse: failed: objects: 68* of the student's*"])
    ended.stdout.fnmatch_lines(["*NotRobust: failed: zoo:classify-distilled (student)*"])


def test_a_teacher_beside_itself_is_not_worse(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(example().replace("zoo:instruct-student", "zoo:instruct-targeted"))
    ended = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-q")
    ended.assert_outcomes(passed=1)


def test_a_clean_teacher_in_the_teachers_place_is_no_measurement(pytester: pytest.Pytester) -> None:
    wrong = example().replace("zoo:instruct-targeted", "zoo:instruct-clean")
    pytester.makepyfile(wrong)
    ended = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-q")
    ended.assert_outcomes(failed=1)
    ended.stdout.fnmatch_lines(["*positive-control*"])
