"""Targets that a run makes by unlearning: once, kept, and known by all that makes them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safetybench import registry
from safetybench.contracts import SafetyBenchError
from safetybench.harness import engine
from safetybench.harness.plan import make_plan
from safetybench.store import read_log
from safetybench.suite import load_suite
from tests import toys_recipe

SUITE = """\
schema: safetybench.suite/1
name: made
scenario: scenarios/unlearning
judge: judges/nudge
device: cpu
prompts: {file: p.csv}
targets:
  no-fish:
    unlearning: unlearning/esd
    teacher: ./original
    concept: fish
    anchor: star
    options: {batch: 2, retain: 0.0}
    steps: 2
subjects:
  - {name: fish, concept: fish, original: ./original, teacher: no-fish}
attacks:
  - {name: attacks/prompts/random_prefix, budget: {images: 2}}
"""
SECOND = """\
  no-fish-or-star:
    {unlearning: unlearning/esd, teacher: no-fish, concept: star, anchor: fish, steps: 1}
"""
STUDENTS = """\
training: {prompts: train.txt}
students:
  - {name: nudge, recipe: recipes/nudge, steps: 2}
  - {name: plugged, plug: {lora: ./lora}}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetybench.targets.lora import save_lora
    from tests.targets import tiny_pipeline, tiny_target
    from tests.test_targets_lora import adapted

    home = tmp_path_factory.mktemp("models")
    tiny_target("teacher").save(home / "original")
    tiny_target("teacher", seed=1).save(home / "other")
    save_lora(adapted(tiny_pipeline().unet), home / "lora")
    return home


