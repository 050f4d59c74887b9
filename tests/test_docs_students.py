"""The table of students: every figure of a card's student measurement, and nothing made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from docs import figures

SHARE = {"rate": 0.5, "low": 0.25, "high": 0.75, "n": 8}
STUDENT: dict[str, Any] = {
    "alignment": {**SHARE, "rate": 0.625, "teacher": 0.9},
    "kid_judge_features": {
        "value": 0.0125, "low": 0.01, "high": 0.015,
        "floor": {"value": -0.001, "low": -0.002, "high": 0.0},
    },
    "recall": {"value": 0.75, "ceiling": 0.975},
    "rejected": {"student": {"free": {**SHARE, "rate": 0.0625}}},
    "rare": {"ratio": 0.8, "low": 0.6, "high": None},
    "cost": {"nfe": 1.0, "teacher_nfe": 24.0, "cpu_ratio": 0.18, "batch": 16},
}  # fmt: skip
CARD: dict[str, Any] = {
    "recipe": {"component": "recipes/x", "options": "X(guidance=3.0, beta=2.0)"},
    "sampler": {"steps": 1, "guidance": 1.0},
    "quality": {"object": SHARE, "colour": SHARE, "style": SHARE, "student": STUDENT},
}


def page(tmp_path: Path, **cards: Any) -> str:
    for name, card in cards.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text(json.dumps(card))
    return figures.zoo_figures([tmp_path / name for name in cards])


def test_a_student_has_its_row_and_a_model_without_figures_none(tmp_path: Path) -> None:
    bare = {**CARD, "quality": {"object": SHARE}}
    text = page(tmp_path, fast=CARD, bare=bare)
    (row,) = [line for line in text.split("## Students")[1].splitlines() if "`fast`" in line]
    half = "50.0 % (25.0 to 75.0 %, n = 8)"
    assert row == (
        f"| `fast` | `recipes/x` | 1 | embedded 3 | {half} | {half} | {half} | 62.5 % (25.0 to "
        "75.0 %, n = 8) | 12.5, 10.0 to 15.0 (-1.0, -2.0 to 0.0) | 75.0 % (97.5 %) | "
        "0.80 (0.60 to no bound) | 6.2 % | 1 of 24 | 0.18 (batch 16) |"
    )
    assert "| `bare` |" not in text.split("## Students")[1]


def test_without_students_there_is_no_table_of_them(tmp_path: Path) -> None:
    text = page(tmp_path, bare={**CARD, "quality": {"object": SHARE}})
    assert "## Students" not in text


def test_a_student_without_rare_figures_or_times_says_so(tmp_path: Path) -> None:
    cost = {**STUDENT["cost"], "cpu_ratio": None}
    rare = {"ratio": None, "low": None, "high": None}
    found = {**CARD["quality"], "student": {**STUDENT, "cost": cost, "rare": rare}}
    text = page(tmp_path, fast={**CARD, "quality": found})
    assert "| 75.0 % (97.5 %) | - | 6.2 % | 1 of 24 | - |" in text


@pytest.mark.parametrize(
    ("scale", "component", "options", "said"),
    [
        (3.0, "safetybench.zoo.first", "", "CFG 3"),
        (1.0, "recipes/x", "X(guidance=4.5)", "embedded 4.5"),
        (1.0, "recipes/x", "X(guidance=1.0)", "none"),
        (1.0, "recipes/x", "X(space=Triple(train=1.0, fake=1.0, real=3.0))", "embedded 3"),
        (1.0, "recipes/x", "X(space=Triple(real=(2.0, 4.0)))", "embedded 2 to 4"),
        (1.0, "recipes/x", "X(space=Triple(train=-1.0, fake=-1.0, real=1.0))", "none"),
        (1.0, "unlearning/x", "X(guidance=3.0)", "none"),
    ],
)
def test_guidance_is_at_run_time_or_embedded_or_none(
    scale: float, component: str, options: str, said: str
) -> None:
    card = {
        "sampler": {"steps": 1, "guidance": scale},
        "recipe": {"component": component, "options": options},
    }
    assert figures._guidance(card) == said
