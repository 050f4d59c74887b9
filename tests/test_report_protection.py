"""What the HTML report and the terminal show of a protection run, hostile names included."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from safetybench import registry
from safetybench.commands.summary import print_verdicts
from tests.report_fixture import write_json
from tests.report_protection_fixture import ENCODER, EPSILON, JPEG, SDS, SMALL, results, write_run
from tests.results import make_results
from tests.results import write_run as write_bare
from tests.test_report_html import (
    CUT_OFF,
    HOSTILE,
    Page,
    check_harmless,
    open_page,
    spoil,
    write,
)
from tests.test_report_html import test_page_can_be_read_by_ear_and_keyboard as check_readable
from tests.test_report_html import (
    test_policy_allows_these_two_inline_parts_and_no_request as check_policy,
)

TITLES = [
    "Net effect of each protection", "Teacher and students", "Displacement is not protection",
    "What the protection did to the images", "Edits of the same image", "Every cell and its items",
    "Items", "Gates and checks", "Cost", "Manifest", "Definitions", "Limits",
]  # fmt: skip
PARTS = ("_protection", "_protection_answer", "_protection_figures", "_protection_gallery",
         "_protection_names")  # fmt: skip
SEVERAL = SMALL._replace(
    rates={ENCODER: (0.1, 0.2, 0.9)},
    students=("dmd2-1",),
    purifiers=(),
    epsilons=(8 / 255, EPSILON),
    surrogates=("teacher", "dmd2-1"),
)


def part(name: str) -> Any:
    return importlib.import_module(f"safetybench.reports.{name}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two protections, three editors, one purifier; only read, its report aside."""
    return write_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return write(run)


@pytest.fixture(scope="module")
def found(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def several() -> dict[str, Any]:
    return results(SEVERAL)


def view(found: dict[str, Any]) -> Any:
    """Return the protections of results that no folder holds."""
    record = part("_load").Record(folder=Path(), results=found, manifest={}, plan=None, items=(),
                                  costs={}, problems=())  # fmt: skip
    cells = part("_cells").cell_rows(record)
    pairs = part("_pairs").pair_rows(record, cells)
    return part("_protection").protections(record, cells, pairs)


def answer(found: dict[str, Any]) -> str:
    told = part("_protection_answer").protection_answer(view(found))
    return " ".join((told.short, *told.sentences))


def shown(folder: Path, found: dict[str, Any]) -> Page:
    write_json(folder / "results.json", found)
    return write(folder)


def table(text: str, name: str) -> str:
    start = text.index(f'id="{name}"')
    return text[start : text.index("</table>", start)]


# The page as a whole


def test_sections_come_in_order_and_none_is_of_an_attack(page: Page, run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"<h2[^>]*>([^<]*)</h2>", text) == TITLES
    for word in ("Lift", "orgetting", "random prefix", "ASR", "erased", "Floor", "Relearning"):
        assert word not in page.text
    assert "Erased" not in page.text
    check_readable(page)
    check_policy(page)


def test_same_run_gives_same_bytes(run: Path) -> None:
    first = registry.create("reports/html").write(run).read_bytes()
    assert registry.create("reports/html").write(run).read_bytes() == first
    assert str(run.parent).encode() not in first


@pytest.mark.parametrize("name", PARTS)
def test_examples_in_docstrings_hold(name: str) -> None:
    import doctest

    assert doctest.testmod(part(name)).failed == 0


def test_other_runs_have_nothing_of_it(tmp_path: Path) -> None:
    folder = write_bare(tmp_path / "run", make_results())
    text = registry.create("reports/html").write(folder).read_text(encoding="utf-8")
    assert "Net effect" not in text
    assert ".nets" not in text


# The answer


def test_answer_says_what_stops_whom_and_what_is_left(found: dict[str, Any]) -> None:
    told = answer(found)
    rows = {(r["protection"], r.get("student") or r["role"]): r
            for r in found["protection"] if not r["purifier"]}  # fmt: skip
    best = rows[ENCODER, "teacher"]
    assert (best["verdict"], rows[ENCODER, "dmd2-4"]["verdict"]) == (
        "protects",
        "not distinguishable from noise",
    )
    points = part("_text").points
    span = f"{points(best['interval']['low'])} to {points(best['interval']['high'])}"
    assert told.startswith(
        "1 of 2 protections stops edits beyond noise of equal ε on 2 of 3 editors; after the "
        "purifier that serves the editor best, none still does. On the teacher, 1 of 2 protects, "
        f"most photoguard encoder 16/255, net {points(best['net'])} points ({span}, n = 32); "
    )
    assert "None is shown to protect on dmd2-4; the most is photoguard encoder 16/255" in told
    assert "What was made on the teacher, against students (4 comparisons): 1 lost" in told
    assert "Most lost: photoguard encoder 16/255 on dmd2-4, net " in told
    assert "Worst case, the best of all purifiers and none for each image: no protection" in told


def changed(found: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**found, "protection": [{**row, **fields} for row in found["protection"]]}


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({"verdict": "protects"}, "All 2 protections stop edits beyond noise of equal ε on 3 of 3"),
        ({"verdict": "helps the editor"}, "None of the 2 protections was shown to stop edits"),
        ({"verdict": "invalid", "reason": "x"}, "No answer: the measurement is invalid. 18 of 18"),
        ({"protection": SDS, "verdict": "protects"}, "The protection stops edits beyond noise"),
    ],
)
def test_answer_follows_from_the_verdicts(
    found: dict[str, Any], fields: dict[str, Any], start: str
) -> None:
    assert answer(changed(found, **fields)).startswith(start)


