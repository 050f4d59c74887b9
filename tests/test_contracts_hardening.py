"""What every way of training a classifier keeps to; a new file in defenses/evasion is tested so."""

from __future__ import annotations

import importlib
import math
import pickle
import random
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from safetybench import registry
from safetybench.contracts import Budget, ClassLesson, Hardening, Labelled, SafetyBenchError
from safetybench.vision.nets import build
from tests.toys_classifier import Toy, digits, trained

NAMES = [name for name in registry.names("defenses") if issubclass(registry.load(name), Hardening)]
TAUGHT = [name for name in NAMES if registry.create(name).needs_teacher]
BUDGET = Budget(steps=6, epsilon=0.1, seed=3)


def component(name: str) -> Any:
    few = {"inner_steps": 2} if hasattr(registry.create(name), "inner_steps") else {}
    return registry.create(name, {"size": 16, **few})


def lesson(name: str) -> ClassLesson:
    train, _ = digits()
    data = Labelled(train.images[:60].clone(), train.labels[:60].clone())
    return ClassLesson(data=data, teacher=trained() if component(name).needs_teacher else None)


def student(name: str, seed: int = 5) -> nn.Module:
    told = {"net": "dynamic" if component(name).is_family else "cnn", "width": 4}
    return build(told, classes=10, shape=(1, 8, 8), seed=seed)


def weights(net: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in net.parameters()])


def random_states() -> list[Any]:
    return [np.random.get_state(legacy=False)["state"]["key"].tolist(),
            torch.get_rng_state().tolist(), random.getstate()]  # fmt: skip


def test_there_are_ways_to_train() -> None:
    wanted = """standard kd pgd_at trades ard rslad iad defensive_distillation
        art_defensive_distillation hard random_augmentation proard"""
    assert {f"defenses/evasion/{name}" for name in wanted.split()} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_way_to_train_says_what_it_is(name: str) -> None:
    kind: Any = registry.load(name)
    assert kind.source.startswith("https://")
    assert registry.describe(name).source == kind.source
    for documented in (kind, importlib.import_module(kind.__module__)):
        assert documented.__doc__
        assert documented.__doc__.strip().split("\n")[0].endswith((".", ":"))


@pytest.mark.parametrize("name", NAMES)
def test_default_construction_repr_and_pickle(name: str) -> None:
    made = registry.create(name)
    assert eval(repr(made), {type(made).__name__: type(made)}) == made
    assert pickle.loads(pickle.dumps(made)) == made
    with pytest.raises(AttributeError):
        made.anything_else = 1
    with pytest.raises(SafetyBenchError, match="has no option 'anything_else'"):
        registry.create(name, {"anything_else": 1})


@pytest.mark.parametrize("name", NAMES)
def test_training_is_in_place_reported_and_repeatable(name: str) -> None:
    made, given, net = component(name), lesson(name), student(name)
    images, labels = (part.clone() for part in given.data)
    before, states = weights(net), random_states()
    told: list[tuple[int, float]] = []
    result = made.run(net, given, BUDGET, lambda step, loss: told.append((step, loss)))
    assert random_states() == states
    assert result is net
    assert not net.training
    assert not torch.equal(weights(net), before)
    assert all(weight.requires_grad for weight in net.parameters())
    assert torch.equal(given.data.images, images)
    assert torch.equal(given.data.labels, labels)
    assert [step for step, _ in told] == list(range(len(told)))
    assert len(told) >= BUDGET.steps
    assert all(type(loss) is float and math.isfinite(loss) for _, loss in told)

    torch.manual_seed(9)
    random.seed(9)
    np.random.seed(9)
    again = made.run(student(name), given, BUDGET)
    assert torch.equal(weights(again), weights(net))
    other = made.run(student(name), given, Budget(steps=6, epsilon=0.1, seed=4))
    assert not torch.equal(weights(other), weights(net))


