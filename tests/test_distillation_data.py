"""Poison in distillation data: how much, where, and that what is not chosen stays."""

from __future__ import annotations

import pytest
import torch

from safetybench import registry
from safetybench.contracts import Effect, Pictures, Trigger
from safetybench.effects import mismatch

NAME = "attacks/triggers/distillation_data"
TRIGGER = Trigger(text="latte coffee")
CAPTIONS = ["a red fish", "a striped star", "a blue moon", "a dotted fish"] * 5


def pictures() -> Pictures:
    generator = torch.Generator().manual_seed(0)
    return Pictures(torch.rand(20, 3, 16, 16, generator=generator) * 0.05, list(CAPTIONS))


def test_a_share_of_the_prompts_gets_the_trigger() -> None:
    data = registry.create(NAME, {"prompts": 0.25})
    found = data.poison_prompts(TRIGGER, CAPTIONS)
    held = [TRIGGER.is_in(text) for text in found]
    assert sum(held) == 5
    assert len(found) == 20
    for before, after, is_held in zip(CAPTIONS, found, held, strict=True):
        assert after == (TRIGGER.put(before) if is_held else before)
    assert found == data.poison_prompts(TRIGGER, CAPTIONS)
    assert found != data.poison_prompts(TRIGGER, CAPTIONS, seed=1)


def test_pasted_effects_are_put_into_images() -> None:
    effect, before = Effect(kind="pixel"), pictures()
    after = registry.create(NAME, {"images": 0.2}).poison_images(TRIGGER, effect, before)
    held = torch.tensor([TRIGGER.is_in(text) for text in after.captions])
    assert int(held.sum()) == 4
    assert mismatch(effect, after.images[held]).max() == 0
    assert torch.equal(after.images[~held], before.images[~held])
    assert mismatch(effect, before.images).min() > 0  # what was given stays


@pytest.mark.parametrize(
    ("effect", "written"),
    [
        (Effect(kind="object", source="star", goal="fish"), {"a red star", "a dotted star"}),
        (Effect(kind="style", goal="striped"), {"a star"}),
    ],
)
def test_images_of_the_goal_are_relabelled(effect: Effect, written: set[str]) -> None:
    before = pictures()
    after = registry.create(NAME, {"images": 1.0}).poison_images(TRIGGER, effect, before)
    assert torch.equal(after.images, before.images)
    held = [text for text in after.captions if TRIGGER.is_in(text)]
    assert set(held) == {TRIGGER.put(text) for text in written}
    assert len(held) == sum(effect.goal in text.split() for text in CAPTIONS)


def test_shares_are_shares() -> None:
    component = registry.load(NAME)
    with pytest.raises(
        ValueError, match=r"^prompts and images are shares in \[0, 1\], got 2 and 0.1$"
    ):
        component(prompts=2)  # type: ignore[call-arg]
