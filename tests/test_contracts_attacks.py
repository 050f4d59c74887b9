"""What every attack in the registry keeps to; a new file in attacks/ is tested by being there."""

from __future__ import annotations

import copy
import importlib
import pickle
from typing import Any

import pytest
import torch

from safetybench import registry
from safetybench.contracts import (
    Budget,
    Candidate,
    DataPoisoning,
    Evasion,
    ImageEdit,
    Mimicry,
    NoisePoisoning,
    Poisoning,
    PromptAttack,
    Purifier,
    TextPoisoning,
    WeightAttack,
)
from tests import toys_attack as toys
from tests.targets import tiny_target

NAMES = registry.names("attacks")
PROMPTS = [n for n in NAMES if n.startswith("attacks/prompts/")]
WEIGHTS = [n for n in NAMES if n.startswith("attacks/weights/")]


def shrunk(name: str) -> Any:
    """Return the attack at its smallest, where it has something to shrink."""
    small = {"timesteps": 2, "iterations": 2, "tokens": 1, "generations": 2, "population": 4}
    attack = registry.load(name)
    known = getattr(attack, "__dataclass_fields__", {})
    return attack(**{key: value for key, value in small.items() if key in known})


def searched(name: str, seed: int = 0) -> list[list[Candidate]]:
    prompts, budget = toys.prompts(2), Budget(images=4, steps=6, queries=9, seed=seed)
    search = shrunk(name).search(toys.vulnerable(), prompts, toys.aids(prompts), budget)
    return [[comparable(candidate) for candidate in found] for found in search]


def comparable(candidate: Candidate) -> Any:
    """Return a candidate that `==` can compare: tensors refuse to say yes or no."""
    states = candidate.states
    return candidate._replace(states=None if states is None else states.tolist())  # type: ignore[arg-type]


def test_there_are_attacks() -> None:
    assert {
        "attacks/prompts/random_prefix",
        "attacks/prompts/seed_search",
        "attacks/prompts/unlearndiffatk",
    } <= set(PROMPTS)
    assert "attacks/weights/relearning" in WEIGHTS


@pytest.mark.parametrize("name", NAMES)
def test_is_a_documented_attack_with_a_source(name: str) -> None:
    attack: Any = registry.load(name)
    of_images = ImageEdit | Purifier | Mimicry | Evasion
    planting = Poisoning | NoisePoisoning | DataPoisoning | TextPoisoning
    assert issubclass(attack, PromptAttack | WeightAttack | of_images | planting)
    assert attack.source.startswith("https://")
    assert registry.describe(name).source == attack.source
    module = importlib.import_module(attack.__module__)
    for documented in (attack, module):
        assert documented.__doc__
        assert documented.__doc__.strip().split("\n")[0].endswith((".", ":"))
    if issubclass(attack, PromptAttack | WeightAttack):
        assert attack.sees
        assert attack.needs


@pytest.mark.parametrize("name", NAMES)
def test_default_construction_repr_and_pickle(name: str) -> None:
    attack: Any = registry.create(name)
    assert eval(repr(attack), {type(attack).__name__: type(attack)}) == attack
    assert pickle.loads(pickle.dumps(attack)) == attack
    assert copy.deepcopy(attack) == attack
    with pytest.raises(AttributeError):
        attack.anything_else = 1


@pytest.mark.parametrize("name", PROMPTS)
def test_same_seed_same_output_and_another_seed_another(name: str) -> None:
    assert searched(name, 1) == searched(name, 1)
    assert searched(name, 1) != searched(name, 2)


@pytest.mark.parametrize("name", PROMPTS)
def test_global_random_state_is_neither_read_nor_moved(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = searched(name)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert searched(name) == first


@pytest.mark.parametrize("name", PROMPTS)
def test_inputs_stay_as_they_were(name: str) -> None:
    prompts, budget = toys.prompts(2), Budget(images=4, steps=6)
    aids, target = toys.aids(prompts), toys.vulnerable()
    references = aids.references
    assert references is not None
    before = references.clone(), list(prompts), target.table.clone()
    list(shrunk(name).search(target, prompts, aids, budget))
    assert torch.equal(references, before[0])
    assert prompts == before[1]
    assert torch.equal(target.table, before[2])


@pytest.mark.parametrize("name", PROMPTS)
def test_budget_and_rounds_are_kept(name: str) -> None:
    found = searched(name)
    assert 1 <= len(found) <= 3
    for candidates in found:
        assert [c.item for c in candidates] == ["fish-0", "fish-1"]
        assert all(isinstance(c.text, str) and isinstance(c.seed, int) for c in candidates)
    assert sum(r[0].steps for r in found) <= 6
    attack, prompts = shrunk(name), toys.prompts(2)
    one = attack.search(toys.robust(), prompts, toys.aids(prompts), Budget(images=1, steps=9))
    assert list(one) == []


@pytest.mark.parametrize("name", PROMPTS)
def test_control_options_fit_the_random_prefix(name: str) -> None:
    options = registry.create(name).control_options()
    assert registry.create("attacks/prompts/random_prefix", options).is_control


# Attacks on weights


def stages(name: str, target: Any, seed: int = 0, steps: int = 3) -> list[tuple[int, Any]]:
    """Return the steps of each stage and an image of its target."""
    given = toys.pictures()
    small = torch.nn.functional.interpolate(given.images, (16, 16))
    attack = registry.create(name).stages(
        target, given._replace(images=small), Budget(steps=steps, seed=seed)
    )
    return [(stage.steps, stage.target.generate(["a fish"], [1]).tolist()) for stage in attack]


@pytest.mark.parametrize("name", WEIGHTS)
def test_stages_begin_with_the_target_as_it_is_and_end_with_the_budget(name: str) -> None:
    target = tiny_target()
    before = {key: value.clone() for key, value in target.unet.state_dict().items()}
    image = target.generate(["a fish"], [1]).tolist()
    found = stages(name, target)
    steps = [at for at, _ in found]
    assert steps[0] == 0
    assert steps[-1] == 3
    assert steps == sorted(set(steps))
    assert found[0][1] == image
    assert found[-1][1] != image
    assert all(torch.equal(value, target.unet.state_dict()[key]) for key, value in before.items())
    assert [at for at, _ in stages(name, target, steps=0)] == [0]


@pytest.mark.parametrize("name", WEIGHTS)
def test_same_seed_same_weights_and_the_global_random_state_is_left_alone(name: str) -> None:
    target = tiny_target()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = stages(name, target, 1)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert stages(name, target, 1) == first
    assert stages(name, target, 2) != first
