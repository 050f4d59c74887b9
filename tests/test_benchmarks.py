"""The benchmarks: batched and plain paths agree, and one that differs fails the command."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import measure, models
from benchmarks.evasion import EvasionRow
from benchmarks.measure import Found, Row


@pytest.fixture(scope="module")
def quick() -> list[Row]:
    given = Namespace(quick=True, items=8, repeats=2, target=models.RANDOM, device="cpu")
    where, rows = command.rows(given)
    assert where == "random weights on cpu, 1 threads"
    return rows


def test_each_batched_path_gives_the_results_of_the_plain_one(quick: list[Row]) -> None:
    assert [row.name for row in quick] == ["UnlearnDiffAtk search", "generation", "judge"]
    for row in quick:
        assert row.same, row
        assert row.items == 3
        assert row.plain_s > 0
        assert row.batched_s > 0


def paths(*numbers: float, labels: tuple[list[Any], list[Any]] = ([], [])) -> Row:
    one, other = (Found(part, torch.tensor([x])) for part, x in zip(labels, numbers, strict=True))
    return measure.compare("x", 1, lambda: one, lambda: other, 1)


def test_close_numbers_agree() -> None:
    assert paths(0.5, 0.5001).same


def test_a_wrong_number_is_found() -> None:
    row = paths(0.5, 0.6)
    assert not row.same
    assert row.worst == pytest.approx(0.1)


def test_a_wrong_text_is_found() -> None:
    assert not paths(0.5, 0.5, labels=(["a fish"], ["a star"])).same


def test_a_number_that_is_none_is_found() -> None:
    assert not paths(0.5, float("nan")).same


def test_the_ratio_is_of_the_fastest_of_the_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 9, 10, 12, 20, 24, 30, 31])  # plain 9, batched 2, plain 4, batched 1
    monkeypatch.setattr(measure, "_now", lambda: next(clock))
    same = Found([], torch.zeros(1))
    row = measure.compare("x", 1, lambda: same, lambda: same, 2)
    assert (row.plain_s, row.batched_s, row.ratio) == (4, 1, 4)


@pytest.mark.parametrize(("same", "code"), [(True, 0), (False, 1)])
def test_results_that_differ_are_said_and_fail(
    same: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = Row("search", 8, 4.0, 1.0, 0.25, same)
    monkeypatch.setattr(command, "rows", lambda chosen: ("here", [row]))
    assert command.main([]) == code
    printed = capsys.readouterr().out
    assert "4.0x" in printed
    assert ("DIFFER" in printed) is not same
    assert command.main(["--json"]) == code
    assert json.loads(capsys.readouterr().out)["rows"][0]["ratio"] == 4


def test_attacks_on_a_classifier_are_measured_beside_those_of_art(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["--evasion", "--quick", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["name"] for row in rows] == [
        "CW-L2, ART in batches of 2", "CW-L2, ART in batches of 1", "PGD-40"
    ]  # fmt: skip
    for row in rows:
        assert row["images"] == 2
        assert row["ours_s"] > 0
        assert row["art_s"] > 0


def test_an_attack_that_is_weaker_than_that_of_art_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = EvasionRow("CW-L2", 16, 1.0, 5.0, 1.0, 1.0, 0.5, 0.5)
    for row, code in (
        (good, 0),
        (good._replace(ours_l2=0.6), 1),
        (good._replace(ours_success=0.5), 1),
    ):
        monkeypatch.setattr(command, "evasions", lambda chosen, row=row: ("here", [row]))
        assert command.main(["--evasion"]) == code
        printed = capsys.readouterr().out
        assert "5.0x" in printed
        assert ("WEAKER" in printed) is bool(code)


def test_random_weights_are_those_of_their_seed() -> None:
    one, same, other = (models.random_target(seed) for seed in (0, 0, 1))
    weights = [next(iter(t.unet.parameters())) for t in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
