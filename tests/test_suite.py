"""Suite files: what is right is read, and every fault is told with its line and what was meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safetybench import registry
from safetybench.contracts import Budget, SafetyBenchError
from safetybench.suite import Suite, builtin_suites, load_suite

pytestmark = pytest.mark.usefixtures("toys")

GOOD = """\
schema: safetybench.suite/1
name: small
title: A small one
scenario: scenarios/toy
judge: judges/toy
prompts: {count: 4, seed: 101}
subjects:
  - {name: fish, concept: fish, original: targets/toy, teacher: targets/toy, student: targets/toy}
  - name: cat
    concept: cat
    original: targets/toy
    teacher: {component: targets/toy, options: {name: other}}
attacks:
  - name: attacks/toy
    options: {word: now}
    budget: {steps: 4, images: 11, epsilon: 1}
gates:
  - {metric: asr, role: student, attack: attacks/toy, below: 0.5, level: 0.9}
reports: [reports/toy]
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "my.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def refused(file: Path) -> list[str]:
    with pytest.raises(SafetyBenchError) as caught:
        load_suite(file)
    return str(caught.value).replace(f"{file.parent}/", "").splitlines()


def test_blur_is_off_unless_the_suite_or_a_subject_says_so(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, GOOD))
    assert not suite.blur
    assert not any(subject.blur for subject in suite.subjects)
    text = GOOD.replace("reports:", "blur: true\nreports:").replace(
        "concept: cat\n", "concept: cat\n    blur: true\n"
    )
    suite = load_suite(write(tmp_path, text))
    assert suite.to_json()["blur"] is True
    assert [subject["blur"] for subject in suite.to_json()["subjects"]] == [False, True]
    file = write(tmp_path, text.replace("blur: true\nreports", "blur: 'yes'\nreports"))
    assert refused(file) == ["my.yaml:20: blur must be true or false, got 'yes'"]


def test_a_good_suite(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, GOOD))
    assert suite.attacks[0].budget == Budget(steps=4, images=11, epsilon=1)
    assert type(suite.attacks[0].budget) is Budget
    assert suite.subjects[0].roles == dict.fromkeys(
        ("original", "teacher", "student"), "targets/toy"
    )
    assert list(suite.subject("cat").roles) == ["original", "teacher"]
    label = suite.subject("cat").teacher
    assert label.startswith("toy@")
    assert suite.spec(label) == {"component": "targets/toy", "options": {"name": "other"}}
    assert (suite.seeds, suite.device, suite.gates[0].level) == ((0,), "auto", 0.9)
    again = Suite.from_json(json.loads(json.dumps(suite.to_json())), suite.base)
    assert again == suite
    assert str(tmp_path) not in json.dumps(suite.to_json())


