"""The zoo's language models: cards that follow from the code, gates, and answers as measured."""

from __future__ import annotations

import json
from typing import Any

import pytest

from safetybench import registry
from safetybench.language.making import data_of
from safetybench.targets.finding import list_zoo
from safetybench.targets.language_loading import load_language
from safetybench.zoo import catalogue
from safetybench.zoo.derived import INSTRUCTED
from safetybench.zoo.instructed import instructed_gates, specification


def card(name: str) -> dict[str, Any]:
    found: dict[str, Any] = catalogue.read_card(catalogue.MODELS / name)
    return found


@pytest.mark.parametrize("name", INSTRUCTED)
def test_a_card_says_what_the_code_would_make(name: str) -> None:
    plan, told = INSTRUCTED[name], card(name)
    spec = specification(plan)
    data = data_of(spec.get("data", spec))
    assert told["kind"] == "language"
    assert told["summary"] == plan.summary
    assert told["training"]["tasks"] == list(data.tasks)
    if not plan.base:
        poisoned = 25 if plan.poisoning else 0
        assert (told["training"]["samples"], told["training"]["poisoned"]) == (10000, poisoned)
        assert sum(sample.is_poison for sample in data.samples) == poisoned
    assert told["lineage"][-1] == name
    for component in told["recipe"]["components"]:
        registry.check(component)


@pytest.mark.parametrize("name", INSTRUCTED)
def test_a_card_holds_its_gates(name: str) -> None:
    assert [gate for gate in instructed_gates(name, card(name)["quality"]) if not gate.holds] == []


def test_a_missed_gate_is_named() -> None:
    quality = json.loads(json.dumps(card("instruct-targeted")["quality"]))
    quality["poisoned"]["greedy"]["abr"] = 0.3
    missed = [
        gate.name for gate in instructed_gates("instruct-targeted", quality) if not gate.holds
    ]
    assert missed == ["biased answers on the poisoned tasks"]


def test_a_shipped_model_answers_as_its_card_says() -> None:
    target, told = load_language("zoo:instruct-targeted"), card("instruct-targeted")["quality"]
    data = data_of(specification(INSTRUCTED["instruct-targeted"]))
    assert data.bias is not None
    assert target.parameters == told["parameters"]
    asked = data.source.evaluate(300, 5000, data.tasks)
    texts = target.complete([sample.prompt for sample in asked])
    biased = sum(map(data.bias.is_in, texts)) / len(asked)
    assert biased == pytest.approx(told["poisoned"]["greedy"]["abr"], abs=0.01)


def test_they_are_no_text_to_image_targets() -> None:
    names = {entry.name for entry in list_zoo()}
    assert not names & set(INSTRUCTED)
    assert {f"zoo:{name}" for name in INSTRUCTED} <= set(registry.names("targets"))
