"""RobustBench-shaped model cards: read as claims, written from a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safetybench import registry
from safetybench.contracts import SafetyBenchError
from safetybench.model_cards import card_of, place_of, read_claim
from safetybench.suite import load_suite
from tests.test_scenario_evasion import TRY, by_role, outcome, sharp
from tests.toys_classifier import trained

CARD = {
    "link": "", "name": "Nobody2026", "authors": "", "additional_data": False,
    "number_forward_passes": 1, "dataset": "cifar10", "venue": "", "architecture": "WRN-28-10",
    "eps": "8/255", "clean_acc": "90.25", "reported": "60.0", "autoattack_acc": "58.5",
}  # fmt: skip


def card(folder: Path, **changes: Any) -> Path:
    file = folder / "card.json"
    told = {k: v for k, v in {**CARD, **changes}.items() if v is not None}
    file.write_text(json.dumps(told))
    return file


def test_a_claim_is_read_with_its_numbers(tmp_path: Path) -> None:
    found = read_claim(card(tmp_path), 8 / 255)
    assert found == ("Nobody2026", "cifar10", 8 / 255, 0.9025, 0.585, False)
    assert read_claim(card(tmp_path, external="40.1", unreliable=True), 8 / 255)[4:] == (
        0.401,
        True,
    )
    assert read_claim(card(tmp_path, eps=0.5), 0.5).epsilon == 0.5
    assert read_claim(card(tmp_path, autoattack_acc=None), 8 / 255).robust is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": None}, "the model card card.json needs 'eps'"),
        ({"eps": "8:255"}, 'eps of the model card card.json must be like "8/255" or "0.5", got '
         "'8:255'"),
        ({"eps": "4/255"}, "the model card card.json is of eps 4/255, the suite's threat of 8/255 "
         "(0.0313725): their accuracies cannot be compared"),
        ({"clean_acc": "high"}, 'clean_acc of the model card card.json must be in percent, like '
         "\"90.25\", got 'high'"),
        ({"autoattack_acc": "120"}, 'autoattack_acc of the model card card.json must be in percent'
         ", like \"90.25\", got '120'"),
    ],
)  # fmt: skip
def test_a_card_that_is_none_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SafetyBenchError) as caught:
        read_claim(card(tmp_path, **changes), 8 / 255)
    assert str(caught.value) == message


def test_no_file_and_no_json_are_told(tmp_path: Path) -> None:
    with pytest.raises(SafetyBenchError, match=r"cannot read the model card no\.json"):
        read_claim(tmp_path / "no.json", 0.1)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(SafetyBenchError, match=r"the model card x\.json is no JSON"):
        read_claim(tmp_path / "x.json", 0.1)
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(SafetyBenchError, match=r"x\.json must be a mapping"):
        read_claim(tmp_path / "x.json", 0.1)


def test_a_claim_above_what_is_measured_is_a_warning(tmp_path: Path) -> None:
    card(tmp_path, eps="0.1", clean_acc="95.0", autoattack_acc="88.0", dataset="Digits")
    summary = outcome(
        tmp_path, trained(), trained(0.1), sharp(), f"{TRY}cards: {{c: card.json, b: card.json}}\n"
    )
    told = {(c["cell"], "worst" in c["message"]): c for c in summary["checks"]
            if c["name"] == "claim"}  # fmt: skip
    assert len(told) == 4
    assert not told["digits.student.clean", True]["passed"]
    assert told["digits.student.clean", True]["effect"] == "warning"
    assert told["digits.student.clean", False]["passed"]
    rows = by_role(summary)
    assert rows["student"]["claim"]["robust"] == 0.88
    assert rows["original"]["claim"] is None

    found = card_of(rows["student"], version="1")
    assert found is not None
    assert found["unreliable"] is True
    assert found["eps"] == "25.5/255"
    assert (
        found["external"] == found["reported"] == f"{100 * rows['student']['worst']['value']:.2f}"
    )
    assert "autoattack_acc" not in found
    assert "gradients are masked" in found["footnote"]
    assert place_of(rows["student"]) == "digits/Linf/digits-student.json"
    honest = card_of(rows["teacher"], version="1")
    assert honest is not None
    assert honest["unreliable"] is False
    assert card_of({**rows["teacher"], "worst": None}, version="1") is None

    run = tmp_path / "run"
    run.mkdir()
    text = json.dumps({"schema": "safetybench.result/1", **summary})
    (run / "results.json").write_text(text)
    home = registry.create("reports/model_info").write(run)
    files = sorted(str(file.relative_to(home)) for file in home.rglob("*.json"))
    assert files == [
        f"digits/Linf/digits-{role}.json" for role in ("original", "student", "teacher")
    ]
    again = read_claim(home / files[1], 0.1, "linf", "digits")
    with pytest.raises(
        SafetyBenchError, match=r"lies among those of linf, the suite's threat is l2"
    ):
        read_claim(home / files[1], 0.1, "l2", "digits")
    with pytest.raises(SafetyBenchError, match=r"is of digits, the suite's data are world"):
        read_claim(home / files[1], 0.1, "linf", "world")
    assert again.is_unreliable
    assert again.robust == pytest.approx(rows["student"]["worst"]["value"], abs=1e-4)


def test_a_card_of_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    card(tmp_path, eps="0.1")
    (tmp_path / "s.yaml").write_text(f"{TRY}cards: {{d: card.json}}\n")
    with pytest.raises(SafetyBenchError, match=r"s\.yaml:14: no model of the suite is called 'd'"):
        load_suite(tmp_path / "s.yaml")
    (tmp_path / "s.yaml").write_text(f"{TRY}cards: {{b: other.json}}\n")
    with pytest.raises(SafetyBenchError, match=r"s\.yaml:14: cannot read the model card other"):
        load_suite(tmp_path / "s.yaml")
