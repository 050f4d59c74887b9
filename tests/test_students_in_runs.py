"""Students that a run trains: once, resumable, atomically kept, and none takes the others along."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safetybench.contracts import SafetyBenchError, TargetFailed, Unavailable
from safetybench.distill.checkpoint import CheckpointFailed
from safetybench.harness import engine, training
from safetybench.harness.plan import make_plan
from safetybench.harness.progress import Silent
from safetybench.store import StoreError, read_log
from safetybench.suite import load_suite
from tests import toys_recipe

SUITE = """\
schema: safetybench.suite/1
name: nudged
scenario: scenarios/transfer
judge: judges/nudge
device: cpu
prompts: {file: p.csv}
subjects:
  - {name: fish, concept: fish, original: ./original, teacher: ./teacher}
training: {seeds: [1, 2], prompts: train.txt}
students:
  - {name: nudge, recipe: recipes/nudge, steps: 3}
  - {name: still, targets: {fish: ./teacher}}
"""
FAILING = "  - {name: fails, recipe: recipes/nudge, options: {fails: true}, steps: 3}\n"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.targets import tiny_target

    home = tmp_path_factory.mktemp("models")
    tiny_target("teacher").save(home / "original")
    tiny_target("teacher", seed=1).save(home / "teacher")
    return home


@pytest.fixture
def folder(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    site = toys_recipe.install(tmp_path / "site")
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, toys_recipe.MODULE, raising=False)
    home = tmp_path / "suite"
    home.mkdir()
    for name in ("original", "teacher"):
        (home / name).symlink_to(models / name)
    rows = [f"{c}-{i},a {c} {i},{i},{c}" for c in ("fish", "star") for i in range(3)]
    text = "\n".join(["case_number,prompt,evaluation_seed,concept", *rows])
    (home / "p.csv").write_text(text + "\n")
    (home / "train.txt").write_text("a red fish\na star\n")
    monkeypatch.setenv("NUDGE_CALLS", str(home / "calls"))
    yield home
    sys.modules.pop(toys_recipe.MODULE, None)


def plan_of(folder: Path, text: str = SUITE) -> Any:
    (folder / "s.yaml").write_text(text)
    return make_plan(load_suite(folder / "s.yaml"))


def calls(folder: Path) -> list[str]:
    file = folder / "calls"
    return file.read_text().splitlines() if file.exists() else []


def kept(run: Path) -> list[str]:
    return sorted(path.name.rpartition("-")[0] for path in (run / "students").iterdir())


def test_a_run_trains_its_students_once_and_keeps_them(folder: Path) -> None:
    plan, out = plan_of(folder), folder / "run"
    ended = engine.run(plan, out, reports=False)
    assert calls(folder) == ["teacher 2 1 0", "teacher 2 2 0"]
    assert kept(out) == ["nudge.fish.seed1", "nudge.fish.seed2"]
    card = json.loads(next((out / "students").glob("nudge.fish.seed1-*/card.json")).read_text())
    assert card["lineage"] == ["teacher", "nudge.fish.seed1"]
    assert card["recipe"]["steps"] == 3
    assert card["traits"]["shared_with_teacher"] == ["text_encoder", "vae"]
    assert card["key"] == plan.targets["nudge.fish.seed1"]["digest"]
    assert str(folder) not in json.dumps([ended.results, plan.to_json(), card])
    engine.run(plan, out, reports=False)
    assert len(calls(folder)) == 2
    assert engine.verify(out) == []
    pairs = {p["student"]["name"]: p for p in ended.results["pairs"] if p["metric"] == "asr"}
    assert len(pairs["nudge"]["trainings"]) == 2
    traits = pairs["nudge"]["traits"]
    assert (traits["data"], traits["prompts"], traits["naming"]) == ("none", 2, 1)


def test_a_killed_training_goes_on_from_its_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, out = plan_of(folder), folder / "run"
    monkeypatch.setenv("NUDGE_STOP", "2")
    assert engine.run(plan, out, reports=False).exit_code == 130
    assert calls(folder) == ["teacher 2 1 0"]
    monkeypatch.delenv("NUDGE_STOP")
    ended = engine.run(engine.reload(out), out, resume=True, reports=False)
    assert calls(folder)[1:] == ["teacher 2 1 2", "teacher 2 2 0"]
    assert kept(out) == ["nudge.fish.seed1", "nudge.fish.seed2"]  # and no checkpoint
    whole = engine.run(plan, folder / "whole", reports=False)
    assert ended.results["pairs"] == whole.results["pairs"]
    lines = [(run / "items.jsonl").read_bytes() for run in (out, folder / "whole")]
    assert lines[0] == lines[1]


def test_a_student_is_there_whole_or_not_at_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetybench.targets.text_to_image import TextToImage

    plan, out = plan_of(folder), folder / "run"
    save = TextToImage.save

    def full(self: Any, path: Path, *rest: Any) -> Any:
        path.mkdir(parents=True)
        (path / "card.json").write_text("{}")
        raise SafetyBenchError("could not save the target: no space left on device")

    monkeypatch.setattr(TextToImage, "save", full)
    ended = engine.run(plan, out, reports=False)
    assert ended.exit_code == 4
    assert "cannot keep the student nudge.fish.seed1-" in ended.reason
    assert all(path.name.endswith(".checkpoint") for path in (out / "students").iterdir())
    monkeypatch.setattr(TextToImage, "save", save)
    engine.run(plan, out, reports=False)
    assert engine.verify(out) == []


def test_a_training_that_fails_takes_no_other_along(folder: Path) -> None:
    said: list[str] = []

    class Tell(Silent):
        def say(self, message: str) -> None:
            said.append(message)

        def within(self, message: str) -> None:
            said.append(message)

    out = folder / "run"
    plan = plan_of(folder, SUITE.replace("  - {name: still", f"{FAILING}  - {{name: still"))
    ended = engine.run(plan, out, progress=Tell(), reports=False)
    assert len(calls(folder)) == 4  # two of each; a failure is not tried again for each cell
    items = read_log(out).items
    failed = {i.cell for i in items if i.status == "failed"}
    assert failed == {
        f"fish.student.fails.seed{s}.{kind}"
        for s in (1, 2)
        for kind in ("clean", "utility", "floor")
    }
    errors = {i.error for i in items if i.status == "failed"}
    assert errors == {
        f"fails.fish.seed{s} could not be trained: ZeroDivisionError: cannot divide, see notes.txt"
        for s in (1, 2)
    }
    pairs = {p["student"]["name"]: p for p in ended.results["pairs"] if p["metric"] == "asr"}
    assert pairs["fails"]["verdict"] == "invalid"
    assert len(ended.results["transfer"]) == 3
    assert engine.verify(out) == []
    assert "training nudge.fish.seed1: step 1, loss 0.5" in said


def raises(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(sys.modules[toys_recipe.MODULE].Nudge, "run", run)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Unavailable("install peft"), "install peft"),
        (
            ModuleNotFoundError("No module named 'peft'"),
            "nudge.fish.seed1 could not be trained: ModuleNotFoundError: No module named 'peft'; "
            "install it, then resume the run",
        ),
        (CheckpointFailed("x"), "nudge.fish.seed1 could not be trained: CheckpointFailed: x"),
        (StoreError("cannot write"), "cannot write"),
        (OSError("disk"), "nudge.fish.seed1 could not be trained: OSError: disk"),
        (
            MemoryError("40 GB"),
            "nudge.fish.seed1 could not be trained: MemoryError: 40 GB; free memory or choose a "
            "smaller batch",
        ),
        (
            RuntimeError("CUDA out of memory"),
            "nudge.fish.seed1 could not be trained: RuntimeError: CUDA out of memory; free memory "
            "or choose a smaller batch",
        ),
    ],
)
def test_what_is_no_fault_of_a_recipe_is_not_recorded_as_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    spec = plan_of(folder).suite.spec("nudge.fish.seed1")
    raises(monkeypatch, error)
    shop = training.Workshop(folder=folder / "run", device=None)  # type: ignore[arg-type]  # not used
    monkeypatch.setattr("safetybench.harness.models.open_target", lambda *_, **__: object())
    with pytest.raises(SafetyBenchError) as stopped:
        shop.make("nudge.fish.seed1", spec, "0" * 12)
    assert str(stopped.value) == message
    assert not isinstance(stopped.value, training.NotTrained)


def test_a_run_that_lacked_something_trains_when_it_is_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, out = plan_of(folder), folder / "run"
    with monkeypatch.context() as lacking:
        raises(lacking, Unavailable("install peft"))
        with pytest.raises(Unavailable, match="install peft"):
            engine.run(plan, out, reports=False)
        raises(lacking, CheckpointFailed("no space left"))
        ended = engine.run(plan, out, reports=False)
        assert (ended.exit_code, ended.results) == (4, {})
        assert "CheckpointFailed: no space left" in ended.reason
    assert not [item for item in read_log(out).items if item.status == "failed"]
    assert engine.run(plan, out, reports=False).exit_code != 4
    assert len(calls(folder)) == 2
    assert engine.verify(out) == []


def test_a_teacher_that_cannot_be_loaded_stops_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    spec = plan_of(folder).suite.spec("nudge.fish.seed1")
    shop = training.Workshop(folder=folder / "run", device=None)  # type: ignore[arg-type]  # not used
    monkeypatch.setattr("safetybench.harness.models.open_target", broken)
    with pytest.raises(TargetFailed, match="the teacher of x cannot be loaded") as stopped:
        shop.make("x", spec, "0" * 12)
    assert not isinstance(stopped.value, training.NotTrained)


def test_networks_are_those_of_every_pipeline() -> None:
    assert training.NETWORKS == ("text_encoder", "text_encoder_2", "unet", "vae")


def test_the_key_of_a_student_is_all_that_makes_it(folder: Path) -> None:
    plan = plan_of(folder)
    digests = {plan.targets["nudge.fish.seed1"]["digest"]}
    for old, new in (
        ("steps: 3", "steps: 4"),
        ("seeds: [1, 2]", "seeds: [1]"),
        ("recipes/nudge, ", "recipes/nudge, options: {by: 0.02}, "),
        ("teacher: ./teacher", "teacher: ./original"),
    ):
        changed = plan_of(folder, SUITE.replace(old, new, 1))
        digests.add(changed.targets["nudge.fish.seed1"]["digest"])
    assert len(digests) == 4  # fewer seeds make the same student
    (folder / "train.txt").write_text("a red fish\na heart\n")
    assert plan_of(folder).targets["nudge.fish.seed1"]["digest"] not in digests


def test_a_changed_recipe_is_no_resumed_run(folder: Path) -> None:
    out = folder / "run"
    engine.run(plan_of(folder), out, reports=False)
    with pytest.raises(SafetyBenchError, match="was started with another plan") as refused:
        engine.run(plan_of(folder, SUITE.replace("steps: 3", "steps: 4")), out)
    assert "suite.students[nudge].steps: 3 -> 4" in str(refused.value)


def test_the_plan_tells_what_would_be_trained(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetybench.commands.plan_table import print_plan

    plan = plan_of(folder)
    assert len(training.planned(plan.targets)) == 2
    print_plan(plan, as_json=False)
    assert "\n2 models to train, 6 steps in all\n" in capsys.readouterr().out
    assert calls(folder) == []


def test_a_full_disk_below_the_students_stops_the_run(folder: Path) -> None:
    plan, out = plan_of(folder), folder / "run"
    out.mkdir()
    shop = training.Workshop(folder=out / "file", device=None)  # type: ignore[arg-type]  # not used
    (out / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot create students: "):
        shop.make("x", plan.suite.spec("nudge.fish.seed1"), "0" * 12)