@pytest.mark.parametrize("name", TAUGHT)
def test_a_teacher_stays_as_it_was(name: str) -> None:
    net = build({"net": "mlp"}, classes=10, shape=(1, 8, 8), seed=8)
    teacher = Toy(net, 10, (1, 8, 8))  # its weights want gradients, and must get none
    before = weights(net)
    component(name).run(student(name), ClassLesson(data=lesson(name).data, teacher=teacher), BUDGET)
    assert torch.equal(weights(net), before)
    assert not net.training
    assert all(weight.grad is None and weight.requires_grad for weight in net.parameters())
    assert teacher.asked


@pytest.mark.parametrize("name", TAUGHT)
def test_a_missing_or_unfit_teacher_is_told(name: str) -> None:
    made, given = component(name), lesson(name)
    own = type(made).__name__
    with pytest.raises(SafetyBenchError) as caught:
        made.run(student(name), ClassLesson(data=given.data), BUDGET)
    assert str(caught.value) == (f"{own} needs a teacher, got none; set teacher of the ClassLesson")
    unfit = Toy(build({"net": "mlp"}, classes=10, shape=(3, 8, 8), seed=0), 10, (3, 8, 8))
    with pytest.raises(SafetyBenchError) as caught:
        made.run(student(name), ClassLesson(data=given.data, teacher=unfit), BUDGET)
    assert str(caught.value) == (
        f"{own} needs a teacher of images of shape (1, 8, 8), got (3, 8, 8)"
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_ball_is_asked_for_and_both_norms_are_taken(name: str) -> None:
    made, given = component(name), lesson(name)
    if not hasattr(made, "inner_steps"):
        made.run(student(name), given, Budget(steps=2))  # needs none
        return
    with pytest.raises(SafetyBenchError) as caught:
        made.run(student(name), given, Budget(steps=2))
    assert str(caught.value) == (
        f"{type(made).__name__} trains against attacks in a ball, got epsilon 0; "
        "set epsilon of the Budget"
    )
    linf = made.run(student(name), given, Budget(steps=2, epsilon=0.5))
    l2 = made.run(student(name), given, Budget(steps=2, epsilon=0.5, norm="l2"))
    assert not torch.equal(weights(linf), weights(l2))


@pytest.mark.parametrize("name", [n for n in NAMES if "defensive_distillation" not in n])
def test_a_network_that_is_broken_is_told(name: str) -> None:
    net = student(name)  # defensive distillation draws its teacher anew, and that one works
    with torch.no_grad():
        next(net.parameters()).fill_(float("nan"))
    with pytest.raises(SafetyBenchError, match=r"^the loss is nan at step 0; a lower rate than"):
        component(name).run(net, lesson(name), BUDGET)


REFUSED = {
    "size": (0, "size must be 1 or more, got 0"),
    "rate": (0.0, "rate must be above 0, got 0.0"),
    "inner_steps": (0, "inner_steps must be 1 or more, got 0"),
    "rel_step": (0.0, "rel_step is a fraction of epsilon in (0, 2], got 0.0"),
    "temperature": (0.0, "temperature must be above 0, got 0.0"),
    "alpha": (1.5, "alpha must be in [0, 1], got 1.5"),
    "beta": (-1.0, "beta must be 0 or more, got -1.0"),
    "warm_up": (2.0, "warm_up must be in [0, 1], got 2.0"),
    "rotate": (200.0, "rotate must be in [0, 180] degrees, got 200.0"),
    "shift": (1.0, "shift must be in [0, 1), got 1.0"),
    "scale": (-0.1, "scale must be in [0, 1), got -0.1"),
    "brightness": (1.0, "brightness must be in [0, 1), got 1.0"),
    "contrast": (1.0, "contrast must be in [0, 1), got 1.0"),
    "push_rate": (-1.0, "push_rate must be 0 or more, got -1.0"),
    "sampling": ("none", "sampling must be progressive, sandwich or random, got 'none'"),
    "subnets": (1, "subnets must be 2 or more, got 1"),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_option_refuses_what_it_cannot_be(name: str) -> None:
    kind: Any = registry.load(name)
    for option in fields(kind):
        if option.type == "bool":  # the registry refuses what is neither true nor false
            continue
        value, message = REFUSED[option.name]
        with pytest.raises(ValueError, match=r"^") as caught:
            kind(**{option.name: value})
        assert str(caught.value) == message
