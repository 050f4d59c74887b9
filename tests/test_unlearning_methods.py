"""What every unlearning method keeps to, and ESD and concept ablation against their formulas."""

from __future__ import annotations

import copy
import importlib
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Budget, Erasure, SafetyBenchError, Unlearning
from safetybench.distill.views import chosen_parameters, velocity
from tests.targets import Variant, tiny_target

NAMES = registry.names("unlearning")
# Those that train a part of the networks; how the others work stands in tests of their own.
TRAINED = ["unlearning/adv_unlearn", "unlearning/concept_ablation", "unlearning/esd"]
TRAINED += ["unlearning/salun"]
SMALL = {"images": 6, "batch": 4, "attack_steps": 2}
COLOURS = ("red", "blue", "green")
ERASURE = Erasure(
    forget=tuple(f"a {c} fish" for c in COLOURS) * 2,
    anchor=tuple(f"a {c} star" for c in COLOURS) * 2,
    retain=tuple(f"a {c} {o}" for c in COLOURS for o in ("heart", "moon")),
    bare=("fish", "a fish"),
)


def shrunk(name: str, **options: Any) -> Any:
    known = getattr(registry.load(name), "__dataclass_fields__", {})
    return registry.create(name, {k: v for k, v in (SMALL | options).items() if k in known})


def weights_of(target: Any) -> dict[str, Tensor]:
    parts = {"unet": target.unet, "vae": target.vae, "text_encoder": target.text_encoder}
    return {
        f"{part}.{name}": weight.clone()
        for part, network in parts.items()
        for name, weight in network.state_dict().items()
    }


def differing(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def allowed(target: Any, train: str) -> set[str]:
    """Return the names of the weights that training a part may change."""
    if train == "text":
        return {f"text_encoder.{n}" for n, _ in target.text_encoder.named_parameters()}
    probe = copy.deepcopy(target.unet)
    chosen_parameters(probe, train)
    return {f"unet.{n}" for n, w in probe.named_parameters() if w.requires_grad}


def test_there_are_methods() -> None:
    assert set(TRAINED) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_is_a_documented_method_with_a_source(name: str) -> None:
    method: Any = registry.load(name)
    assert issubclass(method, Unlearning)
    assert method.source.startswith("https://")
    assert registry.describe(name).source == method.source
    for documented in (method, importlib.import_module(method.__module__)):
        assert documented.__doc__
        assert documented.__doc__.strip().split("\n")[0].endswith((".", ":"))


@pytest.mark.parametrize("name", NAMES)
def test_default_construction_repr_and_pickle(name: str) -> None:
    method: Any = registry.create(name)
    assert eval(repr(method), {type(method).__name__: type(method)}) == method
    assert pickle.loads(pickle.dumps(method)) == method
    assert copy.deepcopy(method) == method
    with pytest.raises(AttributeError):
        method.anything_else = 1


@pytest.mark.parametrize("variant", ["teacher", "velocity"])
@pytest.mark.parametrize("name", TRAINED)
def test_only_the_chosen_weights_of_a_copy_change(name: str, variant: Variant) -> None:
    target, method = tiny_target(variant), shrunk(name, share=1.0)
    before = weights_of(target)
    made = method.run(target, ERASURE, Budget(steps=2, seed=1))
    assert differing(before, weights_of(target)) == set()
    for network in (target.unet, target.text_encoder, made.unet, made.text_encoder):
        assert not any(w.requires_grad for w in network.parameters())
        assert network.training is False
    assert differing(before, weights_of(made)) == allowed(target, method.train)
    images = made.generate(["a red fish"], [1])
    assert bool(images.isfinite().all())


@pytest.mark.parametrize("name", TRAINED)
def test_same_seed_same_result_whatever_the_global_stream(name: str) -> None:
    target = tiny_target("velocity")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = weights_of(shrunk(name).run(target, ERASURE, Budget(steps=2, seed=1)))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    again = weights_of(shrunk(name).run(target, ERASURE, Budget(steps=2, seed=1)))
    assert differing(first, again) == set()
    other = weights_of(shrunk(name).run(target, ERASURE, Budget(steps=2, seed=2)))
    assert differing(first, other)


@pytest.mark.parametrize("name", TRAINED)
def test_no_steps_change_nothing(name: str) -> None:
    target = tiny_target("velocity")
    made = shrunk(name).run(target, ERASURE, Budget(steps=0))
    assert differing(weights_of(target), weights_of(made)) == set()


@pytest.mark.parametrize("name", TRAINED)
def test_the_loss_falls(name: str) -> None:
    # Prompts that differ much: random text states are alike, and so is what there is to learn.
    told: list[float] = []
    method = shrunk(name, retain=0.0, lr=5e-3, batch=16, warmup=1.0)
    method.run(
        tiny_target("velocity"), ERASURE, Budget(steps=31), lambda step, loss: told.append(loss)
    )
    assert len(told) == 4
    assert sum(told[-2:]) / 2 < 0.7 * told[0], told


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "unlearning/esd",
            {"bare": 1.5},
            "unlearning/esd: lr and batch must be positive, retain 0 or more and bare in [0, 1], "
            "got 0.001, 8, 1.0, 1.5",
        ),
        (
            "unlearning/esd",
            {"erase_from": "a fish"},
            "unlearning/esd: bare must be 1 with erase_from, since a full prompt says more than "
            "the attribute, got 0.5",
        ),
        (
            "unlearning/salun",
            {"share": 0.0},
            "unlearning/salun: share must be in (0, 1], got 0.0",
        ),
        (
            "unlearning/salun",
            {"retain": -1.0},
            "unlearning/salun: lr, batch and images must be positive and retain 0 or more, got "
            "0.0002, 16, 128, -1.0",
        ),
        (
            "unlearning/adv_unlearn",
            {"every": 0},
            "unlearning/adv_unlearn: every must be above 0, got 0",
        ),
        (
            "unlearning/adv_unlearn",
            {"attack_steps": -1},
            "unlearning/adv_unlearn: attack_steps must be 0 or more, got -1",
        ),
        (
            "unlearning/adv_unlearn",
            {"warmup": 2.0},
            "unlearning/adv_unlearn: warmup must be in [0, 1], got 2.0",
        ),
        (
            "unlearning/concept_ablation",
            {"images": 0},
            "unlearning/concept_ablation: lr, batch and images must be positive and retain 0 or "
            "more, got 0.001, 16, 0, 1.0",
        ),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SafetyBenchError) as error:
        registry.create(name, options)
    # The figures between are the defaults, which may be tuned.
    assert str(error.value).split(", got ")[0] == message.split(", got ")[0]


