"""Statistics over several trainings: one is `pair_verdict`, more are held to what is known."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest

from safetybench import stats
from safetybench.scenarios import _transfer_stats as transfer
from safetybench.stats import Verdict


def outcomes(hits: int, n: int) -> list[bool]:
    return [i < hits for i in range(n)]


def draw(rng: random.Random, n: int, rate: float) -> list[bool]:
    return [rng.random() < rate for _ in range(n)]


@pytest.mark.parametrize("seed", range(12))
def test_one_training_is_the_pair_verdict(seed: int) -> None:
    rng = random.Random(seed)
    n = rng.choice([12, 60, 200])
    teacher, student = (draw(rng, n, rng.choice([0.0, 0.05, 0.1, 0.6])) for _ in range(2))
    reference, floors = draw(rng, n, 0.95), (rng.choice([None, 0.0, 0.3]), rng.choice([None, 0.2]))
    known = stats.pair_verdict(
        teacher, student, reference=reference, floor_teacher=floors[0], floor_student=floors[1]
    )
    found = transfer.compare(
        teacher, [student], reference=reference, floors=transfer.Floors(floors[0], [floors[1]])
    )
    assert (found.verdict, found.difference, found.interval, found.p_value, found.detectable) == (
        known.verdict,
        known.difference,
        known.interval,
        known.p_value,
        known.detectable,
    )
    assert (found.teacher_rate, found.student_rate) == (known.teacher_rate, known.student_rate)


def test_the_two_way_bootstrap_is_every_draw_counted_out() -> None:
    table = [[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]]
    means = []
    for prompts in itertools.product(range(3), repeat=3):
        by_row = [float(np.mean([row[i] for i in prompts])) for row in table]
        for drawn in itertools.product(range(2), repeat=2):
            chosen = np.mean([by_row[r] for r in drawn])
            means.append(np.mean(by_row) + 2**0.5 * (chosen - np.mean(by_row)))
    found = transfer.two_way(table)
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=1e-9)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=1e-9)
    assert found.method == "two-way-bootstrap"


def spread(rates: Sequence[float], n: int = 4000) -> float:
    """Return the width of the interval where prompts are so many that trainings alone count."""
    table = [[1.0] * round(rate * n) + [0.0] * (n - round(rate * n)) for rate in rates]
    low, high, *_ = transfer.two_way(table)
    return high - low


def test_trainings_that_differ_widen_the_interval() -> None:
    same, apart = spread([0.5, 0.5, 0.5]), spread([0.2, 0.5, 0.8])
    assert same == pytest.approx(2 * 1.96 * (0.25 / 4000) ** 0.5, rel=0.1)
    # Three draws of three rates, stretched: the ends are where all three are the lowest, or so.
    assert 0.6 < apart < 0.8
    one = transfer.two_way([[1.0] * 2000 + [0.0] * 2000])
    assert one.high - one.low == pytest.approx(same, rel=0.1)


def test_the_spread_of_trainings_has_no_bias() -> None:
    # The variance of the stretched mean is s^2 / 3 with the unbiased s: for 0, 1, 2 (/ 10) it is
    # 0.1^2 / 3, of which a plain bootstrap of the rows would see two thirds.
    shares = transfer._shares(0, 3, 1).columns
    rates = np.array([0.0, 0.1, 0.2])
    means = 0.1 + 1.5**0.5 * ((shares * rates).sum(1) - 0.1)
    assert means.var() == pytest.approx(0.1**2 / 3, rel=0.06)


def test_agreement_of_all_prompts_is_no_certainty() -> None:
    found = transfer.difference([False] * 200, [[False] * 200] * 3)
    assert found.low == -found.high
    assert found.high == stats.paired_rate_difference([False] * 200, [False] * 200).high
    rate = transfer.mean_rate([[True] * 50] * 2)
    assert (round(rate.low, 6), rate.high) == (round(stats.wilson(50, 50).low, 6), 1.0)


def test_a_concept_is_back_only_if_every_training_brings_it() -> None:
    teacher, n = [False] * 100, 100
    assert transfer.compare(teacher, [outcomes(40, n)] * 3).verdict is Verdict.LOST
    found = transfer.compare(teacher, [outcomes(40, n), outcomes(40, n), outcomes(1, n)])
    assert found.verdict is Verdict.NOT_DISTINGUISHABLE
    assert found.reason.endswith("in every training; the trainings differ")
    assert found.difference == pytest.approx(0.27)
    assert found.interval.low <= 0 < found.interval.high
    back = transfer.compare(outcomes(40, n), [[False] * n] * 2)
    assert back.verdict is Verdict.GAINED


def test_trainings_on_both_sides_of_the_teacher_are_no_finding() -> None:
    teacher = outcomes(50, 100)
    found = transfer.compare(teacher, [outcomes(90, 100), outcomes(10, 100)])
    assert found.p_value == 1.0
    assert max(one.p_value for one in found.each) < 1e-6
    assert found.verdict is Verdict.NOT_DISTINGUISHABLE


def test_every_training_must_be_above_its_floor() -> None:
    teacher, students = [False] * 100, [outcomes(40, 100), outcomes(35, 100)]
    floors = transfer.Floors(0.0, [0.0, 0.4])
    found = transfer.compare(teacher, students, floors=floors)
    assert found.verdict is Verdict.NOT_DISTINGUISHABLE
    assert "not more than its floor of 40.0%" in found.reason


def test_inheriting_needs_every_training_below_the_original() -> None:
    teacher, reference = [False] * 100, [True] * 100
    same = [[False] * 100] * 3
    assert transfer.compare(teacher, same, reference=reference).verdict is Verdict.INHERITED
    assert transfer.compare(teacher, same).verdict is Verdict.UNCHANGED
    assert transfer.compare(teacher, same, reference=teacher).verdict is Verdict.UNCHANGED


def test_a_corrected_p_decides() -> None:
    teacher, students = [False] * 60, [outcomes(8, 60)] * 2
    assert transfer.compare(teacher, students).verdict is Verdict.LOST
    found = transfer.compare(teacher, students, adjusted_p=0.2)
    assert found.verdict is Verdict.NOT_DISTINGUISHABLE
    assert found.p_value < 0.05


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="trainings and prompts are needed, got 0, 1"):
        transfer.compare([True], [])
    with pytest.raises(ValueError, match="values must be a table"):
        transfer.two_way([])
