"""SalUn, AdvUnlearn and the options of ESD: each piece against a plain reference, then effects."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Budget, Erasure
from safetybench.distill.training import tune
from safetybench.distill.views import chosen_parameters, velocity
from safetybench.targets.loading import load_target
from tests.targets import tiny_target
from tests.test_unlearning_methods import ERASURE, differing, noised, shrunk, weights_of

SALUN, ADVERSARIAL, ESD = "unlearning/salun", "unlearning/adv_unlearn", "unlearning/esd"


def module(name: str) -> Any:
    return importlib.import_module(type(registry.create(name)).__module__)


# SalUn


def test_the_mask_is_the_top_share_of_all_weights_together() -> None:
    few, many = torch.tensor([[9.0, 8.0], [7.0, 6.0]]), torch.tensor([0.1, 5.0, 0.2, 0.0])
    first, second = module(SALUN).most_salient([few, many], 0.5)
    assert first.tolist() == [[1, 1], [1, 1]]  # ranked each by itself, half of these would stay
    assert second.tolist() == [0, 0, 0, 0]
    first, second = module(SALUN).most_salient([few, many], 0.625)
    assert second.tolist() == [0, 1, 0, 0]
    ties = module(SALUN).most_salient([torch.zeros(10)], 0.3)
    assert int(ties[0].sum()) == 3


def test_saliency_is_the_size_of_the_summed_gradients_not_the_sum_of_sizes() -> None:
    target = tiny_target("velocity")
    weights = chosen_parameters(target.unet, "attn2.kv")
    method = shrunk(SALUN, batch=2, guidance=2.5)
    text = target.embed(target.tokenize(ERASURE.forget[:4]))
    x = torch.randn(4, *target.latent_shape, generator=torch.Generator().manual_seed(0))
    found = method._saliency(target, weights, x, text, torch.Generator().manual_seed(3))
    rng, null = torch.Generator().manual_seed(3), target.null_text.expand(2, -1, -1)
    summed = [torch.zeros_like(w) for w in weights]
    for rows in (slice(0, 2), slice(2, 4)):
        t = torch.randint(0, 1000, (2,), generator=rng)
        noise = torch.randn(2, *target.latent_shape, generator=rng)
        noisy = target.process.add(x[rows], noise, t)
        bare, aimed = velocity(target, noisy, t, null), velocity(target, noisy, t, text[rows])
        goal = target.process.convert(x[rows], "sample", "v_prediction", noisy, t)
        loss = (bare + 2.5 * (aimed - bare) - goal).square().mean()
        for total, gradient in zip(summed, torch.autograd.grad(loss, weights), strict=True):
            total += gradient
    for ours, wanted in zip(found, summed, strict=True):
        torch.testing.assert_close(ours, wanted.abs(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("train", ["all", "attn2"])
def test_weights_outside_of_the_mask_never_move(train: str) -> None:
    target, share = tiny_target("velocity"), 0.3
    made = shrunk(SALUN, share=share, train=train, lr=1e-2).run(
        target, ERASURE, Budget(steps=12, seed=1)
    )
    probe = target.clone()
    chosen = chosen_parameters(probe.unet, train)
    learning = {n for n, w in probe.unet.named_parameters() if w.requires_grad}
    before = dict(target.unet.named_parameters())
    moved = still = 0
    for name, weight in made.unet.named_parameters():
        has_moved = int((weight != before[name]).sum())
        moved += has_moved
        still += weight.numel() - has_moved if name in learning else 0
        assert name in learning or has_moved == 0
    total = sum(w.numel() for w in chosen)
    assert moved + still == total
    # No more than the share; a few of those with a gradient may round back to where they were.
    assert 0.97 * share * total <= moved <= round(share * total)


def test_masked_weights_stay_under_momentum_and_the_mask_goes_with_the_training() -> None:
    weight = torch.nn.Parameter(torch.ones(4))
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0])
    pull = torch.tensor([1.0, 2.0, -3.0, 4.0])

    def loss(step: int, rng: torch.Generator) -> Tensor:
        return ((weight - 3 * pull) * (1 + step % 3)).square().sum()

    with module(SALUN)._masked([weight], [mask]):
        tune([weight], loss, steps=20, lr=0.1, seed=0)
    assert (weight != 1).tolist() == [True, False, True, False]
    weight.requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(0, torch.Generator()), weight)
    assert bool((gradient != 0).all())


def test_the_relabel_loss_is_to_the_networks_own_answer_which_does_not_learn() -> None:
    target = tiny_target("velocity")
    twin = tiny_target("velocity", seed=1)
    weights = chosen_parameters(twin.unet, "attn2.kv")
    x, _, text = noised(target)
    other = twin.embed(twin.tokenize(["a green moon"] * 3))
    method = shrunk(SALUN)
    loss = method._relabel(twin, x, text, other, torch.Generator().manual_seed(1))
    rng = torch.Generator().manual_seed(1)
    t = torch.randint(0, 1000, (3,), generator=rng)
    noisy = target.process.add(x, torch.randn(x.shape, generator=rng), t)
    label = velocity(twin, noisy, t, other).detach()
    wanted = (velocity(twin, noisy, t, text) - label).square().mean()
    torch.testing.assert_close(loss, wanted)
    ours, theirs = torch.autograd.grad(loss, weights), torch.autograd.grad(wanted, weights)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two)


# AdvUnlearn


class _Line:
    """A target whose answer is a plain function of the prefix: the mean of it, as every latent."""

    def __init__(self) -> None:
        self.token_table = torch.tensor([[0.0, 0.0], [1.0, -1.0], [2.0, 0.5]])
        self.plain_tokens = torch.tensor([1, 2])
        self.process = tiny_target("velocity").process

    def embed(self, ids: Tensor, rows: Tensor | None = None) -> Tensor:
        assert rows is not None
        return rows

    def x0(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return text.mean((1, 2))[:, None, None, None].expand_as(x)


def attacked(steps: int, **options: Any) -> Tensor:
    method = shrunk(ADVERSARIAL, attack_steps=steps, attack_lr=0.1, tokens=1, **options)
    prompts = SimpleNamespace(
        ids=torch.zeros(2, 5), text=torch.full((2, 1, 2), 7.0), images=torch.zeros(2, 1, 1, 1)
    )
    rng = torch.Generator().manual_seed(0)
    found: Tensor = method._attack(_Line(), _Line(), prompts, rng)
    return found


def reference(steps: int, *, is_fast: bool, adds_up: bool) -> Tensor:
    """Write the attack out: Adam on the gradient of this step, or on all so far."""
    target, rng = _Line(), torch.Generator().manual_seed(0)
    picks = torch.randint(0, 2, (2,), generator=rng)
    rows = target.token_table[target.plain_tokens[picks]][:, None].clone()
    first, second, total = (torch.zeros_like(rows) for _ in range(3))
    for step in range(1, steps + 1):
        t = torch.randint(0, 1000, (2,), generator=rng)
        noise = torch.randn(2, 1, 1, 1, generator=rng)
        noisy = target.process.add(torch.zeros_like(noise), noise, t)
        rows.requires_grad_(True)
        answers = [
            target.process.convert(target.x0(noisy, t, states), "sample", "v_prediction", noisy, t)
            for states in (rows, torch.full((2, 1, 2), 7.0))
        ]
        loss = (answers[0] - answers[1]).square().sum()
        (gradient,) = torch.autograd.grad(loss, rows)
        total = total + gradient if adds_up else gradient
        used = total.sign() if is_fast else total
        first, second = 0.9 * first + 0.1 * used, 0.999 * second + 0.001 * used**2
        mean, square = first / (1 - 0.9**step), second / (1 - 0.999**step)
        rows = (rows - 0.1 * mean / (square.sqrt() + 1e-8)).detach()
    return rows


@pytest.mark.parametrize("is_fast", [False, True])
def test_the_attack_is_adam_on_the_gradient_of_each_step_alone(is_fast: bool) -> None:
    found = attacked(8, fast=is_fast)
    wanted = reference(8, is_fast=is_fast, adds_up=False)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    if not is_fast:  # what the released code does
        summed = reference(8, is_fast=False, adds_up=True)
        assert (found - summed).abs().max() > 0.01


def test_the_attack_starts_at_words_and_lowers_its_loss() -> None:
    words = _Line().token_table[1:].tolist()
    assert all(row in words for row in attacked(0)[:, 0].tolist())
    gap = [(attacked(steps).mean((1, 2)) - 7).abs().max().item() for steps in (0, 10, 40)]
    assert gap[0] > gap[1] > gap[2]


def test_each_prompt_gets_a_prefix_of_its_own_of_typable_words() -> None:
    target, method = tiny_target("velocity"), shrunk(ADVERSARIAL, attack_steps=0, tokens=2)
    prompts = method._prompts(target, ERASURE.forget, 1)
    prefix = method._attack(target, target, prompts, torch.Generator().manual_seed(0))
    assert prefix.shape == (6, 2, 16)
    assert not prefix.requires_grad
    table = target.token_table[target.plain_tokens]
    for row in prefix.flatten(0, 1):
        assert bool((table == row).all(1).any())


def test_warm_up_makes_no_attack_and_prefixes_are_kept_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = type(registry.create(ADVERSARIAL))
    attack, asked = method._attack, []

    def counted(self: Any, *args: Any) -> Tensor:
        asked.append(args)
        found: Tensor = attack(self, *args)
        return found

    monkeypatch.setattr(method, "_attack", counted)
    for options, attacks in (
        ({"warmup": 1.0}, 0), ({"warmup": 0.5}, 5), ({"warmup": 0.0, "every": 4}, 3),
    ):  # fmt: skip
        asked.clear()
        shrunk(ADVERSARIAL, batch=2, retain=0.0, attack_steps=0, **options).run(
            tiny_target("velocity"), ERASURE, Budget(steps=10)
        )
        assert len(asked) == attacks, options


def test_a_trained_text_encoder_is_saved_and_the_goal_stays_the_old_one(tmp_path: Path) -> None:
    target = tiny_target("velocity")
    null = target.null_text.clone()
    made = shrunk(ADVERSARIAL, lr=1e-2).run(target, ERASURE, Budget(steps=4, seed=1))
    assert torch.equal(target.null_text, null)
    assert not torch.equal(made.null_text, null)  # of its own encoder, not a stale one
    assert {n.split(".")[0] for n in differing(weights_of(target), weights_of(made))} == {
        "text_encoder"
    }
    again = load_target(str(made.save(tmp_path / "made")))
    torch.testing.assert_close(
        again.generate(["a red fish"], [3]), made.generate(["a red fish"], [3])
    )


@pytest.mark.parametrize("train", ["attn2", "not attn2"])
def test_a_part_of_the_denoiser_may_learn_in_the_place_of_the_text(train: str) -> None:
    target = tiny_target("velocity")
    made = shrunk(ADVERSARIAL, train=train).run(target, ERASURE, Budget(steps=2, seed=1))
    moved = differing(weights_of(target), weights_of(made))
    assert moved
    assert all(n.startswith("unet.") and (".attn2." in n) == (train == "attn2") for n in moved)
    assert made.text_encoder is target.text_encoder


# Effects, on a micro target

# Random text states are alike; these two prompts are not.
FISH, OTHER = "a red fish", "picture of the dark pale background"
PAIR = Erasure(forget=(FISH,) * 6, anchor=(OTHER,) * 6, retain=("a moon",), bare=(FISH,))
NO_RED = Erasure(forget=(FISH,), anchor=(OTHER,), retain=("a moon",), bare=("red",))


@pytest.fixture(scope="module")
def target() -> Any:
    return tiny_target("velocity")


def answer(model: Any, prompt: str) -> Tensor:
    """Return a model's velocity for a prompt, at a few noises and times."""
    rng = torch.Generator().manual_seed(5)
    x = torch.randn(16, *model.latent_shape, generator=rng)
    t = torch.randint(0, 1000, (16,), generator=rng)
    with torch.no_grad():
        return velocity(model, x, t, model.embed(model.tokenize([prompt] * 16)))


