"""What rows of results are called: twins are kept apart, a fault of many cells is told once."""

from __future__ import annotations

import doctest
from typing import Any

import pytest

from safetybench import wording

UDA = "attacks/prompts/unlearndiffatk"


def row(options: Any, **more: Any) -> dict[str, Any]:
    budget = {"images": 11, "steps": 300}
    return {"attack": UDA, "kind": "attack", "options": options, "budget": budget, **more}


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([row({"tokens": 3})], [""]),
        ([row({"tokens": 3}, role="teacher"), row({"tokens": 3}, role="student")], ["", ""]),
        (
            [row({"preset": "zoo"}), row({"preset": "published", "timesteps": 10})],
            ["preset=zoo", "preset=published, timesteps=10"],
        ),
        ([row({}), row({"tokens": 5})], ["tokens=default", "tokens=5"]),
        (
            [row({}), row({}, budget={"images": 6, "steps": 60})],
            ["11 images, 300 steps", "6 images, 60 steps"],
        ),
        ([row({}, seed=0), row({}, seed=1)], ["seed 0", "seed 1"]),
        ([row({"tokens": 3}), row({"tokens": 5}, kind="floor"), row({}, attack="")], ["", "", ""]),
        ([row(None), row("odd")], ["", ""]),
    ],
)
def test_variants_say_what_differs(rows: list[dict[str, Any]], names: list[str]) -> None:
    assert wording.variants(rows) == names


def test_places_and_attacks_in_words() -> None:
    known = row({}, subject="fish", role="student", variant="preset=zoo")
    assert wording.place(known) == "fish, student, unlearndiffatk (preset=zoo)"
    assert wording.attack_name(known) == f"{UDA} (preset=zoo)"
    plain = {"subject": "fish", "role": "teacher", "kind": "clean", "attack": ""}
    assert wording.place(plain) == "fish, teacher, no attack"
    assert wording.attack_name(plain) == "no attack"
    assert wording.attack_name({"attack": "", "metric": "utility"}) == "other concepts"


def test_findings_are_grouped_by_name_and_effect() -> None:
    def check(name: str, effect: str, where: str, passed: bool = False) -> dict[str, Any]:
        return {"name": name, "effect": effect, "where": where, "passed": passed, "message": "m"}

    found = wording.findings(
        [
            check("left-out", "warning", "a"),
            check("collapse", "invalid", "b"),
            check("left-out", "warning", "c"),
            check("left-out", "warning", "d", passed=True),
        ]
    )
    assert [(f.effect, str(f)) for f in found] == [
        ("warning", "left-out (a): m; and in 1 more: c"),
        ("invalid", "collapse (b): m"),
    ]


def test_examples() -> None:
    assert doctest.testmod(wording).attempted == 19
    assert doctest.testmod(wording).failed == 0
