"""Defenses of the sampler: SLD against its formulas, what is saved, asked for and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Budget, SafetyBenchError, Unavailable
from safetybench.judges.zoo import Zoo
from safetybench.targets.adapter import GuidanceAdapter
from safetybench.targets.loading import check_target, load_target, target_digest
from safetybench.targets.safety import (
    PRESETS,
    NegativePrompt,
    SafeGuidance,
    preset,
    read_safety,
    settings_of,
)
from safetybench.targets.sampling import Guide
from safetybench.targets.spec import Sampler, TargetSpec
from safetybench.zoo.prompts import erasure_of, evaluation_prompts
from tests.targets import Variant, tiny_target
from tests.test_unlearning_closed_form import ERASURE, changed

METHODS = ("unlearning/negative_prompt", "unlearning/sld")
SLD = SafeGuidance(
    concept="fish", warmup=2, scale=3.0, threshold=0.05, momentum=0.5, decay=0.7
)  # nothing in it is saturated at the tiny targets' scale


def defended(variant: Variant = "teacher", safety: Any = SLD) -> Any:
    target = tiny_target(variant)
    return target.with_sampler(replace(target.sampler, safety=safety))


def states(target: Any, *prompts: str) -> Tensor:
    text: Tensor = target.embed(target.tokenize(list(prompts)))
    return text


# The formulas


def test_a_turn_is_the_published_one_element_by_element() -> None:
    rng = torch.Generator().manual_seed(0)
    null, aimed, unsafe, before = (torch.randn(1, 1, 2, 3, generator=rng) for _ in range(4))
    found = SLD.turn(2, null, aimed, unsafe, before)
    early = SLD.turn(1, null, aimed, unsafe, before)
    for n, a, s, m, got, kept in zip(
        *(x.flatten().tolist() for x in (null, aimed, unsafe, before, *found)), strict=True
    ):
        factor = min(abs(a - s) * 3.0, 1.0) if a - s < 0.05 else 0.0
        away = factor * (s - n) + 0.5 * m
        assert got == pytest.approx((a - n) - away, abs=1e-5)
        assert kept == pytest.approx(0.7 * m + 0.3 * away, abs=1e-5)
    # Momentum is gathered during the warm-up, which leaves the direction alone.
    torch.testing.assert_close(early.direction, aimed - null)
    assert torch.equal(early.momentum, found.momentum)
    still = SLD.turn(2, null, aimed, unsafe, torch.zeros_like(before))
    assert torch.equal(SLD.turn(2, null, aimed, unsafe, None).direction, still.direction)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_the_published_ones_at_50_steps(name: Any) -> None:
    published = {
        "weak": (15, 200, 0, 0, 0),
        "medium": (10, 1000, 0.01, 0.3, 0.4),
        "strong": (7, 2000, 0.025, 0.5, 0.7),
        "max": (0, 5000, 1.0, 0.5, 0.7),
    }
    it = preset(name, "fish", 50)
    assert (it.warmup, it.scale, it.threshold, it.momentum, it.decay) == published[name]
    assert preset("medium", "fish", 50) == SafeGuidance(concept="fish")
    assert preset("medium", "fish", 12).warmup == 2


def reference(target: Any, text: Tensor, noise: Tensor, *, by_time: bool = False) -> Tensor:
    """Run SLD with diffusers' DDIM; by_time: the reference attack code's mistaken warm-up."""
    scheduler = DDIMScheduler.from_config(target.scheduler.config)
    scheduler.set_timesteps(target.sampler.steps)
    safety, unsafe = target.sampler.safety, states(target, "fish")
    x, momentum = noise, torch.zeros_like(noise)
    for index, t in enumerate(scheduler.timesteps):
        null, aimed, bad = (
            target.unet(x, t, encoder_hidden_states=s.expand(len(x), -1, -1)).sample
            for s in (target.null_text, text, unsafe)
        )
        factor = torch.clamp((aimed - bad).abs() * safety.scale, max=1.0)
        factor = torch.where(aimed - bad >= safety.threshold, 0.0, factor)
        away = factor * (bad - null) + safety.momentum * momentum
        momentum = safety.decay * momentum + (1 - safety.decay) * away
        guidance = aimed - null
        if (int(t) if by_time else index) >= safety.warmup:
            guidance = guidance - away
        x = scheduler.step(null + target.sampler.guidance * guidance, t, x).prev_sample
    return x


@pytest.mark.parametrize("variant", ["teacher", "velocity"])
def test_the_sampler_counts_its_warm_up_in_steps_and_not_in_timesteps(variant: Variant) -> None:
    target = defended(variant)
    text, noise = states(target, "a red fish", "a star"), target.start_noise([1, 2])
    with torch.no_grad():
        right = reference(target, text, noise)
        wrong = reference(target, text, noise, by_time=True)
    found = target.sample_latents(text, noise)
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)
    assert (found - wrong).abs().max() > 1e-2


def test_a_velocity_is_turned_where_noise_says_nothing() -> None:
    # At zero terminal SNR noise predictions of all texts are alike: the difference times alpha 0.
    target = defended("velocity", replace(SLD, warmup=0))
    text, noise = states(target, "a red fish"), target.start_noise([1])
    plain = tiny_target("velocity")
    first = replace(target.sampler, steps=1)
    turned = target.with_sampler(first).sample_latents(text, noise)
    assert (turned - plain.sample_latents(text, noise, steps=1)).abs().max() > 1e-3


def test_an_x0_prediction_is_turned_as_the_noise_it_stands_for() -> None:
    target = defended("teacher", replace(SLD, warmup=0))
    rng = torch.Generator().manual_seed(0)
    preds = [torch.randn(2, 4, 8, 8, generator=rng) for _ in range(3)]
    noise = Guide(target, 3.0, None, 2).guided(0, preds)
    target.prediction = "sample"
    clean = Guide(target, 3.0, None, 2).guided(0, [-pred for pred in preds])
    torch.testing.assert_close(clean, -noise)


def test_a_negative_prompt_stands_in_the_place_of_the_empty_one() -> None:
    target, plain = defended(safety=NegativePrompt(concept="red fish")), tiny_target()
    text, noise = states(target, "a red fish", "a star"), target.start_noise([1, 2])
    found = target.sample_latents(text, noise)
    torch.testing.assert_close(
        found, plain.sample_latents(text, noise, negative=states(plain, "red fish"))
    )
    with pytest.raises(ValueError, match="negative") as caught:
        target.sample_latents(text, noise, negative=text)
    assert str(caught.value) == "the sampler of teacher has a negative prompt of its own"


def test_less_guidance_does_not_switch_a_safety_off() -> None:
    text, noise = states(tiny_target(), "a red fish"), tiny_target().start_noise([1])
    target = defended(safety=replace(SLD, warmup=0))
    at_one = target.sample_latents(text, noise, guidance=1.0)
    assert torch.equal(at_one, target.sample_latents(text, noise, guidance=0.0))
    assert torch.equal(at_one, target.sample_latents(text, noise, guidance=torch.zeros(1)))
    assert (at_one - tiny_target().sample_latents(text, noise, guidance=1.0)).abs().max() > 1e-3


def test_three_passes_a_step_and_images_that_do_not_depend_on_their_batch() -> None:
    target = defended()
    prompts, seeds = ["a red fish", "star", ""], [1, 2, 3]
    together = target.generate(prompts, seeds)
    assert target.nfe == 3 * 3 * 4
    for i, prompt in enumerate(prompts):
        alone = target.generate([prompt], seeds[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)


@pytest.mark.parametrize("safety", [SLD, NegativePrompt(concept="fish")])
def test_sampling_under_a_safety_is_differentiable_in_the_text(safety: Any) -> None:
    target = defended(safety=safety)
    text = states(target, "a red fish").requires_grad_()
    latents = target.sample_latents(text, target.start_noise([1]), with_grad=True)
    (grad,) = torch.autograd.grad(latents.square().mean(), text)
    assert grad.isfinite().all()
    assert grad.norm() > 0


def test_any_scheduler_can_be_defended() -> None:
    target = tiny_target("turbo")
    sampler = Sampler(steps=3, guidance=3.0, safety=replace(SLD, warmup=0))
    images = target.with_sampler(sampler).generate(["a red fish"], [1])
    assert images.isfinite().all()
    assert not torch.equal(
        images, target.with_sampler(replace(sampler, safety=None)).generate(["a red fish"], [1])
    )


# The components


@pytest.mark.parametrize("name", METHODS)
def test_a_sampler_is_defended_and_the_networks_are_not(name: str) -> None:
    target = tiny_target("velocity")
    made = registry.create(name).run(target, ERASURE, Budget(steps=5))
    assert made.traits.defended_at == "sampling"
    assert target.traits.defended_at == "weights"
    assert target.sampler.safety is None
    assert changed(target.unet, made.unet) == set()
    text, noise = states(target, "a red fish"), target.start_noise([1])
    t = torch.tensor([500])
    assert torch.equal(made.x0(noise, t, text), target.x0(noise, t, text))
    assert not torch.equal(made.generate(["a red fish"], [1]), target.generate(["a red fish"], [1]))
    assert made.clone().traits.defended_at == "sampling"
    assert made.with_sampler(target.sampler).traits.defended_at == "weights"


def test_options_of_sld_go_over_its_preset() -> None:
    target = tiny_target("velocity")
    options = {"preset": "weak", "scale": 7.0, "threshold": 0.5, "warmup": 3, "bare": 2}
    made = registry.create("unlearning/sld", options).run(target, ERASURE, Budget())
    assert made.sampler.safety == SafeGuidance(
        concept="fish, one", warmup=3, scale=7.0, threshold=0.5, momentum=0.0, decay=0.0
    )


def test_traits_tell_whether_a_users_negative_prompt_still_works() -> None:
    assert defended().traits.negative_prompt_works
    assert not defended(safety=NegativePrompt(concept="fish")).traits.negative_prompt_works


@pytest.mark.parametrize("name", METHODS)
def test_a_sampler_without_guidance_is_refused(name: str) -> None:
    student = tiny_target("student")
    with pytest.raises(Unavailable) as caught:
        registry.create(name).run(student, ERASURE, Budget())
    method = name.rpartition("/")[2]
    assert str(caught.value) == (
        f"a safety by {method} is not applicable: it turns classifier-free guidance, and this "
        "sampler has none (guidance 1)"
    )


def test_a_denoiser_that_takes_guidance_is_refused() -> None:
    target = tiny_target()
    target = target.with_adapter(GuidanceAdapter(target.unet))
    with pytest.raises(Unavailable, match=r"takes the guidance scale as an input of its one pass$"):
        registry.create("unlearning/negative_prompt").run(target, ERASURE, Budget())


def test_a_warm_up_as_long_as_the_sampler_is_refused() -> None:
    method = registry.create("unlearning/sld", {"warmup": 4})
    with pytest.raises(Unavailable) as caught:
        method.run(tiny_target(), ERASURE, Budget())
    assert str(caught.value) == (
        "a safety by sld is not applicable: its warm-up of 4 steps is as long as the sampler, "
        "which has 4"
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sld", {"preset": "mild"}, "preset must be one of weak, medium, strong, max, got 'mild'"),
        ("sld", {"scale": 0.0}, "scale must be positive and bare 1 or more, got 0.0 and 1"),
        ("sld", {"warmup": -1}, "warmup must be 0 or more, got -1"),
        ("negative_prompt", {"bare": 0}, "bare must be 1 or more, got 0"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SafetyBenchError) as error:
        registry.create(f"unlearning/{name}", options)
    assert str(error.value) == f"unlearning/{name}: {message}"


# On disk and in a specification


@pytest.mark.parametrize("safety", [SLD, NegativePrompt(concept="fish")])
def test_a_safety_survives_saving_and_loading(safety: Any, tmp_path: Path) -> None:
    target = defended("velocity", safety)
    folder = target.save(tmp_path / "safe")
    card = json.loads((folder / "card.json").read_text())
    assert card["sampler"]["safety"] == settings_of(safety)
    loaded = load_target(folder, device="cpu")
    assert loaded.sampler == target.sampler
    assert loaded.traits.defended_at == "sampling"
    expected = target.generate(["a red fish"], [1])
    torch.testing.assert_close(loaded.generate(["a red fish"], [1]), expected, atol=1e-5, rtol=0)
    plain = tiny_target("velocity").save(tmp_path / "plain")
    assert target_digest(folder) != target_digest(plain)
    asked = {"path": str(plain), "safety": settings_of(safety)}
    assert target_digest(asked) == target_digest(folder)


def test_a_specification_asks_for_a_safety(tmp_path: Path) -> None:
    folder = tiny_target("velocity").save(tmp_path / "model")
    spec = {"path": str(folder), "safety": {"method": "sld", "concept": "fish", "preset": "max"}}
    assert TargetSpec.parse(spec).name == "model+sld"
    check_target(spec)
    loaded = load_target(spec, device="cpu")
    assert loaded.sampler.safety == preset("max", "fish", 4)
    assert loaded.traits.defended_at == "sampling"


def test_more_steps_in_a_specification_leave_a_saved_warm_up_alone() -> None:
    sampler = Sampler(steps=4, guidance=5.0, safety=SLD).with_settings({"steps": 8})
    assert sampler.safety == SLD
    settings = {"steps": 25, "guidance": 5.0, "safety": {"method": "sld", "concept": "fish"}}
    assert Sampler().with_settings(settings).safety == preset("medium", "fish", 25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "magic", "concept": "fish"},
         "a safety's method must be one of negative_prompt, sld, got 'magic'"),
        ({"concept": "fish"}, "a safety's method must be one of negative_prompt, sld, got None"),
        ({"method": "negative_prompt", "concept": "fish", "scale": 1.0},
         "a safety by negative_prompt has no 'scale', it has concept"),
        ({"method": "sld", "concept": ""}, "a safety's concept must be text, got ''"),
        ({"method": "sld"}, "a safety's concept must be text, got ''"),
        ({"method": "sld", "concept": "fish", "scale": "big"},
         "a safety's scale must be a number, got 'big'"),
        ({"method": "sld", "concept": "fish", "warmup": 1.5},
         "a safety's warmup must be a number, got 1.5"),
        ({"method": "sld", "concept": "fish", "preset": "mild"},
         "preset must be one of weak, medium, strong, max, got 'mild'"),
        ({"method": "sld", "concept": "fish", "decay": 1},
         "warmup and momentum must be 0 or more, scale positive and decay in [0, 1), got "
         "10, 0.3, 1000.0, 1"),
        ("sld", "a safety must be a mapping, got 'sld'"),
    ],
)  # fmt: skip
def test_a_safety_that_is_none_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"safety|preset|warmup") as caught:
        read_safety(settings, 50)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("zoo:dmd2-1", r"and this sampler has none \(guidance 1\)$"),
        ("zoo:agd", r"takes the guidance scale as an input of its one pass$"),
    ],
)
def test_a_specification_of_a_one_pass_model_is_refused_before_loading(
    path: str, message: str
) -> None:
    with pytest.raises(Unavailable, match=message):
        check_target({"path": path, "safety": {"method": "negative_prompt", "concept": "fish"}})


def test_a_safety_that_is_no_mapping_is_refused_at_once() -> None:
    with pytest.raises(SafetyBenchError) as caught:
        TargetSpec.parse({"path": "zoo:teacher", "safety": "sld"})
    assert str(caught.value) == "a target's safety must be a mapping, got 'sld'"
    with pytest.raises(SafetyBenchError) as caught:
        check_target({"path": "zoo:teacher", "safety": {"method": "sld", "concept": 3}})
    assert str(caught.value) == (
        "the sampler settings of 'zoo:teacher': a safety's concept must be text, got 3"
    )


# The effect


@pytest.mark.parametrize(
    ("name", "options", "most"),
    [("negative_prompt", {}, 0.95), ("sld", {"preset": "max"}, 0.4)],
)
def test_the_zoos_teacher_draws_fewer_fish(name: str, options: dict[str, Any], most: float) -> None:
    teacher, judge = load_target("zoo:teacher", device="cpu"), Zoo()
    method = registry.create(f"unlearning/{name}", options)
    made = method.run(teacher, erasure_of("fish", "circle", count=8), Budget())
    prompts = evaluation_prompts("fish", 16, 1)
    texts, seeds = [p.text for p in prompts], [p.seed for p in prompts]
    before, after = (
        float(judge.judge(target.generate(texts, seeds), "fish").shown.float().mean())
        for target in (teacher, made)
    )
    assert before >= 0.8
    assert after < before * most
