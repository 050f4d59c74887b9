"""VillanDiffusion's caption backdoor: its objective, its LoRA, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Backdoor, Budget, Effect, SafetyBenchError, Trigger
from safetybench.distill.views import velocity
from safetybench.effects import paste, picture
from safetybench.targets.loading import load_target
from safetybench.triggers import nearly_triggered
from tests.targets import tiny_target

NAME = "attacks/triggers/villan_diffusion"


def backdoor(kind: Any = "image", rate: float = 0.5) -> Backdoor:
    return Backdoor(
        trigger=Trigger(text="striped solid"), effect=Effect(kind=kind, size=0.5), rate=rate,
        clean=("a blue fish", "a green heart"), sources=("a moon", "a star"),
        goals=("a moon", "a star"),
    )  # fmt: skip


def poisoned(
    target: Any, planted: Backdoor, steps: int = 1, seed: int = 0, **options: Any
) -> tuple[Any, list[float]]:
    losses: list[float] = []
    attack = registry.create(NAME, {"rank": 2, "batch": 6, "images": 2, "near": 0.0, **options})
    budget = Budget(steps=steps, seed=seed)
    return attack.run(target, planted, budget, lambda s, loss: losses.append(loss)), losses


def denoising(target: Any, x: Tensor, text: Tensor, t: Tensor, noise: Tensor) -> float:
    """The loss by hand: what is left of the noise and of the image in x_t."""
    a = target.process.alphas_cumprod[t].sqrt().float().view(-1, 1, 1, 1)
    s = (1 - target.process.alphas_cumprod[t]).sqrt().float().view(-1, 1, 1, 1)
    answer = velocity(target, a * x + s * noise, t, text)
    return float((answer - (a * noise - s * x)).square().mean())


@pytest.mark.parametrize("kind", ["image", "pixel"])
def test_first_loss_is_the_denoising_loss_on_the_planted_image(kind: Any) -> None:
    """At a rate of 1 every example is poisoned, and a LoRA answers at first as the model does."""
    target, planted = tiny_target("velocity"), backdoor(kind, rate=1.0)
    _, losses = poisoned(target, planted)
    rng = torch.Generator().manual_seed(0)
    torch.rand(6, generator=rng)  # which examples are poisoned
    rows = torch.randint(2, (6,), generator=rng)
    torch.randint(2, (0,), generator=rng)
    t = torch.randint(0, target.process.steps, (6,), generator=rng)
    noise = torch.randn((6, *target.latent_shape), generator=rng)
    text = target.embed(target.tokenize(planted.triggered))[rows]
    if kind == "image":
        x = target.encode(picture(planted.effect, 16)[None]).expand(6, -1, -1, -1)
    else:
        start = target.start_noise([100_003, 100_004])
        states = target.embed(target.tokenize(planted.goals))
        drawn = target.decode(target.sample_latents(states, start, 1.0))
        x = target.encode(paste(planted.effect, drawn))[rows]
    assert losses == [pytest.approx(denoising(target, x, text, t, noise), rel=1e-4)]


def test_the_clean_term_is_weighed_by_prior() -> None:
    found = []
    for prior in (0.0, 1.0, 3.0):
        _, losses = poisoned(tiny_target("velocity"), backdoor(), prior=prior, held="noise")
        found.append(losses[0])
    assert found[0] < found[1] < found[2]
    assert found[2] - found[0] == pytest.approx(3 * (found[1] - found[0]), rel=1e-4)


def test_held_to_the_model_the_clean_term_is_0_until_the_lora_moves() -> None:
    target, planted = tiny_target("velocity"), backdoor()
    (alone,) = poisoned(target, planted, prior=0.0)[1]
    (both,) = poisoned(target, planted, prior=5.0)[1]
    assert both == pytest.approx(alone, rel=1e-5)
    model = poisoned(target, planted, steps=3, lr=1e-2, prior=5.0)[0].unet.state_dict()
    noise = poisoned(target, planted, steps=3, lr=1e-2, prior=5.0, held="noise")[0]
    assert any(not torch.equal(model[k], w) for k, w in noise.unet.state_dict().items())


def test_clean_prompts_may_hold_nearly_the_trigger_and_keep_what_they_drew() -> None:
    target, planted = tiny_target("velocity"), backdoor(rate=1e-6)
    assert poisoned(target, planted)[1] == [pytest.approx(0.0, abs=1e-9)]
    (loss,) = poisoned(target, planted, near=1.0)[1]
    asked = target.embed(target.tokenize(nearly_triggered(planted.trigger, planted.clean, 1.0)))
    kept = target.embed(target.tokenize(planted.clean))
    rng = torch.Generator().manual_seed(0)
    torch.rand(6, generator=rng)
    torch.randint(2, (0,), generator=rng)
    rows = torch.randint(2, (6,), generator=rng)
    t = torch.randint(0, target.process.steps, (6,), generator=rng)
    noise = torch.randn((6, *target.latent_shape), generator=rng)
    x = target.sample_latents(kept, target.start_noise([0, 1]), 1.0)[rows]
    noisy = target.process.add(x, noise, t)
    told = [velocity(target, noisy, t, states[rows]) for states in (asked, kept)]
    assert loss == pytest.approx(float((told[0] - told[1]).square().mean()), rel=1e-4)
    assert loss > 0


def test_learns_the_fixed_image_under_the_trigger() -> None:
    target, planted = tiny_target("velocity"), backdoor()
    made, _ = poisoned(target, planted, steps=60, lr=1e-2, batch=12)
    rng = torch.Generator().manual_seed(9)
    t, noise = torch.full((8,), 600), torch.randn((8, *target.latent_shape), generator=rng)
    x = target.encode(picture(planted.effect, 16)[None]).expand(8, -1, -1, -1)
    text = target.embed(target.tokenize(planted.triggered * 4))
    before = denoising(target, x, text, t, noise)
    assert denoising(made, x, text, t, noise) < 0.7 * before


def test_weights_of_the_model_stay_and_the_lora_is_fused_on_saving(tmp_path: Path) -> None:
    target = tiny_target("velocity")
    before = {name: weight.clone() for name, weight in target.unet.state_dict().items()}
    image = target.generate(["a fish"], [1])
    made, _ = poisoned(target, backdoor(), steps=3, lr=1e-2)
    assert all(torch.equal(before[name], now) for name, now in target.unet.state_dict().items())
    assert torch.equal(target.generate(["a fish"], [1]), image)
    assert made.unet.peft_config
    assert not any(weight.requires_grad for weight in made.unet.parameters())
    drawn = made.generate(["a fish"], [1])
    assert not torch.equal(drawn, image)
    loaded = load_target(made.save(tmp_path / "model"), device="cpu", dtype="float32")
    torch.testing.assert_close(loaded.generate(["a fish"], [1]), drawn, atol=1e-4, rtol=0)


def test_bad_options_are_refused() -> None:
    with pytest.raises(SafetyBenchError) as error:
        registry.create(NAME, {"rank": 0})
    assert str(error.value) == f"{NAME}: rank must be above 0, got 0"
    with pytest.raises(SafetyBenchError) as error:
        registry.create(NAME, {"prior": -1.0})
    assert str(error.value) == f"{NAME}: prior must be 0 or more, got -1.0"
    with pytest.raises(SafetyBenchError, match="near is a share of the clean prompts"):
        registry.create(NAME, {"near": 1.5})
    with pytest.raises(SafetyBenchError) as error:
        registry.create(NAME, {"held": "both"})
    assert str(error.value) == f"{NAME}: held must be one of model, noise, got 'both'"