def test_without_rows_there_is_no_answer(found: dict[str, Any]) -> None:
    none = {**found, "protection": [], "pairs": [], "cells": [], "cloaks": []}
    assert answer(none) == "No answer: this run measured no protection."
    assert "12 of 18 rows help the editor" in answer(
        {**found, "protection": [{**r, "verdict": "helps the editor"} if r["student"] else r
                                 for r in [{"student": "", **x} for x in found["protection"]]]}
    )  # fmt: skip


def test_a_failed_check_of_the_whole_run_leaves_no_verdict(found: dict[str, Any]) -> None:
    check = {"name": "totals", "passed": False, "effect": "invalid", "message": "an item is lost"}
    told = view({**found, "checks": [check]})
    assert all(net.invalid == "totals: an item is lost" for net in told.nets("none"))
    assert all(net.shown == "invalid" and net.tone == "invalid" for net in told.nets("any"))


# Tables


def test_every_net_effect_stands_in_its_table(run: Path, found: dict[str, Any]) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    points = part("_text").points
    for name, purifier in (("net", ""), ("net-any", "any")):
        rows = [r for r in found["protection"] if r["purifier"] == purifier]
        drawn = re.findall(r'<td class="num net ([a-z-]+)"><span class="figure">([^<]+)</span>',
                           table(text, name))  # fmt: skip
        tone = part("_protection").TONES
        wanted = [(tone[r["verdict"]].replace(" ", "-"), points(r["net"])) for r in rows]
        assert sorted(drawn) == sorted(wanted)
        assert len(drawn) == 6
    first = table(text, "net")
    assert first.count(">Unprotected<") == first.count(">Noise 16/255<") == 1
    assert "% ruined" in first
    assert "After jpeg quality=75" in text


def test_pairs_stand_by_student_and_tell_their_verdict(found: dict[str, Any]) -> None:
    (here,) = view(found).parts
    assert [grid.purified for grid in here.pair_grids] == ["", "jpeg quality=75"]
    assert here.students == ["dmd2-1", "dmd2-4"]
    lines = [line for grid in here.pair_grids for _, row in grid.rows for line in row.values()]
    assert len(lines) == len(found["pairs"]) == 8
    (lost,) = [line for line in lines if line.pair.shown == "lost" and not line.purified]
    assert (lost.student, lost.shield.label) == ("dmd2-4", "photoguard encoder 16/255")
    assert lost.pair.difference.value < -0.5


def test_transfer_has_its_ratio_with_interval(tmp_path: Path, several: dict[str, Any]) -> None:
    page = shown(tmp_path, several)
    assert "Transfer from one model to another" in page.text
    rows = [row for row in several["transfers"] if row["ratio"] is not None]
    assert rows
    hundredths = part("_text").hundredths
    for row in rows:
        low, high = (hundredths(row["interval"][end]) for end in ("low", "high"))
        assert f"{hundredths(row['ratio'])} {low} – {high}" in page.text
    assert "Transfer from" not in shown(tmp_path, {**several, "transfers": []}).text


def test_cloaks_tell_what_left_its_ball(tmp_path: Path, found: dict[str, Any]) -> None:
    text = "".join(table((shown(tmp_path, found), (tmp_path / "report.html").read_text())[1],
                         "cloak-table").split())  # fmt: skip
    assert text.count("<tr>") == 1 + 3
    assert "sign" in text
    assert "outsideofitsball" not in text
    far = [{**found["cloaks"][0], "most_levels": 17.0}]
    assert "17 outside of its ball" in shown(tmp_path, {**found, "cloaks": far}).text


def test_every_cell_has_a_name_of_its_own(found: dict[str, Any]) -> None:
    names = part("_names").cell_names(found["cells"])
    who = [(row["role"], row.get("student"), name)
           for row, name in zip(found["cells"], names, strict=True)]  # fmt: skip
    assert len(set(who)) == len(who)
    assert "made: photoguard encoder 16/255" in names
    assert "sdedit strength=0.5 of the clean image" in names
    assert any(n.startswith("sdedit strength=0.5 of sds 16/255 made on teacher") for n in names)


