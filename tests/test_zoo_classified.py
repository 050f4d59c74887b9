"""The zoo's classifiers: built in small, cards that follow from the code, answers as measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from safetybench import registry
from safetybench.targets.classifier_loading import is_classifier, load_classifier
from safetybench.targets.finding import list_zoo
from safetybench.targets.language_loading import is_language
from safetybench.vision.data import source_of
from safetybench.vision.evading import predict
from safetybench.vision.fitting import steps_of
from safetybench.zoo import catalogue, classified
from safetybench.zoo.classified import CLASSIFIED, Classified, classified_gates

SMALL = {
    "classify-standard": Classified(
        component="defenses/evasion/standard", summary="Tiny.", net={"net": "cnn", "width": 2},
        count=64, epochs=2.0,
    ),
    "classify-student": Classified(
        component="defenses/evasion/rslad", summary="Tiny student.",
        net={"net": "cnn", "width": 2}, options={"inner_steps": 1}, base="classify-standard",
        count=64, epochs=2.0,
    ),
    "classify-robust": Classified(
        component="defenses/evasion/pgd_at", summary="Tiny, trained on.",
        net={"net": "cnn", "width": 2}, options={"inner_steps": 1}, start="classify-standard",
        count=64, epochs=2.0,
    ),
}  # fmt: skip


def card(name: str) -> dict[str, Any]:
    found: dict[str, Any] = catalogue.read_card(catalogue.MODELS / name)
    return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put tiny plans in the place of the real ones."""
    monkeypatch.setattr(classified, "CLASSIFIED", SMALL)
    monkeypatch.setattr(classified, "COUNT", 16)
    monkeypatch.setattr(classified, "STEPS", 2)


@pytest.mark.usefixtures("small")
def test_they_are_built_with_a_card_and_alike_each_time(tmp_path: Path) -> None:
    told: list[str] = []
    for name in SMALL:
        out = tmp_path / name
        built = catalogue.build(name, out, device="cpu", root=tmp_path, report=told.append)
        assert built == out
    found = catalogue.read_card(tmp_path / "classify-student")
    assert found["lineage"] == ["classify-standard", "classify-student"]
    assert catalogue.read_card(tmp_path / "classify-robust")["base"] == "classify-standard"
    assert found["kind"] == "classifier"
    assert found["weights"] == catalogue.digests(tmp_path / "classify-student")
    assert 0 <= found["quality"]["pgd"]["rate"] <= found["quality"]["clean"]["rate"] <= 1
    assert told[-1] == "classify-robust: measuring its quality"
    target = load_classifier(str(tmp_path / "classify-student"))
    assert (target.name, target.data, target.lineage) == (
        "classify-student", "world", ("classify-standard", "classify-student"),
    )  # fmt: skip
    catalogue.build("classify-standard", tmp_path / "again", device="cpu", root=tmp_path)
    again = catalogue.read_card(tmp_path / "again")
    assert again["weights"] == catalogue.read_card(tmp_path / "classify-standard")["weights"]
    digests = [c for c in catalogue.verify(["classify-student"], tmp_path) if c.name == "digests"]
    assert [check.passed for check in digests] == [True]


@pytest.mark.parametrize("name", CLASSIFIED)
def test_a_card_says_what_the_code_would_make(name: str) -> None:
    plan, told = CLASSIFIED[name], card(name)
    way = registry.create(plan.component, plan.options)
    assert (told["kind"], told["summary"]) == ("classifier", plan.summary)
    assert told["recipe"]["component"] == plan.component
    assert told["recipe"]["options"] == repr(way)
    assert told["recipe"]["steps"] == steps_of(plan.epochs, plan.count, way.size)
    assert told["base"] == (plan.base or plan.start)
    assert told["lineage"][-1] == name
    made = json.loads((catalogue.MODELS / name / "classifier.json").read_text())
    assert made["net"] == plan.net


@pytest.mark.parametrize("name", CLASSIFIED)
def test_a_card_holds_its_gates(name: str) -> None:
    assert [gate for gate in classified_gates(name, card(name)["quality"]) if not gate.holds] == []


def test_missed_gates_are_named() -> None:
    quality = {kind: {"rate": 0.2} for kind in ("clean", "pgd", "cooled")}

    def missed(name: str) -> list[str]:
        return [gate.name for gate in classified_gates(name, quality) if not gate.holds]

    assert missed("classify-standard") == ["accuracy", "accuracy under PGD"]
    assert missed("classify-robust") == ["accuracy", "accuracy under PGD"]
    assert missed("classify-distilled")[2:] == ["accuracy under PGD on logits / T"]


def test_a_shipped_classifier_answers_as_its_card_says() -> None:
    target, quality = load_classifier("zoo:classify-robust"), card("classify-robust")["quality"]
    test = source_of("world").test(classified.COUNT, classified.SEED)
    right = (predict(target, test.images).argmax(1) == test.labels).float().mean()
    assert target.parameters == quality["parameters"]
    assert right == pytest.approx(quality["clean"]["rate"], abs=0.005)
    assert target.shape == (3, 32, 32)


def test_the_canary_is_blind_and_its_gradients_return_when_cooled() -> None:
    target = load_classifier("zoo:classify-distilled")
    test = source_of("world").test(100, 1)
    images = test.images.clone().requires_grad_()
    logits = target.logits(images)
    for temperature, blind in ((1.0, True), (classified.TEMPERATURE, False)):
        loss = torch.nn.functional.cross_entropy(logits / temperature, test.labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, images, retain_graph=True)
        share = (slope.flatten(1).abs().amax(1) == 0).float().mean()
        assert (share > 0.4) == blind


def test_they_are_classifiers_and_nothing_else() -> None:
    names = {f"zoo:{name}" for name in CLASSIFIED}
    assert names <= set(registry.names("targets"))
    assert all(is_classifier(name) and not is_language(name) for name in names)
    assert not {f"zoo:{entry.name}" for entry in list_zoo()} & names
