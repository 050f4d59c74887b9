"""Comparison of weights: relative norms by hand, parts told apart, a base of another shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from safetybench import registry
from safetybench.contracts import Budget, SafetyBenchError
from tests.targets import tiny_target

NAME = "defenses/triggers/encoder_weights"


def examine(target: Any, base: Any, **options: Any) -> Any:
    return registry.create(NAME, options).examine(target, base, Budget())


def squares(module: Any) -> float:
    return sum(float(v.double().square().sum()) for v in module.state_dict().values())


def test_the_same_model_has_score_zero_and_no_evidence() -> None:
    base = tiny_target("velocity")
    found = examine(base.clone(with_text=True), base)
    assert found == (0.0, (), "no weight differs from the base")


def test_a_changed_encoder_has_its_relative_norm_and_its_layer_named() -> None:
    base = tiny_target("velocity")
    target = base.clone(with_text=True)
    table = target.text_encoder.get_input_embeddings().weight
    with torch.no_grad():
        table[3] += 0.5
    found = examine(target, base)
    moved = (0.25 * table.shape[1]) ** 0.5
    assert found.score == pytest.approx(moved / squares(base.text_encoder) ** 0.5, rel=1e-6)
    assert found.evidence[0] == ("text_encoder", found.score)
    (layer,) = found.evidence[1:]
    assert layer[0].startswith("text_encoder.")
    assert layer[0].endswith("token_embedding.weight")
    old = base.text_encoder.get_input_embeddings().weight
    assert layer[1] == pytest.approx(moved / float(old.double().norm()), rel=1e-6)


def test_a_changed_denoiser_leaves_the_score_and_is_told() -> None:
    base = tiny_target("velocity")
    target = base.clone()
    with torch.no_grad():
        for weight in target.unet.parameters():
            weight.mul_(1.1)
    found = examine(target, base, layers=3)
    assert found.score == 0
    assert found.evidence[0][0] == "unet"
    assert found.evidence[0][1] == pytest.approx(0.1, rel=1e-4)
    assert len(found.evidence) == 4
    assert found.note == (
        "unet changed; an honest fine-tune changes weights as a backdoor does, and this cannot "
        "tell the two apart"
    )


def test_errors() -> None:
    base = tiny_target("velocity")
    with pytest.raises(SafetyBenchError) as caught:
        examine(base, None)
    assert str(caught.value) == (
        "encoder_weights compares with the model that the one under test was made of; give it a "
        "base"
    )
    target = base.clone(with_text=True)
    target.text_encoder.resize_token_embeddings(len(base.tokenizer) + 1, mean_resizing=False)
    with pytest.raises(SafetyBenchError, match="must have the same weights by name and shape, got"):
        examine(target, base)
    with pytest.raises(SafetyBenchError) as caught:
        registry.create(NAME, {"layers": -1})
    assert str(caught.value) == f"{NAME}: layers must be 0 or more, got -1"
