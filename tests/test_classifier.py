"""Classifiers as targets: evaluation enforced, weights kept, odd networks named, data that fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from safetybench.contracts import Classifies, SafetyBenchError, TargetFailed
from safetybench.targets.classifier import Classifier, Fitted, check_fits, probe
from safetybench.targets.classifier_loading import load_classifier
from safetybench.vision import nets
from safetybench.vision.data import source_of

SHAPE = (1, 8, 8)
NAMES = tuple(map(str, range(10)))
TOLD = {"net": "cnn", "width": 4}


def made(net: nn.Module | None = None, **more: Any) -> Classifier:
    net = net or nets.build(TOLD, classes=10, shape=SHAPE, seed=0)
    return Classifier(net=net, **{"name": "mine", "names": NAMES, "shape": SHAPE, **more})


def flat(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(64, 10))


def images(count: int = 3) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_it_is_a_target_with_gradients_that_counts_what_it_is_asked() -> None:
    target = made(told=TOLD)
    assert isinstance(target, Classifies)
    asked = images().requires_grad_()
    logits = target.logits(asked)
    assert logits.shape == (3, 10)
    logits.sum().backward()
    assert asked.grad is not None
    assert asked.grad.abs().sum() > 0
    assert target.nfe == 3
    assert target.lineage == ("mine",)
    assert target.device == torch.device("cpu")
    assert not any(weight.requires_grad for weight in target.net.parameters())


def test_evaluation_mode_holds_whatever_others_left() -> None:
    target = made(flat(nn.Dropout(0.5), nn.BatchNorm1d(64)))
    before = target.logits(images())
    target.net.train()
    assert torch.equal(target.logits(images()), before)
    assert not probe(target).is_random


def test_a_clone_shares_no_weights() -> None:
    target = made()
    other = target.clone()
    for weight in other.net.parameters():
        weight.data.zero_()
    assert target.logits(images()).abs().sum() > 0
    assert other.logits(images()).abs().sum() == 0


@pytest.mark.parametrize("half", [False, True])
def test_it_is_kept_and_read_again(tmp_path: Path, half: bool) -> None:
    target = made(told=TOLD, data="digits", card={"lineage": ["first", "mine"]})
    target.save(tmp_path / "a", {"name": "mine", "summary": "x"}, half=half)
    assert json.loads((tmp_path / "a/classifier.json").read_text()) == {
        "schema": "safetybench.classifier/1", "net": TOLD, "classes": list(NAMES),
        "shape": [1, 8, 8], "data": "digits",
    }  # fmt: skip
    kinds = {value.dtype for value in load_file(tmp_path / "a/model.safetensors").values()}
    assert kinds == {torch.float16 if half else torch.float32}
    again = load_classifier(str(tmp_path / "a"))
    assert again.card["kind"] == "classifier"
    assert (again.name, again.lineage, again.data) == ("mine", ("first", "mine"), "digits")
    apart = (again.logits(images()) - target.logits(images())).abs().max()
    assert apart <= (0.02 if half else 0)


def test_what_nothing_makes_again_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(SafetyBenchError, match="mine is made by code of its own"):
        made(flat()).save(tmp_path)


def test_fitted_scales_and_resizes_inside() -> None:
    inner = nn.Sequential(nn.Flatten(), nn.Identity())
    net = Fitted(inner, [0.5], [0.25], (4, 4))
    assert torch.allclose(net(torch.full((1, 1, 4, 4), 0.75)), torch.ones(1, 16))
    asked = images().requires_grad_()
    assert net(asked).shape == (3, 16)
    net(asked).sum().backward()
    assert asked.grad is not None
    assert not net.state_dict()


# What a network may not do, or is told of


class _Noisy(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.dropout(features, 0.5, training=True)


class _Stubborn(nn.Module):
    """Stays in training mode, whatever it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.BatchNorm1d(64)

    def train(self, mode: bool = True) -> _Stubborn:
        super().train(True)
        return self

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = self.inner(features)
        return found


def test_a_random_network_is_told_and_allowed() -> None:
    target = probe(made(flat(_Noisy())))
    assert target.is_random
    assert target.notes == ("mine answers at random; attacks should average",)
    assert target.nfe == 0


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (flat(_Stubborn()), "mine changes its 1.inner.running_mean when it is asked, even in"),
        (flat().append(nn.Softmax(1)), "mine answers with probabilities, and attacks need logits"),
        (flat().append(nn.Linear(10, 3)), r"mine must answer \(2, 10\) logits, got \(2, 3\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 10)), r"mine takes no images of shape \(1, 8"),
    ],
)
def test_a_network_that_no_attack_could_be_judged_on_is_refused(
    net: nn.Module, message: str
) -> None:
    with pytest.raises((SafetyBenchError, TargetFailed), match=message):
        probe(made(net))


def test_data_must_fit() -> None:
    digits = source_of("digits")
    check_fits(made(), digits)
    with pytest.raises(SafetyBenchError) as told:
        check_fits(made(shape=(3, 8, 8)), digits)
    assert str(told.value) == (
        "mine takes images of shape (3, 8, 8), and those of digits are (1, 8, 8)"
    )
    with pytest.raises(SafetyBenchError, match=r"; `shape: \[1, 8, 8\]` lets it resize them"):
        check_fits(made(Fitted(flat()), shape=(1, 28, 28)), digits)
    with pytest.raises(SafetyBenchError, match="mine tells 4 classes, and digits has 10"):
        check_fits(made(names=NAMES[:4]), digits)
    with pytest.raises(SafetyBenchError, match="another order: number 0 is '9' to it, and '0' in"):
        check_fits(made(names=NAMES[::-1]), digits)
