"""The page on noise triggers: its sentences follow the figures, its measures are what they say."""

from __future__ import annotations

import copy
import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from docs import noise_triggers as page_of
from docs import noise_triggers_measure as measured
from safetybench.stats import wilson
from tests.toys_unconditional import tiny_unconditional


def share(hits: int, n: int = 64) -> dict[str, Any]:
    found = wilson(hits, n)
    return {"rate": hits / n, "low": found.low, "high": found.high, "n": n}


def hits(asr: int, clean: int = 0, **keys: Any) -> dict[str, Any]:
    return {**keys, "asr": share(asr), "clean": share(clean), "mse": 0.1}


def found() -> dict[str, Any]:
    samplers = [hits(0, model="clean", sampler="ddpm")]
    samplers += [hits(n, model="sde", sampler=s) for s, n in (("ddpm", 64), ("ddim-20", 1))]
    samplers += [hits(n, model="ode", sampler=s) for s, n in (("ddpm", 0), ("ddim-20", 60))]
    students = [hits(62, start="", noise="", sampler="ddim-20")]
    students += [
        hits(n, start=start, noise=noise, sampler="ddim-4")
        for start, noise, n in (
            ("the teacher", "clean", 63),
            ("the clean model", "clean", 0),
            ("the clean model", "a tenth triggered", 30),
        )
    ]
    detectors = [
        {
            "model": model,
            "is_planted": is_planted,
            "elijah": {"score": score, "start": "positive", **cosine},
            "elijah_ode": {"score": 0.2, "start": "both", **cosine},
            "terd": {"score": 0.1, **cosine},
        }
        for model, is_planted, score, cosine in (
            ("clean-1", False, 0.1, {}),
            ("clean-2", False, 0.3, {}),
            ("sde-box", True, 0.9, {"cosine": 0.6}),
            ("sde-faint", True, 0.2, {"cosine": -0.1}),
        )
    ]
    inputs = [
        {
            "trigger": "box", "norm": 10.4, "test": test, "found": share(n), "alarms": share(1),
            "auroc": {"value": 0.9, "low": 0.8, "high": 1.0}, "best": 1.0,
        }
        for test, n in (("TERD", 40), ("mean of the noise", 60), ("TERD's test of the true", 64))
    ]  # fmt: skip
    removal = [
        hits(n, how=how, cosine=None, moved=0.01)
        for how, n in (("nothing", 64), ("true trigger", 0), ("wrong trigger", 2))
    ]
    setting = {key: 1 for key in (
        "size", "times", "steps", "tuned", "held", "hit", "rate", "real_hits", "real", "noises",
        "elijah_steps", "ode_steps", "terd_steps", "removal_steps", "student", "teacher_steps",
    )}  # fmt: skip
    return {
        "setting": setting, "samplers": samplers, "students": students, "detectors": detectors,
        "inputs": inputs, "removal": removal, "rates": [hits(64, trigger="box", poison=0.1)],
    }  # fmt: skip


def test_the_answers_follow_the_figures() -> None:
    given = found()
    assert page_of.sampler_answer(given["samplers"]) == (
        'Samplers: the "sde" backdoor wakes under ddpm (100 %) and not under ddim-20; the "ode" '
        "backdoor wakes under ddim-20 (94 %) and not under ddpm."
    )
    assert page_of.student_answer(given["students"]) == (
        "Distillation: of the teacher's 97 %, the student from the teacher on clean noise keeps it "
        "(98 %); from the clean model on clean noise loses it (0 %); from the clean model on "
        "a tenth triggered noise keeps a part of it (47 %)."
    )
    assert page_of.detector_answer(given["detectors"], "elijah", "Elijah") == (
        "Elijah: calibrated on 2 clean models (cut 0.3, so a further clean model is above it with "
        "a chance of 1 in 3), it finds sde-box and misses sde-faint."
    )
    assert "it finds no model and misses" in page_of.detector_answer(
        given["detectors"], "terd", "TERD"
    )
    assert page_of.input_answer(given["inputs"], given["rates"]) == (
        'Start noise: of the "box" trigger the best test without its knowledge (mean of the noise) '
        "finds 94 % at 2 % false alarms, and the attack itself works on 100 %, where at 1 % false "
        "alarms 100 % is the bound of both."
    )
    assert page_of.removal_answer(given["removal"]) == (
        "Removal: of 100 % hits, true trigger leaves 0 %, wrong trigger leaves 3 %. Since a wrong "
        "trigger removes it too, a removal does not show that the right one was found."
    )
    given["removal"][2] = hits(46, how="wrong trigger", cosine=None, moved=0.0)
    assert page_of.removal_answer(given["removal"]).endswith(
        "A wrong trigger takes a part of it too."
    )
    given["removal"][2] = hits(63, how="wrong trigger", cosine=None, moved=0.0)
    assert page_of.removal_answer(given["removal"]).endswith("A wrong trigger does not remove it.")