@pytest.mark.parametrize(
    ("name", "options", "erasure", "prompt"),
    [
        (SALUN, {"images": 6, "train": "attn2"}, PAIR, FISH),
        (ADVERSARIAL, {"images": 6, "attack_steps": 1, "every": 5}, PAIR, FISH),
        (ESD, {}, PAIR, FISH),
        # "red" as an attribute of a fish: a fish then says what a fish says without red.
        (ESD, {"erase_from": "a fish", "bare": 1.0}, NO_RED, "a fish"),
    ],
)
def test_the_concept_goes_where_the_method_wants_it(
    target: Any, name: str, options: dict[str, Any], erasure: Erasure, prompt: str
) -> None:
    small = {"batch": 4, "retain": 0.0, "lr": 5e-3}
    made = registry.create(name, {**small, **options}).run(
        target, erasure, Budget(steps=30, seed=1)
    )
    null = answer(target, "")
    if "erase_from" in options:
        goal = answer(target, prompt) - (answer(target, "red") - null)
    else:
        goal = null - (answer(target, prompt) - null)

    def gap(model: Any) -> float:
        # SalUn's label is what the network itself says in the end.
        wanted = answer(model, OTHER) if name == SALUN else goal
        return float((answer(model, prompt) - wanted).square().mean())

    assert gap(made) < 0.5 * gap(target), (gap(target), gap(made))
