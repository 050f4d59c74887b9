"""Cards and kept runs become tables in which no figure is lost, whatever a card lacks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from docs import figures, generate
from docs.markdown import table
from tests import report_fixture

CARD: dict[str, Any] = {
    "name": "ca-fish",
    "summary": "A teacher | without fish.",
    "base": "teacher",
    "lineage": ["teacher", "ca-fish"],
    "recipe": {"component": "unlearning/x", "options": "X()", "steps": 200, "seed": 1},
    "sampler": {"steps": 1, "guidance": 1.0, "timesteps": [699]},
    "built": {"device": "cpu", "seconds": 61},
    "command": "safetybench zoo build ca-fish",
    "quality": {
        "prompts": 4,
        "object": {"rate": 0.75, "low": 0.3, "high": 0.95, "n": 4},
        "object_by_class": {"fish": 0.0, "star": 1.0},
        "rejected": 0.01,
        "erased": {"concept": "fish", "shown": {"rate": 0.0, "low": 0.0, "high": 0.5, "n": 4}},
    },
}


def with_card(folder: Path, card: Mapping[str, Any]) -> Path:
    folder.mkdir()
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def test_cards_become_tables(tmp_path: Path) -> None:
    folders = [with_card(tmp_path / "ca-fish", CARD)]
    (folders[0] / "x.safetensors").write_bytes(bytes(1_200_000))
    models = figures.zoo_models(folders)
    assert "| `ca-fish` | A teacher \\| without fish. | teacher | 1 step at t = 699" in models
    assert "| 1.2 MB |" in models
    assert "200 steps, seed 1" in models
    measured = figures.zoo_figures(folders)
    assert "75.0 % (30.0 to 95.0 %, n = 4)" in measured
    assert "fish: 0.0 % (0.0 to 50.0 %, n = 4)" in measured


def with_teacher(folder: Path) -> list[Path]:
    high = {"rate": 0.99, "low": 0.9, "high": 1.0, "n": 4}
    quality = {**CARD["quality"], "style": high, "colour": high}
    teacher = {**CARD, "name": "teacher", "quality": quality}
    return [with_card(folder / "teacher", teacher), with_card(folder / "ca-fish", CARD)]


def test_gates_are_shown_with_their_outcome(tmp_path: Path) -> None:
    measured = figures.zoo_figures(with_teacher(tmp_path))
    assert "| `teacher` | object | 75.0 % | at least 95.0 % | **no** |" in measured
    assert "| `teacher` | style | 99.0 % | at least 90.0 % | yes |" in measured


def test_a_card_that_lacks_what_a_gate_reads_does_not_pass(tmp_path: Path) -> None:
    measured = figures.zoo_figures(with_teacher(tmp_path))
    assert "| `ca-fish` | the card lacks 'without' | - | - | **no** |" in measured


def test_a_card_without_figures_and_no_card_at_all_are_said(tmp_path: Path) -> None:
    folders = [with_card(tmp_path / "half", {"name": "half"})]
    assert "There are no figures yet of `half`." in figures.zoo_figures(folders)
    assert "| `half` |" in figures.zoo_models(folders)
    assert "No model is built in this checkout." in figures.zoo_models([])
    assert "There are no figures yet of any model." in figures.zoo_figures([])


def test_a_kept_run_becomes_a_page(tmp_path: Path) -> None:
    from safetybench.store import write_json

    run = tmp_path / "run"
    run.mkdir()
    write_json(run / "results.json", report_fixture.results())
    (tmp_path / "docs" / "results").mkdir(parents=True)
    file = generate.keep_run(run, docs=tmp_path / "docs")
    results = json.loads(file.read_text(encoding="utf-8"))
    page = generate.pages(tmp_path / "docs")[f"results/{file.stem}.md"]
    assert results["pairs"]
    for pair in results["pairs"]:
        row = f"| {pair['n']} | "
        assert f"**{pair['verdict']}**" in page
        assert row in page
    for row in results["cells"]:
        assert f"{row['successes']} of {row['n_ok']}:" in page


def test_a_row_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a row must have 2 cells, got 1$"):
        table(("a", "b"), [("1",)])
