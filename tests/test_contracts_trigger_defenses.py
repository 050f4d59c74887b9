"""What every filter and detector of text triggers keeps to; a new file is tested by being there."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from safetybench import registry
from safetybench.contracts import (
    Budget,
    Denoises,
    EncodesText,
    GeneratesImages,
    ModelDetector,
    PromptDetector,
    PromptFilter,
    Suspicion,
)
from safetybench.targets.text_to_image import TextToImage
from tests.targets import tiny_target

# Fields that make a component small; each is set where the component has it.
SMALL = {"kept": 4, "batch": 8, "components": 3, "pairs": 0}
# Detectors of noise triggers examine another kind of target, in tests of their own.
_OURS = (GeneratesImages, EncodesText, Denoises)
PROMPTS = ["a red fish", "the blue striped star on dark background", "one green moon"]
SEEDS = [3, 4, 5]


def of(contract: type) -> list[str]:
    return [
        name
        for name in registry.names("defenses")
        if issubclass(component := registry.load(name), contract)
        and set(getattr(component, "needs", ())) <= set(_OURS)
    ]


FILTERS, BY_PROMPT, BY_MODEL = of(PromptFilter), of(PromptDetector), of(ModelDetector)
NAMES = [*FILTERS, *BY_PROMPT, *BY_MODEL]


def made(name: str) -> Any:
    known = getattr(registry.load(name), "__dataclass_fields__", {})
    return registry.create(name, {k: v for k, v in SMALL.items() if k in known})


@pytest.fixture(scope="module")
def models() -> tuple[TextToImage, TextToImage]:
    base = tiny_target("velocity")
    target = base.clone(with_text=True)
    with torch.no_grad():
        for weight in target.text_encoder.parameters():
            weight.mul_(1.01)
    return target, base


def test_all_kinds_are_there() -> None:
    assert len(FILTERS) >= 2
    assert len(BY_PROMPT) >= 2
    assert len(BY_MODEL) >= 2


@pytest.mark.parametrize("name", NAMES)
def test_a_component_says_what_it_is(name: str, models: tuple[Any, Any]) -> None:
    component = registry.load(name)
    assert component.source.startswith("https://")
    assert registry.describe(name).source == component.source
    assert getattr(component, "sees", "")
    assert all(isinstance(models[0], need) for need in getattr(component, "needs", ()))
    assert component.__doc__
    for each in (made(name), registry.create(name)):
        assert eval(repr(each), {component.__name__: component}) == each
        assert pickle.loads(pickle.dumps(each)) == each


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_rewrites_each_prompt_by_itself(name: str) -> None:
    component = made(name)
    given = list(PROMPTS)
    found = component.rewrite(given, 7)
    assert given == PROMPTS
    assert component.rewrite(PROMPTS, 7) == found
    assert [component.rewrite([prompt], 7)[0] for prompt in PROMPTS] == found
    assert all(isinstance(text, str) for text in found)
    assert component.rewrite([], 7) == []


@pytest.mark.parametrize("name", BY_PROMPT)
def test_a_score_is_of_its_prompt_and_seed(name: str, models: tuple[Any, Any]) -> None:
    target, base = models
    component = made(name)
    before = {key: value.clone() for key, value in target.unet.state_dict().items()}
    hooks = sum(len(module._forward_hooks) for module in target.unet.modules())
    processors = {k: type(v) for k, v in target.unet.attn_processors.items()}
    torch.manual_seed(1)
    first = component.scores(target, PROMPTS, SEEDS, base)
    torch.manual_seed(2)
    assert torch.equal(component.scores(target, PROMPTS, SEEDS, base), first)
    assert first.shape == (3,)
    assert first.isfinite().all()
    assert not first.requires_grad
    alone = [component.scores(target, [p], [s], base) for p, s in zip(PROMPTS, SEEDS, strict=True)]
    assert torch.allclose(torch.cat(alone), first, rtol=1e-3)
    assert component.scores(target, [], [], base).shape == (0,)
    assert all(torch.equal(value, before[key]) for key, value in target.unet.state_dict().items())
    assert sum(len(module._forward_hooks) for module in target.unet.modules()) == hooks
    assert {k: type(v) for k, v in target.unet.attn_processors.items()} == processors


@pytest.mark.parametrize("name", BY_MODEL)
def test_an_examination_is_repeatable_and_leaves_no_trace(
    name: str, models: tuple[Any, Any]
) -> None:
    target, base = models
    component = made(name)
    kept = [m.state_dict() for m in (target.unet, target.text_encoder, base.text_encoder)]
    before = [{key: value.clone() for key, value in each.items()} for each in kept]
    budget = Budget(steps=2, images=6, seed=3)
    first = component.examine(target, base, budget)
    assert component.examine(target, base, budget) == first
    assert isinstance(first, Suspicion)
    assert first.score == first.score
    assert first.note
    assert all(isinstance(what, str) for what, _ in first.evidence)
    for each, old in zip(kept, before, strict=True):
        assert all(torch.equal(value, old[key]) for key, value in each.items())


@pytest.mark.parametrize("name", BY_MODEL)
def test_a_model_beside_itself_is_not_suspicious(name: str, models: tuple[Any, Any]) -> None:
    target, base = models
    component = made(name)
    budget = Budget(steps=2, images=6, seed=3)
    assert (
        component.examine(base, base, budget).score < component.examine(target, base, budget).score
    )
