"""The training loop: what it reads, in what order, at what rate, and what it refuses."""

from __future__ import annotations

import doctest
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from safetybench.contracts import Budget, ClassLesson, Labelled, SafetyBenchError
from safetybench.vision import fitting
from safetybench.vision.fitting import Batch, fit, steps_of


def lesson(count: int = 10) -> ClassLesson:
    images = torch.arange(count * 4.0).reshape(count, 1, 2, 2) / (count * 4)
    return ClassLesson(data=Labelled(images, torch.arange(count) % 2))


def layer(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))


def cross(net: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(net(batch.images), batch.labels)


def test_every_image_is_seen_once_before_any_is_seen_again() -> None:
    seen: list[int] = []
    shares: list[float] = []
    given = lesson()

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        assert net.training
        assert torch.equal(batch.images, given.data.images[batch.rows])
        assert torch.equal(batch.labels, given.data.labels[batch.rows])
        assert len(batch.rows) == 4
        seen.extend(batch.rows.tolist())
        shares.append(batch.share)
        return cross(net, batch)

    fit(layer(), given, Budget(steps=5, seed=3), loss, size=4, rate=0.1)
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:] != list(range(10))
    assert shares == [0, 0.2, 0.4, 0.6, 0.8]


def test_a_batch_is_never_more_than_there_is() -> None:
    sizes: list[int] = []

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        sizes.append(len(batch.rows))
        return cross(net, batch)

    fit(layer(), lesson(3), Budget(steps=2), loss, size=64, rate=0.1)
    assert sizes == [3, 3]
    assert steps_of(2, 3, 64) == 2
    assert steps_of(6, 12_000, 128) == 563
    assert steps_of(0, 10, 4) == 1


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_the_same_seed_gives_the_same_weights(optimiser: Literal["adam", "sgd"]) -> None:
    def trained(seed: int) -> Tensor:
        torch.rand(1)  # the global generator is not read
        net = layer()
        fit(net, lesson(), Budget(steps=7, seed=seed), cross, size=4, rate=0.1, optimiser=optimiser)
        assert not net.training
        assert all(weight.grad is None for weight in net.parameters())
        return torch.cat([weight.detach().flatten() for weight in net.parameters()])

    state = torch.get_rng_state()
    first = trained(1)
    torch.set_rng_state(state)
    assert torch.equal(trained(1), first)
    assert not torch.equal(trained(2), first)


def test_one_step_of_sgd_is_the_gradient_at_the_middle_of_its_step() -> None:
    net, given = layer(), lesson()
    before = [weight.detach().clone() for weight in net.parameters()]
    nn.functional.cross_entropy(net(given.data.images), given.data.labels).backward()
    slopes = [weight.grad.clone() for weight in net.parameters() if weight.grad is not None]
    fit(net, given, Budget(steps=1), cross, size=10, rate=0.5, optimiser="sgd")
    height = fitting._height(0.5)
    for weight, was, slope in zip(net.parameters(), before, slopes, strict=True):
        torch.testing.assert_close(weight.detach(), was - 0.5 * height * slope)


def test_no_step_changes_nothing_but_the_mode() -> None:
    net = layer()
    before = [weight.detach().clone() for weight in net.parameters()]
    assert fit(net, lesson(), Budget(steps=0), cross, size=4, rate=0.1) is net
    assert not net.training
    assert all(torch.equal(w, was) for w, was in zip(net.parameters(), before, strict=True))


def test_report_is_told_every_step_and_its_loss() -> None:
    told: list[tuple[int, float]] = []

    def report(step: int, loss: float) -> None:
        told.append((step, loss))

    fit(layer(), lesson(), Budget(steps=40), cross, size=10, rate=0.5, report=report, first=7)
    assert [step for step, _ in told] == list(range(7, 47))
    assert told[-1][1] < told[0][1]


def test_frozen_weights_stay_and_none_to_train_is_told() -> None:
    net = layer()
    net.get_parameter("1.bias").requires_grad_(False).fill_(0.25)
    fit(net, lesson(), Budget(steps=3), cross, size=4, rate=0.1)
    assert net.get_parameter("1.bias").tolist() == [0.25, 0.25]
    with pytest.raises(SafetyBenchError, match=r"^the network has no weight that may be trained$"):
        fit(net.requires_grad_(False), lesson(), Budget(steps=3), cross, size=4, rate=0.1)


def test_a_loss_that_is_no_number_is_told_with_its_step() -> None:
    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return cross(net, batch) / (0 if batch.share > 0.5 else 1)

    with pytest.raises(SafetyBenchError) as caught:
        fit(layer(), lesson(), Budget(steps=4), loss, size=4, rate=0.1)
    assert str(caught.value) == "the loss is inf at step 3; a lower rate than 0.1 may help"


def test_weights_that_are_no_numbers_are_told() -> None:
    def loss(net: nn.Module, batch: Batch) -> Tensor:
        zero: Tensor = net(batch.images).sum() * 0
        return zero.sqrt()  # 0, with a gradient of 0 times infinity

    with pytest.raises(SafetyBenchError, match=r"^weights are no numbers after step 0; a lower"):
        fit(layer(), lesson(), Budget(steps=1), loss, size=4, rate=0.1)


def test_a_lesson_without_images_is_told() -> None:
    with pytest.raises(SafetyBenchError, match=r"^the lesson has no images to train on$"):
        fit(layer(), lesson(0), Budget(steps=1), cross, size=4, rate=0.1)


def test_training_works_where_gradients_are_off() -> None:
    net = layer()
    with torch.no_grad():
        fit(net, lesson(), Budget(steps=2), cross, size=4, rate=0.1)
    assert not torch.equal(net.get_parameter("1.weight"), layer().get_parameter("1.weight"))


def test_examples() -> None:
    assert doctest.testmod(fitting).failed == 0
