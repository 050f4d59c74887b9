"""`safetybench unlearn --trigger`: the same command takes a known trigger out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.calls import Call, Done

pytest_plugins = ("tests.cli_fixtures", "tests.unlearn_fixtures")


@pytest.fixture
def remove(call: Call, model: Path) -> Callable[..., Done]:
    def run(*more: str, trigger: str = "one shape") -> Done:
        options = ("-o", "batch=2", "-o", "lr=1e-4", "--steps", "2")
        return call("unlearn", "skd_cag", "--target", str(model), "--trigger", trigger, "--out",
                    "clean", *options, *more)  # fmt: skip

    return run


def card() -> dict[str, Any]:
    return dict(json.loads(Path("clean/card.json").read_text()))


def test_a_trigger_is_removed_and_the_card_says_so(remove: Callable[..., Done], here: Path) -> None:
    (here / "clean.txt").write_text("a red fish\na star\n", encoding="utf-8")
    (here / "kept.txt").write_text("a moon\n", encoding="utf-8")
    done = remove("--prompts", "clean.txt", "--retain", "kept.txt")
    assert done.code == 0, done.err
    assert "the trigger 'one shape' was unlearned by 2 steps of unlearning/skd_cag; " in done.err
    assert card()["erases"] == ["one shape", ""]
    assert card()["erasure"]["forget"]["count"] == 2
    assert card()["erasure"]["bare"] == ["one shape"]
    assert "--trigger 'one shape'" in card()["command"]


def test_the_plan_names_the_trigger_and_the_first_pair(
    remove: Callable[..., Done], here: Path
) -> None:
    (here / "clean.txt").write_text("a red fish\n", encoding="utf-8")
    plan = json.loads(remove("--prompts", "clean.txt", "--plan", "--json").out)
    assert plan["trigger"] == "one shape"
    assert plan["the first"] == "'one shape a red fish' -> 'a red fish'"
    assert not Path("clean").exists()


def test_prompts_that_hold_the_trigger_are_refused(remove: Callable[..., Done], here: Path) -> None:
    (here / "clean.txt").write_text("one shape of a fish\n", encoding="utf-8")
    done = remove("--prompts", "clean.txt")
    assert done.code == 2
    assert done.err == (
        "error: clean prompts must not hold the trigger 'one shape', got 'one shape of a fish'; "
        "leave it out\n"
    )