@pytest.fixture
def folder(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    site = toys_recipe.install(tmp_path / "site")
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, toys_recipe.MODULE, raising=False)
    home = tmp_path / "suite"
    home.mkdir()
    for name in ("original", "other", "lora"):
        (home / name).symlink_to(models / name)
    rows = [f"{c}-{i},a {c} on a {c},{i},{c}" for c in ("fish", "star") for i in range(2)]
    text = "\n".join(["case_number,prompt,evaluation_seed,concept", *rows])
    (home / "p.csv").write_text(text + "\n")
    (home / "train.txt").write_text("a red fish\na star\n")
    yield home
    sys.modules.pop(toys_recipe.MODULE, None)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of what ESD was asked for: which target, what to forget, steps and seed."""
    method: Any = registry.load("unlearning/esd")
    real, seen = method.run, list[str]()

    def counted(self: Any, target: Any, erasure: Any, budget: Any, report: Any = None) -> Any:
        seen.append(f"{target.lineage[-1]} {erasure.bare[0]} {budget.steps} {budget.seed}")
        return real(self, target, erasure, budget, report)

    monkeypatch.setattr(method, "run", counted)
    return seen


def plan_of(folder: Path, text: str = SUITE) -> Any:
    (folder / "s.yaml").write_text(text)
    return make_plan(load_suite(folder / "s.yaml"))


def kept(run: Path) -> list[str]:
    return sorted(path.name.rpartition("-")[0] for path in (run / "students").iterdir())


# Made once, and kept


def test_a_run_makes_its_teacher_once_and_keeps_it(folder: Path, calls: list[str]) -> None:
    plan, out = plan_of(folder), folder / "run"
    ended = engine.run(plan, out, reports=False)
    assert calls == ["teacher fish 2 1"]
    assert kept(out) == ["no-fish"]
    card = json.loads(next((out / "students").glob("*/card.json")).read_text())
    assert card["lineage"] == ["teacher", "no-fish"]
    told = card["unlearning"]
    assert (told["component"], told["concept"], told["anchor"]) == (
        "unlearning/esd",
        "fish",
        "star",
    )
    assert (told["steps"], told["seed"]) == (2, 1)
    assert eval(told["options"], {"Esd": registry.load("unlearning/esd")}).batch == 2
    assert engine.run(plan, out, reports=False).results == ended.results
    assert len(calls) == 1
    assert engine.verify(out) == []
    assert {item.status for item in read_log(out).items} == {"ok"}


def test_what_is_made_is_what_the_method_makes(folder: Path) -> None:
    import torch

    from safetybench.contracts import Budget
    from safetybench.erasure import erasure_from_words
    from safetybench.targets.loading import load_target

    out = folder / "run"
    engine.run(plan_of(folder), out, reports=False)
    (home,) = (out / "students").iterdir()
    made = load_target(str(home)).unet.state_dict()
    method = registry.create("unlearning/esd", {"batch": 2, "retain": 0.0})
    original = load_target(str(folder / "original"))
    erasure = erasure_from_words("fish", "star")
    wanted = method.run(original, erasure, Budget(steps=2, seed=1)).unet.state_dict()
    assert all(torch.equal(made[name], wanted[name]) for name in wanted)
    moved = {name for name, w in original.unet.state_dict().items() if not made[name].equal(w)}
    assert moved
    assert all(".attn2." in name for name in moved)


def test_a_run_stopped_while_it_makes_one_makes_it_when_resumed(
    folder: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, out = plan_of(folder), folder / "run"
    with monkeypatch.context() as stopped:

        def stop(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        stopped.setattr(registry.load("unlearning/esd"), "run", stop)
        assert engine.run(plan, out, reports=False).exit_code == 130
    assert not list((out / "students").iterdir())
    ended = engine.run(engine.reload(out), out, resume=True, reports=False)
    assert calls == ["teacher fish 2 1"]
    whole = engine.run(plan, folder / "whole", reports=False)
    assert ended.results["cells"][0]["value"] == whole.results["cells"][0]["value"]
    lines = [(run / "items.jsonl").read_bytes() for run in (out, folder / "whole")]
    assert lines[0] == lines[1]


# Chains


def test_one_is_made_of_another_and_students_of_both(folder: Path, calls: list[str]) -> None:
    text = SUITE.replace("subjects:", f"{SECOND}subjects:").replace(
        "teacher: no-fish}", "teacher: no-fish-or-star}"
    )
    out = folder / "run"
    plan = plan_of(folder, text.replace("attacks:", f"{STUDENTS}attacks:"))
    engine.run(plan, out, reports=False)
    assert [call.rpartition(" star")[0] or call for call in calls] == [
        "teacher fish 2 1", "no-fish"
    ]  # fmt: skip
    assert kept(out) == ["no-fish", "no-fish-or-star", "nudge.fish.seed1"]
    cards = {path.parent.name.rpartition("-")[0]: json.loads(path.read_text())
             for path in (out / "students").glob("*/card.json")}  # fmt: skip
    lineage = ["teacher", "no-fish", "no-fish-or-star"]
    assert cards["no-fish-or-star"]["lineage"] == lineage
    assert cards["nudge.fish.seed1"]["lineage"] == [*lineage, "nudge.fish.seed1"]
    items = read_log(out).items
    students = {i.cell.split(".")[2] for i in items if ".student." in i.cell}
    assert students == {"nudge", "plugged"}
    assert {i.status for i in items} == {"ok"}
    assert engine.verify(out) == []


# Known by all that makes it


def test_the_key_is_all_that_makes_it(folder: Path) -> None:
    def key(text: str = SUITE) -> str:
        return str(plan_of(folder, text).targets["no-fish"]["digest"])

    first = key()
    assert key() == first
    assert (
        key(SUITE.replace("    steps: 2", "    steps: 2\n    seed: 1\n    prompts: 512")) == first
    )
    changes = [
        ("batch: 2", "batch: 3"),
        ("retain: 0.0", "retain: 0.5"),
        ("    steps: 2", "    steps: 3"),
        ("    steps: 2", "    steps: 2\n    seed: 2"),
        ("    concept: fish", "    concept: a fish"),
        ("    anchor: star", "    anchor: moon"),
        ("    teacher: ./original", "    teacher: ./other"),
        ("unlearning/esd", "unlearning/concept_ablation"),
    ]
    found = {key(SUITE.replace(old, new)) for old, new in changes}
    assert len({first, *found}) == 1 + len(changes)


def test_what_is_made_of_it_has_another_key_too(folder: Path) -> None:
    text = SUITE.replace("attacks:", f"{STUDENTS}attacks:")
    before, after = (
        plan_of(folder, t) for t in (text, text.replace("    steps: 2", "    steps: 3"))
    )
    made = [label for label in before.targets if label != "./original"]
    assert sorted(made) == ["no-fish", "nudge.fish.seed1", "plugged.fish"]
    for label in made:
        assert before.targets[label]["digest"] != after.targets[label]["digest"]
    assert before.targets["./original"] == after.targets["./original"]
    roles = {cell.label: cell.role for cell in before.cells}
    assert {before.keys[label] == after.keys[label] for label in roles} == {False}


# What goes wrong


def test_a_method_that_fails_takes_its_own_cells_along_and_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError(f"cannot divide, see {folder}/notes.txt")

    monkeypatch.setattr(registry.load("unlearning/esd"), "run", fail)
    more = "  - {name: other, concept: fish, original: ./original, teacher: ./other}\nattacks:"
    out = folder / "run"
    ended = engine.run(plan_of(folder, SUITE.replace("attacks:", more)), out, reports=False)
    items = read_log(out).items
    failed = {i.cell for i in items if i.status == "failed"}
    assert failed == {i.cell for i in items if i.cell.startswith("fish.teacher.")}
    assert len(failed) == 6
    (error,) = {i.error for i in items if i.status == "failed"}
    assert error.startswith("no-fish could not be trained: ZeroDivisionError: cannot divide, see ")
    assert str(folder) not in json.dumps(ended.results) + error
    assert ended.exit_code == 6
    assert engine.verify(out) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("unlearning: unlearning/esd", "unlearning: unlearning/esx",
         "my.yaml:9: no component is called 'unlearning/esx'; did you mean 'unlearning/esd'?"),
        ("unlearning: unlearning/esd", "unlearning: recipes/dmd2",
         "my.yaml:9: 'recipes/dmd2' is no component of kind unlearning"),
        ("steps: 2", "steps: 0", "my.yaml:9: unlearning/esd trains, so it needs steps, 1 or more"),
        ("options: {batch: 2, ", "options: {batches: 2, ", "my.yaml:9: "),
        ("options: {batch: 2, ", "options: {batch: 0, ", "my.yaml:9: "),
        ("teacher: ./original\n", "teacher: no-fish\n",
         "my.yaml:10: target 'no-fish' would be made from itself"),
        ("teacher: ./original\n", "teacher: ./none\n", "my.yaml:10: "),
        ("concept: fish\n    anchor: star", "concept: fish\n    anchor: a fish",
         "my.yaml:11: the anchor is what takes the concept's place and must not name it, got "
         "'a fish' for 'fish'"),
        ("steps: 2", "steps: -2", "my.yaml:14: target 'no-fish': steps: "),
        ("steps: 2", "step: 2", "my.yaml:14: target 'no-fish': step: "),
        ("    anchor: star\n", "", "my.yaml:8: target 'no-fish': anchor: field required"),
        ("    unlearning: unlearning/esd\n", "",
         "my.yaml:8: target 'no-fish': unlearning: field required"),
    ],
)  # fmt: skip
def test_every_fault_is_told_with_its_line(folder: Path, old: str, new: str, fault: str) -> None:
    assert SUITE.count(old) == 1
    (folder / "my.yaml").write_text(SUITE.replace(old, new))
    with pytest.raises(SafetyBenchError) as refused:
        load_suite(folder / "my.yaml")
    told = re.sub(r"^.*/", "", str(refused.value).splitlines()[0].partition(": ")[0])
    assert f"{told}: {str(refused.value).splitlines()[0].partition(': ')[2]}".startswith(fault)


def test_two_that_are_made_of_each_other_are_refused(folder: Path) -> None:
    text = SUITE.replace("subjects:", f"{SECOND}subjects:").replace(
        "    teacher: ./original", "    teacher: no-fish-or-star"
    )
    (folder / "my.yaml").write_text(text)
    with pytest.raises(SafetyBenchError, match="would be made from itself"):
        load_suite(folder / "my.yaml")


def shared_texts(out: Path) -> list[str]:
    files = [p for p in out.rglob("*") if p.is_file() and not p.name.startswith(".")]
    return [p.read_text() for p in files if p.suffix in (".json", ".jsonl", ".html", ".md")]


def test_a_path_behind_a_label_stays_with_the_user(folder: Path) -> None:
    text = SUITE.replace("./original", "base").replace(
        "targets:", f"targets:\n  base: {folder / 'original'}"
    )
    plan, out = plan_of(folder, text), folder / "run"
    relative = plan_of(folder)
    assert plan.targets["no-fish"]["digest"] == relative.targets["no-fish"]["digest"]
    engine.run(plan, out)
    texts = shared_texts(out)
    assert len(texts) > 5
    assert not [text for text in texts if str(folder) in text]
    # It is made in the run's folder, so that the run may be moved.
    moved = out.rename(folder / "moved")
    assert engine.verify(moved) == []


def test_a_path_that_a_target_is_made_from_stays_with_the_user(folder: Path) -> None:
    plan = plan_of(folder, SUITE.replace("./original", str(folder / "original")))
    assert str(folder) not in json.dumps(plan.to_json())
