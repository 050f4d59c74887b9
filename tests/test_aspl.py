"""Anti-DreamBooth: what it climbs, when its surrogate learns, and in which number format."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Album, Budget
from safetybench.draws import Streams
from safetybench.pixels import is_rounded
from safetybench.targets import personalise
from safetybench.targets.personalise import Surrogate
from tests.targets import Variant, tiny_target

NAME = "defenses/images/aspl"
SMALL = {"class_images": 2, "batch": 2, "prompt": "a red shape", "class_prompt": "a shape"}


def album(count: int = 2) -> Album:
    rng = torch.Generator().manual_seed(3)
    levels = torch.randint(0, 256, (count, 3, 16, 16), generator=rng)
    return Album(images=levels / 255, ids=tuple(f"i{k}" for k in range(count)))


def weights(target: Any) -> list[Tensor]:
    return [w.detach().clone() for w in target.unet.parameters()]


def made(**options: Any) -> Any:
    return registry.create(NAME, {**SMALL, **options})


def fresh_loss(target: Any, images: Tensor, draws: int = 40) -> Tensor:
    """Return the mean error of images at times and noises that no climb saw, (batch,)."""
    rng = torch.Generator().manual_seed(99)
    shown = personalise.examples_of(target, images, ["a red shape"] * len(images))
    text, found = target.embed(shown.tokens), []
    for _ in range(draws):
        noise = torch.randn(shown.latents.shape, generator=rng)
        t = personalise.drawn_times(target, len(images), rng)
        found.append(personalise.errors(target, shown.latents, text, noise, t))
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("variant", ["teacher", "velocity", "student"])
def test_protected_images_are_in_the_ball_and_of_the_seed_alone(variant: Variant) -> None:
    target, given = tiny_target(variant), album()
    before, state = weights(target), torch.get_rng_state()
    budget = Budget(epsilon=8 / 255, steps=5)
    images = made(pgd_steps=2).protect(target, given, budget)
    assert is_rounded(images)
    moved = (images - given.images).abs().max()
    assert 1 / 255 < float(moved) <= 8 / 255 + 1e-6
    assert torch.equal(images, made(pgd_steps=2).protect(target, given, budget))
    other = made(pgd_steps=2).protect(target, given, Budget(epsilon=8 / 255, steps=5, seed=1))
    assert not torch.equal(images, other)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(*pair) for pair in zip(before, weights(target), strict=True))
    assert not any(w.requires_grad for w in target.unet.parameters())


def test_without_learning_it_climbs_the_loss_of_the_model_as_it_is() -> None:
    target, given = tiny_target(), album()
    found, losses = made(surrogate_steps=0).climb(target, given, 7)(given.images, 0)
    streams = Streams(7, [f"{i}/aspl" for i in given.ids])
    t = streams.integers(0, 1000)
    noise = streams.normal((4, 8, 8))
    free = given.images.clone().requires_grad_()
    latents = target.encode(free)
    noisy = target.process.add(latents, noise, t)
    text = target.embed(target.tokenize(["a red shape"] * 2))
    error = (target.unet(noisy, t, encoder_hidden_states=text).sample - noise).square()
    (wanted,) = torch.autograd.grad(error.mean((1, 2, 3)).sum(), free)
    assert torch.allclose(losses, error.mean((1, 2, 3)), rtol=1e-4)
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-6 * float(wanted.abs().max()) + 1e-9)


def test_protected_images_are_harder_to_learn_than_noisy_ones() -> None:
    target, given = tiny_target("velocity"), album(3)
    budget = Budget(epsilon=16 / 255, steps=40)
    noisy = registry.create("defenses/images/sign_noise").protect(None, given, budget)
    guarded = made().protect(target, given, budget)
    clean, floor, reached = (fresh_loss(target, i) for i in (given.images, noisy, guarded))
    assert ((reached - clean) > 2 * (floor - clean).abs()).all()


def calls(monkeypatch: pytest.MonkeyPatch, steps: int, **options: Any) -> list[int]:
    """Return how many steps the surrogate takes at each call of a whole climb."""
    seen: list[int] = []
    real = Surrogate.learn

    def learn(self: Surrogate, loss: Any, steps: int) -> None:
        seen.append(steps)
        real(self, loss, steps)

    monkeypatch.setattr(Surrogate, "learn", learn)
    made(**options).protect(tiny_target(), album(), Budget(epsilon=0.1, steps=steps))
    return [count for count in seen if count]


def test_the_surrogate_learns_where_a_round_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert calls(monkeypatch, 4, pgd_steps=2, surrogate_steps=1) == [1, 1, 1]  # A; then B, A
    assert calls(monkeypatch, 4, pgd_steps=2, surrogate_steps=0, warmup=3) == [3]
    assert calls(monkeypatch, 4, pgd_steps=2, surrogate_steps=0) == []


def test_what_is_attacked_forgets_the_clean_images_again() -> None:
    # With one step a round, the weights between rounds must not hold what A taught them.
    target, given = tiny_target(), album()
    climb = made(pgd_steps=1, surrogate_steps=2).climb(target, given)
    alternation: Any = getattr(climb, "__self__")  # noqa: B009
    climb(given.images, 0)
    first = [w.clone() for w in alternation.main]
    assert all(torch.equal(*pair) for pair in zip(first, weights(target), strict=True))
    assert alternation.surrogate.changed > 0.9
    climb(given.images, 1)
    moved = [(new - old).abs().max() for new, old in zip(alternation.main, first, strict=True)]
    assert 0 < float(max(moved)) <= 2.1 * made().lr  # two steps of AdamW, not four


def test_the_released_number_format_hardly_learns() -> None:
    shares = {}
    for dtype in (torch.float32, torch.bfloat16):
        target = tiny_target()
        given = personalise.examples_of(target, album().images, ["a red shape"] * 2)
        lesson = personalise.Lesson(frozen=target, shown=given)
        surrogate = Surrogate(target, lr=5e-7, dtype=dtype)
        rng = torch.Generator().manual_seed(0)
        surrogate.learn(partial(lesson.loss, rng=rng), 20)
        shares[dtype] = surrogate.changed
    assert shares[torch.float32] > 0.9
    assert shares[torch.bfloat16] < 0.1


def test_bfloat16_surrogates_protect_too() -> None:
    target, given = tiny_target("velocity"), album()
    budget = Budget(epsilon=8 / 255, steps=3)
    images = made(surrogate_dtype="bfloat16", pgd_steps=2).protect(target, given, budget)
    assert not torch.equal(images, given.images)
    assert target.unet.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, "rate must be a step in (0, 2] times epsilon, got 0.0"),
        (
            {"surrogate_steps": -1},
            "surrogate_steps, warmup and prior must be 0 or more, got -1, 0, 1.0",
        ),
        ({"pgd_steps": 0}, "lr, pgd_steps, batch and class_images must be positive, got "
                           "0.0001, 0, 4, 32"),
        (
            {"surrogate_dtype": "float16"},
            "surrogate_dtype must be one of float32, bfloat16, got 'float16'",
        ),
    ],
)  # fmt: skip
def test_wrong_options_are_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=NAME) as caught:
        registry.create(NAME, options)
    assert str(caught.value) == f"{NAME}: {message}"
