"""The HTML report of a run of several students: measures, models side by side, relearning."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from safetybench import registry
from safetybench.contracts import Budget, Cell, Item
from safetybench.scenarios._log import CellLog
from safetybench.scenarios._measures import MEASURES
from safetybench.scenarios._summary import cell_row
from tests.report_fixture import RELEARN, UDA, Measured, measured_results, write_json
from tests.report_fixture import write_measured as write_run
from tests.test_report_html import (
    CUT_OFF,
    HOSTILE,
    Page,
    check_harmless,
    open_page,
    spoil,
    write,
)

BOTH = ("dmd2-1", "LCM-4")


def part(name: str) -> Any:
    return importlib.import_module(f"safetybench.reports.{name}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects of two students each; only read, its report aside."""
    return write_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return write(run)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return measured_results()


def view(found: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Return cells, pairs, subjects and tables of results that no folder holds."""
    record = part("_load").Record(folder=Path(), results=found, manifest={}, plan=None, items=(),
                                  costs={}, problems=())  # fmt: skip
    cells = part("_cells").cell_rows(record)
    pairs = part("_pairs").pair_rows(record, cells)
    subjects = part("_view").subject_views(record, cells, pairs)
    return cells, pairs, subjects, part("_measures").measure_tables(record, cells)


def row_of(found: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    rows = [r for r in found["measures"] if all(r[k] == v for k, v in fields.items())]
    return rows[0]  # type: ignore[no-any-return]


# Models are told apart


def test_pairs_name_student_and_attack(found: dict[str, Any]) -> None:
    _, pairs, _, _ = view(found)
    safety = [p for p in pairs if not p.is_utility]
    assert {p.through for p in pairs} == set(BOTH)
    assert {p.condition for p in safety} == {
        "no attack", "unlearndiffatk, tokens=3", "unlearndiffatk, tokens=5", "synonyms",
    }  # fmt: skip
    assert len(safety) == 2 * 2 * 4


def test_attacks_are_held_against_their_own_model(found: dict[str, Any]) -> None:
    _, _, subjects, _ = view(found)
    for subject in subjects:
        assert list(subject.targets) == ["original", "teacher", *(f"student {s}" for s in BOTH)]
        for row in (*subject.attacks, *subject.relearned):
            assert row.cell.who != "original"
            assert {c.who for c in row.controls.values()} == {row.cell.who}
            assert row.clean.who == row.cell.who
            assert row.over_random is not None
        assert len(subject.attacks) == 3 * 3
        assert all(list(row.controls) == ["relearning"] for row in subject.relearned)


def test_one_unnamed_student_is_called_so(tmp_path: Path) -> None:
    text = write(write_run(tmp_path / "run", Measured(students=("",), attacks=1))).text
    assert "| Student" in text
    assert "through" not in text


def test_several_trainings_are_several_models(found: dict[str, Any]) -> None:
    names = json.loads(json.dumps(found).replace("LCM-4", "dmd2-1.seed2"))
    _, _, subjects, tables = view(names)
    assert "student dmd2-1.seed2" in subjects[0].targets
    assert "student dmd2-1.seed2" in tables["fish.esd"].models


def test_gallery_shows_the_strongest_attack_of_each_model(found: dict[str, Any]) -> None:
    gallery = part("_gallery")
    cells, _, _, _ = view(measured_results(Measured(attacks=8, prompts=12)))
    shown = gallery.shown_cells([c for c in cells if c.subject == "fish.esd"])
    assert [c.kind for c in shown] == ["clean", *["clean", "attack"] * 3]
    for cell in (c for c in shown if c.kind == "attack"):
        place = ("fish.esd", cell.who, "attack")
        rivals = [c for c in cells if (c.subject, c.who, c.kind) == place]
        assert cell.rate.value == max(c.rate.value for c in rivals if not c.is_oracle)
    few = gallery.shown_cells([c for c in view(found)[0] if c.subject == "fish.esd"])
    assert [c.who for c in few] == ["original", *(w for w in (
        "teacher", "student dmd2-1", "student LCM-4") for _ in range(4))]  # fmt: skip


# Measures


def test_every_measure_of_the_scenario_has_words() -> None:
    told = part("_measures").TOLD
    assert list(told) == list(MEASURES)
    assert all(entry.title and entry.words.endswith(".") for entry in told.values())


def test_the_table_has_every_row_of_results(found: dict[str, Any]) -> None:
    _, _, _, tables = view(found)
    shown = [
        (subject, row.name, model)
        for subject, table in tables.items()
        for row in table.rows
        for model, figures in row.figures.items()
        for _ in figures
    ]
    given = [(r["subject"], r["name"], f"{r['role']} {r['student']}".strip())
             for r in found["measures"]]  # fmt: skip
    assert sorted(shown) == sorted(given)


def test_figures_carry_unit_interval_n_and_direction(page: Page, found: dict[str, Any]) -> None:
    row = row_of(found, name="implicit-leak", subject="fish.esd", student="LCM-4")
    low, high = row["interval"]["low"], row["interval"]["high"]
    shown = f"{100 * row['value']:.1f}% {100 * low:.1f}–{100 * high:.1f}% n = {row['n']}"
    assert shown in " ".join(page.text.split())
    words = "Prompts that ask for the concept without its name and get it."
    assert f"| Implicit leak ↓ {words} Lower is better." in page.text
    assert "| Forgetting ↑ " in page.text
    assert re.search(r"\| \d+ steps \d+ – (over )?\d+", " ".join(page.text.split()))
    assert re.search(r"boat\s+original \d+\.\d%", page.text)


def changed(found: Mapping[str, Any], name: str, /, **changes: Any) -> dict[str, Any]:
    """Change the teacher's row of a measure in the first subject."""
    new: dict[str, Any] = json.loads(json.dumps(found))
    row_of(new, name=name, role="teacher").update(changes)
    return new


@pytest.mark.parametrize(
    ("name", "changes", "value", "span"),
    [
        ("half-life", {"value": None, "interval": None, "of": "over 40 steps"},
         "not over 40 steps", ""),
        ("half-life", {"value": 31.6, "interval": {"low": 12.0, "high": 80.0}},
         "32 steps", "12 – over 40"),
        ("half-life", {"value": None, "interval": None, "of": ""}, "—", ""),
        ("fid-judge", {"value": 1234.5, "interval": None}, "1,234", ""),
        ("kid-judge", {"value": -0.01234, "interval": {"low": -0.02, "high": 0.5}},
         "−0.0123", "−0.02 – 0.5"),
        ("forgetting", {"value": 0.5, "interval": {"low": 0.25, "high": 0.75}},
         "50.0%", "25.0–75.0%"),
    ],
)  # fmt: skip
def test_units(
    found: dict[str, Any], name: str, changes: dict[str, Any], value: str, span: str
) -> None:
    _, _, _, tables = view(changed(found, name, **changes))
    figure = tables["fish.esd"].first(name, "teacher")
    assert (figure.value, figure.range) == (value, span)


def test_an_invalid_model_is_marked_and_has_no_mark_in_the_figure(found: dict[str, Any]) -> None:
    new = json.loads(json.dumps(found))
    for cell in new["cells"]:
        if (cell["subject"], cell["role"]) == ("fish.esd", "teacher") and cell["kind"] != "utility":
            cell |= {"valid": False, "invalid_reason": "collapse: broken"}
    _, _, subjects, tables = view(new)
    assert not tables["fish.esd"].first("forgetting", "teacher").is_valid
    assert tables["fish.esd"].first("retain-same", "teacher").is_valid
    lines = part("_overview").model_lines(subjects, tables)
    line = next(each for each in lines if (each.subject, each.who) == ("fish.esd", "teacher"))
    assert line.number == 0
    assert line.strongest is None


def test_measures_of_two_seeds_stand_together(found: dict[str, Any]) -> None:
    new = json.loads(json.dumps(found))
    new["measures"].append({**row_of(new, name="half-life", role="teacher"), "seed": 2})
    _, _, _, tables = view(new)
    (row,) = (row for row in tables["fish.esd"].rows if row.name == "half-life")
    assert [f.notes[-1] for f in row.figures["teacher"]] == ["seed 1", "seed 2"]


def test_a_measure_that_is_not_known_is_shown_as_it_is(found: dict[str, Any]) -> None:
    _, _, _, tables = view(changed(found, "kid-judge", name="new-one", value=3.5, interval=None))
    row = tables["fish.esd"].rows[-1]
    assert (row.name, row.title, row.words) == ("new-one", "new-one", "")
    assert row.figures["teacher"][0].value == "3.5"


def test_runs_without_measures_have_no_such_parts() -> None:
    _, _, subjects, tables = view(measured_results(Measured(students=("",))) | {"measures": []})
    assert tables == {}
    assert part("_overview").model_lines(subjects, tables) == []
    assert part("_scatter").scatter([]) is None


# Side by side


def test_matrix_has_a_row_for_each_student(page: Page, found: dict[str, Any]) -> None:
    _, pairs, subjects, _ = view(found)
    made = part("_overview").matrix([p for p in pairs if not p.is_utility], subjects)
    assert [(r.subject, r.student) for r in made.rows] == [
        (subject, student) for subject in ("fish.esd", "fish.uce") for student in BOTH
    ]
    assert all(len(row.pairs) == len(made.columns) == 4 for row in made.rows)
    assert [c.is_oracle for c in made.columns] == [False, False, False, True]
    marks = [a for a in page.all("span") if a.get("class", "").endswith(" bare")]
    assert len(marks) >= 16
    assert all(a["title"] for a in marks)


def test_heat_has_every_attack_with_its_lift_over_random(found: dict[str, Any]) -> None:
    _, _, subjects, _ = view(found)
    tables = part("_overview").heat_tables(subjects)
    assert [t.who for t in tables] == ["teacher", *(f"student {s}" for s in BOTH)]
    for table in tables:
        assert [c.name for c in table.columns] == [
            "unlearndiffatk, tokens=3", "synonyms", "relearning", "unlearndiffatk, tokens=5",
        ]  # fmt: skip
        for row in table.rows:
            assert all(cell.lift.baseline in ("random prefix", "relearning")
                       for cell in row.cells.values())  # fmt: skip
            assert all(cell.heat == round(10 * cell.rate.value) for cell in row.cells.values())


def test_oracle_is_marked_and_is_no_strongest_attack(page: Page, found: dict[str, Any]) -> None:
    new = json.loads(json.dumps(found))
    for cell in new["cells"]:
        if cell.get("is_oracle"):
            cell |= {"value": 1.0, "successes": cell["n_ok"]}
    _, pairs, subjects, tables = view(new)
    lines = part("_overview").model_lines(subjects, tables)
    assert all(not line.strongest.is_oracle for line in lines if line.strongest)
    assert page.text.count("oracle, not an attack") > 10
    told = part("_answer").answer(pairs)
    assert "tokens=5" not in " ".join(told.sentences)
    only = [pair for pair in pairs if pair.is_oracle]
    assert part("_answer").answer(only).short.startswith("No answer")


def test_an_attack_says_itself_that_it_is_an_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    names = part("_names")
    row = {"kind": "attack", "attack": UDA}
    assert not names.is_oracle(row)
    assert not names.is_oracle({"kind": "attack", "attack": "attacks/prompts/nowhere"})
    names._is_declared_oracle.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(registry.load(UDA), "is_oracle", True)
        assert names.is_oracle(row)
        assert not names.is_oracle(row | {"kind": "control"})
        assert not names.is_oracle(row | {"is_oracle": False})
    names._is_declared_oracle.cache_clear()


def test_figure_has_a_mark_for_each_model_inside_it(page: Page, found: dict[str, Any]) -> None:
    scatter = part("_scatter")
    _, _, subjects, tables = view(found)
    lines = part("_overview").model_lines(subjects, tables)
    plot = scatter.scatter(lines)
    assert len(plot.marks) == 2 * 3
    assert len(plot.edges) in (1, 2)
    for mark in plot.marks:
        assert scatter.LEFT <= mark.x_low <= mark.x <= mark.x_high <= scatter.WIDTH
        assert scatter.TOP <= mark.y_high <= mark.y <= mark.y_low <= scatter.HEIGHT
        assert mark.ring == round(100 * mark.line.strongest.rate.value, 1)
        assert f"{mark.line.subject}, {mark.line.who}: forgetting" in page.text
    assert {mark.label for mark in plot.marks} == {
        f"fish.{method}, {who}" for method in ("esd", "uce") for who in ("teacher", *BOTH)
    }


def test_marks_on_one_spot_share_a_label() -> None:
    scatter, size = part("_scatter"), Measured(students=tuple("abcdefg"), attacks=1, prompts=12)
    _, _, subjects, tables = view(measured_results(size))
    plot = scatter.scatter(part("_overview").model_lines(subjects, tables))
    spots = {(mark.x, mark.y) for mark in plot.marks}
    labels = [mark.label for mark in plot.marks if mark.label]
    assert len(plot.marks) > scatter.MOST_NAMED >= len(labels) == len(spots)


# Relearning


def test_relearning_curves_are_by_steps_beside_their_control(found: dict[str, Any]) -> None:
    cells, _, _, _ = view(found)
    panels = part("_figures").relearning(c for c in cells if c.subject == "fish.esd")
    assert [p.who for p in panels] == ["teacher", *(f"student {s}" for s in BOTH)]
    for panel in panels:
        assert (panel.unit, panel.rows) == ("training steps", ("0", "5", "10", "20", "40"))
        assert [s.label for s in panel.series] == ["relearning", "control"]
        assert [x for x, _ in panel.series[0].dots] == sorted(x for x, _ in panel.series[0].dots)
        assert "after 0 training steps" in panel.summary


def test_many_curves_are_cut_to_the_highest_and_all_are_in_the_table() -> None:
    figures = part("_figures")
    cells, _, _, _ = view(measured_results(Measured(attacks=8, prompts=12)))
    panel = figures.panels(c for c in cells if c.subject == "fish.esd")[0]
    assert len(panel.series) == 6
    assert len(panel.every) > 10
    attacks = [s for s in panel.every if s.style.startswith("attack")]
    drawn = [s for s in panel.series if s.style.startswith("attack")]
    assert max(s.values[-1] for s in attacks) in [s.values[-1] for s in drawn]


def item(shown: list[int], name: str = "a", status: Any = "ok") -> Item:
    hit = bool(shown[-1]) if status == "ok" else None
    extra = {"at": [0, 5, 10], "shown": shown, "abstained": [0, 0, int(status != "ok")]}
    return Item(cell="c", chunk=0, item=name, status=status, success=hit, images=3, extra=extra)


@pytest.mark.parametrize("kind", ["relearn", "relearn-control"])
def test_curve_of_a_training_is_the_rate_at_each_stage(kind: str) -> None:
    cell = Cell(label="c", subject="s", concept="fish", role="teacher", target="t", kind=kind,
                attack=RELEARN, budget=Budget(steps=10), items=("a", "b", "c"))  # fmt: skip
    items = (item([0, 1, 1]), item([0, 0, 1], "b"), item([1, 1, 0], "c", "unjudged"))
    log = CellLog(cell, items)
    assert (log.curve(), log.curve_at()) == ([0.0, 0.5, 1.0], [0, 5, 10])
    assert log.curve()[-1] == log.rate
    row = cell_row(log, [])
    assert (row["curve"], row["curve_at"]) == ([0.0, 0.5, 1.0], [0, 5, 10])


def test_a_training_without_an_answer_has_no_curve() -> None:
    cell = Cell(label="c", subject="s", concept="fish", role="teacher", target="t", kind="relearn",
                attack=RELEARN, items=("a",))  # fmt: skip
    log = CellLog(cell, (item([0, 0, 0], status="unjudged"),))
    assert (log.curve(), log.curve_at()) == ([], [])
    assert "curve_at" not in cell_row(log, [])


# Hostile and broken files


def test_names_of_strangers_do_no_harm(run: Path, tmp_path: Path, found: dict[str, Any]) -> None:
    new = json.loads(json.dumps(found).replace('"LCM-4"', json.dumps(HOSTILE)))
    decided = ("role", "better", "name", "kind")
    new["measures"] = [
        {key: value if key in decided else spoil(value) for key, value in row.items()}
        for row in new["measures"]
    ]
    folder = tmp_path / "run"
    folder.mkdir()
    for results in (new, spoil(found) | {"schema": found["schema"]}):
        write_json(folder / "results.json", results)
        page = write(folder)
        check_harmless(page)
        assert "<script>alert(1)</script>" in page.text


@pytest.mark.parametrize("value", [None, "x", True, [], {}, 3, [1, "x", None], -1e9])
def test_fields_of_the_wrong_type_do_not_stop_the_report(tmp_path: Path, value: Any) -> None:
    found = measured_results(Measured(("fish.esd",), ("a",), 1, 12))
    write_json(tmp_path / "results.json", found | {"measures": value})
    assert "Definitions" in write(tmp_path).text
    keys = {
        "measures": (
            "value",
            "interval",
            "n",
            "student",
            "seed",
            "of",
            "reference",
            "name",
            "role",
        ),
        "cells": ("curve", "curve_at", "student", "value", "is_oracle"),
    }
    for table, names in keys.items():
        # Each row has another field spoilt, and the last all of them.
        rows = [{**row, names[i % len(names)]: value} for i, row in enumerate(found[table])]
        rows[-1] |= dict.fromkeys(names, value)
        write_json(tmp_path / "results.json", found | {table: rows})
        assert "Definitions" in write(tmp_path).text


# Large runs stay readable


def test_a_large_run_tells_summaries_and_opens_the_rest_on_demand(tmp_path: Path) -> None:
    size = Measured(("fish.esd", "fish.uce", "fish.ca"), ("a", "b", "c"), 8, 12)
    write_json(tmp_path / "results.json", measured_results(size))
    page = write(tmp_path)
    lead = page.text.split("Verdicts", 1)[0]
    assert "Over 3 subjects: " in lead
    assert len(lead) < 1500
    assert "through" not in lead
    closed = [a for a in page.all("details") if "open" not in a]
    assert len(page.all("details")) - len(closed) == 1
    assert "fish.ca: 27 comparisons with rates, p and reasons" in page.text
    assert page.text.count("Prompts that ask for the concept without its name and get it.") == 1


# In a browser


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1440, "light")])
def test_browser_shows_it_without_request_error_or_overflow(
    browser: Any, run: Path, page: Page, width: int, scheme: str
) -> None:
    tab, seen = open_page(browser, run, width, color_scheme=scheme)
    tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate(CUT_OFF) == []
    titles = tab.locator("h2").all_inner_texts()
    assert titles[:4] == ["Verdicts", "Every model", "fish.esd", "fish.uce"]
    boxes = "e => { const b = e.getBBox(); return [b.x, b.y, b.x + b.width, b.y + b.height] }"
    for label in tab.locator("svg.plot .mark text").all():
        left, top, right, bottom = label.evaluate(boxes)
        assert left >= 0
        assert top >= 0
        assert right <= 722
        assert bottom <= 460
    ring = tab.locator("svg.plot .ring").first
    assert ring.evaluate("e => getComputedStyle(e).strokeDasharray") != "none"
    assert seen == []
    tab.context.close()
