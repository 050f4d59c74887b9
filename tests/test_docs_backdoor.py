"""The page of the scenario and that of results name what a backdoor run says."""

from __future__ import annotations

import re
from pathlib import Path

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
