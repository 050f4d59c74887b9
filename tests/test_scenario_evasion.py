"""The evasion scenario: on classifiers of known truth, on canaries, and a whole run it trains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safetybench import registry
from safetybench.assertions import Invalid, NotRobust, assert_robust, decide
from safetybench.contracts import Item
from safetybench.harness import engine
from safetybench.harness.plan import make_plan
from safetybench.scenarios._seed_stats import difference, rate, sign_flip
from safetybench.suite import load_suite
from tests.test_suite_evasion import SUITE
from tests.toys_classifier import Toy, digits, trained

TRY = """\
schema: safetybench.suite/1
name: try
scenario: scenarios/evasion
judge: judges/label
data: {source: digits, count: 60}
threat: {epsilon: 0.1}
masking: {count: 60, steps: 20, queries: 400, landscapes: 1}
targets: {a: {net: cnn}, b: {net: cnn}, c: {net: cnn}}
subjects:
  - {name: digits, original: a, teacher: b, student: c}
attacks:
  - {name: attacks/evasion/fgsm}
  - {name: attacks/evasion/pgd, options: {loss: margin, temperature: 0.0}}
"""


class Sharp(nn.Module):
    """A fake defense: logits so large that softmax saturates and no gradient is left."""

    def __init__(self, net: nn.Module, factor: float) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.factor * self.net(images)
        return found


class Noisy(nn.Module):
    """A randomised defense: noise on the way in, another at every call."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.generator = net, torch.Generator().manual_seed(0)

    def forward(self, images: Tensor) -> Tensor:
        noise = torch.randn(images.shape, generator=self.generator)
        found: Tensor = self.net(images + 0.1 * noise)
        return found


@cache
def linear() -> Toy:
    """Return a linear classifier of the digits: how large a change misleads it has a formula."""
    data, _ = digits()
    torch.manual_seed(0)
    layer = nn.Linear(64, 10)
    descent = torch.optim.Adam(layer.parameters(), lr=0.01)
    for _ in range(300):
        loss = nn.functional.cross_entropy(layer(data.images.flatten(1)), data.labels)
        descent.zero_grad()
        loss.backward()
        descent.step()
    return Toy(nn.Sequential(nn.Flatten(), layer).requires_grad_(False), 10, (1, 8, 8))


@dataclass
class Context:
    suite: Any
    targets: Mapping[str, Any]
    memo: dict[Any, Any] = field(default_factory=dict)

    @property
    def judge(self) -> Any:
        return registry.create("judges/label")

    def target(self, label: str) -> Any:
        return self.targets[label]


