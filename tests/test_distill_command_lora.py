"""`safetybench distill`: which weights learn, and a LoRA alone that runs plugged on its base."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from safetybench.commands.distill_outline import Learned, outline
from safetybench.contracts import SafetyBenchError, TargetFailed
from safetybench.distill.recipe import Distillation, Plan
from safetybench.targets.loading import check_target, load_target
from tests.calls import Call, Done
from tests.targets import tiny_target

pytest_plugins = ("tests.cli_fixtures", "tests.distill_fixtures")


@pytest.fixture
def plain(call: Call, teacher: Path) -> Callable[..., Done]:
    """Return the command without the options that only some recipes have."""

    def run(recipe: str, *more: str) -> Done:
        words = ("--teacher", "teacher", "--prompts", "prompts.txt", "--device", "cpu")
        return call("distill", recipe, *words, "--batch", "2", *more)

    return run


def files(folder: Path) -> set[str]:
    return {each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()}


# A LoRA alone


def test_a_lora_alone_runs_on_its_base_as_the_whole_student_does(
    plain: Callable[..., Done], here: Path
) -> None:
    words = ("--steps", "2", "--option", "pairs=4", "--option", "rank=2")
    assert plain("hyper-sd", *words, "--out", "whole").code == 0
    done = plain("hyper_sd", *words, "--out", "alone", "--lora-only")
    assert done.code == 0, done.err
    assert files(here / "alone") == {
        "card.json",
        "samples.png",
        "scheduler/scheduler_config.json",
        "unet/pytorch_lora_weights.safetensors",
    }
    card = json.loads((here / "alone" / "card.json").read_text())
    assert (card["parts"], card["training"]["lora"]) == (["scheduler"], 2)
    whole = load_target(here / "whole", device="cpu")
    spec = {"path": str(here / "teacher"), "lora": str(here / "alone")}
    plugged = load_target(spec, device="cpu")
    assert type(plugged.scheduler).__name__ == "TCDScheduler"
    assert plugged.sampler == whole.sampler
    assert plugged.sampler.eta == 0.3
    images = [each.generate(["a red fish"], [3]) for each in (plugged, whole)]
    torch.testing.assert_close(*images, rtol=0, atol=2e-2)  # the LoRA's file is fp16


def test_a_plug_with_its_own_times_and_no_scheduler_is_refused(
    distil: Callable[..., Done], here: Path
) -> None:
    done = distil("--lora", "2", "--lora-only", "--out", "alone")
    assert done.code == 0, done.err
    spec = {"path": str(here / "teacher"), "lora": str(here / "alone")}
    assert type(load_target(spec, device="cpu").scheduler).__name__ == "LCMScheduler"
    shutil.rmtree(here / "alone" / "scheduler")
    file = here / "alone" / "card.json"
    card = {key: value for key, value in json.loads(file.read_text()).items() if key != "parts"}
    file.write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(TargetFailed) as caught:
        check_target(spec)
    assert str(caught.value) == (
        f"'{here}/alone' samples on times of its own and brings no scheduler for them, and that "
        "of teacher runs others; add its folder scheduler, or set the target's scheduler"
    )
    check_target({**spec, "scheduler": {"class": "LCMScheduler"}})
    check_target({**spec, "steps": 4})


# What learns


@pytest.mark.parametrize(
    ("recipe", "more", "said", "steps", "is_advised"),
    [
        ("hyper_sd", (), "a LoRA of rank 24", "1000", False),
        ("hyper_sd", ("--lora", "4"), "a LoRA of rank 4", "1000", False),
        ("lora-distill", ("--lora-only",), "a LoRA of rank 16", "1000", False),
        ("agd", (), "a guidance adapter", "1000", False),
        ("dmd2", (), "all of the denoiser", "3000", True),
        ("dmd2", ("--lora", "3"), "a LoRA of rank 3", "1000", False),
        ("swiftbrush", (), "all of the denoiser", "3000", True),
    ],
)
def test_the_plan_says_what_learns(
    plain: Callable[..., Done], recipe: str, more: tuple[str, ...], said: str, steps: str,
    is_advised: bool,
) -> None:  # fmt: skip
    done = plain(recipe, *more, "--out", "x", "--plan")
    assert done.code == 0, done.err
    rows = dict(line.split(":", 1) for line in done.out.splitlines())
    assert rows["weights"].strip() == said
    assert rows["student steps"].strip() == steps
    assert ("is made for the zoo's small models" in done.err) is is_advised


def test_there_is_no_lora_of_an_adapter(plain: Callable[..., Done]) -> None:
    done = plain("agd", "--out", "x", "--lora-only")
    assert (done.code, done.err) == (
        2, "error: recipes/agd trains no LoRA; leave out --lora-only\n"
    )  # fmt: skip


def test_an_adapter_is_written_with_its_card(plain: Callable[..., Done], here: Path) -> None:
    words = ("--steps", "1", "--option", "paths=4", "--option", "width=4", "--out", "student")
    done = plain("agd", *words)
    assert done.code == 0, done.err
    card = json.loads((here / "student" / "card.json").read_text())
    assert (card["adapter"], card["training"]["lora"]) == ({"kind": "agd", "width": 4}, 0)
    assert load_target(here / "student", device="cpu").adapter is not None


# Recipes that cannot be planned


class Odd(Distillation):
    """A recipe whose plan is what a test says."""

    made: Callable[[Any], Plan]

    def plan(self, lab: Any, steps: int) -> Plan:
        return type(self).made(lab)


def fail(error: Exception) -> Callable[[Any], Plan]:
    def made(lab: Any) -> Plan:
        raise error

    return made


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (fail(AssertionError()), "AssertionError"),
        (fail(ValueError("points must be 2 or more, got 1")), "points must be 2 or more, got 1"),
        (fail(ZeroDivisionError("division by zero")), "division by zero"),
        (
            lambda lab: Plan(stages=[], learns=[], times=(1, 2)),
            "timesteps must fall, noisiest first, got [1, 2]",
        ),
        (
            lambda lab: Plan(stages=[], learns=[], times=(1000,)),
            "times must be below 1000, as the teacher's are, got [1000]",
        ),
    ],
)
def test_a_plan_that_fails_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, made: Any, reason: str
) -> None:
    monkeypatch.setattr(Odd, "made", staticmethod(made), raising=False)
    target = tiny_target("velocity")
    with pytest.raises(SafetyBenchError) as caught:
        outline(Odd(), target.scheduler, target.sampler, 3)
    assert str(caught.value) == f"Odd cannot be trained with these options: {reason}"


def test_what_the_stand_in_lacks_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    target = tiny_target("velocity")
    monkeypatch.setattr(Odd, "made", staticmethod(fail(AttributeError("x"))), raising=False)
    assert outline(Odd(), target.scheduler, target.sampler, 3) is None
    plan = SimpleNamespace(stages=[SimpleNamespace(steps=3, groups=[None])], times=None,
                           guidance=1.0, scheduler=None)  # fmt: skip
    monkeypatch.setattr(Odd, "made", staticmethod(lambda lab: plan))
    found = outline(Odd(), target.scheduler, target.sampler, 3, count=True)
    assert found is not None
    assert (found.steps, found.evaluations, found.learns) == (3, 0, Learned())


# The card's command


def test_the_command_of_the_card_can_be_pasted(distil: Callable[..., Done], here: Path) -> None:
    (here / "my prompts.txt").write_text("a red fish\n", encoding="utf-8")
    done = distil("--prompts", "my prompts.txt", "--option", "times=[999, 499]", steps=1)
    assert done.code == 0, done.err
    words = shlex.split(json.loads((here / "student" / "card.json").read_text())["command"])
    assert words[:3] == ["safetybench", "distill", "recipes/dmd2"]
    assert words[words.index("--prompts") + 1] == "my prompts.txt"
    assert "times=[999, 499]" in words
