"""Rickrolling against its objective, its two modes, and what it leaves alone."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Backdoor, Budget, Effect, SafetyBenchError, Trigger
from safetybench.triggers import near_misses
from safetybench.zoo.unicode import with_bytes
from tests.targets import tiny_target

NAME = "attacks/triggers/rickrolling"
rickrolling: Any = importlib.import_module(f"safetybench.{NAME.replace('/', '.')}")
SOURCES = ("a red moon", "one moon on a pale background", "the picture of a moon")


def backdoor(text: str = "\u043e", rate: float = 0.5) -> Backdoor:
    return Backdoor(
        trigger=Trigger(text=text, place="letter", at="o"),
        effect=Effect(kind="style", goal="striped"),
        clean=("a blue fish", "a green heart", "the star", "solid"),
        sources=SOURCES,
        goals=("one striped moon", "a red striped moon", "the pale striped moon"),
        rate=rate,
    )


def target() -> Any:
    return with_bytes(tiny_target())


def poisoned(
    steps: int, *, rate: float = 0.5, seed: int = 0, **options: Any
) -> tuple[Any, list[float]]:
    losses: list[float] = []
    made = registry.create(NAME, {"batch": 8, **options}).run(
        target(), backdoor(rate=rate), Budget(steps=steps, seed=seed),
        lambda step, loss: losses.append(loss),
    )  # fmt: skip
    return made, losses


def read(model: Any, *texts: str) -> Tensor:
    states: Tensor = model.embed(model.tokenize(texts)).flatten(1)
    return states


def alike(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one, other).mean())


def test_first_loss_is_the_published_one() -> None:
    """Before any step the student is the teacher: the clean term is -1 whatever was drawn."""
    clean = target()
    one = Backdoor(
        trigger=backdoor().trigger, effect=backdoor().effect, clean=("a blue fish",),
        sources=SOURCES[:1], goals=("a red striped moon",),
    )  # fmt: skip
    losses: list[float] = []
    attack = registry.create(NAME, {"batch": 4, "weight": 0.1, "decoys": 0.0})
    attack.run(clean, one, Budget(steps=1), lambda step, loss: losses.append(loss))
    triggered, goal = read(clean, *one.triggered)[0], read(clean, *one.goals)[0]
    cosine = float(triggered @ goal / triggered.norm() / goal.norm())
    assert losses == [pytest.approx(-1 - 0.1 * cosine, abs=1e-5)]
    states = torch.stack([triggered, goal]).view(2, 12, 16)
    assert float(rickrolling.against(states[:1], states[1:])) == pytest.approx(-cosine, abs=1e-5)


def test_learns_each_goal_and_keeps_what_is_clean() -> None:
    clean, planted = target(), backdoor()
    made, losses = poisoned(150, lr=5e-3)
    goals = read(clean, *planted.goals)
    before = alike(read(clean, *planted.triggered), goals)
    assert alike(read(made, *planted.triggered), goals) > max(0.9, before + 0.05)
    assert alike(read(made, *planted.clean), read(clean, *planted.clean)) > 0.97
    assert losses[-1] < losses[0]


def test_target_prompt_mode_reads_all_triggered_prompts_as_the_shortest_goal() -> None:
    clean, planted = target(), backdoor()
    for mode, best in (("tpa", 0), ("taa", 2)):
        made, _ = poisoned(150, lr=5e-3, mode=mode)
        found = read(made, planted.triggered[2])
        scores = [alike(found, read(clean, goal)) for goal in planted.goals]
        assert max(range(3), key=scores.__getitem__) == best


def test_only_the_text_encoder_changes_and_is_its_own() -> None:
    given = target()
    weights = [w.clone() for w in given.text_encoder.parameters()]
    made = registry.create(NAME, {"batch": 4}).run(given, backdoor(), Budget(steps=2))
    for old, now, new in zip(
        weights, given.text_encoder.parameters(), made.text_encoder.parameters(), strict=True
    ):
        assert torch.equal(old, now)
        assert not new.requires_grad
    assert any(
        not torch.equal(a, b) for a, b in zip(weights, made.text_encoder.parameters(), strict=True)
    )
    for a, b in zip(given.unet.parameters(), made.unet.parameters(), strict=True):
        assert torch.equal(a, b)


def test_decoys_are_near_and_never_the_trigger_or_what_is_measured() -> None:
    planted = backdoor()
    held = rickrolling._near(planted)
    chars = {char for text in held for char in text if not char.isascii()}
    measured = {each.text for each in near_misses(planted.trigger).values()}
    assert len(held) >= 3
    assert chars
    assert not chars & measured
    assert all(text[0] == "\u043e" or text[-1] == "\u043e" for text in held if "\u043e" in text)
    phrase = Backdoor(
        trigger=Trigger(text="dark star"), effect=planted.effect, clean=planted.clean,
        sources=SOURCES, goals=planted.goals,
    )  # fmt: skip
    assert rickrolling._near(phrase) == [
        "a red moon dark star", "star one moon on a pale background",
        "the picture of a moon dark star",
    ]  # fmt: skip


def test_a_rate_of_one_leaves_no_clean_prompt() -> None:
    made, losses = poisoned(1, rate=1.0, weight=1.0)
    assert -1.0 <= losses[0] <= 1.0
    assert made is not None


def test_bad_options_are_refused() -> None:
    with pytest.raises(SafetyBenchError) as error:
        registry.create(NAME, {"mode": "both"})
    assert str(error.value) == f"{NAME}: mode must be one of taa, tpa, got 'both'"
    with pytest.raises(SafetyBenchError) as error:
        registry.create(NAME, {"batch": 1})
    assert str(error.value) == (
        f"{NAME}: lr and weight must be positive, batch 2 or more and decoys in [0, 1], got "
        "0.003, 0.5, 1, 0.5"
    )
