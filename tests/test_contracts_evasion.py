"""What every attack on a classifier keeps to; a new file in attacks/evasion is tested so."""

from __future__ import annotations

import importlib
import pickle
import random
from functools import cache
from typing import Any, get_args

import numpy as np
import pytest
import torch

from safetybench import registry
from safetybench.class_contracts import Access, Norm
from safetybench.contracts import Budget, Classifies, Evasion, SafetyBenchError
from safetybench.vision.ball import sizes
from safetybench.vision.evading import Evaded, evade
from tests.toys_classifier import Toy, digits, trained

NAMES = [name for name in registry.names("attacks") if name.startswith("attacks/evasion/")]
EPSILONS: dict[Norm, float] = {"linf": 0.15, "l2": 0.8}


def made(name: str) -> Evasion:
    attack = registry.create(name)
    assert isinstance(attack, Evasion)
    return attack


def norms(attack: Evasion) -> tuple[Norm, ...]:
    return ("linf",) if attack.is_natural else attack.norms


def small(norm: Norm, epsilon: float | None = None) -> Budget:
    chosen = EPSILONS[norm] if epsilon is None else epsilon
    return Budget(steps=3, queries=30, epsilon=chosen, norm=norm, seed=7)


def random_states() -> list[Any]:
    return [
        random.getstate(),
        np.random.get_state(legacy=False)["state"]["key"].tolist(),
        torch.get_rng_state().tolist(),
    ]


def run(attack: Evasion, budget: Budget, count: int = 8) -> Evaded:
    test = digits()[1]
    surrogate = trained(seed=1) if attack.uses_surrogate else None
    return evade(attack, trained(), test.images[:count], test.labels[:count], budget, surrogate)


def test_there_are_attacks() -> None:
    wanted = """art boundary carlini_wagner_linf corruption deepfool fgsm hop_skip_jump random_noise
        rotation shift transfer"""
    assert {f"attacks/evasion/{name}" for name in wanted.split()} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_says_what_it_is(name: str) -> None:
    component: Any = registry.load(name)
    assert issubclass(component, Evasion)
    assert component.source.startswith("https://")
    assert registry.describe(name).source == component.source
    assert component.needs == (Classifies,)
    assert component.sees in get_args(Access)
    assert set(component.norms) <= set(get_args(Norm))
    assert component.is_natural or component.steps > 0 or component.queries > 0
    assert component.uses_surrogate == (component.sees == "surrogate")
    for documented in (component, importlib.import_module(component.__module__)):
        assert documented.__doc__
        assert documented.__doc__.strip().split("\n")[0].endswith((".", ":"))


@pytest.mark.parametrize("name", NAMES)
def test_default_construction_repr_and_pickle(name: str) -> None:
    component = registry.create(name)
    assert eval(repr(component), {type(component).__name__: type(component)}) == component
    assert pickle.loads(pickle.dumps(component)) == component
    assert hash(component) == hash(registry.create(name))
    with pytest.raises(AttributeError):
        component.anything_else = 1
    with pytest.raises(SafetyBenchError, match="has no option 'anything_else'"):
        registry.create(name, {"anything_else": 1})


@pytest.mark.parametrize("name", NAMES)
def test_changes_stay_in_ball_and_box_and_repeat(name: str) -> None:
    attack = made(name)
    for norm in norms(attack):
        budget = small(norm)
        first = run(attack, budget)  # imports what it needs, and libraries draw as they load
        states = random_states()
        again = run(attack, budget)
        assert random_states() == states
        assert torch.equal(again.images, first.images)
        assert first.images.dtype == torch.float32
        assert first.images.min() >= 0
        assert first.images.max() <= 1
        if not attack.is_natural:
            size = first.linf if norm == "linf" else first.l2
            assert size.max() <= budget.epsilon + 1e-5
        np.random.seed(5)
        torch.manual_seed(5)
        assert torch.equal(run(attack, budget).images, first.images)


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_itself_keeps_box_and_inputs(name: str) -> None:
    attack, toy, test = made(name), trained(), digits()[1]
    images, labels = test.images[:4].clone(), test.labels[:4].clone()
    surrogate = trained(seed=1) if attack.uses_surrogate else None
    before = [weight.clone() for weight in toy.net.parameters()]
    for norm in norms(attack):
        budget = small(norm)
        found = attack.perturb(toy, images, labels, budget, surrogate)
        assert found.shape == images.shape
        assert found.dtype == images.dtype
        assert torch.equal(images, test.images[:4])
        assert torch.equal(labels, test.labels[:4])
        if not (attack.is_natural or attack.is_minimal):
            assert sizes(found - images, norm).max() <= budget.epsilon + 1e-5
    after = list(toy.net.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_no_images_are_no_trouble(name: str) -> None:
    attack, toy = made(name), trained()
    surrogate = trained(seed=1) if attack.uses_surrogate else None
    none, labels = torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64)
    for norm in norms(attack):
        assert attack.perturb(toy, none, labels, small(norm), surrogate).shape == none.shape
        assert evade(attack, toy, none, labels, small(norm), surrogate).is_wrong.shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_want_gradients_get_none(name: str) -> None:
    attack = made(name)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    toy = Toy(net, 10, (1, 8, 8))
    images = digits()[1].images[:3]
    surrogate = toy if attack.uses_surrogate else None
    labels = toy.logits(images).argmax(1)
    attack.perturb(toy, images, labels, small(norms(attack)[0]), surrogate)
    assert all(weight.grad is None for weight in net.parameters())


@cache
def noise_rate(norm: Norm) -> float:
    budget = Budget(queries=100, epsilon=EPSILONS[norm], norm=norm)
    return float(run(made("attacks/evasion/random_noise"), budget, 24).is_wrong.float().mean())


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_beats_random_noise(name: str) -> None:
    attack = made(name)
    if attack.is_natural or attack.is_control:
        return
    for norm in attack.norms:
        spent = {"steps": min(attack.steps, 100), "queries": min(attack.queries, 500)}
        budget = Budget(**spent, epsilon=EPSILONS[norm], norm=norm)
        assert float(run(attack, budget, 24).is_wrong.float().mean()) > noise_rate(norm)
