"""The unconditional target: its samplers against diffusers', its files, its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler

from safetybench.contracts import SamplesNoise, TargetFailed
from safetybench.targets.unconditional import Unconditional
from safetybench.zoo.unconditional import train_unconditional, world_images
from tests.toys_unconditional import SIZE, tiny_unconditional


def test_it_is_what_noise_components_need() -> None:
    target = tiny_unconditional()
    assert isinstance(target, SamplesNoise)
    assert target.shape == (3, SIZE, SIZE)
    assert target.process.steps == 100


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("is_clipped", [False, True])
def test_ddpm_is_that_of_diffusers(
    variance: str, is_clipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny_unconditional()
    config = {**made.scheduler.config, "variance_type": variance, "clip_sample": is_clipped}
    scheduler = DDPMScheduler.from_config(config)
    target = Unconditional(unet=made.unet, scheduler=scheduler, name="x")
    noise = target.start_noise([5])
    found = target.sample(noise, "ddpm-clipped" if is_clipped else "ddpm", seeds=[7])
    rng, x = torch.Generator().manual_seed(7 + 2**40), noise
    drawn = [torch.randn(target.shape, generator=rng)[None] for _ in range(100)]
    scheduler.set_timesteps(100)
    waiting = iter(drawn)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: next(waiting)
    )
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(target.unet(x, t).sample, int(t), x).prev_sample
    assert torch.allclose(found, (x / 2 + 0.5).clamp(0, 1), atol=2e-4)


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_ddim_is_that_of_diffusers(steps: int) -> None:
    target = tiny_unconditional()
    options = {"timestep_spacing": "trailing", "set_alpha_to_one": True}
    scheduler: Any = DDIMScheduler.from_config(target.scheduler.config, **options)
    scheduler.set_timesteps(steps)
    noise = target.start_noise([1, 2])
    x = noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(target.unet(x, t).sample, t, x).prev_sample
    found = target.sample(noise, f"ddim-{steps}")
    assert torch.allclose(found, (x / 2 + 0.5).clamp(0, 1), atol=2e-4)


def test_an_image_does_not_know_its_batch_and_costs_are_counted() -> None:
    target = tiny_unconditional()
    noise = target.start_noise([3, 4, 5])
    assert torch.equal(target.start_noise([4])[0], noise[1])
    together = target.sample(noise, seeds=[3, 4, 5])
    assert target.nfe == 300
    assert torch.allclose(target.sample(noise[1:2], seeds=[4]), together[1:2], atol=1e-4)
    assert not torch.allclose(target.sample(noise[1:2], seeds=[9]), together[1:2], atol=1e-2)


def test_predictions_have_gradients_and_copies_their_own_weights() -> None:
    target = tiny_unconditional()
    x = target.start_noise([0]).requires_grad_()
    (grad,) = torch.autograd.grad(target.predict(x, torch.tensor([9])).sum(), x)
    assert float(grad.abs().sum()) > 0
    student, weights = target.trainable()
    with torch.no_grad():
        for weight in weights:
            weight.add_(1)
    assert all(weight.requires_grad for weight in weights)
    assert not any(weight.requires_grad for weight in target.unet.parameters())
    assert not torch.equal(next(student.unet.parameters()), next(target.unet.parameters()))


def test_a_saved_target_is_a_pipeline_and_comes_back(tmp_path: Path) -> None:
    target = tiny_unconditional()
    target.save(tmp_path / "model")
    loaded = Unconditional.load(tmp_path / "model")
    noise = target.start_noise([0, 1])
    assert torch.equal(loaded.sample(noise, "ddim-4"), target.sample(noise, "ddim-4"))
    assert loaded.name == "model"
    assert len(loaded.digest) == 64
    assert Unconditional.load(tmp_path / "model").digest == loaded.digest
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    assert len(pipeline(num_inference_steps=2).images) == 1


def test_files_beside_the_index_load_too(tmp_path: Path) -> None:
    made = tiny_unconditional().save(tmp_path / "model")
    for part in ("unet", "scheduler"):
        for file in (made / part).iterdir():
            file.rename(made / file.name)
        (made / part).rmdir()
    assert Unconditional.load(made).shape == (3, SIZE, SIZE)


def changed(folder: Path, part: str, **values: Any) -> None:
    file = folder / part
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_what_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    made = tiny_unconditional().save(tmp_path / "model")
    with pytest.raises(TargetFailed) as told:
        Unconditional.load(tmp_path / "none")
    assert str(told.value) == (
        "'none' must be a directory with a model_index.json that can be read; save a DDPMPipeline "
        "with save_pretrained"
    )
    changed(made, "model_index.json", _class_name="StableDiffusionPipeline")
    with pytest.raises(TargetFailed, match="must be a DDPMPipeline or DDIMPipeline, got 'Stable"):
        Unconditional.load(made)
    changed(made, "model_index.json", _class_name="DDPMPipeline")
    changed(made, "scheduler/scheduler_config.json", prediction_type="v_prediction")
    with pytest.raises(TargetFailed, match="'model': an unconditional target must predict epsilon"):
        Unconditional.load(made)
    changed(made, "scheduler/scheduler_config.json", prediction_type="epsilon")
    changed(made, "unet/config.json", layers_per_block=2)
    with pytest.raises(TargetFailed, match="could not load 'model': "):
        Unconditional.load(made)
    weights = made / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(TargetFailed) as told:
        Unconditional.load(made)
    assert str(told.value) == (
        "'model' holds its weights as a pickle, which can run code; load it where you trust it "
        "and save it with safe_serialization=True"
    )
    weights.with_suffix(".bin").unlink()
    with pytest.raises(TargetFailed, match=r"'model' has no unet/diffusion_pytorch_model\.safet"):
        Unconditional.load(made)


@pytest.mark.parametrize("sampler", ["ddim", "ddim-0", "ddim-101", "euler", "ddpm-4"])
def test_an_unknown_sampler_is_refused(sampler: str) -> None:
    target = tiny_unconditional()
    with pytest.raises(ValueError) as told:  # noqa: PT011  # matched whole below
        target.sample(target.start_noise([0]), sampler)
    assert str(told.value) == (
        "sampler is ddpm or ddim-N with N in 1 to 100, with -clipped behind it or not, got "
        f"{sampler!r}"
    )
    with pytest.raises(ValueError, match="seeds must be one for each of 1 images, got 2"):
        target.sample(target.start_noise([0]), "ddpm", [1, 2])


def test_training_lowers_the_loss_and_goes_on_from_a_start() -> None:
    losses: list[float] = []
    first = train_unconditional(seed=1, size=SIZE, steps=60, report=lambda s, v: losses.append(v))
    assert losses[-1] < losses[0]
    again = train_unconditional(seed=1, size=SIZE, steps=60)
    noise = first.start_noise([0])
    assert torch.equal(first.sample(noise, "ddim-2"), again.sample(noise, "ddim-2"))
    more = train_unconditional(seed=2, size=SIZE, steps=2, start=first)
    assert not torch.equal(first.sample(noise, "ddim-2"), more.sample(noise, "ddim-2"))
    assert world_images(3, 1, SIZE).shape == (3, 3, SIZE, SIZE)
