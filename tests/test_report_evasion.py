"""What the HTML report shows of an evasion run, hostile names and what does not count included."""

from __future__ import annotations

import base64
import doctest
import importlib
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from safetybench import registry
from tests.report_evasion_fixture import SMALL, WEAK, results, write_run
from tests.report_fixture import write_json
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
    "What is right, and what stays right?", "digits", "Every cell and its items", "Items",
    "Gates and checks", "Cost", "Manifest", "Definitions", "Limits",
]  # fmt: skip
PARTS = ("_evasion", "_evasion_answer", "_evasion_figures", "_evasion_rows")
# One student breaks, another is weaker in its second training, and the teacher has lost items.
SEVERAL = SMALL._replace(
    subjects=("digits", "letters"),
    students=("same", "broken"),
    seeds=(1, 2),
    missed={("same", 2): SMALL.models["milder"]},
    lost=3,
)


def part(name: str) -> Any:
    return importlib.import_module(f"safetybench.reports.{name}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five models of one training, one of them masked; only read, its report aside."""
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


@pytest.fixture(scope="module")
def weak() -> dict[str, Any]:
    return results(WEAK)


def view(found: Mapping[str, Any]) -> Any:
    """Return the subjects of results that no folder holds."""
    record = part("_load").Record(folder=Path(), results=found, manifest={}, plan=None, items=(),
                                  costs={}, problems=())  # fmt: skip
    return part("_evasion_rows").evasions(record)


def models(found: Mapping[str, Any], subject: int = 0) -> dict[str, Any]:
    return {model.name or model.role: model for model in view(found)[subject].models}


def answer(found: Mapping[str, Any]) -> str:
    told = part("_evasion_answer").evasion_answer(view(found))
    return " ".join((told.short, *told.sentences))


def shown(folder: Path, found: Mapping[str, Any]) -> Page:
    write_json(folder / "results.json", found)
    return write(folder)


def changed(found: dict[str, Any], name: str, **fields: Any) -> dict[str, Any]:
    """Change fields of the row of one model, of its name or role."""
    rows = [{**r, **fields} if (r["model"] or r["role"]) == name else r
            for r in found["robustness"]]  # fmt: skip
    return {**found, "robustness": rows}


def judged(found: dict[str, Any], *verdicts: str) -> dict[str, Any]:
    """Change the verdicts in the worst case, in the order of students."""
    told = iter(verdicts)
    pairs = [{**p, "verdict": next(told)} if p["metric"] == "worst-case" else p
             for p in found["pairs"]]  # fmt: skip
    return {**found, "pairs": pairs}


# The page as a whole


def test_text_is_as_agreed(run: Path, golden: Callable[[str, str], None]) -> None:
    record = part("_load").load(run)
    some = replace(  # the rest of them reads the same
        record,
        items=record.items[::200],
        results={**record.results, "checks": record.results["checks"][:5],
                 "cells": record.results["cells"][:24]},
    )  # fmt: skip
    text = Page(registry.create("reports/html").page(some, version="0.0.0")).text
    golden("report_evasion.txt", text)


def test_sections_come_in_order_and_none_is_of_another_scenario(page: Page, run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"<h2[^>]*>([^<]*)</h2>", text) == TITLES
    assert re.findall(r"<h3>([^<]*)</h3>", text)[:5] == [
        "What stays right of each model", "Are gradients masked?", "What each attack leaves right",
        "Natural shifts", "Who withstands what",
    ]  # fmt: skip
    for word in ("orgetting", "erased", "trigger", "biased", "Net effect", " safe "):
        assert word not in page.text
    check_readable(page)
    check_policy(page)


def test_same_run_gives_same_bytes(run: Path) -> None:
    first = registry.create("reports/html").write(run).read_bytes()
    assert registry.create("reports/html").write(run).read_bytes() == first
    assert str(run.parent).encode() not in first


def test_examples_in_docstrings_hold() -> None:
    for name in PARTS:
        assert doctest.testmod(part(name)).failed == 0


def test_other_runs_have_nothing_of_it(tmp_path: Path) -> None:
    folder = write_bare(tmp_path / "run", make_results())
    text = registry.create("reports/html").write(folder).read_text(encoding="utf-8")
    assert "orst case" not in text
    assert ".scale-row" not in text


# The answer


def test_answer_says_masked_gradients_first_and_no_ratio(found: dict[str, Any]) -> None:
    told = answer(found)
    assert told.startswith(
        "In the worst case over 4 attacks the teacher keeps 70.0% of images right (Linf 25.5/255), "
        "its students 0.0% to 68.0%: 2 of 3 students withstand attacks less often than their "
        "teacher, 1 about as often; 1 has masked gradients: what it seems to withstand is not "
        "there. The student distilled has masked gradients: PGD leaves 78.3% (66.4–86.9%, n = 60) "
        "right, the worst case 0.0% (0.0–3.7%, n = 100) (signs G4 black box, G4 transfer, G6 zero "
        "gradients and G8 rescaled logits). Weakest first, with points against the teacher: "
        "distilled 0.0% (0.0–3.7%, n = 100), −70.0 (−78.1 – −60.4); milder 30.0%"
    )
    assert told.endswith(
        "Right as they are: the original 97.0% (91.5–99.0%, n = 100); the teacher 92.0% "
        "(85.0–95.9%, n = 100); students 90.0% to 95.0%. In the worst case the undefended original "
        "keeps 0.0% (0.0–3.7%, n = 100). Random noise in the same ball leaves 85.0% to 90.0% right."
    )
    assert not re.search(r"\btimes\b|-fold|\d ?[x×]\b", told)


@pytest.mark.parametrize(
    ("verdicts", "told"),
    [
        (("lost",) * 3, "all 3 students withstand attacks less often than their teacher"),
        (("unchanged", "gained", "gained"),
         "1 of 3 students withstands attacks about as often as its teacher, 2 more often"),
        (("not distinguishable",) * 3, "all 3 students cannot be told from their teacher"),
        (("lost", "not distinguishable", "not distinguishable"),
         "1 of 3 students withstands attacks less often than its teacher, 2 cannot be told from "
         "it"),
        (("lost", "invalid", "invalid"),
         "the only student that counts withstands attacks less often than its teacher"),
        (("unchanged", "gained", "invalid"),
         "1 of 2 students that count withstands attacks about as often as its teacher, 1 more "
         "often"),
    ],
)  # fmt: skip
def test_verdicts_are_counted(found: dict[str, Any], verdicts: tuple[str, ...], told: str) -> None:
    short = part("_evasion_answer").evasion_answer(view(judged(found, *verdicts))).short
    assert short.split(": ", 1)[1].split(";")[0].rstrip(".") == told


def test_a_masked_or_broken_teacher_is_told(found: dict[str, Any]) -> None:
    row = next(r for r in found["robustness"] if r["model"] == "distilled")
    new = changed(found, "teacher", masking=row["masking"], probes={})
    told = answer(new)
    assert "; the teacher's gradients are masked, so that its own rate does not hold. " in told
    assert (
        ". The teacher has masked gradients: Square, without gradients, against PGD: 0 of" in told
    )
    none = {**found["robustness"][0]["worst"], "value": 0.02}
    assert "The teacher withstands next to nothing: as often as it is no robustness." in answer(
        changed(found, "teacher", worst=none)
    )
    masking = {**found["robustness"][1]["masking"], "verdict": "not-converged"}
    told = answer(changed(changed(found, "teacher", masking=masking), "same", masking=masking))
    assert "The attacks are too weak for the teacher and the student same: stronger" in told


def test_answer_of_several_subjects(several: dict[str, Any]) -> None:
    told = answer(several)
    assert told.startswith(
        "In the worst case over 4 attacks teachers keep 70.1% of images right (Linf 25.5/255), "
        "their students 49.0%: all 2 students that count"
    )
    assert "digits: the teacher keeps 70.1%, its students 49.0% (1 undecided)." in told
    assert told.endswith(
        "2 of 4 students have no verdict; they no longer classify as they did: neither robust nor "
        "not."
    )


def test_attacks_that_fail_on_the_original_answer_nothing(weak: dict[str, Any]) -> None:
    told = answer(weak)
    assert told.startswith(
        "No answer: no student has a verdict that counts. No worst case counts, positive-control: "
        "in the ball the attacks mislead the undefended original on 20 of 100 (20.0%), and must on "
        "50%; else they are too weak"
    )
    assert told.endswith("3 of 3 students have no verdict: neither robust nor not.")


def test_answer_without_students_or_models(found: dict[str, Any]) -> None:
    assert answer({**found, "robustness": []}) == "No answer: this run attacked no classifier."
    alone = [row for row in found["robustness"] if row["role"] != "student"]
    assert answer({**found, "robustness": alone}).startswith(
        "No answer: this run has no student. Right as they are: the original 97.0%"
    )


# Tables


def test_every_figure_stands_in_the_table(run: Path, page: Page, found: dict[str, Any]) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    start = text.index('<table class="models')
    table = " ".join(Page(text[start : text.index("</table>", start)]).text.split())
    percent = part("_text").rate
    for row in found["robustness"]:
        for key in ("clean", "worst"):
            assert percent(row[key]["value"]) in table
    assert (
        "Undefended original standard base net=mlp 2 epochs | 97.0% 91.5–99.0% n = 100 |" in table
    )
    assert "not robust | 1" in table
    assert "same kd base net=mlp" in table
    assert "| 68.0% 58.3–76.3% n = 100 | 90.0% 82.6–94.5% n = 100 | as often −2.0 points" in table
    assert "less often −70.0 points−78.1 – −60.4 n = 100p <0.001 | masked | 1" in table
    assert "Masked gradients: PGD leaves 78.3%" in table


def test_more_withstood_is_plus_and_words_follow(found: dict[str, Any]) -> None:
    told = models(found)
    pair = told["milder"].pair
    assert (pair.before, pair.after) == pytest.approx((0.7, 0.3))
    assert pair.difference.value == pytest.approx(-0.4)
    assert pair.difference.low < pair.difference.value < pair.difference.high < 0
    assert (pair.word, tuple(pair.who)) == ("less often", (20, 50, 10, 20))
    assert told["same"].useful.after == pytest.approx(0.93)
    assert told["same"].useful.difference.value == pytest.approx(0.01)
    assert told["teacher"].pair is None
    gained = {**found["pairs"][0], "difference": -0.2, "verdict": "gained",
              "interval": {"low": -0.3, "high": -0.1}}  # fmt: skip
    pair = models({**found, "pairs": [gained]})["same"].pair
    assert (pair.difference.low, pair.difference.value, pair.difference.high) == (0.1, 0.2, 0.3)
    assert pair.word == "more often"


def test_how_a_model_was_made_is_told(found: dict[str, Any]) -> None:
    new = changed(found, "same", options={"alpha": 0.5}, choice={"depth": 2}, epochs=1.5)
    made = models(new)["same"].made
    assert made == ("kd alpha=0.5", "base net=mlp", "member depth=2", "1.5 epochs")
    assert models(changed(found, "same", way="", base=None, epochs=None))["same"].made == ()


def test_attacks_and_shifts_have_tables(page: Page, found: dict[str, Any]) -> None:
    (here,) = view(found)
    told = [(c.name, c.size, c.spend, c.is_own) for c in here.of_kind("attack", "control")]
    assert told == [
        ("fgsm", "Linf 25.5/255", "1 step", False),
        ("pgd", "Linf 25.5/255", "40 steps", False),
        ("carlini wagner l2", "", "1,000 steps", True),
        ("square", "Linf 25.5/255", "5,000 queries", False),
        ("random noise", "Linf 25.5/255", "1,000 queries", False),
    ]
    text = " ".join(page.text.split())
    matrix = text[text.index("Misled first by:") : text.index("Show attacks at their own size")]
    assert "80.0% 71.1–86.7% n = 100 | 70.0% 60.4–78.1% n = 100 |" in matrix
    assert "fgsm 15carlini wagner l2 80" in matrix
    own = text[text.index("Show attacks at their own size") : text.index("Natural shifts")]
    assert "| 100.0% 96.3–100.0% n = 100 | 0.24 | 15.3/255" in own
    shifts = text[text.index("Natural shifts") : text.index("Who withstands what")]
    assert "distilled | 95.0% 88.8–97.8% n = 100 | 85.0% 76.7–90.7% n = 100" in shifts
    who = text[text.index("Who withstands what") : text.index("Every cell and its items")]
    assert "milder | | 20 | 50 | 10 | 20 | 100" in who


def test_two_entries_of_one_attack_keep_apart(found: dict[str, Any]) -> None:
    new = json.loads(json.dumps(found))
    for row in new["robustness"]:
        twin = {**row["attacks"][1], "options": {"loss": "margin"}}
        row["attacks"].append({**twin, "left": None})
    (here,) = view(new)
    names = [column.name for column in here.of_kind("attack")]
    assert names[1] == "pgd (loss=default)"
    assert names[-1] == "pgd (loss=margin)"
    assert answer(new).startswith("In the worst case over 5 attacks ")


# Masked gradients


def test_signs_and_probes_of_a_masked_model_stand_open(run: Path, page: Page) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    books = re.findall(r'<details class="wide evidence"( open)?>\n<summary>([^<]*)</summary>', text)
    assert [(bool(state), told) for state, told in books] == [
        (False, "Undefended original: not robust"),
        (False, "Teacher: not masked"),
        (False, "same: not masked"),
        (False, "milder: not masked"),
        (True, "distilled: masked, 4 of 13 signs failed"),
    ]
    own = " ".join(page.text.split())
    own = own[own.index("distilled: masked, 4 of 13") : own.index("What each attack leaves")]
    assert "failed | Square, without gradients, against PGD: 0 of 60 (0.0%) against 47" in own
    assert (
        "100.0% have a gradient that is exactly zero; the two largest logits lie 120 apart" in own
    )
    assert "Across: a random direction, for the gradient is 0" in own
    for name in ("One step (FGSM)", "PGD, logits rescaled", "PGD made on another model"):
        assert name in own


def test_curve_has_every_radius_with_its_interval(found: dict[str, Any]) -> None:
    (here,) = view(found)
    told = part("_evasion_figures").curve(here, models(found)["teacher"].gradients)
    assert [step.size for step in told.steps][:5] == [
        "none", "Linf 6.375/255", "Linf 12.75/255", "Linf 25.5/255", "Linf 51/255",
    ]  # fmt: skip
    assert all(step.high <= step.y <= step.low for step in told.steps)
    assert [step.x for step in told.steps] == sorted(step.x for step in told.steps)
    assert told.threat == told.steps[3].x
    texts = [tick.text for tick in told.x_ticks]
    assert texts[0] == "0"
    assert {"25.5", "255"} <= set(texts)
    gaps = [b.at - a.at for a, b in zip(told.x_ticks, told.x_ticks[1:], strict=False)]
    assert min(gaps) >= 27
    assert {step.estimate.n for step in told.steps} == {60}
    bare = models(changed(found, "teacher", curve=[[0.0, 0.9]]))["teacher"]
    assert part("_evasion_figures").curve(here, bare.gradients) is None


def test_pictures_of_the_loss_are_what_was_measured(found: dict[str, Any]) -> None:
    (here,) = view(found)
    figures, own = part("_evasion_figures"), models(found)
    drawn = figures.plane(here, own["teacher"].gradients.landscapes[0])
    assert drawn.inner == (0.25, 0.75)
    assert drawn.edge == "51/255"
    loss, margin = drawn.pictures
    assert loss.told == "0.3, light, to 2.7, dark"
    assert margin.told == "−6 to 4; blue: right, red: misled"
    pixels = Image.open(io.BytesIO(base64.b64decode(loss.url.partition(",")[2]))).convert("RGB")
    assert pixels.size == (21, 21)
    light, dark = pixels.getpixel((0, 0)), pixels.getpixel((20, 20))
    assert (light, dark) == (figures.LOSS[0], figures.LOSS[-1])
    flat = figures.plane(here, own["distilled"].gradients.landscapes[0])
    assert flat.pictures[0].told == "0 everywhere"
    whole = own["teacher"].gradients.landscapes[0]
    holes = whole._replace(loss=((None, 1.0), (1e30, -1e30)), margin=())
    (only,) = figures.plane(here, holes).pictures
    assert only.told.endswith("; no number at 1 points, gray")


def test_a_run_without_probes_does_not_say_robust(tmp_path: Path) -> None:
    small = SMALL._replace(probed=0, landscapes=0, students=("same",))
    page = write(write_run(tmp_path / "run", small))
    assert (
        "This run did not look for masked gradients: that any model is robust is not" in page.text
    )
    assert page.text.count("not checked") == 4  # three models, and the definition
    assert not page.all("image")


# What does not count


def test_a_broken_model_has_no_figure_and_its_reason(
    tmp_path: Path, several: dict[str, Any]
) -> None:
    broken = models(several)["broken"]
    assert not broken.is_valid
    assert broken.reason.startswith("collapse: the student broken")
    assert broken.word == "no verdict"
    assert broken.gradients.word == "no verdict"
    assert all(hit.reason for hit in broken.hits.values())
    same = models(several)["same"]
    assert [(t.seed, t.left) for t in same.trainings] == [
        ("1", pytest.approx(0.68)), ("2", pytest.approx(0.3)),
    ]  # fmt: skip
    folder = write_bare(tmp_path / "run", several)
    text = " ".join(shown(folder, several).text.split())
    assert "n = 100 68.0%, 30.0%" in text
    row = text[text.index("| broken kd base") :]
    assert "20.0%" in row[:200]  # what it does as it is stays known
    assert row.index("no figure") < row.index("no verdict") < row.index("Does not count: collapse")
    assert "3 failed" in text
    chart = part("_evasion_figures").chart(view(several)[0])
    lines = {line.model.label: line for _, lines in chart.groups for line in lines}
    assert [mark.kind for mark in lines["broken"].marks] == ["clean"]
    assert lines["broken"].told == "right as it is 20.0%; no worst case counts"


def test_where_attacks_are_too_weak_nothing_is_called_robust(
    tmp_path: Path, weak: dict[str, Any]
) -> None:
    folder = write_bare(tmp_path / "run", weak)
    text = " ".join(shown(folder, weak).text.split())
    start = text.index("No worst case here counts: positive-control: in the ball the attacks")
    table = text[start : text.index("Show the comparisons")]
    assert table.count("no figure") == 4  # of all but the original
    assert table.count("positive-control") == 1
    assert "as often" not in table
    assert "not masked" not in table[table.index("Teacher") :]
    words = {name: model.gradients.word for name, model in models(weak).items()}
    assert words["distilled"] == "masked"
    assert words["teacher"] == words["same"] == "no verdict"
    who = text[text.index("Who withstands what") : text.index("Every cell and its items")]
    assert who.count("no figure") == 3


def test_a_failed_check_of_the_whole_run_voids_the_original_too(found: dict[str, Any]) -> None:
    check = {"name": "canary", "subject": "", "cell": "", "passed": False, "effect": "invalid"}
    new = {**found, "checks": [{**check, "message": "a blind judge went unseen"}]}
    for model in view(new)[0].models:
        assert not model.is_valid
        assert model.clean.value is None
        assert model.pair is None or model.pair.word == model.useful.word == "no verdict"
    assert answer(new).startswith("No answer: no student has a verdict that counts. No worst case")


def test_no_answer_in_the_ball_is_no_worst_case(found: dict[str, Any]) -> None:
    model = models(changed(found, "same", worst=None))["same"]
    assert model.reason == "no attack of the suite has an answer here"
    assert not model.is_valid


# Hostile and broken files


def test_names_of_strangers_do_no_harm(tmp_path: Path, found: dict[str, Any]) -> None:
    folder = write_bare(tmp_path / "run", found)
    decided = ("role", "kind", "verdict", "metric", "effect", "label", "student", "seed", "norm",
               "threat")  # fmt: skip

    def kept(key: str) -> list[dict[str, Any]]:
        return [{k: v if k in decided else spoil(v) for k, v in row.items()} for row in found[key]]

    rows = kept("robustness")
    for row, old in zip(rows, found["robustness"], strict=True):
        row["masking"] |= {"verdict": old["masking"]["verdict"], "by_seed": {HOSTILE: "masked"}}
        row["worst_by_seed"] = {HOSTILE: 0.5, "2": 0.4}
        row["won_by"] = {HOSTILE: 3}
        row["probes"] = {HOSTILE: old["probes"]["pgd"], **row["probes"]}
    kind = {"robustness": rows, "cells": kept("cells"), "pairs": found["pairs"]}
    for new in (spoil(found), spoil(found) | kind):
        page = shown(folder, new | {"schema": found["schema"]})
        check_harmless(page)
        assert "<script>alert(1)" in page.text


@pytest.mark.parametrize("value", [None, "x", True, [], {}, 3, [1, "x", None], -1e300, [[1e308]]])
def test_fields_of_the_wrong_type_do_not_stop_the_report(
    tmp_path: Path, found: dict[str, Any], value: Any
) -> None:
    folder = write_bare(tmp_path / "run", found)
    some = {**found, "cells": found["cells"][:9]}
    assert "Definitions" in shown(folder, some | {"robustness": value}).text
    for key in ("robustness", "pairs", "cells"):
        rows = some[key][:5]
        names = list(rows[0])
        # Each row has another field spoilt, and the last all of them.
        new = [{**row, names[i % len(names)]: value} for i, row in enumerate(rows * 7)]
        new += [dict.fromkeys(names, value)]
        assert "Definitions" in shown(folder, some | {key: new}).text
    row = found["robustness"][1]
    deep = [{**row, key: _spoilt(row[key], value)} for key in row if isinstance(row[key], dict)]
    deep += [{**row, key: [_spoilt(told, value) for told in row[key]]}
             for key in ("attacks", "landscapes", "curve")]  # fmt: skip
    deep.append(
        {**row, "masking": {**row["masking"], "signs": [value, dict.fromkeys("ab", value)]}}
    )
    assert "Definitions" in shown(folder, some | {"robustness": deep}).text


def _spoilt(told: Any, value: Any) -> Any:
    return dict.fromkeys(told, value) if isinstance(told, dict) else value


def test_redacted_copy_keeps_figures_and_withholds_messages(run: Path) -> None:
    page = write(run, redact=True)
    assert "In the worst case over 4 attacks the teacher keeps 70.0%" in page.text
    assert "the attack stopped" not in page.text
    check_policy(page)


def test_a_long_run_folds(tmp_path: Path, found: dict[str, Any]) -> None:
    folder = write_bare(tmp_path / "run", found)
    row, pair = found["robustness"][2], found["pairs"][0]
    for i in range(10):
        found = {
            **found,
            "robustness": [*found["robustness"], {**row, "model": f"same{i}"}],
            "pairs": [
                *found["pairs"],
                {**pair, "student": {**pair["student"], "name": f"same{i}"}},
            ],
        }
    page = shown(folder, found)
    assert "Show 15 models under 4 attacks" in page.text
    assert "Show 13 students" in page.text
    assert "9 more in the table" in page.text
    assert not [a for a in page.all("details") if "evidence" in a.get("class", "") and "open" in a]


# In a browser


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_browser_shows_it_without_request_error_or_overflow(
    browser: Any, run: Path, page: Page, width: int, scheme: str
) -> None:
    tab, seen = open_page(browser, run, width, color_scheme=scheme, java_script_enabled=True)
    tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate(CUT_OFF) == []
    assert tab.locator("h2").all_inner_texts() == TITLES
    assert tab.locator(".scale-row svg").first.bounding_box()["width"] > 90
    picture = tab.locator("svg.land image").first
    assert picture.bounding_box()["width"] > 100
    assert len(tab.locator("svg.land").first.screenshot()) > 1000
    assert seen == []
    tab.context.close()
