"""What a suite may say about classifiers: expansion, keys of what is trained, every fault."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from safetybench.contracts import SafetyBenchError
from safetybench.harness.plan import make_plan
from safetybench.suite import Suite, builtin_suites, load_suite

SUITE = """\
schema: safetybench.suite/1
name: evaded
scenario: scenarios/evasion
judge: judges/label
data: {source: digits, train: 200, count: 20}
threat: {epsilon: 0.1}
masking: {count: 10, steps: 5, queries: 20, landscapes: 1}
targets:
  plain: {trained: defenses/evasion/standard, base: {net: cnn, width: 4}}
  robust: {trained: defenses/evasion/pgd_at, base: {net: cnn, width: 4}}
subjects:
  - {name: digits, original: plain, teacher: robust}
students:
  - {name: kd, recipe: defenses/evasion/kd, base: {net: cnn, width: 4}, epochs: 2}
  - name: family
    recipe: defenses/evasion/proard
    base: {net: dynamic}
    members: [{name: small, choice: {width: 0.5}}, {name: large, choice: {}}]
training: {seeds: [1, 2]}
attacks:
  - {name: attacks/evasion/fgsm}
  - {name: attacks/evasion/shift, models: [family]}
"""


def load(folder: Path, text: str = SUITE) -> Suite:
    (folder / "s.yaml").write_text(text)
    return load_suite(folder / "s.yaml")


def told(folder: Path, old: str, new: str) -> list[str]:
    assert old in SUITE
    with pytest.raises(SafetyBenchError) as caught:
        load(folder, SUITE.replace(old, new, 1))
    file = re.escape(str(folder / "s.yaml"))
    return [re.sub(rf"^{file}", "s.yaml", line) for line in str(caught.value).splitlines()]


def test_students_expand_once_a_seed_and_families_to_their_members(tmp_path: Path) -> None:
    suite = load(tmp_path)
    found = [(made.entry, made.role, made.label) for made in suite.made if made.seed == 1]
    assert found == [
        ("kd", "student", "kd.digits.seed1"),
        ("family", "family", "family.digits.seed1"),
        ("family-small", "student", "family-small.digits.seed1"),
        ("family-large", "student", "family-large.digits.seed1"),
    ]
    assert suite.base_of("kd.digits.seed1") == "robust"
    assert suite.base_of("robust") == ""
    assert suite.base_of("family-small.digits.seed1") == "family.digits.seed1"
    spec = suite.spec("kd.digits.seed1")
    assert isinstance(spec, dict)
    assert spec["data"] == {"source": "digits", "train": 200, "seed": 0}
    assert spec["threat"] == {"epsilon": 0.1, "norm": "linf"}
    assert spec["epochs"] == 2


def test_a_plan_keys_classifiers_by_all_that_they_are_made_of(tmp_path: Path) -> None:
    plan = make_plan(load(tmp_path))
    digests = {label: target["digest"] for label, target in plan.targets.items()}
    assert len(set(digests.values())) == len(digests) == 10
    other = make_plan(load(tmp_path, SUITE.replace("epsilon: 0.1", "epsilon: 0.2")))
    assert all(other.targets[label]["digest"] != digests[label] for label in digests)
    fewer = make_plan(load(tmp_path, SUITE.replace("count: 20", "count: 19")))
    assert all(fewer.targets[label]["digest"] == digests[label] for label in digests)
    assert fewer.hash != plan.hash


def test_attacks_are_kept_to_the_models_they_name(tmp_path: Path) -> None:
    plan = make_plan(load(tmp_path))
    shifted = {cell.target for cell in plan.cells if cell.kind == "shift"}
    assert shifted == {
        f"family-{name}.digits.seed{seed}" for name in ("small", "large") for seed in (1, 2)
    }
    attacked = {cell.target for cell in plan.cells if cell.kind == "attack"}
    assert "family.digits.seed1" not in attacked
    assert {"plain", "robust", "kd.digits.seed2", "family-large.digits.seed1"} <= attacked


def test_every_attack_has_noise_of_its_ball_beside_it(tmp_path: Path) -> None:
    plan = make_plan(load(tmp_path))
    cells = [cell for cell in plan.cells if cell.target == "plain"]
    (fgsm,) = (cell for cell in cells if cell.kind == "attack")
    (noise,) = (cell for cell in cells if cell.kind == "control")
    assert (noise.budget.epsilon, noise.budget.norm) == (fgsm.budget.epsilon, fgsm.budget.norm)
    assert noise.budget.queries == 100
    assert {cell.kind for cell in cells} == {
        "clean", "attack", "control", "gradients", "probe", "landscape",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("threat: {epsilon: 0.1}\n", "", "s.yaml:1: suite needs 'threat', the ball in which "
         "attacks must stay, as it has data"),
        ("epsilon: 0.1}", "epsilon: 1.5}", "s.yaml:6: threat: epsilon is at most 1 in linf, got 1.5"
         ),
        ("source: digits", "source: digit", "s.yaml:5: "),
        ("count: 20}", "count: 2000}", "s.yaml:5: "),
        ("judges/label", "judges/phrases", "s.yaml:4: judges/phrases judges no classifiers; "
         "judges/label does"),
        ("attacks/evasion/fgsm", "attacks/prompts/pez", "s.yaml:21: attacks/prompts/pez attacks no "
         "classifier"),
        ("attacks/evasion/fgsm}", "attacks/evasion/deepfool, budget: {epsilon: 0.1, norm: linf}}",
         "s.yaml:21: attacks/evasion/deepfool is held to l2, got linf"),
        ("standard, base: {net: cnn, width: 4}", "standard, base: {net: cmm}", "s.yaml:9: "),
        ("defenses/evasion/standard", "defenses/evasion/kd", "s.yaml:9: defenses/evasion/kd "
         "distils a teacher, and target 'plain' names none"),
        ("{trained: defenses/evasion/standard,", "{trained: defenses/evasion/kd, teacher: plain,",
         "s.yaml:9: target 'plain' would be made from itself"),
        ("{trained: defenses/evasion/standard,", "{trained: defenses/evasion/standard, rate: 1,",
         "s.yaml:9: target 'plain': rate: extra inputs are not permitted"),
        ("defenses/evasion/kd, base: {net: cnn, width: 4}", "defenses/evasion/kd", "s.yaml:14: kd "
         "needs a base, the network to train, e.g. {net: cnn}"),
        ("defenses/evasion/kd,", "defenses/data/links,", "s.yaml:14: 'defenses/data/links' trains "
         "no classifier; see defenses/evasion"),
        ("epochs: 2}", "epochs: 2, steps: 5}", "s.yaml:14: students[0].steps is for models of text "
         "and images"),
        ("epochs: 2}", "epochs: 2, members: [{name: a, choice: {}}]}", "s.yaml:14: "
         "defenses/evasion/kd trains one network, and no family of them"),
        ("    members: [{name: small, choice: {width: 0.5}}, {name: large, choice: {}}]\n", "",
         "s.yaml:15: defenses/evasion/proard trains a family of networks: name its members"),
        ("name: large", "name: small", "s.yaml:18: the member 'small' stands twice"),
        ("width: 0.5}", "width: 0.3}", "s.yaml:18: "),
        ("models: [family]", "models: [famly]", "s.yaml:22: the suite has no model 'famly' to "
         "attack; did you mean 'family'?"),
    ],
)  # fmt: skip
def test_faults_are_told_with_their_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    lines = told(tmp_path, old, new)
    assert any(
        line == message if not message.endswith(": ") else line.startswith(message)
        for line in lines
    ), lines


@pytest.mark.parametrize(
    "name", [name for name in builtin_suites() if name.split("-")[0] == "evasion"]
)
def test_suites_of_the_package_have_no_fault(name: str) -> None:
    try:
        suite = load_suite(name)
    except SafetyBenchError as error:
        if "apt install dataset-fashion-mnist" not in str(error):
            raise
        pytest.skip(str(error))
    labels = {label for subject in suite.subjects for label in subject.roles.values()}
    assert all(suite.spec(label) for label in labels)


def test_a_worst_case_needs_attacks(tmp_path: Path) -> None:
    with pytest.raises(SafetyBenchError, match=r"suite needs 'attacks', over which the worst case"):
        load(tmp_path, SUITE[: SUITE.index("attacks:")])


def test_other_scenarios_read_no_classifiers(tmp_path: Path) -> None:
    text = """\
schema: safetybench.suite/1
name: mixed
scenario: scenarios/unlearning
judge: judges/zoo
threat: {epsilon: 0.1}
subjects:
  - {name: fish, concept: fish, original: zoo:teacher, teacher: zoo:esd-glowing}
attacks:
  - {name: attacks/prompts/random_prefix}
"""
    with pytest.raises(SafetyBenchError, match="reads attacks and students and no threat"):
        load(tmp_path, text)
