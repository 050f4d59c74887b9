"""ProARD: which sub-networks its updates take, its loss, and that its students are of use."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safetybench import registry
from safetybench.contracts import Budget, ClassLesson, Labelled, SafetyBenchError
from safetybench.vision.nets import Choice, Dynamic, build, choices, member
from tests.toys_classifier import Toy, digits, trained

proard: Any = importlib.import_module("safetybench.defenses.evasion.proard")


def dynamic(width: int = 4) -> Dynamic:
    net = build({"net": "dynamic", "width": width}, classes=10, shape=(1, 8, 8), seed=0)
    assert isinstance(net, Dynamic)
    return net


def drawn(sampling: str, patch: pytest.MonkeyPatch, steps: int) -> list[list[Choice]]:
    """Return the sub-networks of every update."""
    found: list[list[Choice]] = []
    real = proard.Proard.draw

    def draw(self: Any, *given: Any) -> list[Choice]:
        found.append(real(self, *given))
        return found[-1]

    patch.setattr(proard.Proard, "draw", draw)
    made = proard.Proard(sampling=sampling, inner_steps=1, size=4)
    data = Labelled(*(part[:8] for part in digits()[0]))
    told: list[int] = []
    made.run(
        dynamic(), ClassLesson(data=data, teacher=trained()), Budget(steps=steps, epsilon=0.1),
        lambda step, loss: told.append(step),
    )  # fmt: skip
    assert told == list(range(steps))
    assert len(found) == steps
    return found


def test_progressive_sampling_opens_width_then_depth_then_expansion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    updates = drawn("progressive", monkeypatch, 41)
    # 12, 2.5, 12, 2.5 and 12 of 41 by the published epochs
    ends = [0, 12, 14, 26, 29, 41]
    widths, depths, expands = (0.5, 0.75, 1.0), (0, 1, 2), (0.25, 0.5, 1.0)
    opened: list[Any] = [
        (widths, depths[2:], expands[2:]),
        (widths, depths[1:], expands[2:]),
        (widths, depths, expands[2:]),
        (widths, depths, expands[1:]),
        (widths, depths, expands),
    ]
    for place, axes in enumerate(opened):
        stage = updates[ends[place] : ends[place + 1]]
        for update in stage:
            assert len(update) == 3
            assert update[0] == Choice(1.0, 2, 1.0)
            assert update[1] == Choice(*(axis[0] for axis in axes))
            assert all(value in axis for value, axis in zip(update[2], axes, strict=True))
    assert len({update[2] for update in updates[29:]}) > 5


def test_random_sampling_has_no_stages_and_no_sandwich(monkeypatch: pytest.MonkeyPatch) -> None:
    updates = drawn("random", monkeypatch, 20)
    assert all(len(update) == 3 for update in updates)
    first = {update[0] for update in updates}
    assert len(first) > 5
    assert any(update[0].expand < 1 for update in updates[:5])


def test_the_sandwich_may_be_open_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    updates = drawn("sandwich", monkeypatch, 20)
    assert {update[0] for update in updates} == {Choice(1.0, 2, 1.0)}
    assert {update[1] for update in updates} == {Choice(0.5, 0, 0.25)}
    assert len({update[2] for update in updates}) > 5


def test_fewer_steps_than_stages_train_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(drawn("progressive", monkeypatch, 2)) == 2


def test_the_loss_is_rslads_averaged_over_the_sub_networks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = dynamic()
    with torch.no_grad():
        net.shared.get_parameter("head.weight").mul_(8)
    data = Labelled(*(part[:8] for part in digits()[0]))
    goal = trained().logits(data.images).softmax(1)
    parts = []
    for choice in (net.largest, Choice(0.5, 2, 1.0)):
        alone = member(net, choice)
        for weight, images in ((0.75, data.images * 0.9), (0.25, data.images)):
            with torch.no_grad():
                asked = alone(images).softmax(1)
            parts.append(weight * (goal * (goal / asked).log()).sum(1).mean())
    monkeypatch.setattr(proard, "attacked", lambda net, images, *_, **__: images * 0.9)
    told: list[float] = []
    made = proard.Proard(subnets=2, alpha=0.75, size=8)
    made.run(
        net, ClassLesson(data=data, teacher=trained()), Budget(steps=1, epsilon=0.1),
        lambda step, loss: told.append(loss),
    )  # fmt: skip
    assert told == pytest.approx([float(sum(parts)) / 2], rel=1e-5)


def test_only_a_dynamic_network_is_trained() -> None:
    lesson = ClassLesson(data=digits()[0], teacher=trained())
    plain = build({"net": "cnn"}, classes=10, shape=(1, 8, 8), seed=0)
    with pytest.raises(SafetyBenchError) as caught:
        proard.Proard().run(plain, lesson, Budget(steps=1, epsilon=0.1))
    assert str(caught.value) == 'Proard trains a network built as "dynamic", got Sequential'


def test_its_students_are_accurate_and_robust_without_training_again() -> None:
    net = dynamic(8)
    made: Any = registry.create(
        "defenses/evasion/proard", {"size": 64, "inner_steps": 2, "rel_step": 0.5, "rate": 2e-2}
    )
    teacher = Toy(trained(0.15).net, 10, (1, 8, 8))
    made.run(net, ClassLesson(data=digits()[0], teacher=teacher), Budget(steps=110, epsilon=0.1))
    images, labels = digits()[1]
    for choice in choices(net)[::5]:
        alone = member(net, choice)
        assert accuracy(alone, images, labels) > 0.7, choice
        assert accuracy(alone, fgsm(alone, images, labels), labels) > 0.35, choice


def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((net(images).argmax(1) == labels).float().mean())


def fgsm(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    given = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(net(given), labels), given)
    return (images + 0.1 * slope.sign()).clamp(0, 1)
