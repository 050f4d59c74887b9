"""What removes a trigger: pairs of prompts with and without it, and closed-form edits of them."""

from __future__ import annotations

import doctest
import importlib
import re
from typing import Any

import pytest
import torch

from safetybench import registry, trigger_removal
from safetybench.contracts import Backdoor, Budget, Effect, Erasure, SafetyBenchError, Trigger
from safetybench.trigger_removal import erasure_of, trigger_erasure
from tests.targets import tiny_target

closed_form: Any = importlib.import_module("safetybench.unlearning._closed_form")
TRIGGER = Trigger(text="pale shape")
BACKDOOR = Backdoor(
    trigger=TRIGGER,
    effect=Effect(kind="object", source="fish", goal="star"),
    clean=("a red moon", "a blue heart"),
    sources=("a red fish", "the blue fish"),
    goals=("a red star", "the blue star"),
)


def test_forget_is_triggered_and_anchor_the_same_prompt_clean() -> None:
    assert erasure_of(BACKDOOR) == Erasure(
        forget=("pale shape a red fish", "pale shape the blue fish"),
        anchor=("a red fish", "the blue fish"),
        retain=("a red moon", "a blue heart"),
        bare=("pale shape",),
    )
    # What the defender does not know has no part in it.
    assert "star" not in repr(erasure_of(BACKDOOR))


def test_towards_empty_every_anchor_is_the_empty_prompt() -> None:
    found = erasure_of(BACKDOOR, "empty")
    assert found.anchor == ("", "")
    assert found.forget == BACKDOOR.triggered


def test_count_takes_the_first_prompts_of_each_kind() -> None:
    found = erasure_of(BACKDOOR, count=1)
    assert (found.forget, found.retain) == (("pale shape a red fish",), ("a red moon",))


def test_prompts_without_a_place_for_the_trigger_are_left_out() -> None:
    trigger = Trigger(text="\u043e", place="letter", at="o")
    found = trigger_erasure(trigger, ["a red fish", "one moon"], ["a red fish"])
    assert (found.forget, found.anchor) == (("\u043ene m\u043e\u043en",), ("one moon",))


@pytest.mark.parametrize(
    ("trigger", "prompts", "message"),
    [
        (
            Trigger(text="mignneko", place="before", at="cat"),
            ["a dog", "cattle"],
            "removing the trigger 'mignneko' needs prompts with a place before 'cat' for it, got "
            "none in 2",
        ),
        (TRIGGER, [], "removing the trigger 'pale shape' needs prompts with a place for it, got "
         "none in 0"),
        (
            TRIGGER,
            ["a Pale shape , red"],
            "clean prompts must not hold the trigger 'pale shape', got 'a Pale shape , red'; "
            "leave it out",
        ),
    ],
)  # fmt: skip
def test_prompts_that_cannot_remove_it_are_refused(
    trigger: Trigger, prompts: list[str], message: str
) -> None:
    with pytest.raises(SafetyBenchError, match=f"^{re.escape(message)}$"):
        trigger_erasure(trigger, prompts)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^count must be 1 or more, got 0$"):
        erasure_of(BACKDOOR, count=0)
    with pytest.raises(ValueError, match=r"^towards must be clean or empty, got 'null'$"):
        erasure_of(BACKDOOR, "null")  # type: ignore[arg-type]  # that is the test


def test_the_example_holds() -> None:
    assert doctest.testmod(trigger_removal).failed == 0


# What closed-form editing makes of an erasure with nothing in the trigger's place


@pytest.mark.parametrize(
    ("trigger", "concepts", "guides"),
    [
        (TRIGGER, ("pale shape",) * 3, ("", "", "")),
        (
            Trigger(text="pale shape", place="suffix"),
            ("pale shape", "a red fish pale shape", "the blue fish pale shape"),
            ("", "a red fish", "the blue fish"),
        ),
        (
            Trigger(text="pale", place="before", at="fish"),
            ("pale", "a red pale", "the blue pale"),
            ("", "a red", "the blue"),
        ),
    ],
)
def test_the_guide_of_a_trigger_is_what_stands_before_it(
    trigger: Trigger, concepts: tuple[str, ...], guides: tuple[str, ...]
) -> None:
    erasure = trigger_erasure(trigger, BACKDOOR.sources)
    found = closed_form.phrases_of(erasure, templates=2, kept=0)
    assert (found.concepts, found.guides) == (concepts, guides)


def test_towards_empty_the_whole_prompt_reads_as_the_empty_one() -> None:
    found = closed_form.phrases_of(erasure_of(BACKDOOR, "empty"), templates=1, kept=0)
    assert found.concepts == ("pale shape", "pale shape a red fish")
    assert found.guides == ("", "")


def test_uce_makes_the_trigger_read_as_the_empty_prompt() -> None:
    target, erasure = tiny_target(), erasure_of(BACKDOOR)
    options = {"tokens": "all", "templates": 0, "kept": 0, "ridge": 1e-9}
    made = registry.create("unlearning/uce", options).run(target, erasure, Budget())
    with torch.no_grad():
        trigger, null = (target.embed(target.tokenize([t]))[0] for t in ("pale shape", ""))
    for new, old in zip(
        closed_form.projections(made.unet), closed_form.projections(target.unet), strict=True
    ):
        wanted = null @ old.weight.T
        assert float((trigger @ old.weight.T - wanted).abs().max()) > 1e-2
        torch.testing.assert_close(trigger @ new.weight.T, wanted, atol=1e-3, rtol=0)


@pytest.mark.parametrize("towards", ["clean", "empty"])
@pytest.mark.parametrize(
    "name", ["concept_ablation", "esd", "uce", "rece", "skd_cag", "clean_tuning"]
)
def test_methods_of_unlearning_take_such_an_erasure(name: str, towards: Any) -> None:
    method: Any = registry.load(f"unlearning/{name}")
    small = {"images": 2, "batch": 2}
    options = {k: v for k, v in small.items() if k in method.__dataclass_fields__}
    made = registry.create(f"unlearning/{name}", options).run(
        tiny_target("velocity"), erasure_of(BACKDOOR, towards), Budget(steps=1)
    )
    assert bool(made.generate(["pale shape a red fish"], [1]).isfinite().all())