@pytest.mark.parametrize(
    ("old", "new", "faults"),
    [
        (
            "steps: 4",
            "stepps: 4",
            [
                "my.yaml:16: attacks[0].budget: unknown key 'stepps'; did you mean 'steps'?",
            ],
        ),
        (
            "steps: 4",
            "steps: four",
            ["my.yaml:16: attacks[0].budget: steps must be a whole number, got 'four'"],
        ),
        (
            "steps: 4",
            "steps: -4",
            ["my.yaml:16: attacks[0].budget: steps must be 0 or more, got -4"],
        ),
        ("title:", "titel:", ["my.yaml:3: unknown key 'titel'; did you mean 'title'?"]),
        (
            "    concept: cat\n",
            "    concpt: cat\n",
            [
                "my.yaml:10: unknown key 'concpt'; did you mean 'concept'?",
            ],
        ),
        ("    concept: cat\n", "", ["my.yaml:9: subjects[1] needs 'concept'"]),
        (
            "name: attacks/toy",
            "name: attacks/tyo",
            [
                "my.yaml:14: no component is called 'attacks/tyo'; did you mean 'attacks/toy'? "
                "`safetybench list attacks` shows all",
                "my.yaml:18: the suite has no attack 'attacks/toy'; did you mean 'attacks/tyo'?",
            ],
        ),
        (
            "judge: judges/toy",
            "judge: attacks/toy",
            ["my.yaml:5: 'attacks/toy' is no component of kind judges"],
        ),
        (
            "options: {word: now}",
            "options: {words: now}",
            [
                "my.yaml:14: attacks/toy has no option 'words'; did you mean 'word'? "
                "it takes word, times"
            ],
        ),
        (
            "count: 4",
            "count: 4, count: 5",
            ["my.yaml:6: the key 'count' stands twice, first on line 6"],
        ),
        (
            "reports: [reports/toy]",
            "reports: reports/toy",
            ["my.yaml:19: reports must be a list, got 'reports/toy'"],
        ),
        ("title: A small one", "title: 3", ["my.yaml:3: title must be text, got 3"]),
        ("name: small", "name: Small one", None),
        (
            "below: 0.5",
            "below: 1.5",
            ["my.yaml:18: gates[0].below should be less than or equal to 1, got 1.5"],
        ),
        ("below: 0.5", "below: .nan", None),
        ("safetybench.suite/1", "safetybench.suite/2", None),
        ("title: A small one", "device: gpu", None),
        ("title: A small one", "seeds: []", ["my.yaml:3: seeds must not be empty"]),
        (
            "  - name: cat",
            "  - name: fish",
            ["my.yaml:9: the subject name 'fish' stands twice"],
        ),
        (
            "original: targets/toy\n",
            "original: zoo:no-such\n",
            None,
        ),
        ("role: student", "role: pupil", None),
        (
            "concept: cat",
            "concept: cst",
            [
                "my.yaml:10: judges/toy cannot see 'cst'; did you mean 'cat'? it sees fish, cat, "
                "glowing, star"
            ],
        ),
        (
            "concept: cat",
            "concept: cat\n    neighbours: [dog]",
            ["my.yaml:11: judges/toy cannot see 'dog'; it sees fish, cat, glowing, star"],
        ),
        (
            "options: {word: now}",
            "options: {word: now}\n    models: [pupil]",
            ["my.yaml:16: the suite has no model 'pupil' to attack"],
        ),
        (
            "options: {word: now}",
            "options: {word: now}\n    subjects: [fsh]",
            ["my.yaml:16: the suite has no subject 'fsh'; did you mean 'fish'?"],
        ),
        (
            "role: student",
            "role: student, subject: fsh",
            ["my.yaml:18: the suite has no subject 'fsh'; did you mean 'fish'?"],
        ),
        ("title: A small one", "base: /", ["my.yaml:3: unknown key 'base'"]),
        ("title: A small one", "title: !!python/object/apply:os.system [echo]", None),
        ("title: A small one", "title: [unclosed", None),
        ("title: A small one", "? [a, b]\n: c", ["my.yaml:3: a key must be plain text"]),
    ],
)
def test_faults_are_told_with_their_line(
    tmp_path: Path, old: str, new: str, faults: list[str] | None
) -> None:
    assert old in GOOD
    found = refused(write(tmp_path, GOOD.replace(old, new, 1)))
    if faults is not None:
        assert found == faults
    else:
        assert len(found) == 1
        assert found[0].startswith("my.yaml:")
        assert 1 <= int(found[0].split(":")[1]) <= 19


def test_empty_attacks(tmp_path: Path) -> None:
    head, _, tail = GOOD.partition("attacks:\n")
    rest = tail[tail.index("gates:") :]
    for empty in ("attacks: []\n", "attacks:\n"):
        found = refused(write(tmp_path, head + empty + rest))
        assert found == ["my.yaml:13: attacks must not be empty"]
    assert refused(write(tmp_path, head + rest)) == ["my.yaml:1: suite needs 'attacks'"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "my.yaml:1: a suite is a mapping of keys, got None"),
        ("- a\n- b\n", "my.yaml:1: a suite is a mapping of keys, got ['a', 'b']"),
        (
            "a: !!python/object:os.x {}\n",
            "my.yaml:1: not plain YAML: could not determine a construc",
        ),
        ("a: 1\nb: [\n", "my.yaml:3: not plain YAML: "),
        ("a: 1\n--- \nb: 1\n", "my.yaml:2: not plain YAML: but found another document"),
        ("a: &x [*x]\n", "my.yaml: not plain YAML: is nested too deep"),
        ("a: 2001-99-99\n", "my.yaml: not plain YAML: "),
        ("a: \x00\n", "my.yaml: not YAML: "),
    ],
)
def test_what_is_no_suite_at_all(tmp_path: Path, text: str, fault: str) -> None:
    (found,) = refused(write(tmp_path, text))
    assert found.startswith(fault)