# Names


def named(**rows: Any) -> dict[str, Any]:
    return {"purifier": "attacks/p/wash", "purifier_options": {}, **rows}


def test_a_purifier_is_told_apart_by_the_model_that_it_cleans_with() -> None:
    def told(*pairs: tuple[str, str]) -> list[str]:
        rows = [named(target=target, cleaner=cleaner) for target, cleaner in pairs]
        return [words for _, words in part("_protection_names").cleanings(rows)]

    own = "wash with the editor itself"
    assert told(("t", ""), ("s", "")) == ["wash", "wash"]
    assert told(("t", "t"), ("s", "s")) == [own, own]
    assert told(("t", "t"), ("s", "t")) == ["wash with t", "wash with t"]
    # With both, what the teacher cleans for itself stands in either table.
    assert told(("t", "t"), ("s", "t"), ("s", "s")) == ["wash with t", own, "wash with t", own]


def test_what_each_editor_makes_for_itself_is_one_line() -> None:
    size = SEVERAL._replace(surrogates=("self",), epsilons=(EPSILON,))
    (grid,) = view(results(size)).parts[0].grids
    (row,) = grid.rows
    assert row.shield.made_on == "each editor itself"
    assert list(row.nets) == ["teacher", "dmd2-1"]


def test_protections_of_one_name_are_told_apart() -> None:
    plain = {"protection": SDS, "epsilon": EPSILON, "surrogate": "teacher", "role": "teacher"}
    told = (("+", 40, 0), ("-", 40, 0), ("-", 100, 0), ("-", 100, 1))
    rows = [{**plain, "options": {"sign": s}, "steps": n, "seed": seed} for s, n, seed in told]
    maker = part("_protection_names").Maker(rows, [])
    names = [maker.shield(row) for row in rows]
    assert [shield.number for shield in names] == [1, 2, 3, 4]
    assert names[0].label == "sds, sign=+, 40 steps, seed 0 16/255"
    assert names[3].name == "sds, sign=-, 100 steps, seed 1"


# Figures


def test_figure_has_a_mark_for_each_row_inside_it(found: dict[str, Any], page: Page) -> None:
    plot = part("_protection_figures").displacement(view(found))
    assert len(plot.marks) == 6
    for mark in plot.marks:
        assert 52 <= mark.x_low <= mark.x <= mark.x_high <= 700
        assert 16 <= mark.y_high <= mark.y <= mark.y_low <= 416
        assert mark.words in page.text
    assert sum(mark.is_teacher for mark in plot.marks) == 2
    assert (plot.moved, plot.working) == (6, 2)
    assert "6 of 6 rows move the edits further than noise" in page.text
    assert part("_protection_figures").displacement(view({**found, "protection": []})) is None


def test_without_lpips_psnr_is_the_displacement(found: dict[str, Any]) -> None:
    rows = [{**r, "figures": {k: v for k, v in r["figures"].items() if k != "lpips"}}
            for r in found["protection"]]  # fmt: skip
    plot = part("_protection_figures").displacement(view({**found, "protection": rows}))
    assert "decibels" in plot.x_words
    assert all(mark.x > plot.zero_x for mark in plot.marks)


def test_many_marks_are_numbered(several: dict[str, Any]) -> None:
    plot = part("_protection_figures").displacement(view(several))
    assert len(plot.marks) == 8
    assert plot.is_numbered is False
    another = {**several["protection"][0], "student": "other"}
    more = [*several["protection"], another]
    plot = part("_protection_figures").displacement(view({**several, "protection": more}))
    assert plot.is_numbered
    assert {m.label for m in plot.marks if m.label.isdecimal()} <= {"1", "2", "3", "4"}


def test_lines_by_epsilon_where_there_are_several(
    several: dict[str, Any], found: dict[str, Any]
) -> None:
    figures = part("_protection_figures")
    assert figures.epsilon_panels(view(found)) == []
    panels = figures.epsilon_panels(view(several))
    assert [panel.name.rpartition(" ")[2] for panel in panels] == ["teacher", "dmd2-1"]
    for panel in panels:
        assert panel.levels == ("8/255", "16/255")
        assert [s.name for s in panel.series] == ["teacher", "dmd2-1"]
        assert all(len(s.dots) == len(s.whiskers) == 2 for s in panel.series)


# Images


