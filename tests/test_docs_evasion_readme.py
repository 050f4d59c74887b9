"""README's figures on evasion are those of the kept run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docs.evasion_rules import rows_of

ROOT = Path(__file__).resolve().parent.parent


def test_readme_says_what_the_kept_run_says() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    results = json.loads((ROOT / "docs/results/evasion.json").read_text(encoding="utf-8"))
    rows = {row["model"] or row["role"]: row for row in rows_of(results)}
    plain, distilled = rows["teacher"], rows["distilled-100"]

    def left(row: Any, name: str, kind: str = "left") -> str:
        found = next(a for a in row["attacks"] if a["attack"].endswith(name))
        return f"{100 * found[kind]['value']:.1f} %"

    signs = {
        (sign["code"], sign["name"])
        for sign in distilled["masking"]["signs"]
        if not sign["passed"] and sign["effect"] == "masked"
    }
    number = {6: "six", 7: "seven", 8: "eight"}[len(signs)]
    for told in (
        f"FGSM leaves {left(plain, 'fgsm')} of the images right of an undefended network and "
        f"{left(distilled, 'fgsm')} of students by defensive distillation at temperature 100",
        f"Carlini-Wagner leaves {left(plain, 'carlini_wagner_l2', 'own')} of both",
        f"{100 * distilled['worst']['value']:.1f} % stay right (undefended: "
        f"{100 * plain['worst']['value']:.1f} %)",
        f"finds the gradients masked by {number} signs",
    ):
        assert told in text, told
    same = left(distilled, "carlini_wagner_l2", "own")
    assert left(plain, "carlini_wagner_l2", "own") == same
    assert distilled["masking"]["verdict"] == "masked"
