"""Mimicry in the protection scenario: whole albums, who learns, clustered figures, faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safetybench import registry
from safetybench.contracts import Budget, Cell, Item, SafetyBenchError
from safetybench.mimic_tasks import Albums
from safetybench.scenarios._log import CellLog
from safetybench.scenarios._mimicry_stats import Clusters, by_album, clusters
from safetybench.stats import Interval, Span
from safetybench.store import Store
from safetybench.suite import Suite, load_suite
from safetybench.suite_mimicry import AlbumSet
from tests import toys_mimicry as mimics
from tests import toys_protection as toys

ALBUMS: dict[str, Any] = {"count": 2, "size": mimics.SIZE, "prompts": 4}
SHIELD = {"name": "defenses/joint", "budget": {"epsilon": toys.EPSILON, "steps": 1}}
TARGETS = {
    "teacher": mimics.Painter("teacher"),
    "deaf": mimics.Painter("deaf", falls=False),
    "alike": mimics.Painter("alike"),
}


@pytest.fixture(autouse=True)
def components(monkeypatch: pytest.MonkeyPatch) -> None:
    mimics.install(monkeypatch)


def suite(learner: str = "self", students: Sequence[str] = ("deaf",), **more: Any) -> Suite:
    entry = {"name": "attacks/mimic", "budget": {"steps": 2}, "learner": learner}
    data: dict[str, Any] = {
        "schema": "safetybench.suite/1",
        "name": "toy",
        "scenario": "scenarios/protection",
        "judge": "judges/zoo",
        "albums": ALBUMS,
        "subjects": [{"name": "toy", "teacher": "teacher"}],
        "students": [{"name": name, "targets": {"toy": name}} for name in students],
        "protections": [SHIELD],
        "mimicries": [entry],
    }
    return Suite.from_json({**data, **more})


def run(given: Suite, folder: Path) -> Mapping[str, Any]:
    return toys.run(given, TARGETS, folder, judge=toys.Reader())


def row(summary: Mapping[str, Any], who: str, **more: Any) -> Mapping[str, Any]:
    (found,) = [
        r
        for r in summary["protection"]
        if (r.get("student") or r["role"]) == who and all(r[k] == v for k, v in more.items())
    ]
    return dict(found)


def test_a_protection_stops_who_falls_for_it(tmp_path: Path) -> None:
    summary = run(suite(), tmp_path)
    stopped, deaf = row(summary, "teacher"), row(summary, "deaf")
    assert stopped["n"] >= 14
    assert (stopped["noise_rate"], stopped["rate"], stopped["verdict"]) == (1, 0, "protects")
    assert (deaf["net"], deaf["verdict"]) == (0, "not distinguishable from noise")
    assert stopped["edit"] == "attacks/mimic"
    assert stopped["edit_options"] == {"learner": "self", "steps": 2, "seed": 0}
    assert list(stopped["by_album"]) == ["subject-0", "subject-1", "artist-0", "artist-1"]
    assert all(each["rate"] == 0 < each["noise_rate"] for each in stopped["by_album"].values())
    assert {"psnr", "ssim"} <= set(stopped["figures"])
    assert "direction" not in stopped["figures"]
    assert not [check for check in summary["checks"] if not check["passed"]]
    assert any("too narrow" in note for note in summary["notes"])
    assert {each["of"] for each in summary["cloaks"]} == {"albums"}


def test_what_the_teacher_learnt_is_plugged_on_every_student(tmp_path: Path) -> None:
    summary = run(suite("teacher"), tmp_path)
    # "deaf" would have learnt from protected albums, but only the teacher learns.
    assert row(summary, "deaf")["rate"] == 0
    assert {name for name, _, _ in mimics.LEARNT} == {"teacher"}
    # Of 4 albums: clean, under noise and protected, once for all models.
    assert len(mimics.LEARNT) == 12
    (pair,) = summary["pairs"]
    assert (pair["difference"], pair["student"]["name"]) == (0, "deaf")


def test_both_learners_stand_side_by_side(tmp_path: Path) -> None:
    entries = [
        {"name": "attacks/mimic", "budget": {"steps": 2}, "learner": "teacher"},
        {"name": "attacks/mimic", "budget": {"steps": 2}, "models": ["deaf"], "kinds": ["artist"]},
    ]
    summary = run(suite(mimicries=entries, purifiers=[{"name": "attacks/wash"}]), tmp_path)
    rows = [r for r in summary["protection"] if r.get("student") == "deaf" and not r["purifier"]]
    assert [r["net"] for r in rows] == [1, 0]
    assert rows[1]["edit_options"]["kinds"] == ["artist"]
    assert list(rows[1]["by_album"]) == ["artist-0", "artist-1"]
    best = row(summary, "teacher", purifier="any")
    assert (best["rate"], best["net"], len(best["by_album"])) == (1, 0, 4)
    (pair,) = [p for p in summary["pairs"] if not p["purifier"]]  # the teacher learnt for itself
    assert pair["edit_options"]["learner"] == "teacher"


def test_albums_differ_in_seed_and_are_learnt_whole(tmp_path: Path) -> None:
    run(suite(students=()), tmp_path)
    seeds = {budget.seed for _, _, budget in mimics.LEARNT}
    assert len(seeds) == 4
    homes = set(Albums(AlbumSet(**ALBUMS)).ids.values())
    assert len(homes) == 4
    assert all(len(ids) == mimics.SIZE for _, ids, _ in mimics.LEARNT)
    assert [len(ids) for ids in mimics.PROTECTED] == [mimics.SIZE] * 4


def by_pieces(given: Suite, folder: Path, size: int) -> tuple[list[Cell], list[Item], list[bytes]]:
    """Run with `size` items a call, and nothing kept between calls, as after a kill."""
    scenario = registry.create("scenarios/protection")
    cells: list[Cell] = scenario.cells(given)
    log: list[Item] = []
    with Store.create(folder) as store:
        for cell in cells:
            for number, start in enumerate(range(0, len(cell.items), size)):
                context = toys.Context(given, TARGETS, store, judge=toys.Reader())
                names = cell.items[start : start + size]
                items = scenario.run_chunk(cell, number, names, context)
                assert [item.item for item in items] == list(names)
                store.append(cell.label, number, items, {})
                log += [replace(item, chunk=0) for item in items]
        files = [(folder / path).read_bytes() for item in log for path in item.artifacts]
    return cells, log, files


@pytest.mark.parametrize("learner", ["self", "teacher"])
def test_results_depend_on_no_chunk_and_no_resume(tmp_path: Path, learner: str) -> None:
    small = {**ALBUMS, "kinds": ["subject"], "prompts": 2}
    given = suite(learner, students=("deaf",)[learner == "self" :], albums=small)
    one, several = (by_pieces(given, tmp_path / str(size), size) for size in (1, 5))
    assert one == several
    assert {item.status for item in one[1]} == {"ok"}
    assert all(len(cell.items) % cell.chunk_size == 0 for cell in one[0])  # an album is a chunk
    assert {cell.chunk_size for cell in one[0]} == {mimics.SIZE, 2}


def test_an_album_is_made_once_however_often_it_is_asked_for(tmp_path: Path) -> None:
    given = suite(students=(), albums={**ALBUMS, "kinds": ["subject"], "count": 1})
    scenario = registry.create("scenarios/protection")
    cells = scenario.cells(given)
    shield = next(c for c in cells if c.kind == "protect" and "joint" in c.label)
    with Store.create(tmp_path / "run") as store:
        context = toys.Context(given, TARGETS, store, judge=toys.Reader())
        for name in shield.items:
            scenario.run_chunk(shield, 0, [name], context)
        clean = next(c for c in cells if c.kind == "clean")
        for name in clean.items:
            scenario.run_chunk(clean, 0, [name], context)
    assert len(mimics.PROTECTED) == len(mimics.LEARNT) == 1


def test_a_picture_that_was_not_protected_is_told(tmp_path: Path) -> None:
    given = suite(students=(), albums={**ALBUMS, "kinds": ["subject"], "count": 1})
    scenario = registry.create("scenarios/protection")
    cells = scenario.cells(given)
    attack = next(c for c in cells if c.kind == "attack")
    with Store.create(tmp_path / "run") as store:
        context = toys.Context(given, TARGETS, store, judge=toys.Reader())
        for cell in cells[: cells.index(attack)]:
            items = scenario.run_chunk(cell, 0, cell.items, context)
            if cell.label == attack.after[1]:
                items = [*items[:-1], replace(items[-1], status="failed", success=None,
                                              artifacts=(), error="it broke")]  # fmt: skip
            store.append(cell.label, 0, items, {})
        with pytest.raises(SafetyBenchError, match="was not protected: it broke"):
            scenario.run_chunk(attack, 0, attack.items[:1], context)


def test_edits_and_mimicry_share_a_run(tmp_path: Path) -> None:
    both = suite(
        students=(),
        images={"count": 4},
        edits=[{"name": "attacks/images/sdedit", "options": {"strength": 0.5}}],
    )
    cells = registry.create("scenarios/protection").cells(both)
    assert len({cell.label for cell in cells}) == len(cells) == 2 * (2 + 3)
    with pytest.raises(SafetyBenchError, match="needs 'edits' or 'mimicries'"):
        registry.create("scenarios/protection").cells(suite(mimicries=[]))


# Figures of what comes in albums


def test_students_interval_and_p_between_albums() -> None:
    values = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    found, p = Clusters(("a", "a", "b", "b", "c", "c")).of(values, 0.95)
    assert found is not None
    # Means 1, 0 and 1/2: standard error 0.5 / sqrt(3), t of 2 degrees of freedom 4.3027.
    assert found.high - 0.5 == pytest.approx(4.302653 * 0.5 / 3**0.5, rel=1e-5)
    assert found.high + found.low == pytest.approx(1.0)
    assert p == pytest.approx(0.2254, abs=1e-4)


def test_of_two_intervals_the_hull_and_of_two_p_the_greater() -> None:
    narrow, wide = Interval(0.4, 0.6, 0.95, "x"), Interval(-0.9, 0.9, 0.95, "x")
    values, span = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0], Span(-1.0, 1.0)
    apart = Clusters(("a", "a", "b", "b", "c", "c"))
    found = apart.interval(narrow, values, span)
    assert found.low == pytest.approx(-0.742, abs=1e-3)
    assert (found.high, found.method) == (1.0, "x, clustered-t")
    assert apart.interval(wide, values, span).low == -0.9
    assert (apart.p_value(0.9, values), round(apart.p_value(0.01, values), 3)) == (0.9, 0.225)
    alone = Clusters(("a",) * 6)
    assert alone.interval(narrow, values, span)[:2] == (-1.0, 1.0)
    assert alone.p_value(0.001, values) == 1
    agreed = Clusters(("a", "b", "c"))
    assert (agreed.of([1.0] * 3, 0.95)[1], agreed.p_value(0.25, [1.0] * 3)) == (0, 0.25)
    none = Clusters()
    assert (none.interval(narrow, values, span), none.p_value(0.3, values)) == (narrow, 0.3)


def test_rates_by_album_come_from_the_log() -> None:
    cell = Cell(label="x", subject="s", concept="", role="teacher", target="t", kind="clean")
    items = tuple(
        Item(cell="x", chunk=0, item=f"i{i}", status="ok", success=True, extra={"album": album})
        for i, album in enumerate("aab")
    )
    log, names = CellLog(cell, items), ["i1", "i0"]
    assert clusters(log, ["i2", "i0", "i1"]).albums == ("b", "a", "a")
    assert by_album(log, names, [True, False], [True, True]) == {
        "a": {"n": 2, "rate": 0.5, "noise_rate": 1},
        "b": {"n": 0, "rate": None, "noise_rate": None},
    }
    plain = CellLog(cell, tuple(replace(item, extra={}) for item in items))
    assert clusters(plain, ["i0"]) == Clusters()
    assert by_album(plain, ["i0"], [True], [True]) == {}


# What a suite says


def test_albums_are_the_same_whatever_their_number_and_prompts_are_their_own() -> None:
    few, many = (Albums(AlbumSet(count=c, size=2, prompts=3)) for c in (1, 2))
    assert list(few.names) == ["subject-0", "artist-0"]
    assert list(many.names) == ["subject-0", "subject-1", "artist-0", "artist-1"]
    assert set(few.ids.items()) < set(many.ids.items())
    tasks = many.tasks("<sks>", ("artist",))
    assert {task.album for task in tasks} == {"artist-0", "artist-1"}
    assert len({task.prompt for task in tasks}) == len({t.id for t in tasks}) == 6
    assert all("<sks>" in task.prompt.split() and task.kept for task in tasks)
    assert "<sks>" not in " ".join(many.pictures("artist-0").captions)


def file_of(folder: Path, *, protections: str = "", mimicries: str = "", albums: str = "") -> Path:
    file = folder / "my.yaml"
    named = "{name: defenses/images/sds, budget: {epsilon: 0.06, steps: 2}}"
    lora = "{name: attacks/images/mimicry/dreambooth_lora, budget: {steps: 2}}"
    file.write_text(
        "schema: safetybench.suite/1\nname: my\nscenario: scenarios/protection\n"
        "judge: judges/zoo\nsubjects: [{name: zoo, teacher: 'zoo:teacher'}]\n"
        "students: [{name: dmd2-1, targets: {zoo: 'zoo:dmd2-1'}}]\n"
        f"protections: [{protections or named}]\nalbums: {{{albums}}}\n"
        f"mimicries: [{mimicries or lora}]\n",
        encoding="utf-8",
    )
    return file


LORA = "name: attacks/images/mimicry/dreambooth_lora, budget: {steps: 2}"
INVERSION = "name: attacks/images/mimicry/textual_inversion, budget: {steps: 2}"


@pytest.mark.parametrize(
    ("key", "text", "fault"),
    [
        ("albums", "kinds: [person]", "albums.kinds[0]"),
        ("albums", "count: 0", "albums.count"),
        ("albums", "size: 0", "albums.size"),
        ("mimicries", "{name: attacks/images/sdedit, budget: {steps: 2}}", "is no Mimicry, as mim"),
        ("mimicries", f"{{{INVERSION}, learner: teacher}}", "nothing that can be plugged"),
        ("mimicries", "{name: attacks/images/mimicry/dreambooth_lora}", "needs a budget of steps"),
        ("mimicries", f"{{{LORA}, models: [dmd3]}}", "no model 'dmd3'"),
        ("mimicries", f"{{{LORA}, learner: dmd2-1}}", "mimicries[0].learner"),
        ("mimicries", f"{{{LORA}, options: {{rank: 0}}}}", "must be positive"),
        ("mimicries", f"{{{LORA}, options: {{steps: 4}}}}", "steps is a key of the entry"),
        ("protections", "{name: defenses/images/diffusionguard, budget: {epsilon: 0.06, steps: 2}}",
         "needs masks, and albums have none"),
    ],
)  # fmt: skip
def test_faults_are_told_with_their_line(tmp_path: Path, key: str, text: str, fault: str) -> None:
    file = file_of(tmp_path, **{key: text})
    with pytest.raises(SafetyBenchError, match=r"my\.yaml:\d+: ") as caught:
        load_suite(file)
    assert fault in str(caught.value)


def test_kinds_that_the_suite_has_no_albums_of_are_refused(tmp_path: Path) -> None:
    file = file_of(tmp_path, albums="kinds: [subject]", mimicries=f"{{{LORA}, kinds: [artist]}}")
    with pytest.raises(SafetyBenchError, match="no albums of kind 'artist', but of subject"):
        load_suite(file)
    text = file.read_text(encoding="utf-8").partition("mimicries")[0]
    file.write_text(f"{text}edits: [{{name: attacks/images/sdedit}}]\n", encoding="utf-8")
    with pytest.raises(SafetyBenchError, match="read by mimicries, of which the suite has none"):
        load_suite(file)


def test_a_model_that_lacks_what_a_component_needs_is_refused_unloaded(tmp_path: Path) -> None:
    file = file_of(tmp_path)
    text = file.read_text(encoding="utf-8").replace("'zoo:teacher'", "targets/mock")
    file.write_text(text, encoding="utf-8")

    class Mock:
        def generate(self) -> None: ...

    mimics.COMPONENTS["targets/mock"] = Mock
    try:
        with pytest.raises(SafetyBenchError, match=r"needs a model that is .*Denoises.* 'teacher'"):
            load_suite(file)
    finally:
        del mimics.COMPONENTS["targets/mock"]


@pytest.mark.parametrize("name", ["protection-mimicry", "protection-mimicry-purified"])
def test_the_shipped_suites_are_sound(name: str) -> None:
    found = load_suite(name)
    cells = registry.create("scenarios/protection").cells(found)
    assert {cell.defense["of"] for cell in cells} == {"albums"}


def test_a_run_on_real_models_is_verified_and_resumed(tmp_path: Path) -> None:
    from safetybench.harness import engine
    from safetybench.harness.plan import make_plan

    file = file_of(
        tmp_path,
        albums="kinds: [subject], count: 1, size: 2, prompts: 2",
        mimicries=f"{{{LORA}, learner: teacher, options: {{prior: 0.0, batch: 1, tries: 1}}}}",
    )
    text = file.read_text(encoding="utf-8").replace("zoo:teacher", "zoo:dmd2-1")
    file.write_text(text.replace("{zoo: 'zoo:dmd2-1'}", "{zoo: 'zoo:dmd2-4'}"), encoding="utf-8")
    plan = make_plan(load_suite(file))
    found = engine.run(plan, tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "by album" in page
    assert "stop mimicry beyond noise" in page or "No answer" in page
    assert engine.verify(tmp_path / "run") == []
    assert {row["n_ok"] for row in found.results["cells"]} == {2}
    assert [r["verdict"] for r in found.results["protection"]]
    again = engine.run(plan, tmp_path / "run", resume=True, reports=False)
    assert again.results == found.results


def test_budget_of_an_entry_is_that_of_its_cells() -> None:
    entry = {"name": "attacks/mimic", "budget": {"steps": 7, "seed": 3}}
    cells = registry.create("scenarios/protection").cells(suite(mimicries=[entry]))
    assert {cell.options["steps"] for cell in cells if cell.attack} == {7}
    assert {cell.options["seed"] for cell in cells if cell.attack} == {3}
    assert all(cell.budget == Budget(seed=0) for cell in cells if cell.kind == "attack")