def test_the_first_images_stand_beside_noise_and_protection(page: Page, run: Path) -> None:
    images = [a for a in page.all("img") if a["src"].startswith("data:image/png")]
    # 3 images x (3 editors x (clean, noise, two protections) + what was given of the last three)
    assert len(images) == 3 * (3 * 4 + 3)
    states = {a["alt"].rpartition(": ")[2] for a in images if ": " in a["alt"]}
    assert states <= {"as asked", "not as asked", "ruined"}
    assert page.text.count("not kept in a run") == 1 + 3
    few = write(run, images_per_cell=1)
    assert len(few.all("img")) == 15
    assert "Edits of the same image" not in write(run, images_per_cell=0).text
    write(run)


def test_redacted_and_blurred_images(run: Path, tmp_path: Path) -> None:
    drawn = Path(shutil.copytree(run, tmp_path / "run"))
    (drawn / "plan.json").unlink()
    page = write(drawn)
    assert len(page.all("img")) == len([a for a in page.all("input") if a.get("class") == "veil"])
    assert [a["data-reveal"] for a in page.all("button")] == ["part-1-images"]
    hidden = write(drawn, redact=True)
    assert hidden.all("img") == []
    assert "Images are withheld from this copy." in hidden.text


def test_a_missing_picture_is_told(run: Path, tmp_path: Path, found: dict[str, Any]) -> None:
    drawn = Path(shutil.copytree(run, tmp_path / "run"))
    clean = next(c["label"] for c in found["cells"] if c["kind"] == "clean")
    (drawn / f"artifacts/{clean}/edit-501-0000.png").unlink()
    text = write(drawn).text
    assert "Image of Teacher, image edit-501-0000, Unprotected: " in text
    assert "the file is missing" in text


# Hostile and broken files


def test_names_of_strangers_do_no_harm(run: Path, tmp_path: Path, found: dict[str, Any]) -> None:
    decided = ("role", "kind", "verdict", "metric", "effect")
    keys = ("protection", "transfers", "cloaks", "pairs", "cells")
    kept = {
        key: [{k: v if k in decided else spoil(v) for k, v in row.items()} for row in found[key]]
        for key in keys
    }
    for new in (spoil(found), spoil(found) | kept):
        check_harmless(shown(tmp_path, new | {"schema": found["schema"]}))


@pytest.mark.parametrize("value", [None, "x", True, [], {}, 3, [1, "x", None], -1e9])
def test_fields_of_the_wrong_type_do_not_stop_the_report(
    run: Path, tmp_path: Path, several: dict[str, Any], value: Any
) -> None:
    keys = ("protection", "transfers", "cloaks", "pairs", "cells")
    assert "Definitions" in shown(tmp_path, several | dict.fromkeys(keys, value)).text
    assert "Definitions" in shown(tmp_path, several | {"protection": value}).text
    for key in keys:
        rows = several[key]
        names = list(rows[0])
        # Each row has another field spoilt, and the last all of them.
        new = [{**row, names[i % len(names)]: value} for i, row in enumerate(rows * 3)]
        new[-1] |= dict.fromkeys(names, value)
        assert "Definitions" in shown(tmp_path, several | {key: new}).text


def test_the_terminal_shows_net_effects(
    capsys: pytest.CaptureFixture[str], found: dict[str, Any]
) -> None:
    print_verdicts(found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["subject", "editor", "protection"]
    assert len([line for line in lines if " 16/255 " in line]) == 18
    assert len([line for line in lines if "jpeg quality=75" in line]) == 6
    rows = found["protection"]
    other = [{**r, "edit_options": {"strength": 0.7}, "seed": 1} for r in rows]
    print_verdicts({**found, "protection": [*rows, *other]})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:5] == ["subject", "edit", "editor", "protection", "seed"]
    assert len([line for line in lines if "sdedit strength=0.7" in line]) == 18


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
    assert tab.locator("h2").all_inner_texts() == TITLES
    tint = tab.locator("td.net.inherited").first
    assert tint.evaluate("e => getComputedStyle(e).backgroundColor") != "rgba(0, 0, 0, 0)"
    assert seen == []
    tab.context.close()


def test_hostile_words_are_shown_as_words(tmp_path: Path, found: dict[str, Any]) -> None:
    rows = [{**row, "surrogate": HOSTILE} for row in found["protection"]]
    page = shown(tmp_path, {**found, "protection": rows})
    assert "<script>alert(1)" in page.text
    check_harmless(page)


def test_jpeg_of_two_qualities_has_two_tables(found: dict[str, Any]) -> None:
    rows = [r for r in found["protection"] if r["purifier"] == JPEG]
    twin = [{**r, "purifier_options": {"quality": 40}, "cell": ""} for r in rows]
    told = view({**found, "protection": [*found["protection"], *twin]})
    titles = [grid.title for grid in told.parts[0].grids if grid.kind == "one"]
    assert titles == ["jpeg quality=75", "jpeg quality=40"]