# What they share


def terms() -> Any:
    """Return the module of shared terms: `safetybench.unlearning` is what the registry imports."""
    home = type(registry.create("unlearning/esd")).__module__.rpartition(".")[0]
    return importlib.import_module(f"{home}._terms")


def noised(target: Any, count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(count, *target.latent_shape, generator=rng)
    t = torch.randint(0, 1000, (count,), generator=rng)
    return x, t, target.embed(target.tokenize(["a red fish"] * count))


def test_the_parts_are_those_that_a_denoiser_has() -> None:
    for part in terms().PARTS:
        chosen_parameters(tiny_target().unet, part)
    with pytest.raises(ValueError, match=r"^train must be one of ") as error:
        chosen_parameters(tiny_target().unet, "attn3")
    for name in TRAINED:
        with pytest.raises(SafetyBenchError) as own:
            registry.create(name, {"train": "attn3"})
        assert str(own.value).split(", ")[-1] == str(error.value).split(", ")[-1]


def test_images_are_of_the_frozen_model_one_for_a_prompt() -> None:
    target = tiny_target("velocity")
    text = target.embed(target.tokenize(ERASURE.anchor))
    noise = target.start_noise([3 * 100_003 + i for i in range(6)])
    made = terms().images_of(target, text, seed=3)
    torch.testing.assert_close(made, target.sample_latents(text, noise))


def test_the_distance_is_that_of_the_two_answers() -> None:
    target = tiny_target("velocity")
    x, _, text = noised(target)
    other = target.embed(target.tokenize(["a green moon"] * 3))

    def distance(asked: Tensor, wanted: Tensor) -> Tensor:
        rng, twin = torch.Generator().manual_seed(1), target.clone()
        found: Tensor = terms().distance(target, twin, x, asked, wanted, rng)
        return found

    rng = torch.Generator().manual_seed(1)
    t = torch.randint(0, 1000, (3,), generator=rng)
    noisy = target.process.add(x, torch.randn(x.shape, generator=rng), t)
    gap = velocity(target, noisy, t, text) - velocity(target, noisy, t, other)
    torch.testing.assert_close(distance(text, other), gap.square().mean())
    assert float(distance(text, other)) > 0.0
    assert float(distance(text, text)) == 0.0


@pytest.mark.parametrize("eta", [0.0, 1.0, 2.5])
def test_the_goal_of_esd_is_negative_guidance_of_the_frozen_model(eta: float) -> None:
    target = tiny_target("velocity")
    x, t, text = noised(target)
    null = target.null_text.expand(3, -1, -1)
    moon = target.embed(target.tokenize(["a green moon"] * 3))
    with torch.no_grad():
        bare, aimed, start = (
            target.unet(x, t, encoder_hidden_states=states).sample for states in (null, text, moon)
        )
    found = terms().against(target, x, t, text, eta)
    torch.testing.assert_close(found, bare - eta * (aimed - bare), rtol=1e-3, atol=1e-4)
    assert (aimed - bare).abs().max() > 1e-3  # else every eta would do
    found = terms().against(target, x, t, text, eta, moon)
    torch.testing.assert_close(found, start - eta * (aimed - bare), rtol=1e-3, atol=1e-4)


def test_the_goal_of_esd_in_velocity_is_the_published_one_in_noise() -> None:
    # v = (eps - sigma x_t) / alpha is affine in eps and its weights in the goal add up to 1.
    target = tiny_target("teacher")
    x, t, text = noised(target)
    with torch.no_grad():
        bare, aimed = (
            target.unet(x, t, encoder_hidden_states=states).sample
            for states in (target.null_text.expand(3, -1, -1), text)
        )
    goal = terms().against(target, x, t, text, 1.0)
    noise = target.process.convert(goal, "v_prediction", "epsilon", x, t)
    torch.testing.assert_close(noise, bare - (aimed - bare), rtol=1e-3, atol=1e-3)


def test_the_noise_of_esd_is_the_native_samplers_own_under_guidance() -> None:
    target = tiny_target("velocity")
    text = target.embed(target.tokenize(["a red fish"] * 2))
    reached = set()
    for seed in range(12):
        x, t = terms().partly_sampled(target, text, 3.0, torch.Generator().manual_seed(seed))
        reached.add(int(t[0]))
        if int(t[0]) != target.sampler_times[-1]:
            continue
        rng = torch.Generator().manual_seed(seed)
        torch.randint(4, (), generator=rng)  # how far to go, drawn first
        noise = torch.randn(x.shape, generator=rng)
        null = target.null_text.expand(2, -1, -1)
        bare, aimed = target.x0(x, t, null), target.x0(x, t, text)
        wanted = target.sample_latents(text, noise, guidance=3.0)
        last = (bare + 3 * (aimed - bare)).detach()
        torch.testing.assert_close(last, wanted, rtol=1e-3, atol=1e-3)
    assert reached == set(target.sampler_times)
