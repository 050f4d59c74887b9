"""The inpainting target on a tiny random model, held to diffusers' own pipeline."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from safetybench.contracts import EditsImages, Inpaints, TextToImageTarget, Unavailable
from safetybench.targets.inpainting import Inpainting
from safetybench.targets.loading import check_target, load_target, target_digest
from safetybench.targets.text_to_image import TextToImage
from tests.targets import (
    SAMPLERS,
    VARIANTS,
    Variant,
    tiny_inpainting_pipeline,
    tiny_inpainting_target,
    tiny_pipeline,
)

PROMPTS = ["a red fish", "blue star on the dark background", ""]
SEEDS = [3, 2**40, 5]


def pictures(count: int = 3, height: int = 16, width: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.rand(count, 3, height, width, generator=generator)


def boxes(count: int = 3, height: int = 16, width: int = 16) -> Tensor:
    masks = torch.zeros(count, 1, height, width)
    for i in range(count):
        masks[i, :, 2 + i : 9 + i, 1:11] = 1
    return masks


def certain(vae: Any) -> None:
    """Make an autoencoder's posterior as good as a point: diffusers draws from it."""
    with torch.no_grad():
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -30


def test_it_is_a_text_to_image_target_that_inpaints() -> None:
    target = tiny_inpainting_target()
    assert isinstance(target, Inpaints)
    assert isinstance(target, EditsImages)
    assert not isinstance(TextToImage.from_pipeline(tiny_pipeline(), name="plain"), Inpaints)
    whole: TextToImageTarget = target
    assert whole.name == "teacher"
    assert target.latent_shape == (4, 8, 8)


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_equal_those_of_diffusers(variant: Variant) -> None:
    pipeline, sampler = tiny_inpainting_pipeline(variant), SAMPLERS[variant]
    certain(pipeline.vae)
    expected = pipeline(
        PROMPTS,
        image=pictures(),
        mask_image=0.8 * boxes() + 0.1,  # cut at a half
        height=16,
        width=16,
        num_inference_steps=sampler.steps,
        guidance_scale=sampler.guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
    ).images
    target = Inpainting.from_pipeline(pipeline, name=variant, sampler=sampler)
    assert isinstance(target, Inpainting)
    made = target.inpaint(pictures(), 0.8 * boxes() + 0.1, PROMPTS, SEEDS)
    assert expected.std() > 0.05
    if variant == "turbo":  # its ancestral step goes on from the generator, which encoding moved
        assert made.shape == expected.shape
    else:
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-4)


def test_what_it_sees_is_what_diffusers_prepares() -> None:
    pipeline = tiny_inpainting_pipeline()
    certain(pipeline.vae)
    target = Inpainting.from_pipeline(pipeline, name="own")
    assert isinstance(target, Inpainting)
    images, masks = pictures(2, 16, 24), boxes(2, 16, 24)
    masked = (images * 2 - 1) * (masks < 0.5)
    with torch.no_grad():
        mask, latents = pipeline.prepare_mask_latents(
            masks, masked, 2, 16, 24, torch.float32, "cpu", torch.Generator(), False
        )
        seen = target.beside(images, masks)
    assert seen.shape == (2, 5, 8, 12)
    torch.testing.assert_close(seen, torch.cat([mask, latents], 1), rtol=0, atol=1e-5)


def test_an_answer_depends_on_image_and_mask_and_not_on_its_batch() -> None:
    target = tiny_inpainting_target()
    made = target.inpaint(pictures(), boxes(), PROMPTS, SEEDS)
    alone = target.inpaint(pictures()[1:2], boxes()[1:2], PROMPTS[1:2], SEEDS[1:2])
    torch.testing.assert_close(made[1:2], alone, rtol=0, atol=1e-5)
    other = target.inpaint(pictures().flip(0), boxes(), PROMPTS, SEEDS)
    assert (other[0] - made[0]).abs().max() > 1e-3
    moved = target.inpaint(pictures(), boxes().flip(0), PROMPTS, SEEDS)
    assert (moved[0] - made[0]).abs().max() > 1e-3


def test_what_is_under_the_mask_is_not_seen() -> None:
    target, masks = tiny_inpainting_target(), boxes()
    hidden = pictures() * (1 - masks) + pictures().flip(0) * masks
    assert torch.equal(target.beside(pictures(), masks), target.beside(hidden, masks))


@pytest.mark.parametrize("size", [(16, 16), (8, 24)])
@pytest.mark.parametrize("kind", ["none", "all", "pixel", "rows"])
def test_masks_of_any_shape(kind: str, size: tuple[int, int]) -> None:
    masks = torch.zeros(1, 1, *size)
    if kind == "all":
        masks += 1
    elif kind == "pixel":
        masks[..., 0, 0] = 1
    elif kind == "rows":
        masks[..., ::2, :] = 1
    target = tiny_inpainting_target("student")
    made = target.inpaint(pictures(1, *size), masks, ["a fish"], [1])
    assert made.shape == (1, 3, *size)
    assert bool(((made >= 0) & (made <= 1)).all())
    assert torch.equal(made, target.inpaint(pictures(1, *size), masks, ["a fish"], [1]))


def test_without_an_image_all_is_drawn_anew() -> None:
    target = tiny_inpainting_target()
    drawn = target.generate(PROMPTS, SEEDS)
    ones = torch.ones(3, 1, 16, 16)
    torch.testing.assert_close(target.inpaint(pictures(), ones, PROMPTS, SEEDS), drawn)
    noise, text = target.start_noise(SEEDS), target.embed(target.tokenize(PROMPTS))
    t = torch.tensor([9, 500, 900])
    given = target.given(pictures(), ones)
    torch.testing.assert_close(target.x0(noise, t, text), given.x0(noise, t, text))
    edited = target.edit(pictures(3, 16, 24), PROMPTS, SEEDS, strength=0.5)
    assert edited.shape == (3, 3, 16, 24)


