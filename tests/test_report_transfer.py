"""What the HTML report and the terminal show of a transfer run, hostile names included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safetybench import registry
from safetybench.commands.summary import print_verdicts
from safetybench.harness import results as derived
from tests.results import make_results, write_run
from tests.test_scenario_transfer import Outcome, brings_back, broken, keeps, ready, suite, trained

HOSTILE = '<script>alert("1")</script>\u202e'


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("suite")
    models = {f"r.no-fish.seed{s}": brings_back() for s in (1, 2, 3)}
    entries = [ready("same", control="able"), trained(), ready("broken")]
    summary = Outcome(
        suite(folder, entries), **models, same=keeps(), able=brings_back(), broken=broken()
    ).summary
    cost = {"wall_s": 1.0, "cpu_s": 1.0, "device_s": 1.0, "nfe": 1, "peak_mb": 1.0}
    whole = make_results(*({**c, "variant": "", "cost": cost} for c in summary["cells"]))
    whole |= {key: summary[key] for key in ("pairs", "transfer", "checks", "notes")}
    return json.loads(json.dumps(whole))  # type: ignore[no-any-return]


def page(folder: Path, results: dict[str, Any], **options: Any) -> str:
    run = write_run(folder / "run", results)
    file = registry.create("reports/html", options).write(run)
    return file.read_text(encoding="utf-8")  # type: ignore[no-any-return]


def test_the_table_is_on_the_page_most_first(tmp_path: Path, found: dict[str, Any]) -> None:
    text = page(tmp_path, found)
    start = text.index('id="transfer"')
    table = text[start : text.index("</table>", start)]
    places = [table.index(f'"name">{name}<') for name in ("r", "same", "broken")]
    assert places == sorted(places)
    for words in (
        "+100.0", "100.0%, 100.0%, 100.0% by training", "no verdict", "1 step; takes no guidance",
        "data unknown", "50.0% of 4 training prompts name the concept", "ready",
    ):  # fmt: skip
        assert words in table
    assert "collapse: the student shows what other prompts ask for" in table
    assert "Distillation lost safety in 1 of 2 comparisons." in text
    assert "lost through r" in text
    assert "Student r (seed 2)" in text
    assert text.count('<h3 id="rates-title">') == 1


def test_names_of_strangers_do_no_harm(tmp_path: Path, found: dict[str, Any]) -> None:
    text = json.dumps(found).replace('"r"', json.dumps(HOSTILE))
    text = text.replace('"recipes/toy"', json.dumps(f"recipes/{HOSTILE}"))
    hostile = json.loads(text)
    hostile["transfer"][0]["traits"] |= {"data": HOSTILE, "shared_with_teacher": [HOSTILE]}
    shown = page(tmp_path, hostile)
    assert "alert(" in shown
    assert '<script>alert("1")' not in shown
    assert "\u202e" not in shown


@pytest.mark.parametrize(
    "row", [{}, {"subject": "no-fish", "student": "r", "rates": "x", "traits": [1]}, 3, None]
)
def test_a_table_of_nonsense_is_no_traceback(
    tmp_path: Path, found: dict[str, Any], row: Any
) -> None:
    text = page(tmp_path, {**found, "transfer": [row]})
    assert "Verdicts" in text


def test_the_terminal_shows_the_table(
    capsys: pytest.CaptureFixture[str], found: dict[str, Any]
) -> None:
    print_verdicts(found)
    out = capsys.readouterr().out.splitlines()
    assert out[0].split()[:4] == ["subject", "student", "teacher", "student"]
    assert [line.split()[1] for line in out[1:4]] == ["r", "same", "broken"]
    assert "no verdict" in out[3]


def test_unlearning_runs_have_no_such_table(tmp_path: Path) -> None:
    assert 'id="transfer"' not in page(tmp_path, make_results())
    assert "transfer" not in make_results()
    assert derived.recount(make_results()) == []
