"""The pages on transfer name every key, check and figure that the code has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetybench import suite_students
from safetybench.scenarios import _checks
from safetybench.scenarios import _transfer_stats as transfer
from tests.pages import DOCS
from tests.test_scenario_transfer import Outcome, brings_back, keeps, ready, suite, trained

PAGE = (DOCS / "scenarios" / "transfer.md").read_text(encoding="utf-8")


def missing(page: str, words: set[str]) -> set[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return {word for word in words if f"`{word}`" not in text}


def test_keys_of_students_and_training_are_documented() -> None:
    models = (suite_students.Student, suite_students.Training, suite_students.Images)
    assert missing("suites.md", {name for model in models for name in model.model_fields}) == set()


def test_keys_and_checks_of_results_are_documented(tmp_path: Path) -> None:
    models: dict[str, Any] = {f"r.no-fish.seed{s}": brings_back() for s in (1, 2, 3)}
    found = Outcome(
        suite(tmp_path, [trained(), ready("s", control="c")]), s=keeps(), c=brings_back(), **models
    )
    pair = found.pair("r")
    keys = {*pair, *pair["student"], *pair["teacher"], *pair["trainings"][0], *pair["traits"]}
    keys |= {key for row in found.summary["transfer"] for key in row}
    keys |= {key for row in found.summary["cells"] for key in row}
    keys |= {key for item in found.log for key in item.extra}
    assert missing("results.md", keys) == set()
    listed = set(re.findall(r"^\| ([a-z-]+) \| .* \| (?:invalid|warning)[^|]* \|$", PAGE, re.M))
    seen = {check["name"] for check in found.summary["checks"]}
    assert seen <= listed
    assert listed - seen == {"floor"}
    for row, share in (("left-out", _checks.LEFT_OUT), ("collapse", _checks.COLLAPSE)):
        line = next(line for line in PAGE.splitlines() if line.startswith(f"| {row} |"))
        assert f"{share * 100:.0f} %" in line
    assert f"{transfer.DRAWS} draws" in PAGE


def test_the_readme_tells_what_the_kept_run_found() -> None:
    root = Path(__file__).resolve().parents[1]
    rows = json.loads((root / "docs/results/transfer.json").read_text(encoding="utf-8"))["transfer"]
    text = " ".join((root / "README.md").read_text(encoding="utf-8").split())
    decided = [row for row in rows if row["came_back"] is not None]
    most = max(decided, key=lambda row: float(row["came_back"]))
    low, high = (100 * most["interval"][end] for end in ("low", "high"))
    told = (
        f"by more than {100 * most['came_back']:.1f} points (95 % interval {low:.1f} to {high:.1f})"
    )
    assert told in text
    assert len({row["student"] for row in rows}) == 9
    assert "of nine ways to a student" in text
    assert (len(rows), len(rows) - len(decided)) == (18, 3)
    assert "three of the eighteen students were too broken to count" in text