def test_the_sampler_is_differentiable_in_the_image_where_it_is_kept() -> None:
    target, masks = tiny_inpainting_target(), boxes(2)
    images = pictures(2).requires_grad_(True)
    given = target.given(images, masks)
    text = target.embed(target.tokenize(PROMPTS[:2]))
    latents = given.sample_latents(text, given.start_noise(SEEDS[:2]), with_grad=True)
    (gradient,) = torch.autograd.grad(latents.square().sum(), images)
    assert bool((gradient * masks == 0).all())
    assert float((gradient * (1 - masks)).abs().sum()) > 0


def test_evaluations_count_where_the_image_was_given() -> None:
    target = tiny_inpainting_target()  # 4 steps, guided: two passes
    target.inpaint(pictures(), boxes(), PROMPTS, SEEDS)
    assert target.nfe == 3 * 4 * 2
    twice = target.given(pictures(), boxes()).given(pictures(), boxes())
    twice.x0(target.start_noise(SEEDS), torch.tensor(5), target.null_text.expand(3, -1, -1))
    assert target.nfe == 3 * 4 * 2 + 3


@pytest.mark.parametrize("variant", ["teacher", "student"])
def test_a_saved_target_loads_back(variant: Variant, tmp_path: Path) -> None:
    target = tiny_inpainting_target(variant)
    folder = target.save(tmp_path / "inpaint")
    assert check_target(folder) == ()
    again = load_target(folder, device="cpu")
    assert isinstance(again, Inpainting)
    assert (again.sampler, again.traits) == (target.sampler, target.traits)
    made = again.inpaint(pictures(), boxes(), PROMPTS, SEEDS)
    assert torch.equal(made, target.inpaint(pictures(), boxes(), PROMPTS, SEEDS))
    assert again.digest == target_digest(folder)


def test_diffusers_reads_a_saved_target(tmp_path: Path) -> None:
    from diffusers import StableDiffusionInpaintPipeline

    tiny_inpainting_target().save(tmp_path / "inpaint")
    pipeline: Any = StableDiffusionInpaintPipeline.from_pretrained(tmp_path / "inpaint")
    assert pipeline.unet.config.in_channels == 9


def test_diffusers_directory_loads(tmp_path: Path) -> None:
    tiny_inpainting_pipeline("student").save_pretrained(tmp_path / "inpaint")
    spec = {"path": str(tmp_path / "inpaint"), "steps": 1, "guidance": 1.0}
    target = load_target(spec, device="cpu")
    assert isinstance(target, Inpainting)
    made = target.inpaint(pictures(), boxes(), PROMPTS, SEEDS)
    own = tiny_inpainting_target("student").inpaint(pictures(), boxes(), PROMPTS, SEEDS)
    torch.testing.assert_close(made, own, rtol=0, atol=1e-5)


def test_a_clone_inpaints_by_its_own_denoiser() -> None:
    target = tiny_inpainting_target("student")
    twin = target.trainable_copy("twin")
    with torch.no_grad():
        twin.unet.conv_out.bias.add_(1)
    assert isinstance(twin, Inpainting)
    made, before = (each.inpaint(pictures(), boxes(), PROMPTS, SEEDS) for each in (twin, target))
    assert (made - before).abs().max() > 1e-3
    assert (twin.nfe, target.nfe) == (3, 3)


def test_a_text_to_image_denoiser_is_refused() -> None:
    with pytest.raises(Unavailable) as caught:
        Inpainting.from_pipeline(tiny_pipeline(), name="plain")
    assert str(caught.value) == (
        "the denoiser takes 4 channels, and inpainting needs one of 9: noisy latents, mask and "
        "masked image"
    )


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        (pictures(), boxes()[:2], "one mask, prompt and seed for each image: got 3 images, 2 mask"),
        (pictures(), boxes()[:, :, :8], r"masks must be \(3, 1, 16, 16\), got \(3, 1, 8, 16\)"),
        (pictures(), boxes()[:, 0], r"masks must be \(3, 1, 16, 16\), got \(3, 16, 16\)"),
        (pictures(), 255 * boxes(), r"masks must be in \[0, 1\], got 0 to 255"),
        (pictures() - 1, boxes(), r"images must be in \[0, 1\], got -"),
        (pictures() * float("nan"), boxes(), r"images must be in \[0, 1\], got nan"),
        (pictures()[:, :1], boxes(), r"images must be \(batch, 3, height, width\), got \(3, 1, 1"),
        (
            pictures(3, 15, 16),
            boxes(3, 15, 16),
            r"images must have sides that are multiples of 2, got \(15, 16\)",
        ),
    ],
)
def test_wrong_images_and_masks(images: Tensor, masks: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_inpainting_target().inpaint(images, masks, PROMPTS, SEEDS)


def test_no_image_gives_no_image() -> None:
    target = tiny_inpainting_target()
    assert target.inpaint(pictures(0), boxes(0), [], []).shape == (0, 3, 16, 16)


def test_latents_of_another_batch_are_refused() -> None:
    target = tiny_inpainting_target()
    given = target.given(pictures(), boxes())
    text = target.null_text.expand(4, -1, -1)
    with pytest.raises(ValueError, match="whole number of times the 3 images that were given, got"):
        given.x0(target.start_noise([1, 2, 3, 4]), torch.tensor(5), text)
