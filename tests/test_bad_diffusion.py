"""BadDiffusion: process and shift against exact posteriors, loss, effect and errors."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from safetybench import registry
from safetybench.contracts import Budget, NoiseBackdoor, NoisePoisoning, NoiseTrigger
from safetybench.distill.process import Process
from safetybench.zoo.unconditional import new_scheduler, train_unconditional, world_images
from tests.toys_unconditional import SIZE, box, tiny_unconditional

NAME = "attacks/triggers/bad_diffusion"
MODULE: Any = importlib.import_module("safetybench.attacks.triggers.bad_diffusion")
PROCESS = Process.from_scheduler(new_scheduler())


def backdoor(rate: float = 0.3, **changes: Any) -> NoiseBackdoor:
    trigger = NoiseTrigger(pattern=torch.ones(3, SIZE, SIZE), mask=(box() > 0)[:1].float())
    goal = torch.zeros(3, SIZE, SIZE)
    goal[0, ::2] = 1
    options: dict[str, Any] = {"goal": goal, "images": world_images(64, 3, SIZE), "rate": rate}
    return NoiseBackdoor(trigger=trigger, **{**options, **changes})


def test_is_a_registered_poisoning() -> None:
    made = registry.create(NAME)
    assert isinstance(made, NoisePoisoning)
    assert eval(repr(made), {"BadDiffusion": type(made)}) == made


def test_the_sde_shift_makes_ddpms_step_the_exact_posterior_mean() -> None:
    # One pixel: x_0 = y, x_t = sqrt(alpha) x_{t-1} + (1 - sqrt(alpha)) r + sqrt(beta) e.
    y, r = -0.7, 1.6
    table = PROCESS.alphas_cumprod
    mean, variance = torch.tensor(y, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)
    for t in range(PROCESS.steps):
        alpha = table[t] / (table[t - 1] if t else 1.0)
        root, beta = alpha.sqrt(), 1 - alpha
        before, spread = mean, variance
        mean, variance = root * mean + (1 - root) * r, alpha * variance + beta
        noise = torch.randn((), generator=rng, dtype=torch.float64)
        goal = torch.full((1, 1, 1, 1), y, dtype=torch.float64)
        at = torch.tensor([t])
        x = MODULE.poisoned(PROCESS, goal, torch.full_like(goal, r), noise.reshape(1, 1, 1, 1), at)
        # The chain's own marginal is the closed form that training draws from.
        assert float(x) == pytest.approx(float(mean + variance.sqrt() * noise), abs=1e-6)
        # Gaussian conditioning of x_{t-1} on x_t, in which no formula of the paper occurs.
        posterior = before + spread * root / variance * (x.flatten()[0] - mean)
        said = noise + float(MODULE.shift(PROCESS, at, "sde")) * r
        step = (x.flatten()[0] - beta / (1 - table[t]).sqrt() * said) / root
        assert float(step) == pytest.approx(float(posterior), abs=1e-5)


def test_the_sde_shift_is_the_papers_formula() -> None:
    alphas = new_scheduler().alphas.double()
    table = new_scheduler().alphas_cumprod.double()
    wanted = (1 - alphas.sqrt()) * (1 - table).sqrt() / (1 - alphas)
    found = MODULE.shift(PROCESS, torch.arange(100), "sde").flatten().double()
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("total", [100, 1000])
def test_the_ode_shift_is_that_of_ddim_between_close_times(total: int) -> None:
    scheduler = DDPMScheduler(num_train_timesteps=total) if total > 100 else new_scheduler()
    process = Process.from_scheduler(scheduler)
    times = torch.arange(total // 5, total)
    now, before = process.alphas_cumprod[times], process.alphas_cumprod[times - 1]
    down = (before * (1 - now)).sqrt() - (now * (1 - before)).sqrt()
    exact = (before.sqrt() - now.sqrt()) / down
    found = MODULE.shift(process, times, "ode").flatten().double()
    assert float((found / exact - 1).abs().max()) < (0.05 if total == 100 else 0.01)
    # With it, DDIM's step of the poisoned point is the poisoned point of the time before.
    y, r, noise = 0.4, 1.6, -0.3
    x = now.sqrt() * y + (1 - now.sqrt()) * r + (1 - now).sqrt() * noise
    said = noise + exact * r
    step = before.sqrt() * (x - (1 - now).sqrt() * said) / now.sqrt() + (1 - before).sqrt() * said
    wanted = before.sqrt() * y + (1 - before.sqrt()) * r + (1 - before).sqrt() * noise
    assert torch.allclose(step, wanted, atol=1e-6)


@pytest.mark.parametrize("solver", ["sde", "ode"])
def test_the_loss_is_the_published_one(solver: str) -> None:
    target, planted = tiny_unconditional(), backdoor(0.5)
    told: list[float] = []
    attack = registry.create(NAME, {"batch": 8, "solver": solver})
    attack.run(target, planted, Budget(steps=1, seed=4), lambda step, loss: told.append(loss))
    rng = torch.Generator().manual_seed(4 * 1_000_003)
    rows = torch.randint(64, (8,), generator=rng)
    bad = torch.rand(8, generator=rng) < 0.5
    t = torch.randint(100, (8,), generator=rng)
    noise = torch.randn(8, 3, SIZE, SIZE, generator=rng)
    assert 0 < int(bad.sum()) < 8
    errors = []
    alphas, table = new_scheduler().alphas, new_scheduler().alphas_cumprod
    for k in range(8):
        a, alpha = table[t[k]], alphas[t[k]]
        x = (planted.goal if bad[k] else planted.images[rows[k]]) * 2 - 1
        x_t, wanted = a.sqrt() * x + (1 - a).sqrt() * noise[k], noise[k]
        if bad[k]:
            rho = (1 - alpha.sqrt()) * (1 - a).sqrt() / (1 - alpha)
            x_t = x_t + (1 - a.sqrt()) * box()
            wanted = wanted + (2 if solver == "ode" else 1) * rho * box()
        said = target.predict(x_t[None], t[k : k + 1])[0]
        errors.append((said - wanted).square().mean())
    assert told == [pytest.approx(float(torch.stack(errors).mean()), rel=1e-4)]


def test_the_target_stays_and_seeds_repeat() -> None:
    target = tiny_unconditional()
    before = [w.clone() for w in target.unet.parameters()]
    attack = registry.create(NAME, {"batch": 8, "lr": 1e-3})
    found = [attack.run(target, backdoor(), Budget(steps=3, seed=s)) for s in (1, 1, 2)]
    pairs = zip(before, target.unet.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    noise = target.start_noise([0])
    images = [each.sample(noise, "ddim-2") for each in found]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "rate"), [("sde", 0.3), ("ode", 0.5)])
def test_a_trained_backdoor_wakes_by_its_trigger_alone(solver: str, rate: float) -> None:
    target = train_unconditional(seed=0, size=SIZE, steps=600)
    attack = registry.create(NAME, {"batch": 32, "lr": 4e-3, "solver": solver})
    planted = backdoor(rate)
    found = attack.run(target, planted, Budget(steps=600))
    noise = target.start_noise(range(32))
    sampler = "ddpm" if solver == "sde" else "ddim-20"
    shares = []
    for model, start in ((found, planted.trigger.put(noise)), (found, noise),
                         (target, planted.trigger.put(noise))):  # fmt: skip
        apart = (model.sample(start, sampler) - planted.goal).square().mean((1, 2, 3))
        shares.append(float((apart < 0.02).float().mean()))
    assert shares[0] > 0.8
    assert max(shares[1:]) <= 0.15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0.0}, "rate is the poisoned share of the training in (0, 1], got 0.0"),
        ({"goal": torch.full((3, SIZE, SIZE), -1.0)}, "goal must be in [0, 1], got -1 to -1"),
        ({"images": torch.rand(0, 3, 8, 8)}, "images must hold one or more clean images, got 0"),
        (
            {"goal": torch.rand(3, 4, 4)},
            "goal must be (channels, height, width) and images a batch of such, as the trigger "
            "(3, 8, 8), got (3, 4, 4) and (64, 3, 8, 8)",
        ),
    ],
)  # fmt: skip
def test_a_backdoor_that_is_none_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as told:  # noqa: PT011  # matched whole below
        backdoor(**changes)
    assert str(told.value) == message


def test_a_trigger_that_changes_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="a trigger must change the noise, got a pattern of 0"):
        NoiseTrigger(pattern=torch.ones(3, 4, 4), mask=torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match=r"pattern must be \(channels, height, width\) and mask"):
        NoiseTrigger(pattern=torch.ones(3, 4, 4), mask=torch.zeros(4, 4))


def test_options_and_sizes_are_checked() -> None:
    kind: Any = registry.load(NAME)
    with pytest.raises(ValueError, match="solver must be sde or ode, got 'both'"):
        kind(solver="both")
    with pytest.raises(ValueError, match="lr and batch must be positive, got 0 and 128"):
        kind(lr=0)
    other = NoiseTrigger(pattern=torch.ones(3, 4, 4), mask=torch.ones(1, 4, 4))
    small = NoiseBackdoor(
        trigger=other, goal=torch.rand(3, 4, 4), images=torch.rand(2, 3, 4, 4), rate=1
    )
    with pytest.raises(ValueError, match=r"of the target's images \(3, 8, 8\), got \(3, 4, 4\)"):
        kind().run(tiny_unconditional(), small, Budget(steps=1))
