"""Denoisers that take the guidance scale as an input, held to diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

from safetybench.targets.guidance import guidance_embedding, per_image
from safetybench.targets.lcm import TextToImageLCM
from safetybench.targets.loading import load_target
from safetybench.targets.spec import Sampler
from safetybench.targets.text_to_image import TextToImage
from tests.targets import tiny_pipeline, tiny_target

PROMPTS, SEEDS = ["a red fish", "blue star", ""], [3, 4, 5]
SAMPLER = Sampler(steps=3, guidance=4.5)


def consistency_pipeline(width: int = 8) -> Any:
    """Return a tiny latent consistency model: LCM's scheduler, guidance as an input."""
    pipeline = tiny_pipeline()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unet = UNet2DConditionModel.from_config(pipeline.unet.config, time_cond_proj_dim=width)
    made = StableDiffusionPipeline(
        **{
            **pipeline.components,
            "unet": unet,
            "scheduler": LCMScheduler.from_config(pipeline.scheduler.config),
        },
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def consistency_target() -> TextToImage:
    return TextToImage.from_pipeline(consistency_pipeline(), name="lcm", sampler=SAMPLER)


@pytest.mark.parametrize("guidance", [1.0, 2.5, 8.0])
def test_images_are_those_of_diffusers(guidance: float) -> None:
    target = consistency_target()
    expected = consistency_pipeline()(
        PROMPTS,
        num_inference_steps=3,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
    ).images
    found = target.generate(PROMPTS, SEEDS, guidance=guidance)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert target.nfe == 3 * 3  # one pass a step


def test_the_samplers_own_scale_is_used_and_tells() -> None:
    target = consistency_target()
    own = target.generate(PROMPTS, SEEDS)
    assert torch.equal(own, target.generate(PROMPTS, SEEDS, guidance=4.5))
    assert not torch.allclose(own, target.generate(PROMPTS, SEEDS, guidance=1.0), atol=1e-4)
    assert target.traits.guidance == 4.5
    assert not target.traits.negative_prompt_works
    assert target.with_sampler(Sampler(steps=1, guidance=7.0)).traits.guidance == 7.0


def test_a_directory_of_diffusers_lcm_pipeline_loads_and_saves(tmp_path: Path) -> None:
    parts = {n: part for n, part in consistency_pipeline().components.items() if part is not None}
    config = {**parts["scheduler"].config, "clip_sample": True}
    parts["scheduler"] = LCMScheduler.from_config(config)  # as clipping shows whose rules hold
    pipeline = LatentConsistencyModelPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path / "lcm")
    expected = pipeline(
        PROMPTS,
        num_inference_steps=3,
        guidance_scale=4.5,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
    ).images
    spec = {"path": str(tmp_path / "lcm"), "steps": 3, "guidance": 4.5}
    target = load_target(spec, device="cpu")
    torch.testing.assert_close(target.generate(PROMPTS, SEEDS), expected, rtol=0, atol=1e-4)
    target.save(tmp_path / "again")
    again = load_target(tmp_path / "again", device="cpu")
    assert isinstance(again, TextToImageLCM)
    torch.testing.assert_close(again.generate(PROMPTS, SEEDS), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("width", [2, 8, 9, 256])
def test_the_embedding_is_that_of_diffusers(width: int) -> None:
    guidance = torch.tensor([1.0, 3.5, 14.0])
    expected = StableDiffusionPipeline.get_guidance_scale_embedding(
        consistency_pipeline(), guidance - 1, embedding_dim=max(width, 4)
    )
    found = guidance_embedding(guidance, max(width, 4))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    assert guidance_embedding(guidance, width).isfinite().all()


def test_every_image_may_have_its_own_scale() -> None:
    target = consistency_target()
    text, noise = target.embed(target.tokenize(PROMPTS)), target.start_noise(SEEDS)
    scales, t = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([900, 500, 20])
    together = target.x0(noise, t, text, guidance=scales)
    sampled = target.sample_latents(text, noise, guidance=scales)
    for i, scale in enumerate(scales.tolist()):
        one = slice(i, i + 1)
        alone = target.x0(noise[one], t[one], text[one], guidance=scale)
        torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=1e-4)
        alone = target.sample_latents(text[one], noise[one], guidance=scale)
        torch.testing.assert_close(sampled[one], alone, rtol=1e-4, atol=1e-3)


def test_classifier_free_guidance_too_may_differ_by_image() -> None:
    target = tiny_target("teacher")
    text, noise = target.embed(target.tokenize(PROMPTS)), target.start_noise(SEEDS)
    found = target.sample_latents(text, noise, guidance=torch.tensor([1.0, 4.0, 9.0]))
    for i, scale in enumerate((1.0, 4.0, 9.0)):
        alone = target.sample_latents(text[i : i + 1], noise[i : i + 1], guidance=scale)
        torch.testing.assert_close(found[i : i + 1], alone, rtol=1e-3, atol=1e-3)


def test_gradients_reach_latents_and_text() -> None:
    target = consistency_target()
    latents = target.start_noise([1]).requires_grad_()
    text = target.null_text.clone().requires_grad_()
    out = target.x0(latents, torch.tensor([400]), text, guidance=3.0).square().sum()
    assert all(grad.norm() > 0 for grad in torch.autograd.grad(out, (latents, text)))


def test_an_unguided_denoiser_is_not_asked_for_a_scale() -> None:
    target = tiny_target("student")
    assert not target.takes_guidance
    with pytest.raises(ValueError, match="guidance") as caught:
        target.x0(target.start_noise([1]), torch.tensor([400]), target.null_text, guidance=2.0)
    assert str(caught.value) == (
        "the denoiser of student takes no guidance as an input; guide by x0 of the text and of "
        "null_text"
    )


@pytest.mark.parametrize("shape", [(2,), (3, 1)])
def test_scales_must_be_one_for_each_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="guidance") as caught:
        per_image(torch.ones(shape), 3, torch.device("cpu"))
    assert str(caught.value) == (
        f"guidance must be a number or (3,), one for each image, got {shape}"
    )
