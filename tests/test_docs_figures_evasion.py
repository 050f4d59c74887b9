"""The page of a kept evasion run: every model, attack, sign of masking, and comparison."""

from __future__ import annotations

import copy
import doctest
from typing import Any

import pytest

from docs import figures_evasion
from docs.figures import run_page
from tests.report_evasion_fixture import SMALL, WEAK, results

SEVERAL = SMALL._replace(
    students=("same", "milder", "distilled", "broken"), subjects=("digits", "again"), seeds=(1, 2)
)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return results(SEVERAL)


@pytest.fixture(scope="module")
def page(found: dict[str, Any]) -> str:
    return run_page(found)


def line(page: str, start: str) -> str:
    return next(line for line in page.splitlines() if line.startswith(start))


def test_the_page_has_its_sections_and_the_command(page: str) -> None:
    heads = [line for line in page.splitlines() if line.startswith("#")]
    of_one = ["### {}", "#### Attacks, {}", "#### Natural shifts, {}"]
    assert heads == [
        "# Do students withstand attacks?",
        "## What stays right",
        *(head.format("digits") for head in of_one),
        *(head.format("again") for head in of_one),
        "## Signs of masked gradients that showed",
        "## Who withstands what",
        "## Verdicts",
        "## Why no verdict",
        "## Checks that did not pass",
    ]
    assert "Measured by `safetybench run evaded`" in page
    assert "[the scenario](../scenarios/evasion.md)" in page
    assert "Ball: Linf 25.5/255; 100 images of digits." in page
    assert "## Teacher against student" not in page


def test_models_stand_with_their_worst_case_and_their_verdict(page: str) -> None:
    assert line(page, "| `milder` |") == (
        "| `milder` | kd, mlp | 90.0 % (82.6 to 94.5 %) | 30.0 % (21.9 to 39.6 %) "
        "| 85.0 % (76.7 to 90.7 %) | **not masked** | 0.0 % | -40.0 (-52.2 to -26.1) "
        "| **less often** | 0.0003 | 2 |"
    )
    assert "| **as often** |" in line(page, "| `same` |")
    assert "| **masked** | 100.0 % |" in line(page, "| `distilled` |")
    assert line(page, "| original |").endswith("| **not robust** | 0.0 % | - | - | - | 1 |")


def test_every_pair_stands_with_what_students_withstand(page: str, found: dict[str, Any]) -> None:
    rows = page[page.index("## Verdicts") : page.index("## Why no verdict")].splitlines()
    assert len([row for row in rows if row.startswith("| ")]) == len(found["pairs"]) + 2
    # A run counts images that are misled: 30 % of the teacher's, 70 % of the student's.
    assert (
        "| digits | `milder` | withstood in the worst case | 70.0 % | 30.0 % | 100 | 2 "
        "| -40.0 (-52.2 to -26.1) | 0.0003 | **less often** |"
    ) in page
    assert "| digits | `milder` | right as they are | 92.0 % | 90.0 % | 100 | 2 | -2.0 (" in page
    who = page[page.index("## Who withstands what") : page.index("## Verdicts")]
    assert "| digits | `milder` | 40 (20.0 %) | 100 (50.0 %) | 20 (10.0 %) | 40 (20.0 %) " in who


def test_attacks_have_columns_and_sizes_of_their_own(page: str) -> None:
    attacks = page[page.index("#### Attacks, digits") : page.index("#### Natural shifts, digits")]
    assert line(attacks, "| model |") == (
        "| model | fgsm | pgd | carlini wagner l2 (any size) | square | misled first by |"
    )
    milder = line(attacks, "| `milder` |").split(" | ")
    assert milder[3] == "30.0 % (21.9 to 39.6 %); at its own size 0.0 %, mean L2 0.49"
    assert milder[5] == "fgsm 90, pgd 30 |"


def test_signs_stand_with_their_evidence_and_the_trainings(page: str) -> None:
    assert line(page, "| digits | `distilled` | G6") == (
        "| digits | `distilled` | G6 zero gradients | masked | 2 of 2 | the gradient of the "
        "cross-entropy is exactly 0 at 56 of 56 (100.0%) images |"
    )
    assert "| digits | `same` | G" not in page
    one = results(SMALL._replace(students=("same",)))
    assert "## Signs of masked gradients that showed\n\nNone." in run_page(one)
    assert "## Signs" not in run_page(results(SMALL._replace(probed=0)))


def test_trainings_that_differ_are_told(found: dict[str, Any]) -> None:
    row = copy.deepcopy(next(r for r in found["robustness"] if r["model"] == "distilled"))
    assert figures_evasion.masking(row) == "**masked**"
    row["masking"]["by_seed"]["2"] = "stands"
    assert figures_evasion.masking(row) == "**masked** (in 1 of 2)"


def test_what_does_not_count_has_no_figure_and_its_reason(page: str) -> None:
    broken = line(page, "| `broken` |").split(" | ")
    assert broken[3] == "**no figure**"
    assert broken[7:10] == ["-", "**no verdict**", "-"]
    assert "- No figure: collapse: " in page
    assert "- digits, `broken`, withstood in the worst case: collapse: " in page
    weak = run_page(results(WEAK))
    for start in ("| teacher |", "| `same` |"):
        assert "| **no figure** |" in line(weak, start)
    attacks = line(weak[weak.index("#### Attacks") :], "| teacher |")
    assert attacks == "| teacher | **no figure** | **no figure** | **no figure** | - |"


def test_lost_images_and_limited_attacks_are_told(found: dict[str, Any]) -> None:
    assert "; 3 images without an answer" in run_page(results(SMALL._replace(lost=3)))
    rows = copy.deepcopy(found["robustness"])
    rows[0]["attacks"] = [a for a in rows[0]["attacks"] if not a["attack"].endswith("square")]
    page = run_page({**found, "robustness": rows})
    original = line(page[page.index("#### Attacks, digits") :], "| original |")
    assert original.split(" | ")[4] == "-"


def test_members_of_a_family_stand_with_their_choice(found: dict[str, Any]) -> None:
    rows = copy.deepcopy(found["robustness"])
    rows[2]["choice"] = {"width": 0.5}
    assert "| kd width 0.5, mlp |" in run_page({**found, "robustness": rows})


def test_every_student_with_a_verdict_is_said(found: dict[str, Any]) -> None:
    decided = [p for p in found["pairs"] if p["verdict"] not in ("invalid", "not distinguishable")]
    assert "Every student has a verdict." in run_page({**found, "pairs": decided})


def test_doctests_of_the_tables() -> None:
    run = doctest.testmod(figures_evasion)
    assert run.attempted
    assert run.failed == 0