def test_a_file_that_unfolds_without_bound(tmp_path: Path) -> None:
    laughs = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    laughs += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (found,) = refused(write(tmp_path, "\n".join(laughs)))
    assert found.endswith(": holds more than 100000 values")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SafetyBenchError, match=r"^there is no suite file absent.yaml$"):
        load_suite("absent.yaml")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"title: \xe4\n")
    with pytest.raises(SafetyBenchError, match=r"latin.yaml must be UTF-8, got byte 0xe4$"):
        load_suite(latin)
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * (1 << 21))
    with pytest.raises(SafetyBenchError, match=r"must be at most 1 MiB, got 2097152 bytes$"):
        load_suite(big)


def test_an_unknown_suite_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "unlearning-quick.yaml").write_text(GOOD)
    monkeypatch.setattr(registry, "folder", lambda kind: tmp_path)
    assert builtin_suites() == ["unlearning-quick"]
    assert load_suite("unlearning-quick").name == "small"
    with pytest.raises(SafetyBenchError) as caught:
        load_suite("unlearning-quik")
    assert str(caught.value) == (
        "no suite is called 'unlearning-quik'; did you mean 'unlearning-quick'? "
        "`safetybench list suites` shows all, and the name of a file ends in .yaml"
    )


def test_paths_start_from_the_suites_folder_and_stay_out_of_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetybench.harness import models

    seen: list[Any] = []
    monkeypatch.setattr(models, "check", lambda spec, offline: seen.append(spec))
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "student").mkdir()
    text = GOOD.replace("original: targets/toy,", "original: ./student,")
    text = text.replace("teacher: targets/toy,", f"teacher: {tmp_path}/secret/teacher,")
    text = text.replace("student: targets/toy}", "student: {path: student, steps: 1}}")
    suite = load_suite(write(tmp_path / "suites", text))
    fish = suite.subject("fish")
    assert fish.original == "./student"
    assert fish.teacher.startswith("teacher@")
    assert fish.student.startswith("student@")
    student = str(tmp_path / "suites" / "student")
    assert suite.spec(fish.original) == student
    assert suite.spec(fish.teacher) == f"{tmp_path}/secret/teacher"
    assert suite.spec(fish.student) == {"path": student, "steps": 1}
    assert seen[:3] == [student, f"{tmp_path}/secret/teacher", {"path": student, "steps": 1}]
    assert suite.spec("org/model") == "org/model"
    assert suite.spec("zoo:teacher") == "zoo:teacher"


def test_two_targets_never_share_a_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetybench.harness import models

    monkeypatch.setattr(models, "check", lambda spec, offline: None)
    text = GOOD.replace(
        "original: targets/toy, teacher: targets/toy", "original: /a/m, teacher: /b/m"
    )
    fish = load_suite(write(tmp_path, text)).subject("fish")
    assert fish.original != fish.teacher
    assert fish.teacher == f"{fish.original}-2"


def test_overrides_replace_and_are_checked(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD)
    assert load_suite(file, overrides={"device": "cpu"}).device == "cpu"
    with pytest.raises(SafetyBenchError, match=r"device should match pattern .* got 'abacus'$"):
        load_suite(file, overrides={"device": "abacus"})


@pytest.mark.parametrize("name", builtin_suites())
def test_built_in_suites_are_named_like_their_file(name: str) -> None:
    home = registry.folder("suites")
    assert home is not None
    assert f"name: {name}\n" in (home / f"{name}.yaml").read_text(encoding="utf-8")
