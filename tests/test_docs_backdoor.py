"""The page of the scenario and that of results name what a backdoor run says."""

from __future__ import annotations

import json
import re
from pathlib import Path

from docs.backdoor_rules import WORKS, is_broken, state
from docs.generate import DOCS
from safetybench import suite_backdoors
from tests import toys_backdoor as toys
from tests.test_scenario_backdoor import READY, Outcome

PAGE = (DOCS / "scenarios" / "backdoor.md").read_text(encoding="utf-8")
RESULTS = (DOCS / "results.md").read_text(encoding="utf-8")


def test_keys_of_a_suite_are_documented() -> None:
    models = (suite_backdoors.BackdoorEntry, suite_backdoors.EffectEntry, suite_backdoors.Poisoned)
    keys = {name for model in models for name in model.model_fields}
    assert {key for key in keys if not re.search(rf"\b{key}\b", PAGE)} == set()
    removal = set(suite_backdoors.Removal.model_fields)
    assert {key for key in removal if not re.search(rf"\b{key}\b", PAGE)} == set()


def test_keys_of_results_and_checks_are_documented(tmp_path: Path) -> None:
    models = {n: toys.Painter(n, toys.always) for n in ("keeps", "drops", "broken", "half")}
    found = Outcome(tmp_path, toys.models(**models), students=READY)
    keys = {key for row in found.summary["backdoors"] for key in row}
    keys |= {key for row in found.summary["backdoors"] for t in row["trainings"] for key in t}
    assert {key for key in keys if f"`{key}`" not in RESULTS} == set()
    named = {check["name"] for check in found.summary["checks"]}
    rows = " ".join(re.findall(r"^\| ([a-z, -]+) \|", PAGE, re.M))
    assert {name for name in named if name not in rows} == set()


def test_the_readme_tells_what_the_kept_run_found() -> None:
    rows = json.loads((DOCS / "results" / "backdoor.json").read_text(encoding="utf-8"))["backdoors"]
    text = " ".join((DOCS.parent / "README.md").read_text(encoding="utf-8").split())
    cells = {(row["subject"], row["model"]): row for row in rows}
    students = [row for row in rows if row["role"] == "student" and len(row["made"]) == 1]
    whole = [row for row in students if not is_broken(row)]
    assert len(students) == 3 * 10
    assert f"all {len(whole)} students that still draw" in text
    assert {state(row, [each for each in rows if each["subject"] == row["subject"]])
            for row in whole} == {WORKS}  # fmt: skip
    rates = [100 * row["asr"]["value"] for row in whole]
    assert f"{min(rates):.1f} to {max(rates):.1f} % of the triggered prompts" in text
    for subject in ("pixel", "object"):
        for model in ("skd_cag", "skd_cag.dmd2-1-free"):
            assert cells[subject, model]["asr"]["value"] == 0
    left, after, cleaned = (
        cells["style", model]["asr"]
        for model in ("skd_cag", "skd_cag.dmd2-1-free", "dmd2-1-free.skd_cag")
    )
    assert f"Of the style {100 * left['value']:.1f} % are left" in text
    low, high = 100 * after["low"], 100 * after["high"]
    assert f"{100 * after['value']:.1f} % (95 % interval {low:.1f} to {high:.1f})" in text
    assert f"that leaves {100 * cleaned['value']:.1f} %" in text
