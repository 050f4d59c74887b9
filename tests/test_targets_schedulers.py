"""Students that bring their own scheduler and time grid sample as plain diffusers does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline, TCDScheduler
from torch import Tensor

from safetybench.targets.loading import load_target
from safetybench.targets.spec import Sampler
from safetybench.targets.text_to_image import TextToImage
from tests.targets import tiny_target

PROMPTS, SEEDS = ["a red fish", "blue star", ""], [3, 4, 5]
KINDS: dict[str, tuple[Any, dict[str, Any], Sampler]] = {
    "lcm": (LCMScheduler, {}, Sampler(steps=4, guidance=1.0, timesteps=(999, 749, 499, 249))),
    "lcm guided": (LCMScheduler, {}, Sampler(steps=2, guidance=2.0, timesteps=(759, 259))),
    "lcm velocity": (
        LCMScheduler,
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        Sampler(steps=4, guidance=1.0, timesteps=(999, 749, 499, 249)),
    ),
    "tcd": (TCDScheduler, {}, Sampler(steps=4, guidance=1.0, eta=0.3)),
    "tcd velocity": (
        TCDScheduler,
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        Sampler(steps=4, guidance=1.0, eta=0.3),
    ),
    "tcd grid": (
        TCDScheduler,
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        Sampler(steps=3, guidance=1.0, timesteps=(999, 599, 199), eta=0.8),
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a zoo of a teacher, and of a student that is its scheduler and sampler alone."""
    kind, options, sampler = KINDS[request.param]
    root = tmp_path_factory.mktemp("zoo")
    teacher = tiny_target("teacher")
    teacher.save(root / "teacher", {"lineage": ["teacher"]})
    config = {**teacher.scheduler.config, **options}
    made = teacher.with_sampler(sampler, kind.from_config(config))
    card = {"base": "teacher", "parts": ["scheduler"], "lineage": ["teacher", "student"]}
    made.save(root / "student", card, parts=["scheduler"])
    made.save(root / "whole")  # the same as one directory, for plain diffusers
    return root


def loaded(root: Path) -> TextToImage:
    return load_target("zoo:student", device="cpu", zoo_root=root)


def test_the_scheduler_and_the_grid_come_back(student: Path) -> None:
    target = loaded(student)
    whole = load_target(student / "whole", device="cpu")
    assert target.sampler == whole.sampler in [sampler for _, _, sampler in KINDS.values()]
    assert type(target.scheduler) in (LCMScheduler, TCDScheduler)
    assert target.traits == whole.traits
    if target.sampler.timesteps is not None:
        assert target.sampler_times == target.sampler.timesteps
    assert {path.name for path in (student / "student").iterdir()} == {"card.json", "scheduler"}


def test_images_are_those_of_diffusers(student: Path) -> None:
    target = loaded(student)
    pipeline = StableDiffusionPipeline.from_pretrained(student / "whole")
    pipeline.set_progress_bar_config(disable=True)
    sampler = target.sampler
    grid = {"timesteps": list(sampler.timesteps)} if sampler.timesteps is not None else {}
    expected = pipeline(
        PROMPTS,
        num_inference_steps=sampler.steps,
        guidance_scale=sampler.guidance,
        eta=sampler.eta,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
        **grid,
    ).images
    torch.testing.assert_close(target.generate(PROMPTS, SEEDS), expected, rtol=0, atol=1e-4)
    alone = target.generate(PROMPTS[1:2], SEEDS[1:2])
    torch.testing.assert_close(alone[0], expected[1], rtol=0, atol=1e-4)


def sampled(target: TextToImage, text: Tensor, **options: Any) -> Tensor:
    return target.sample_latents(text, target.start_noise(SEEDS), seeds=SEEDS, **options)


def test_sampling_takes_gradients_at_every_step(student: Path) -> None:
    target = loaded(student)
    text = target.embed(target.tokenize(PROMPTS)).requires_grad_()
    latents = sampled(target, text, with_grad=True)
    (grad,) = torch.autograd.grad(latents.square().sum(), text)
    assert grad.isfinite().all()
    assert (grad.flatten(1).norm(dim=1) > 0).all()
    torch.testing.assert_close(latents.detach(), sampled(target, text))


def test_noise_on_the_way_is_of_each_seed(student: Path) -> None:
    target = loaded(student)
    text, noise = target.embed(target.tokenize(PROMPTS)), target.start_noise(SEEDS)
    again = target.sample_latents(text, noise, seeds=SEEDS)
    assert torch.equal(again, target.sample_latents(text, noise, seeds=SEEDS))
    other = target.sample_latents(text, noise, seeds=[*SEEDS[:2], 99])
    assert torch.equal(again[:2], other[:2])
    assert not torch.allclose(again[2], other[2], atol=1e-3)


def test_a_grid_of_the_models_own_is_nothing_to_warn_of(
    student: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    target = loaded(student)
    capfd.readouterr()
    target.generate(PROMPTS[:1], SEEDS[:1])
    assert (capfd.readouterr().err, caplog.text) == ("", "")
