"""The protection scenario on toys: cells, net effects, transfer, pairs and checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safetybench import registry
from safetybench.contracts import SafetyBenchError
from safetybench.edit_tasks import edits_of
from safetybench.scenarios._protection_pairs import sign_flip
from safetybench.suite import Suite, load_suite
from safetybench.suite_images import Change, ImageSet
from tests import toys_protection as toys

N = 24
NOISE = "defenses/images/sign_noise"


@pytest.fixture(autouse=True)
def components(monkeypatch: pytest.MonkeyPatch) -> None:
    toys.install(monkeypatch)


def suite(students: Sequence[str] = ("deaf",), **more: Any) -> Suite:
    data: dict[str, Any] = {
        "schema": "safetybench.suite/1",
        "name": "toy",
        "scenario": "scenarios/protection",
        "judge": "judges/zoo",
        "images": {"count": N, "changes": ["object", "style"]},
        "subjects": [{"name": "toy", "teacher": "teacher"}],
        "students": [{"name": name, "targets": {"toy": name}} for name in students],
        "protections": [
            {"name": "defenses/toy", "budget": {"epsilon": toys.EPSILON, "steps": 1}},
        ],
        "edits": [{"name": "attacks/images/sdedit", "options": {"strength": 0.5}}],
    }
    return Suite.from_json({**data, **more})


EDITORS = {
    "teacher": toys.Editor(),
    "deaf": toys.Editor("deaf", falls=False),
    "alike": toys.Editor("alike"),
}


def row(summary: Mapping[str, Any], who: str, **more: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any]
    (found,) = [
        r
        for r in summary["protection"]
        if (r.get("student") or r["role"]) == who and all(r[k] == v for k, v in more.items())
    ]
    return found


def test_net_effect_is_what_noise_does_not_do(tmp_path: Path) -> None:
    summary = toys.run(suite(), EDITORS, tmp_path)
    stopped, deaf = row(summary, "teacher"), row(summary, "deaf")
    assert (stopped["clean_rate"], stopped["noise_rate"], stopped["rate"]) == (1, 1, 0)
    assert (stopped["net"], stopped["verdict"], stopped["n"]) == (1, "protects", N)
    assert stopped["interval"]["low"] > 0.7
    assert (deaf["net"], deaf["verdict"]) == (0, "not distinguishable from noise")
    assert stopped["figures"]["psnr"]["value"] < stopped["figures"]["psnr"]["noise"]
    assert not [check for check in summary["checks"] if not check["passed"]]


@pytest.mark.parametrize(("student", "verdict"), [("deaf", "lost"), ("alike", "inherited")])
def test_pair_says_what_became_of_the_protection(
    tmp_path: Path, student: str, verdict: str
) -> None:
    many = {"count": 80, "changes": ["object"]}  # with fewer, "alike" cannot be shown
    (pair,) = toys.run(suite((student,), images=many), EDITORS, tmp_path)["pairs"]
    assert pair["verdict"] == verdict
    assert pair["teacher"]["rate"] == 1
    assert pair["student"]["name"] == student
    assert pair["difference"] == (-1 if student == "deaf" else 0)


def test_a_student_that_is_stopped_where_its_teacher_is_not_gained(tmp_path: Path) -> None:
    swapped = {"teacher": EDITORS["deaf"], "alike": EDITORS["alike"]}
    (pair,) = toys.run(suite(("alike",)), swapped, tmp_path)["pairs"]
    assert pair["verdict"] == "gained"


def test_purifier_and_the_best_that_an_editor_gets(tmp_path: Path) -> None:
    summary = toys.run(suite((), purifiers=[{"name": "attacks/wash"}]), EDITORS, tmp_path)
    assert row(summary, "teacher", purifier="")["net"] == 1
    assert row(summary, "teacher", purifier="attacks/wash")["net"] == 0
    best = row(summary, "teacher", purifier="any")
    assert (best["rate"], best["noise_rate"], best["net"]) == (1, 1, 0)
    assert best["verdict"] == "not distinguishable from noise"


def test_transfer_is_the_ratio_to_what_is_made_on_the_editor_itself(tmp_path: Path) -> None:
    both = suite(
        ("alike",),
        protections=[
            {
                "name": "defenses/toy",
                "budget": {"epsilon": toys.EPSILON, "steps": 1},
                "surrogates": ["teacher", "alike"],
            }
        ],
    )
    found = toys.run(both, EDITORS, tmp_path)["transfers"]
    assert {(r["victim"], r["surrogate"]) for r in found} == {
        ("teacher", "alike"),
        ("alike", "teacher"),
    }
    assert all(r["ratio"] == 1 for r in found)


def test_made_on_self_meets_that_editor_alone(tmp_path: Path) -> None:
    entry = {
        "name": "defenses/toy",
        "budget": {"epsilon": toys.EPSILON, "steps": 1},
        "surrogates": ["self"],
    }
    summary = toys.run(suite(("alike",), protections=[entry]), EDITORS, tmp_path)
    met = [(r["surrogate"], r.get("student") or r["role"]) for r in summary["protection"]]
    assert sorted(met) == [("alike", "alike"), ("teacher", "teacher")]


def test_no_ratio_over_an_effect_that_is_not_shown(tmp_path: Path) -> None:
    both = suite(
        ("deaf",),
        protections=[
            {
                "name": "defenses/toy",
                "budget": {"epsilon": toys.EPSILON, "steps": 1},
                "surrogates": ["teacher", "deaf"],
            }
        ],
    )
    found = toys.run(both, EDITORS, tmp_path)["transfers"]
    (on_deaf,) = [r for r in found if r["victim"] == "deaf"]
    assert (on_deaf["ratio"], on_deaf["interval"]) == (None, None)


def test_an_editor_that_cannot_edit_makes_its_cells_invalid(tmp_path: Path) -> None:
    unable = {"teacher": toys.Editor(is_able=False)}
    summary = toys.run(suite(()), unable, tmp_path)
    assert row(summary, "teacher")["verdict"] == "invalid"
    failed = [check["name"] for check in summary["checks"] if not check["passed"]]
    assert failed == ["positive-control"]
    assert not [r for r in summary["cells"] if r["kind"] == "attack" and r["valid"]]


def test_a_protection_that_leaves_its_ball_is_no_protection(tmp_path: Path) -> None:
    far = suite(
        (),
        protections=[
            {
                "name": "defenses/toy",
                "options": {"times": 2.0},
                "budget": {"epsilon": toys.EPSILON, "steps": 1},
            }
        ],
    )
    summary = toys.run(far, EDITORS, tmp_path)
    assert row(summary, "teacher")["verdict"] == "invalid"
    assert "leave their ball" in row(summary, "teacher")["reason"]
    (cloak,) = [r for r in summary["cloaks"] if r["protection"] == "defenses/toy"]
    assert cloak["most_levels"] > 16.5


def test_what_the_judge_does_not_recognise_is_told(tmp_path: Path) -> None:
    summary = toys.run(suite(()), EDITORS, tmp_path, judge=toys.Reader(blind=True))
    assert row(summary, "teacher")["n"] == 0
    assert row(summary, "teacher")["verdict"] == "invalid"


def test_noise_is_made_once_for_an_epsilon() -> None:
    two = [
        {"name": "defenses/toy", "options": {"times": t},
         "budget": {"epsilon": e, "steps": 1}}
        for t, e in ((1.0, 0.03), (0.5, 0.03), (1.0, 0.06))
    ]  # fmt: skip
    cells = registry.create("scenarios/protection").cells(suite((), protections=two))
    made = [c for c in cells if c.kind == "protect"]
    assert len([c for c in made if c.defense["protection"].endswith("sign_noise")]) == 2
    assert len(made) == 5
    assert len({cell.label for cell in cells}) == len(cells)


def test_published_budgets_are_those_of_the_components() -> None:
    names = ("defenses/images/advdm", "defenses/images/photoguard_encoder")
    both = [{"name": name, "budget": "published"} for name in names]
    cells = registry.create("scenarios/protection").cells(suite((), protections=both))
    made = {c.defense["protection"]: c.budget for c in cells if c.kind == "protect"}
    for name in names:
        assert made[name] == registry.create(name).published
    epsilons = {c.budget.epsilon for c in cells if c.defense.get("protection", "") == NOISE}
    assert len(epsilons - {0.0}) == 2  # each beside noise of its own epsilon


def test_zoo_edits_ask_for_another_class_and_keep_the_rest() -> None:
    edits = edits_of(ImageSet(count=12, changes=("object", "colour")))
    assert len(edits.by_id) == 12
    for i, task in enumerate(edits.tasks):
        head = ("object", "colour")[i % 2]
        assert f"{head}=" not in task.kept
        assert len(task.kept.split()) == 3
        assert task.concept in task.prompt.split()
    longer = edits_of(ImageSet(count=20, changes=("object", "colour")))
    assert longer.tasks[0].image == ""
    (image,) = edits.images([edits.tasks[3].id])
    assert tuple(image.shape) == (3, 64, 64)


def test_bare_prompts_name_what_is_to_change_alone() -> None:
    heads: tuple[Change, ...] = ("object", "colour", "background")
    spec = ImageSet(count=12, changes=heads, keep=("colour", "style"), prompts="bare")
    for i, task in enumerate(edits_of(spec).tasks):
        head = heads[i % 3]
        words = task.prompt.split()
        assert words[0] == "a"
        assert len(words) == {"object": 2, "colour": 3, "background": 6}[head]
        assert task.concept in words
        held = [part.partition("=")[0] for part in task.held.split()]
        assert held == (["style"] if head == "colour" else ["colour", "style"])
        assert set(task.held.split()) <= set(task.kept.split())


@pytest.mark.parametrize("prompts", ["full", "bare"])
def test_an_edit_that_loses_what_must_stay_is_none(tmp_path: Path, prompts: str) -> None:
    kept = {"count": 8, "changes": ["object"], "keep": ["colour"], "prompts": prompts}
    toy = suite((), images=kept)
    # The toy writes the words of its prompt and nothing else, and a caption may use a synonym.
    tasks = edits_of(toy.images).tasks
    held = [task.held.partition("=")[2] in task.prompt.split() for task in tasks]
    assert any(held) == (prompts == "full")
    summary = toys.run(toy, EDITORS, tmp_path)
    (clean,) = [cell for cell in summary["cells"] if cell["kind"] == "clean"]
    assert clean["successes"] == sum(held)
    (control,) = [c for c in summary["checks"] if c["name"] == "positive-control"]
    assert control["passed"]  # what was asked is shown either way
    assert row(summary, "teacher")["noise_outcomes"] == "".join("1" if h else "-" for h in held)


def test_a_protection_that_fools_the_judge_is_shown_to_do_nothing(tmp_path: Path) -> None:
    kept = {"count": 8, "changes": ["object"], "keep": ["colour"]}
    # The toy judge reads a row that no image holds before it is edited.
    summary = toys.run(suite((), images=kept), EDITORS, tmp_path)
    failed = [c for c in summary["checks"] if c["name"] == "judge-reads-protected"]
    assert failed
    assert not any(check["passed"] for check in failed)
    assert row(summary, "teacher")["verdict"] == "invalid"
    (cloak,) = [c for c in summary["cloaks"] if c["protection"] == "defenses/toy"]
    assert cloak["held"] < 0.5  # some renders have the bright row by chance


def test_outcomes_stand_image_by_image(tmp_path: Path) -> None:
    summary = toys.run(suite(), EDITORS, tmp_path)
    stopped, deaf = row(summary, "teacher"), row(summary, "deaf")
    assert (stopped["outcomes"], stopped["noise_outcomes"]) == ("0" * N, "1" * N)
    assert (deaf["outcomes"], deaf["noise_outcomes"]) == ("1" * N, "1" * N)


@given(st.lists(st.integers(-2, 2), max_size=9))
def test_sign_flip_is_the_share_of_all_signs(differences: list[int]) -> None:
    seen = abs(sum(differences))
    sums = [
        abs(sum(s * abs(d) for s, d in zip(signs, differences, strict=True)))
        for signs in product((-1, 1), repeat=len(differences))
    ]
    expected = sum(total >= seen for total in sums) / len(sums)
    assert sign_flip(differences) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("epsilon: 0.0627451, ", "", "needs a budget of epsilon above 0"),
        ("{epsilon: 0.0627451, steps: 40}", "default", "epsilon and steps, or the word"),
        ("steps: 40", "steps: 0", "needs a budget of steps"),
        ("images/sdedit, options: {strength: 0.5}", "images/purifiers/jpeg", "is no ImageEdit"),
        ("purifiers/jpeg, options: {quality: 75}", "sdedit", "is no Purifier, as purifiers are"),
        ("changes: [object]", "changes: [taste]", "images.changes[0]"),
        ("prompts: bare}", "table: my.csv}", "images.table names yours"),
        ("judge: judges/zoo", "judge: judges/nudenet", "only judges/zoo can tell"),
        ("edits:", "attacks: [{name: attacks/prompts/pez}]\nedits:", "and no attacks"),
        ("defenses/images/advdm,", "defenses/images/advdm, surrogates: [dmd3],", "no model 'dmd3'"),
    ],
)
def test_faults_of_a_suite_are_told_with_their_line(
    tmp_path: Path, old: str, new: str, fault: str
) -> None:
    folder = registry.folder("suites")
    assert folder is not None
    text = (folder / "protection-quick.yaml").read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "my.yaml"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SafetyBenchError, match=r"my\.yaml:\d+: ") as caught:
        load_suite(file)
    assert fault in str(caught.value)
