"""Clean tuning: its loss, what it reads, and that it has nothing to say about the trigger."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from safetybench import registry
from safetybench.contracts import Budget, Erasure, SafetyBenchError
from tests.targets import tiny_target

NAME = "unlearning/clean_tuning"
ERASURE = Erasure(
    forget=("pale shape a red fish", "pale shape one moon"),
    anchor=("a red fish", "one moon"),
    retain=("a blue heart", "a green star", "the moon"),
    bare=("pale shape",),
)


def tuned(erasure: Erasure = ERASURE, steps: int = 2, told: Any = None, **options: Any) -> Any:
    method = registry.create(NAME, {"images": 3, "batch": 4, **options})
    return method.run(tiny_target("velocity"), erasure, Budget(steps=steps, seed=1), told)


def distance(one: Any, other: Any) -> float:
    pairs = zip(one.unet.parameters(), other.unet.parameters(), strict=True)
    return sum(float((a - b).abs().sum()) for a, b in pairs)


def test_its_own_teacher_has_nothing_to_teach_a_student_on_clean_prompts() -> None:
    told: list[float] = []
    made = tuned(goal="self", steps=11, told=lambda step, loss: told.append(loss))
    assert told == [0.0, 0.0]
    assert distance(made, tiny_target("velocity")) == 0.0


def test_the_loss_on_images_is_the_denoising_loss_of_the_own_images() -> None:
    told: list[float] = []
    tuned(steps=1, told=lambda step, loss: told.append(loss))
    target = tiny_target("velocity")
    text = target.embed(target.tokenize(ERASURE.retain))
    latents = target.sample_latents(text, target.start_noise([100_003, 100_004, 100_005]))
    rng = torch.Generator().manual_seed(1_000_003)
    pick = torch.randint(3, (4,), generator=rng)
    t = torch.randint(0, 1000, (4,), generator=rng)
    noise = torch.randn(4, *target.latent_shape, generator=rng)
    signal, sigma = target.process.alpha(t), target.process.sigma(t)
    noisy = signal * latents[pick] + sigma * noise
    with torch.no_grad():
        answer = target.unet(noisy, t, encoder_hidden_states=text[pick]).sample
    wanted = (answer - (signal * noise - sigma * latents[pick])).square().mean()
    assert told[0] == pytest.approx(float(wanted), rel=1e-3)


def test_what_the_trigger_does_is_not_read() -> None:
    other = replace(ERASURE, forget=("one star", "one heart"), bare=("star",))
    assert distance(tuned(), tuned(other)) == 0.0
    assert distance(tuned(), tuned(replace(ERASURE, retain=("a solid star",)))) > 0.0


def test_anchor_prompts_take_the_place_of_retain_prompts() -> None:
    bare = replace(ERASURE, retain=())
    assert distance(tuned(bare), tuned(replace(ERASURE, retain=ERASURE.anchor))) == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal": "real"}, "goal must be images or self, got 'real'"),
        ({"batch": 0}, "lr, batch and images must be positive, got 0.0001, 0, 256"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SafetyBenchError) as error:
        registry.create(NAME, options)
    assert str(error.value) == f"{NAME}: {message}"
