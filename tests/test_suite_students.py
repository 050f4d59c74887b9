"""Students in suite files: what they stand for, and every fault with its line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from safetybench import session
from safetybench.contracts import SafetyBenchError
from safetybench.suite import Suite, load_suite
from tests import toys_recipe
from tests.toys import install

GOOD = """\
schema: safetybench.suite/1
name: small
scenario: scenarios/transfer
judge: judges/toy
prompts: {count: 4, seed: 101}
subjects:
  - {name: fish, concept: fish, original: zoo:teacher, teacher: zoo:ca-fish}
  - {name: glow, concept: glowing, original: zoo:teacher, teacher: zoo:esd-glowing}
training: {seeds: [1, 2], prompts: 64, images: {count: 8, without_concept: true}}
students:
  - {name: nudge, recipe: recipes/nudge, options: {by: 0.5}, steps: 3, control: zoo:teacher}
  - {name: mine, targets: {fish: zoo:ca-fish-dmd, glow: {path: zoo:esd-glowing, steps: 4}}}
gates:
  - {metric: came-back, student: nudge, below: 0.2}
reports: [reports/toy]
"""


@pytest.fixture(autouse=True)
def components(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module, site in (
        ("toycore", install(tmp_path / "a")),
        (toys_recipe.MODULE, toys_recipe.install(tmp_path / "b")),
    ):
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, module, raising=False)
    yield
    for module in ("toycore", toys_recipe.MODULE):
        sys.modules.pop(module, None)


def write(folder: Path, text: str) -> Path:
    file = folder / "my.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def refused(file: Path) -> list[str]:
    with pytest.raises(SafetyBenchError) as caught:
        load_suite(file)
    return str(caught.value).replace(f"{file.parent}/", "").splitlines()


def test_a_good_suite(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, GOOD))
    found = [(m.entry, m.subject, m.role, m.label, m.seed) for m in suite.made]
    mine = suite.students[1].targets["glow"]
    assert mine.startswith("zoo-esd-glowing@")
    assert found == [
        ("nudge", "fish", "student", "nudge.fish.seed1", 1),
        ("nudge", "fish", "student", "nudge.fish.seed2", 2),
        ("nudge", "fish", "control", "zoo:teacher", 0),
        ("nudge", "glow", "student", "nudge.glow.seed1", 1),
        ("nudge", "glow", "student", "nudge.glow.seed2", 2),
        ("nudge", "glow", "control", "zoo:teacher", 0),
        ("mine", "fish", "student", "zoo:ca-fish-dmd", 0),
        ("mine", "glow", "student", mine, 0),
    ]
    assert suite.spec("nudge.glow.seed2") == {
        "recipe": "recipes/nudge",
        "options": {"by": 0.5},
        "teacher": "zoo:esd-glowing",
        "steps": 3,
        "seed": 2,
        "prompts": 64,
        "images": {"count": 8, "without": "glowing"},
    }
    assert suite.spec(mine) == {"path": "zoo:esd-glowing", "steps": 4}
    assert Suite.from_json(suite.to_json(), suite.base) == suite


def test_controls_of_several_subjects_are_one_unless_they_differ(tmp_path: Path) -> None:
    text = GOOD.replace(", control: zoo:teacher", "").replace("seeds:", "controls: true, seeds:")
    for old, labels in (
        ("", {"nudge.original", "nudge.original-2"}),  # images without each concept
        ("without_concept: true", {"nudge.original"}),
    ):
        suite = load_suite(
            write(tmp_path, text.replace(old, "without_concept: false") if old else text)
        )
        assert {m.label for m in suite.made if m.role == "control"} == labels


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("recipes/nudge", "recipes/nugde",
         "my.yaml:11: no component is called 'recipes/nugde'; did you mean 'recipes/nudge'? "
         "`safetybench list recipes` shows all"),
        ("recipes/nudge", "judges/nudge",
         "my.yaml:11: 'judges/nudge' is no component of kind recipes"),
        ("by: 0.5", "bye: 0.5",
         "my.yaml:11: recipes/nudge has no option 'bye'; did you mean 'by'? "
         "it takes by, fails, reads"),
        ("by: 0.5", "by: -1", "my.yaml:11: recipes/nudge: by must be positive, got -1"),
        (", steps: 3", "", "my.yaml:11: nudge needs steps, 1 or more"),
        ("steps: 3", "steps: many",
         "my.yaml:11: students[0].steps must be a whole number, got 'many'"),
        ("recipe: recipes/nudge, ", "",
         "my.yaml:11: students[0] needs one of recipe, plug, targets, got none of them"),
        ("steps: 3", "steps: 3, plug: {lora: zoo:x}",
         "my.yaml:11: students[0] needs one of recipe, plug, targets, got recipe and plug"),
        ("steps: 3", "stpes: 3", "my.yaml:11: unknown key 'stpes'; did you mean 'steps'?"),
        ("name: mine", "name: mine, steps: 2",
         "my.yaml:12: students[1].steps is for a recipe, not for targets"),
        ("{fish: zoo:ca-fish-dmd,", "{fsh: zoo:ca-fish-dmd,",
         "my.yaml:12: the suite has no subject 'fsh'; did you mean 'fish'?"),
        ("zoo:ca-fish-dmd", "zoo:ca-fihs-dmd", None),
        ("control: zoo:teacher", "control: zoo:teahcer", None),
        ("name: mine", "name: nudge", "my.yaml:12: the student name 'nudge' stands twice"),
        ("name: mine", "name: My own", None),
        ("seeds: [1, 2]", "seeds: [1, 2, 1]",
         "my.yaml:9: training.seeds has 1 twice: that is one training"),
        ("by: 0.5", "by: [x]",
         "my.yaml:11: recipes/nudge: '<=' not supported between instances of 'tuple' and 'int'"),
        ("seeds: [1, 2]", "seeds: []", "my.yaml:9: training.seeds must not be empty"),
        ("seeds: [1, 2]", "sedes: [1, 2]", "my.yaml:9: unknown key 'sedes'; did you mean 'seeds'?"),
        ("prompts: 64", "prompts: 0",
         "my.yaml:9: training.prompts: a count of 1 or more, or a text file, got 0"),
        ("prompts: 64", "prompts: no.txt",
         "my.yaml:9: there is no file 'no.txt'"),
        ("steps: 3", "steps: 3, prompts: no.txt",
         "my.yaml:11: there is no file 'no.txt'"),
        ("count: 8", "count: 0", None),
        ("without_concept", "without_concpet",
         "my.yaml:9: unknown key 'without_concpet'; did you mean 'without_concept'?"),
        ("student: nudge", "student: nugde",
         "my.yaml:14: the suite has no student 'nugde'; did you mean 'nudge'?"),
        ("below: 0.2", "below: 0.2, level: 0.9",
         "my.yaml:14: a gate on came-back has level 0.95, got 0.9"),
        ("teacher: zoo:ca-fish}", "teacher: zoo:ca-fish, student: zoo:ca-fish-dmd}",
         "my.yaml:7: scenarios/transfer reads students, not this"),
        ("gates:", "attacks:\n  - {name: attacks/toy}\ngates:",
         "my.yaml:13: scenarios/transfer reads students and no attacks"),
    ],
)  # fmt: skip
def test_faults_are_told_with_their_line(
    tmp_path: Path, old: str, new: str, fault: str | None
) -> None:
    assert old in GOOD
    found = refused(write(tmp_path, GOOD.replace(old, new, 1)))
    if fault is None:
        assert len(found) == 1
        assert found[0].startswith("my.yaml:")
    else:
        assert found == [fault]


def test_another_scenario_reads_no_students(tmp_path: Path) -> None:
    assert refused(write(tmp_path, GOOD.replace("scenarios/transfer", "scenarios/toy"))) == [
        "my.yaml:1: suite needs 'attacks'",
        "my.yaml:10: scenarios/toy reads attacks and no students",
        "my.yaml:9: scenarios/toy reads attacks and no training",
    ]


def test_a_suite_without_students(tmp_path: Path) -> None:
    head, _, tail = GOOD.partition("students:\n")
    rest = "reports:" + tail.partition("reports:")[2]
    assert refused(write(tmp_path, head + rest)) == ["my.yaml:1: suite needs 'students'"]
    assert refused(write(tmp_path, f"{head}students: []\n{rest}")) == [
        "my.yaml:10: students must not be empty"
    ]


def test_real_images_and_counted_prompts_are_the_zoos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetybench.harness import models

    monkeypatch.setattr(models, "check", lambda spec, offline: None)
    text = GOOD.replace("original: zoo:teacher", "original: org/model")
    assert refused(write(tmp_path, text)) == [
        "my.yaml:9: training prompts need a text file, as not every original is of the zoo"
    ]
    (tmp_path / "t.txt").write_text("a church\n")
    text = text.replace("prompts: 64", "prompts: t.txt")
    load_suite(write(tmp_path, text))
    assert refused(write(tmp_path, text.replace("by: 0.5", "reads: true"))) == [
        "my.yaml:11: recipes/nudge reads real images with these options, and real images are there "
        "for the zoo's world only"
    ]


@pytest.mark.parametrize(("content", "fault"), [
    (b"caf\xe9\n", "'t.txt' is not UTF-8 at byte 3; convert it first"),
    (b"\n# a fish\n", "'t.txt' holds only comments and blank lines; write one prompt a line"),
])  # fmt: skip
def test_files_of_training_prompts(tmp_path: Path, content: bytes, fault: str) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    assert refused(write(tmp_path, GOOD.replace("prompts: 64", "prompts: t.txt"))) == [
        f"my.yaml:9: {fault}"
    ]


def test_labels_that_would_meet_are_refused(tmp_path: Path) -> None:
    text = GOOD.replace("training:", "targets: {nudge.fish.seed1: zoo:ca-fish}\ntraining:")
    assert refused(write(tmp_path, text)) == [
        "my.yaml:12: two targets would be called 'nudge.fish.seed1'; choose another name"
    ]


def test_private_paths_of_students_stay_out_of_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetybench.harness import models

    monkeypatch.setattr(models, "check", lambda spec, offline: None)
    text = GOOD.replace("zoo:ca-fish-dmd", f"{tmp_path}/secret/student")
    text = text.replace("control: zoo:teacher", f"control: {tmp_path}/secret/able")
    suite = load_suite(write(tmp_path, text))
    labels = [made.label for made in suite.made]
    assert not any(str(tmp_path) in label for label in labels)
    assert suite.spec(suite.students[1].targets["fish"]) == f"{tmp_path}/secret/student"
    assert suite.spec(suite.students[0].control) == f"{tmp_path}/secret/able"


def test_plugs_of_every_shape_are_made_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetybench.harness import models

    monkeypatch.setattr(models, "check", lambda spec, offline: None)
    plug = "plug: {lora: {path: ./fast, scale: 0.5}, adapter: ./more}"
    text = GOOD.replace("recipe: recipes/nudge, options: {by: 0.5}, steps: 3", plug)
    teacher = "teacher: {path: zoo:ca-fish, steps: 2, lora: ./first}}"
    text = text.replace("teacher: zoo:ca-fish}", teacher)
    suite = load_suite(write(tmp_path, text))
    assert suite.spec(suite.subjects[0].teacher) == {
        "path": "zoo:ca-fish",
        "steps": 2,
        "lora": str(tmp_path / "first"),
    }
    assert suite.spec("nudge.fish") == {
        "path": "zoo:ca-fish",
        "steps": 2,
        "lora": {"path": str(tmp_path / "fast"), "scale": 0.5},
        "adapter": str(tmp_path / "more"),
    }


def test_a_chosen_subject_keeps_its_students(tmp_path: Path) -> None:
    file = str(write(tmp_path, GOOD))
    suite = session.resolve(session.Request(suite=file, targets=("zoo:ca-fish",)))
    assert [subject.name for subject in suite.subjects] == ["fish"]
    assert list(suite.students[1].targets) == ["fish"]
    with pytest.raises(SafetyBenchError, match="reads students and no attacks"):
        session.resolve(session.Request(suite=file, attacks=("toy",)))