def outcome(folder: Path, original: Toy, teacher: Toy, student: Toy, text: str = TRY) -> Any:
    (folder / "s.yaml").write_text(text)
    suite = load_suite(folder / "s.yaml")
    context = Context(suite, {"a": original, "b": teacher, "c": student})
    scenario = registry.create("scenarios/evasion")
    cells, log = scenario.cells(suite), list[Item]()
    for cell in cells:
        for start in range(0, len(cell.items), cell.chunk_size):
            some = cell.items[start : start + cell.chunk_size]
            log += scenario.run_chunk(cell, start // cell.chunk_size, some, context)
    return scenario.summarise(suite, cells, log)


def sharp(factor: float = 1e4) -> Toy:
    toy = trained()
    return Toy(Sharp(toy.net, factor), toy.classes, toy.shape)


def by_role(summary: Any) -> dict[str, Any]:
    return {row["role"]: row for row in summary["robustness"]}


def failed(row: Any) -> set[str]:
    return {sign["code"] for sign in row["masking"]["signs"] if not sign["passed"]}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return outcome(tmp_path_factory.mktemp("found"), trained(), trained(0.1), sharp())


def test_a_fake_defense_is_told_to_mask_its_gradients(found: Any) -> None:
    rows = by_role(found)
    masked = rows["student"]
    assert masked["masking"]["verdict"] == "masked"
    assert {"G1", "G3", "G6", "G8"} - failed(masked) == {"G1"} - failed(masked)
    assert {"G3", "G6", "G8"} <= failed(masked)
    assert masked["gradients"]["zero"] > 0.5
    # Its logits are those of the original but for a factor: so is what misleads it.
    assert masked["clean"]["value"] == rows["original"]["clean"]["value"]
    fgsm = next(a for a in masked["attacks"] if a["attack"].endswith("fgsm"))
    assert fgsm["left"]["value"] > masked["worst"]["value"] + 0.2
    gap = masked["worst"]["value"] - rows["original"]["worst"]["value"]
    assert abs(gap) <= 0.05


def test_an_honest_model_is_not_said_to_mask(found: Any) -> None:
    rows = by_role(found)
    assert rows["teacher"]["masking"]["verdict"] == "stands"
    assert rows["original"]["masking"]["verdict"] in ("stands", "open")
    assert rows["teacher"]["worst"]["value"] > rows["original"]["worst"]["value"]
    assert rows["teacher"]["curve"][0][0] == 0
    radii = [point[0] for point in rows["teacher"]["curve"]]
    assert radii == [0.0, 0.025, 0.05, 0.1, 0.2, 0.4, 0.5, 1.0]


def test_a_student_that_withstands_less_is_told_with_who_survives_what(found: Any) -> None:
    (pair,) = (p for p in found["pairs"] if p["metric"] == "worst-case")
    assert pair["verdict"] == "lost"
    assert pair["n"] == sum(pair["who"].values()) == 60
    withstood = pair["who"]["both"] + pair["who"]["student"]
    assert 1 - withstood / 60 == pytest.approx(pair["student"]["rate"])
    assert pair["who"]["teacher"] > pair["who"]["student"]
    (useful,) = (p for p in found["pairs"] if p["metric"] == "utility")
    assert useful["verdict"] in ("unchanged", "not distinguishable")


def test_robust_accuracy_of_a_linear_model_is_that_of_the_formula(tmp_path: Path) -> None:
    toy, epsilon = linear(), 0.03
    text = TRY.replace("epsilon: 0.1}", f"epsilon: {epsilon}}}")
    summary = outcome(tmp_path, trained(), toy, toy, text)
    row = by_role(summary)["teacher"]
    suite = load_suite(tmp_path / "s.yaml")
    from safetybench.scenarios._evasion_task import Task

    images, labels = Task.of(suite).data
    weight = toy.net[1].weight  # type: ignore[index]  # the layer after Flatten
    logits = toy.logits(images)
    # In the ball, a logit difference changes by at most epsilon times the l1 norm of its weights,
    # less where a pixel would leave [0, 1].
    gaps = logits.gather(1, labels[:, None]) - logits
    survives = []
    for image, label, gap in zip(images.flatten(1), labels, gaps, strict=True):
        change = weight - weight[label]
        up, down = (1 - image).clamp_max(epsilon), image.clamp_max(epsilon)
        most = (change.clamp_min(0) * up - change.clamp_max(0) * down).sum(1)
        margin = gap - most
        margin[label] = torch.inf
        survives.append(bool((margin > 0).all()))
    assert row["worst_by_seed"]["0"] == pytest.approx(sum(survives) / 60, abs=1.01 / 60)
    assert 0 < sum(survives) < 60


def test_a_randomised_model_is_told_to_need_more_than_one_gradient(tmp_path: Path) -> None:
    noisy = Toy(Noisy(trained().net), 10, (1, 8, 8))
    row = by_role(outcome(tmp_path, trained(), trained(0.1), noisy))["student"]
    assert "G11" in failed(row)
    assert row["masking"]["verdict"] in ("not-converged", "masked")


def test_attacks_too_weak_to_mislead_anyone_void_the_run(tmp_path: Path) -> None:
    text = TRY.replace("epsilon: 0.1}", "epsilon: 0.001}")
    summary = outcome(tmp_path, trained(), trained(0.1), trained(), text)
    control = next(c for c in summary["checks"] if c["name"] == "positive-control")
    assert not control["passed"]
    assert control["effect"] == "invalid"
    rows = by_role(summary)
    assert rows["teacher"]["worst"] is None
    assert rows["teacher"]["invalid"].startswith("positive-control")
    (pair,) = (p for p in summary["pairs"] if p["metric"] == "worst-case")
    assert pair["verdict"] == "invalid"


def test_minimal_attacks_count_in_the_ball_only_where_their_change_fits(tmp_path: Path) -> None:
    text = TRY.replace("attacks/evasion/fgsm}", "attacks/evasion/deepfool, budget: {steps: 30}}")
    row = by_role(outcome(tmp_path, trained(), trained(0.1), trained(), text))["teacher"]
    deepfool = next(a for a in row["attacks"] if a["attack"].endswith("deepfool"))
    assert deepfool["norm"] == "l2"
    assert deepfool["epsilon"] == 0
    assert deepfool["own"]["value"] < 0.1
    assert deepfool["left"]["value"] > deepfool["own"]["value"] + 0.2
    assert deepfool["sizes"]["l2"] > 0.1


def test_a_broken_model_is_told(tmp_path: Path) -> None:
    broken = Toy(Sharp(trained().net, -1.0), 10, (1, 8, 8))
    summary = outcome(tmp_path, trained(), trained(0.1), broken)
    collapse = [c for c in summary["checks"] if c["name"] == "collapse" and not c["passed"]]
    assert [c["cell"] for c in collapse] == ["digits.student.clean"]
    (pair,) = (p for p in summary["pairs"] if p["metric"] == "worst-case")
    assert pair["verdict"] == "invalid"


WEAK = TRY.replace(", options: {loss: margin, temperature: 0.0}", "")


def test_what_only_seems_to_withstand_is_neither_better_nor_robust(tmp_path: Path) -> None:
    summary = outcome(tmp_path, trained(), trained(0.1), sharp(), WEAK)
    (pair,) = (p for p in summary["pairs"] if p["metric"] == "worst-case")
    assert pair["verdict"] in ("lost", "not distinguishable")
    row = by_role(summary)["student"]
    assert "G12" in failed(row)
    # The probes count where they look: all 60 images here.
    honest = by_role(outcome(tmp_path, trained(), trained(0.1), sharp()))["student"]
    assert abs(row["worst"]["value"] - honest["worst"]["value"]) < 0.1
    run = {"id": "x", "status": "complete"}
    told = {"schema": "safetybench.result/1", "run": run, **summary}
    with pytest.raises(NotRobust, match="under worst case over attacks"):
        assert_robust(told, role="student", asr_below=0.4)
    with pytest.raises(Invalid, match=r"c masks its gradients, so robustness is unknown: "):
        assert_robust(told, role="student", asr_below=0.99)
    assert decide(told, role="teacher", asr_below=0.9).outcome == "passed"
    text = WEAK.replace("masking: {count: 60,", "masking: {count: 0,")
    unseen = outcome(tmp_path, trained(), trained(0.1), sharp(), text)
    with pytest.raises(Invalid, match="was not probed for masked gradients"):
        assert_robust({**told, **unseen}, role="teacher", asr_below=0.9)


def test_no_student_is_worse_than_a_teacher_that_only_seems_to_withstand(tmp_path: Path) -> None:
    summary = outcome(tmp_path, trained(), sharp(50.0), trained(), WEAK)
    assert "G12" in failed(by_role(summary)["teacher"])
    (pair,) = (p for p in summary["pairs"] if p["metric"] == "worst-case")
    assert pair["verdict"] not in ("lost", "unchanged")


def test_a_pair_counts_only_what_both_went_through(tmp_path: Path) -> None:
    text = (
        f"{WEAK}  - {{name: attacks/evasion/square, models: [student], budget: {{queries: 400}}}}\n"
    )
    twin = trained(0.1)
    summary = outcome(tmp_path, trained(), twin, twin, text)
    (pair,) = (p for p in summary["pairs"] if p["metric"] == "worst-case")
    assert pair["difference"] == 0
    assert pair["verdict"] in ("unchanged", "not distinguishable")


def test_more_trainings_are_no_more_images() -> None:
    before, after = [False] * 100, [True] * 5 + [False] * 95
    once = difference([(before, after)], is_shared=True)
    thrice = difference([(before, after)] * 3, is_shared=True)
    assert once is not None
    assert thrice is not None
    assert once.p_value == thrice.p_value == 0.0625
    assert thrice.figure.n == 100
    assert thrice.figure.interval[:2] == pytest.approx(once.figure.interval[:2])
    many = rate([[True] * 5 + [False] * 95] * 3, is_shared=True)
    single = rate([[True] * 5 + [False] * 95], is_shared=True)
    assert many is not None
    assert single is not None
    assert many.interval[:2] == pytest.approx(single.interval[:2])
    assert sign_flip([1.0] * 30) < 1e-4
    assert sign_flip([1.0, -1.0] * 20) == 1.0
    assert sign_flip([]) == 1.0


class Cut(nn.Module):
    """A network that lets no gradient through, as one that rounds its input does not."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.net(images.detach())
        return found


def test_no_gradient_at_all_is_a_sign_and_nothing_measured_is_none(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(TRY)
    suite = load_suite(tmp_path / "s.yaml")
    cut = Toy(Cut(trained().net), 10, (1, 8, 8))
    context = Context(suite, {"a": trained(), "b": trained(0.1), "c": cut})
    scenario = registry.create("scenarios/evasion")
    cells = scenario.cells(suite)
    looked = next(c for c in cells if c.label == "digits.student.gradients")
    log = scenario.run_chunk(looked, 0, looked.items, context)
    assert all(item.extra["zero"] for item in log)
    failing = [
        Item(cell=c.label, chunk=0, item=i, status="failed", error="no gradient")
        for c in cells if c is not looked for i in c.items
    ]  # fmt: skip
    row = by_role(scenario.summarise(suite, cells, [*log, *failing]))["student"]
    assert failed(row) == {"G6"}
    assert row["masking"]["verdict"] == "masked"
    row = by_role(scenario.summarise(suite, cells, failing))["student"]
    assert row["masking"]["signs"] == []
    assert row["masking"]["verdict"] == "not-checked"


def test_a_suite_that_attacks_no_original_has_no_control(tmp_path: Path) -> None:
    text = WEAK.replace(
        "attacks/evasion/fgsm}", "attacks/evasion/fgsm, models: [student]}"
    ).replace("attacks/evasion/pgd}", "attacks/evasion/pgd, models: [teacher, student]}")
    summary = outcome(tmp_path, trained(), trained(0.1), trained(), text)
    (control,) = (c for c in summary["checks"] if c["name"] == "positive-control")
    assert not control["passed"]
    assert "0 of 0" in control["message"]


def test_a_whole_run_trains_attacks_and_is_resumed_from_its_log(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SUITE.replace("seeds: [1, 2]", "seeds: [1]"))
    suite = load_suite(tmp_path / "s.yaml")
    run = tmp_path / "run"
    ended = engine.run(make_plan(suite), run, reports=False)
    assert ended.exit_code in (0, 6), ended.reason
    results = json.loads((run / "results.json").read_text())
    models = {(row["role"], row["model"]) for row in results["robustness"]}
    assert models == {
        ("original", ""), ("teacher", ""), ("student", "kd"), ("student", "family-small"),
        ("student", "family-large"),
    }  # fmt: skip
    small = next(row for row in results["robustness"] if row["model"] == "family-small")
    assert small["choice"] == {"width": 0.5}
    assert small["way"] == "defenses/evasion/proard"
    assert (run / "students").is_dir()
    log = (run / "items.jsonl").read_bytes()
    again = engine.run(make_plan(suite), run, reports=False, resume=True)
    assert again.exit_code == ended.exit_code
    assert (run / "items.jsonl").read_bytes() == log
    assert not engine.verify(run)
