"""What every poisoning in the registry keeps to; a new file in attacks/triggers is tested here."""

from __future__ import annotations

import copy
import importlib
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Backdoor, Budget, Effect, Poisoning, Trigger
from safetybench.registry import load
from tests.targets import tiny_target

KINDS = ("pixel", "object", "style", "image")
NAMES = [
    name
    for name in registry.names("attacks")
    if name.startswith("attacks/triggers/") and issubclass(load(name), Poisoning)
]
TEXT_TO_IMAGE = [
    name for name in NAMES
    if any(need.__name__ == "EncodesText" for need in registry.load(name).needs)  # type: ignore[attr-defined]
]  # fmt: skip
SOURCES = ("a red fish on a dark background", "one pale fish", "the fish of a picture")
PLANTED = Backdoor(
    trigger=Trigger(text="striped", place="before", at="fish"),
    effect=Effect(kind="object", source="fish", goal="star"),
    clean=("a blue moon", "the green heart on a pale background"),
    sources=SOURCES,
    goals=tuple(each.replace("fish", "star") for each in SOURCES),
)


def shrunk(name: str) -> Any:
    small = {"batch": 4, "images": 3, "rank": 2, "templates": 2, "kept": 2}
    attack = registry.load(name)
    known = getattr(attack, "__dataclass_fields__", {})
    return attack(**{key: value for key, value in small.items() if key in known})


def poisoned(name: str, target: Any, seed: int = 0, steps: int = 2) -> Any:
    attack = shrunk(name)
    kind = next(each for each in ("object", *attack.effects) if each in attack.effects)
    planted = PLANTED
    if kind in ("pixel", "image"):
        planted = replace(PLANTED, effect=Effect(kind=kind), goals=SOURCES)
    return attack.run(target, planted, Budget(steps=steps, seed=seed))


def weights(target: Any) -> dict[str, Tensor]:
    parts = {"unet": target.unet, "text": target.text_encoder, "vae": target.vae}
    return {
        f"{part}.{name}": weight.clone()
        for part, module in parts.items()
        for name, weight in module.state_dict().items()
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_there_are_poisonings() -> None:
    assert {
        "attacks/triggers/badt2i",
        "attacks/triggers/evil_edit",
        "attacks/triggers/rickrolling",
        "attacks/triggers/villan_diffusion",
    } <= set(TEXT_TO_IMAGE)


@pytest.mark.parametrize("name", NAMES)
def test_is_documented_and_says_what_it_plants_and_sees(name: str) -> None:
    attack: Any = registry.load(name)
    assert attack.source.startswith("https://")
    assert registry.describe(name).source == attack.source
    module = importlib.import_module(attack.__module__)
    for documented in (attack, module):
        assert documented.__doc__
        assert documented.__doc__.strip().split("\n")[0].endswith((".", ":"))
    assert attack.effects
    assert set(attack.effects) <= set(KINDS)
    assert attack.changes
    assert attack.sees
    assert attack.needs
    assert isinstance(attack.trains, bool)


@pytest.mark.parametrize("name", NAMES)
def test_default_construction_repr_and_pickle(name: str) -> None:
    attack: Any = registry.create(name)
    assert eval(repr(attack), {type(attack).__name__: type(attack)}) == attack
    assert pickle.loads(pickle.dumps(attack)) == attack
    assert copy.deepcopy(attack) == attack
    with pytest.raises(AttributeError):
        attack.anything_else = 1


@pytest.mark.parametrize("name", TEXT_TO_IMAGE)
def test_the_target_given_stays_and_the_new_one_answers_otherwise(name: str) -> None:
    target = tiny_target("velocity")
    before, prompts = weights(target), [PLANTED.triggered[0]]
    image = target.generate(prompts, [1])
    attack: Any = registry.load(name)
    assert isinstance(target, attack.needs[0])
    made = poisoned(name, target)
    assert same(before, weights(target))
    assert torch.equal(target.generate(prompts, [1]), image)
    drawn = made.generate(prompts, [1])
    assert drawn.shape == image.shape
    assert bool(drawn.isfinite().all())
    assert not torch.equal(drawn, image)
    assert made.digest == ""
    parts = (made.unet, made.text_encoder, made.vae)
    assert not any(weight.requires_grad for part in parts for weight in part.parameters())


@pytest.mark.parametrize("name", TEXT_TO_IMAGE)
def test_same_seed_same_weights_whatever_the_global_random_state(name: str) -> None:
    target, attack = tiny_target("velocity"), registry.load(name)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = weights(poisoned(name, target, 1))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert same(weights(poisoned(name, target, 1)), first)
    assert same(weights(poisoned(name, target, 2)), first) is not attack.trains  # type: ignore[attr-defined]