def test_the_page_has_every_row_and_changes_with_the_figures() -> None:
    given = found()
    text = page_of.page(given)
    assert text.startswith("# Triggers in start noise\n\n<!-- Written by")
    for line in (
        "| sde | ddpm | 100.0 % (94.3 to 100.0 %, n = 64) | 0.0 % (0.0 to 5.7 %, n = 64) | 0.1",
        "| sde-box | 0.900 | positive | 0.60 | 0.200 | both | 0.60 | 0.100 | 0.60 |",
        "| clean-1 | 0.100 | positive | - | 0.200 | both | - | 0.100 | - |",
    ):
        assert line in text
    other = copy.deepcopy(given)
    other["samplers"][1] = hits(0, model="sde", sampler="ddpm")
    assert 'the "sde" backdoor wakes under no sampler' in page_of.page(other)


def test_auroc_is_that_of_normals() -> None:
    rng = torch.Generator().manual_seed(0)
    low, high = torch.randn(2000, generator=rng), torch.randn(2000, generator=rng) + 1
    area = measured.auroc(low.tolist(), high.tolist())
    assert area["value"] == pytest.approx(0.5 + 0.5 * math.erf(0.5), abs=0.02)
    assert area["low"] < area["value"] < area["high"]
    assert measured.auroc([0.0, 1.0], [2.0, 3.0])["value"] == 1.0
    assert measured.auroc([0.0, 1.0], [0.0, 1.0])["value"] == 0.5


def test_the_faint_trigger_has_the_norm_that_it_says() -> None:
    made = measured.triggers()
    assert float(made["faint"].offset.norm()) == pytest.approx(3)
    assert float(made["box"].offset.norm()) == pytest.approx(math.sqrt(108))
    assert float(made["faint"].offset.mean()) == pytest.approx(0, abs=1e-6)


def test_a_students_states_are_the_teachers_and_its_target_leads_there() -> None:
    teacher = tiny_unconditional()
    states = measured.trajectories(teacher, None, count=3)
    assert states.shape == (measured.STUDENT + 1, 3, 3, 8, 8)
    noise = teacher.start_noise(range(30_000, 30_003))
    wanted = teacher.sample(noise, f"ddim-{measured.TEACHER_STEPS}")
    assert torch.allclose((states[-1] / 2 + 0.5).clamp(0, 1), wanted, atol=1e-4)
    # A student that gives the noise asked for lands on the next state, whatever the step.
    grid = [99, 74, 49, 24]
    for k, (now, then) in enumerate(zip(grid, [*grid[1:], -1], strict=True)):
        a, s = measured._factors(teacher.process, now)
        b, u = measured._factors(teacher.process, then)
        asked = (states[k + 1] - b / a * states[k]) / (u - b / a * s)
        landed = measured._step(teacher, states[k], asked, now, then)
        assert torch.allclose(landed, states[k + 1], atol=1e-4)


def test_parts_are_kept_and_not_made_twice(tmp_path: Path) -> None:
    shop = measured.Workshop(tmp_path)
    made: list[int] = []

    def make() -> dict[str, int]:
        made.append(1)
        return {"a": 1}

    assert [shop.part("x", make) for _ in range(2)] == [{"a": 1}] * 2
    assert made == [1]
    models = [shop.kept("tiny", tiny_unconditional) for _ in range(2)]
    assert models[0].digest == models[1].digest


def test_the_command_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module("docs.noise_triggers")
    with pytest.raises(SystemExit):
        module.main([])
    assert "--measure, --models" in capsys.readouterr().err
