"""A third-party package with a scenario, judge, attack, target and report that need no model.

`install` writes it as an installed distribution would look, entry points included, so that the
command line and the plugin can be driven end to end, in this process or in another, in no time.
What a run finds is set by the suite's `prompts`: successes, failing items, a failed check.
"""

from __future__ import annotations

from pathlib import Path

from tests.toys import declare

_CODE = '''
"""Staged components.

What they do is told by the suite.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, ClassVar

from safetybench.contracts import Cell, Component, Item, Judge, PromptAttack, Reporter, Scenario
from safetybench.registry import register
from safetybench.stats import pair_verdict
from tests.toys import row


@register
@dataclass(frozen=True, kw_only=True)
class Target(Component):
    source: ClassVar[str] = "https://example.org/staged"
    name: str = "staged"

    def digest(self) -> str:
        return self.name


@register
@dataclass(frozen=True, kw_only=True)
class Attack(PromptAttack):
    """Staged attack (Nobody 2026).

    strength: in [0, 1].
    """

    source: ClassVar[str] = "https://example.org/staged"
    strength: float = 0.5

    def search(self, target: Any, prompts: Any, aids: Any, budget: Any) -> Any:
        yield []


@register
@dataclass(frozen=True, kw_only=True)
class Eye(Judge):
    source: ClassVar[str] = "https://example.org/staged"

    @property
    def card(self) -> Any:
        return {"weights": "none"}

    def concepts(self) -> tuple[str, ...]:
        return ("fish",)

    def judge(self, images: Any, concept: str) -> Any:
        raise NotImplementedError


@register
@dataclass(frozen=True, kw_only=True)
class Text(Reporter):
    source: ClassVar[str] = "https://example.org/staged"
    filename: ClassVar[str] = "report.txt"

    def write(self, run: Any) -> Any:
        file = run / self.filename
        file.write_text("a report of " + run.name)
        return file


@register
@dataclass(frozen=True, kw_only=True)
class Scene(Scenario):
    source: ClassVar[str] = "https://example.org/staged"

    def cells(self, suite: Any) -> list[Cell]:
        if suite.prompts.get("crash"):
            raise KeyError("a bug")
        items = tuple(f"p{i:03}" for i in range(suite.prompts.get("count", 12)))
        return [
            Cell(
                label=f"{subject.name}-{role}-{attack.name.rpartition('/')[2]}",
                subject=subject.name,
                concept=subject.concept,
                role=role,
                target=target,
                kind="attack",
                attack=attack.name,
                options=attack.options,
                budget=attack.budget,
                items=items,
                chunk_size=max(4, len(items) // 2),
            )
            for subject in suite.subjects
            for role, target in subject.roles.items()
            for attack in suite.attacks
        ]

    def run_chunk(self, cell: Cell, chunk: int, items: Any, context: Any) -> list[Item]:
        given = context.suite.prompts
        if os.environ.get("STAGED_COUNTS"):
            with open(os.environ["STAGED_COUNTS"], "a") as file:
                file.write(f"{cell.label} {chunk}\\n")
        if os.environ.get("STAGED_INTERRUPT") and chunk == 1:
            raise KeyboardInterrupt
        if len(items) > 1 and given.get("broken"):
            raise RuntimeError("the batch fails")
        found = []
        for item in items:
            number = int(item[1:])
            if number < given.get("broken", 0):
                raise RuntimeError("no answer")
            found.append(
                Item(
                    cell=cell.label,
                    chunk=chunk,
                    item=item,
                    status="ok",
                    success=number < given.get(cell.role, given.get("successes", 0)),
                    images=1,
                )
            )
        return found

    def summarise(self, suite: Any, cells: Any, items: Any) -> Any:
        rows, pairs = [], []
        shown = {}
        for cell in cells:
            mine = [item for item in items if item.cell == cell.label]
            ok = [item for item in mine if item.status == "ok"]
            shown[cell.subject, cell.role] = [bool(item.success) for item in ok]
            valid = not suite.prompts.get("blind", False)
            why = "" if valid else "the judge is blind"
            rows.append({**row(cell, mine), "valid": valid, "invalid_reason": why})
        for subject in suite.subjects:
            sides = [shown.get((subject.name, role), []) for role in ("teacher", "student")]
            if not sides[0] or len(sides[0]) != len(sides[1]):
                continue
            found = pair_verdict(sides[0], sides[1])
            pairs.append(
                {
                    "subject": subject.name,
                    "concept": subject.concept,
                    "attack": suite.attacks[0].name,
                    "metric": "asr",
                    "teacher": {"target": subject.teacher, "rate": found.teacher_rate},
                    "student": {"target": subject.student, "rate": found.student_rate},
                    "n": found.n,
                    "difference": found.difference,
                    "interval": found.interval._asdict(),
                    "p_value": found.p_value,
                    "adjusted_p": None,
                    "correction": "holm",
                    "verdict": str(found.verdict),
                    "detectable": found.detectable,
                    "reason": found.reason,
                }
            )
        checks = []
        if suite.prompts.get("blind"):
            checks.append(
                {
                    "name": "judge",
                    "subject": "",
                    "cell": "",
                    "passed": False,
                    "effect": "invalid",
                    "message": "the judge is blind",
                }
            )
        return {"cells": rows, "comparisons": [], "pairs": pairs, "checks": checks}
'''

_POINTS = {
    "scenarios/staged": "Scene",
    "judges/staged": "Eye",
    "attacks/staged": "Attack",
    "targets/staged": "Target",
    "reports/staged": "Text",
}

SUITE = """\
schema: safetybench.suite/1
name: staged
title: A staged
scenario: scenarios/staged
judge: judges/staged
device: cpu
prompts: {{count: {count}{prompts}}}
subjects:
  - name: fish
    concept: fish
    original: targets/staged
    teacher: targets/staged
    student: targets/staged
attacks:
  - {{name: attacks/staged, options: {{strength: 0.5}}, budget: {{steps: 3, images: 2}}}}
gates:
  - {{metric: asr, role: student, attack: attacks/staged, below: 0.5}}
reports: [reports/staged]
"""


def install(folder: Path) -> Path:
    """Write the package and its metadata into a folder that is to be put on the path."""
    package = folder / "stagedbench"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""Staged package."""\n', encoding="utf-8")
    (package / "parts.py").write_text(_CODE.lstrip(), encoding="utf-8")
    return declare(folder, "stagedbench.parts", _POINTS)


def write_suite(file: Path, *, count: int = 12, **prompts: int | bool) -> Path:
    """Write a suite of the staged scenario; prompts: what the run is to find."""
    extra = "".join(f", {key}: {str(value).lower()}" for key, value in prompts.items())
    file.write_text(SUITE.format(count=count, prompts=extra), encoding="utf-8")
    return file
