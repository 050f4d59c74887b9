"""Encoder and score protections against formulas, plain references, and a micro target."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import __main__ as benchmarks_command
from benchmarks import protection
from safetybench.contracts import Album, Budget, SafetyBenchError
from safetybench.draws import Streams
from safetybench.registry import create
from tests.gaussian import posterior_mean, scaled_linear
from tests.targets import Variant, tiny_target

HOME = "defenses/images"
score = importlib.import_module("safetybench.defenses.images._score")
MEAN, SPREAD = 0.4, 0.7


def album(count: int = 3, side: int = 16, seed: int = 0) -> Album:
    rng = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 256, (count, 3, side, side), generator=rng)
    captions = ("a red fish", "", "the moon")[:count]
    return Album(images=levels / 255, ids=tuple(f"i{k}" for k in range(count)), captions=captions)


@dataclass(eq=False)
class Analytic:
    """Latents are 4x4 means of pixels in [-1, 1]; the data are Gaussian, so x0 is a formula."""

    process: Any = field(default_factory=scaled_linear)

    def tokenize(self, prompts: Any) -> Tensor:
        return torch.zeros(len(prompts), 1, dtype=torch.int64)

    def embed(self, ids: Tensor) -> Tensor:
        return ids.float()[..., None]

    def encode(self, images: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(images * 2 - 1, 4)

    def x0(self, latents: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return posterior_mean(self.process, latents, t, MEAN, SPREAD)


# Against formulas: predicted minus true noise is k (z - mean) - g noise for Gaussian data.


def factors(process: Any, t: Tensor) -> tuple[Tensor, Tensor]:
    alpha, sigma = process.alpha(t), process.sigma(t)
    total = alpha**2 * SPREAD**2 + sigma**2
    return alpha * sigma / total, alpha**2 * SPREAD**2 / total


def drawn(given: Album, shape: tuple[int, ...], seed: int = 0, high: int = 1000) -> Any:
    """Return what a step draws, as the docstring of Score promises it."""
    streams = Streams(seed, [f"{i}/score" for i in given.ids])
    t = 1 + streams.integers(0, high - 1)
    return t, streams.normal((1, *shape))[:, 0]


@pytest.mark.parametrize("sign", ["up", "down"])
def test_directions_are_those_of_the_formula(sign: str) -> None:
    target, given = Analytic(), album()
    t, noise = drawn(given, (3, 4, 4))
    latents = target.encode(given.images)
    slope, grain = factors(target.process, t)
    residual = slope * (latents - MEAN) - grain * noise
    way = 1 if sign == "up" else -1
    pixels = torch.nn.functional.interpolate(way * residual, scale_factor=4) * 2 / 16
    found, losses = create(f"{HOME}/sds", {"sign": sign}).climb(target, given)(given.images, 0)
    assert torch.allclose(found, pixels, atol=1e-5)
    assert torch.allclose(losses, residual.square().mean((1, 2, 3)), rtol=1e-4)
    found, losses = create(f"{HOME}/advdm", {"sign": sign}).climb(target, given)(given.images, 0)
    assert torch.allclose(found, pixels * slope * 2 / 48, atol=1e-6)
    assert torch.allclose(losses, residual.square().mean((1, 2, 3)), rtol=1e-4)


def test_times_of_a_step_are_averaged() -> None:
    target, given = Analytic(), album()
    many = score.Score(target, given, 0, times=[400], each=2000)
    latents = target.encode(given.images)
    slope, grain = factors(target.process, torch.tensor([400]))
    found, losses = many.residual(latents)
    error = float(grain) / 2000**0.5
    assert float((found - slope * (latents - MEAN)).abs().max()) < 5 * error
    _, full_losses = score.Score(target, given, 0, times=[400], each=2000).error(latents)
    assert torch.allclose(losses, full_losses)


@pytest.mark.parametrize("method", ["advdm", "sds"])
def test_up_leads_away_from_the_data_and_down_to_it(method: str) -> None:
    target, given = Analytic(), album()
    options = {"times_per_step": 8} if method == "sds" else {}
    budget = Budget(epsilon=16 / 255, steps=40)

    def distance(images: Tensor) -> Tensor:
        return (target.encode(images) - MEAN).square().mean((1, 2, 3))

    far, near = (
        create(f"{HOME}/{method}", {"sign": sign, **options}).protect(target, given, budget)
        for sign in ("up", "down")
    )
    assert bool((distance(far) > distance(given.images) + 0.02).all())
    assert bool((distance(near) < distance(given.images) - 0.02).all())


# Against a plain reference: one image at a time, the network's own answer, backward() on the image


def plain_noise(target: Any, z: Tensor, t: Tensor, noise: Tensor, caption: str) -> Tensor:
    kept = target.process.alphas_cumprod[t].double().reshape(-1, 1, 1, 1)
    alpha, sigma = kept.sqrt().float(), (1 - kept).sqrt().float()
    noisy = alpha * z + sigma * noise
    states = target.text_encoder(target.tokenize([caption]))[0]
    answer: Tensor = target.unet(noisy, t, encoder_hidden_states=states).sample
    return sigma * noisy + alpha * answer if target.prediction == "v_prediction" else answer


def plain_latents(target: Any, image: Tensor) -> Tensor:
    mean = target.vae.encode(image * 2 - 1).latent_dist.mean
    latents: Tensor = mean * target.vae.config.scaling_factor
    return latents


Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def advdm(z: Tensor, found: Tensor, noise: Tensor, goal: Tensor) -> Tensor:
    return ((found - noise) ** 2).mean()


def mist(z: Tensor, found: Tensor, noise: Tensor, goal: Tensor) -> Tensor:
    # What is climbed is the negative; z is 256 values here, 16,384 as published.
    return 1e4 * 256 / 16384 * ((found - noise) ** 2).mean() - ((z - goal) ** 2).sum()


def ace(z: Tensor, found: Tensor, noise: Tensor, goal: Tensor) -> Tensor:
    return -((found - goal) ** 2).mean()


def ace_plus(z: Tensor, found: Tensor, noise: Tensor, goal: Tensor) -> Tensor:
    return ace(z, found, noise, goal) - 100 * ((z - goal) ** 2).mean()


def sds(z: Tensor, found: Tensor, noise: Tensor, goal: Tensor) -> Tensor:
    return -((found - noise).detach() * z).sum()


PLAIN: list[tuple[str, dict[str, Any], Loss]] = [
    ("advdm", {}, advdm),
    ("advdm", {"sign": "down"}, lambda *a: -advdm(*a)),
    ("mist", {}, mist),
    ("mist", {"mode": "semantic"}, advdm),
    ("mist", {"mode": "textural"}, lambda z, f, n, goal: -((z - goal) ** 2).sum()),
    ("ace", {}, ace),
    ("ace", {"plus": True}, ace_plus),
    ("sds", {}, sds),
    ("sds", {"sign": "up"}, lambda *a: -sds(*a)),
    ("photoguard_encoder", {}, lambda z, f, n, goal: -((z) ** 2).sum()),
    ("photoguard_encoder", {"goal": "pattern"}, lambda z, f, n, goal: -((z - goal) ** 2).sum()),
]


def plain_gradients(target: Any, given: Album, losses: list[Loss], seed: int) -> Tensor:
    """Return gradients of the sum of losses, each with an encoder pass of its own."""
    t, noise = drawn(given, target.latent_shape, seed)
    found = []
    for k, caption in enumerate(given.captions):
        image = given.images[k : k + 1].clone().requires_grad_(True)
        for loss in losses:
            z = plain_latents(target, image)
            goal = plain_latents(target, score.pattern(*image.shape[2:]))
            predicted = plain_noise(target, z, t[k : k + 1], noise[k : k + 1], caption)
            loss(z, predicted, noise[k : k + 1], goal).backward()
        assert image.grad is not None
        found.append(image.grad)
    return torch.cat(found)


def assert_same_direction(found: Tensor, wanted: Tensor) -> None:
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5
    assert float((found.sign() == wanted.sign()).float().mean()) >= 0.999


@pytest.mark.parametrize("variant", ["teacher", "velocity"])
@pytest.mark.parametrize(("method", "options", "loss"), PLAIN)
def test_a_batched_step_is_the_plain_one(
    method: str, options: dict[str, Any], loss: Loss, variant: Variant
) -> None:
    target, given = tiny_target(variant), album()
    found, _ = create(f"{HOME}/{method}", options).climb(target, given, 5)(given.images, 0)
    assert_same_direction(found, plain_gradients(target, given, [loss], 5))


@pytest.mark.parametrize("sign", ["up", "down"])
def test_fused_sdst_is_sds_and_texture_in_two_passes(sign: str) -> None:
    target, given = tiny_target("velocity"), album()
    way = 5.0 if sign == "down" else -5.0
    fused = create(f"{HOME}/sds", {"sign": sign, "target_rate": 5.0})
    found, _ = fused.climb(target, given, 5)(given.images, 0)
    parts: list[Loss] = [
        lambda *a: way * sds(*a),
        lambda z, f, n, goal: -((z - goal) ** 2).sum(),
    ]
    assert_same_direction(found, plain_gradients(target, given, parts, 5))


def test_grid_matched_is_advdm_or_sds_at_other_times() -> None:
    target, given = tiny_target("student"), album()
    for objective, method in (("advdm", "error"), ("sds", "residual")):
        at_one = score.Score(target, given, 5, times=[699])
        pull = score.signed(getattr(at_one, method), "up")
        wanted, _ = score.through_encoder(target, pull)(given.images, 0)
        matched = create(f"{HOME}/grid_matched", {"objective": objective})
        assert matched.times(target) == (699,)
        found, _ = matched.climb(target, given, 5)(given.images, 0)
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("advdm", {}),
        ("sds", {}),
        ("grid_matched", {}),
        ("grid_matched", {"objective": "sds"}),
    ],
)
def test_the_two_signs_are_opposite(method: str, options: dict[str, Any]) -> None:
    target, given = tiny_target(), album()
    up, down = (
        create(f"{HOME}/{method}", {**options, "sign": sign}).climb(target, given)(given.images, 0)
        for sign in ("up", "down")
    )
    assert float(up[0].abs().max()) > 0
    assert torch.equal(up[0], -down[0])
    assert torch.equal(up[1], down[1])


def test_captions_condition_the_surrogate() -> None:
    target, given = tiny_target(), album()
    other = Album(images=given.images, ids=given.ids, captions=("a star", "", "the moon"))
    one, two = (create(f"{HOME}/advdm").climb(target, a)(a.images, 0)[0] for a in (given, other))
    assert not torch.equal(one[0], two[0])
    assert torch.allclose(one[1:], two[1:], rtol=1e-5, atol=1e-9)


# The loss goes where it should


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("photoguard_encoder", {}),
        ("photoguard_encoder", {"goal": "gray"}),
        ("photoguard_encoder", {"goal": "pattern"}),
        ("mist", {"mode": "textural"}),
        ("sds", {"target_rate": 1.0}),
        ("ace", {"plus": True}),
    ],
)
def test_what_is_minimised_falls(method: str, options: dict[str, Any]) -> None:
    target, given, losses = tiny_target("velocity"), album(), []
    defense = create(f"{HOME}/{method}", options)
    budget = Budget(epsilon=16 / 255, steps=12)
    defense.protect(target, given, budget, lambda step, loss: losses.append(loss))
    assert len(losses) == 12
    assert losses[-1] < 0.97 * losses[0]


@pytest.mark.parametrize(
    ("method", "options", "way"),
    [
        ("advdm", {}, 1),
        ("advdm", {"sign": "down"}, -1),
        ("ace", {}, -1),
        ("mist", {"mode": "semantic"}, 1),
        ("mist", {}, -1),
        ("grid_matched", {}, 1),
    ],
)
def test_random_losses_move_at_draws_that_were_not_climbed(
    method: str, options: dict[str, Any], way: int
) -> None:
    target, given = tiny_target("velocity"), album()
    defense = create(f"{HOME}/{method}", options)
    noise = create(f"{HOME}/sign_noise")
    budget = Budget(epsilon=16 / 255, steps=10)

    def loss(images: Tensor) -> float:
        fresh = defense.climb(target, given, 77)
        return float(torch.stack([fresh(images, k)[1] for k in range(10)]).mean())

    climbed, blank = (loss(made.protect(target, given, budget)) for made in (defense, noise))
    assert way * climbed > way * blank


# The benchmark


def test_the_benchmark_compares_like_with_like(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = protection.rows(tiny_target("velocity"), 2, 1, 1)
    assert [row.name for row in rows] == ["AdvDM", "SDST", "DiffusionGuard"]
    assert all(row.same for row in rows)
    passes = [(row.reference[1:3], row.shipped[1:3]) for row in rows]
    half = 1.5  # of the goal's a step
    assert passes == [((2, 3), (1, 1)), ((3, 1), (half, 1)), ((1, 1), (1, 1))]
    assert all(row.reference.mflop > 1.5 * row.shipped.mflop > 0 for row in rows[:2])
    assert rows[2].reference.mflop > rows[2].shipped.mflop > 0  # the prompt's
    # SDS needs no way back through the denoiser.
    assert 0 < rows[1].shipped.held_mb < rows[0].shipped.held_mb
    monkeypatch.setattr(benchmarks_command, "steps", lambda chosen: ("here", rows))
    assert benchmarks_command.main(["--protection"]) == 0
    assert "AdvDM reference" in capsys.readouterr().out
    monkeypatch.setattr(
        benchmarks_command, "steps", lambda chosen: ("here", [rows[0]._replace(signs=0.9)])
    )
    assert benchmarks_command.main(["--protection", "--json"]) == 1
    assert '"signs": 0.9' in capsys.readouterr().out


# Times, the goal, and wrong options


def test_time_zero_is_never_drawn_and_the_last_one_is() -> None:
    given = album()
    one = score.Score(Analytic(), given, 0, each=5000)
    times = one.draw(torch.zeros(3, 3, 4, 4)).t
    assert times.shape == (15000,)
    assert (int(times.min()), int(times.max())) == (1, 999)


@pytest.mark.parametrize(
    ("variant", "strength", "times"),
    [
        ("velocity", 1.0, (749, 499, 249)),  # 999 is pure noise at zero terminal SNR
        ("velocity", 0.7, (499, 249)),
        ("velocity", 0.1, (99,)),
        ("teacher", 1.0, (751, 501, 251, 1)),
        ("student", 0.5, (499,)),
    ],
)
def test_grid_matched_draws_the_times_of_the_sampler(
    variant: Variant, strength: float, times: tuple[int, ...]
) -> None:
    target = tiny_target(variant)
    assert create(f"{HOME}/grid_matched", {"strength": strength}).times(target) == times


def test_grid_matched_refuses_a_sampler_that_sees_noise_alone() -> None:
    from safetybench.targets.spec import Sampler

    target = tiny_target("velocity").with_sampler(Sampler(steps=1, guidance=1.0))
    with pytest.raises(ValueError, match="strength must leave some of the image, got 1, at which"):
        create(f"{HOME}/grid_matched", {"strength": 1.0}).times(target)


@pytest.mark.parametrize("shape", [(64, 64), (512, 512), (33, 70), (3, 5)])
def test_the_goal_is_black_and_white_at_any_size(shape: tuple[int, int]) -> None:
    image = score.pattern(*shape)
    assert image.shape == (1, 3, *shape)
    assert set(image.unique().tolist()) <= {0.0, 1.0}
    assert 0.2 < float(image.mean()) < 0.8


def test_odd_sides_are_no_trouble_to_the_encoder_attack() -> None:
    target = tiny_target()
    given = Album(images=torch.zeros(1, 3, 18, 26), ids=("odd",))
    budget = Budget(epsilon=8 / 255, steps=2)
    for goal in ("norm", "gray", "pattern"):
        defense = create(f"{HOME}/photoguard_encoder", {"goal": goal})
        assert defense.protect(target, given, budget).shape == given.images.shape


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("photoguard_encoder", {"goal": "cat"}, "goal must be one of norm, gray, pattern, got 'c"),
        (
            "photoguard_encoder",
            {"rate": 0},
            r"rate must be a step in \(0, 2\] times epsilon, got 0",
        ),
        ("advdm", {"sign": "left"}, "sign must be one of up, down, got 'left'"),
        ("advdm", {"rate": 3}, r"rate must be a step in \(0, 2\] times epsilon, got 3"),
        ("sds", {"sign": "+"}, r"sign must be one of up, down, got '\+'"),
        ("sds", {"target_rate": -1}, "target_rate must be 0 or more, got -1"),
        ("sds", {"times_per_step": 0}, "times_per_step must be 1 or more, got 0"),
        ("mist", {"mode": 0}, "mode must be one of fused, textural, semantic, got 0"),
        ("mist", {"weight": 0}, "weight must be above 0, got 0"),
        ("ace", {"weight": -2}, "weight must be above 0, got -2"),
        ("grid_matched", {"strength": 0}, r"strength must be in \(0, 1\], got 0"),
        ("grid_matched", {"objective": "ace"}, "objective must be one of advdm, sds, got 'ace'"),
        ("grid_matched", {"sign": "no"}, "sign must be one of up, down, got 'no'"),
    ],
)
def test_wrong_options_are_refused(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SafetyBenchError, match=message):
        create(f"{HOME}/{method}", options)
