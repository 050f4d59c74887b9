"""TextToImageXL on a tiny random SDXL, held to diffusers' own StableDiffusionXLPipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from safetybench.contracts import TargetFailed, TextToImageTarget, Unavailable
from safetybench.targets.adapter import GuidanceAdapter
from safetybench.targets.loading import check_target, load_target
from safetybench.targets.sdxl import TextToImageXL
from safetybench.targets.spec import Sampler
from tests.targets import LENGTH, tiny_tokenizer

PROMPTS, SEEDS = ["a red fish", "blue star on the dark background", ""], [3, 4, 5]
SAMPLER = Sampler(steps=3, guidance=5.0)


def tiny_pipeline(seed: int = 0, **options: Any) -> Any:
    """Return a random StableDiffusionXLPipeline: 16x16 pixels, encoders 16 and 24 wide."""
    tokenizer, second = tiny_tokenizer(), tiny_tokenizer()
    second.pad_token = "z"  # a letter of no prompt here, as "!" in the second tokenizer of SDXL
    common = {
        "vocab_size": len(tokenizer),
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = CLIPTextModel(CLIPTextConfig(hidden_size=16, **common))
        other = CLIPTextModelWithProjection(
            CLIPTextConfig(hidden_size=24, projection_dim=20, **common)
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=40,
            attention_head_dim=4,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + 20,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            sample_size=16,
            scaling_factor=0.5,
        )
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=encoder,
        text_encoder_2=other,
        tokenizer=tokenizer,
        tokenizer_2=second,
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
        add_watermarker=False,
        **options,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_target(**options: Any) -> TextToImageXL:
    pipeline = tiny_pipeline(**options)
    target = TextToImageXL.from_pipeline(pipeline, name="xl", sampler=SAMPLER)
    assert isinstance(target, TextToImageXL)
    return target


def own_images(pipeline: Any, guidance: float = 5.0) -> Tensor:
    images: Tensor = pipeline(
        PROMPTS,
        num_inference_steps=3,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
    ).images
    return images


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("zeros", [True, False])
def test_images_are_those_of_diffusers(guidance: float, zeros: bool) -> None:
    expected = own_images(tiny_pipeline(force_zeros_for_empty_prompt=zeros), guidance)
    target = tiny_target(force_zeros_for_empty_prompt=zeros)
    assert expected.std() > 0.05
    found = target.generate(PROMPTS, SEEDS, guidance=guidance)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    alone = target.generate(PROMPTS[1:2], SEEDS[1:2], guidance=guidance)
    torch.testing.assert_close(alone[0], expected[1], rtol=0, atol=1e-4)


def test_text_states_carry_the_pooled_state_in_their_last_row() -> None:
    target, pipeline = tiny_target(), tiny_pipeline()
    text = target.embed(target.tokenize(PROMPTS))
    states, _, pooled, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    assert text.shape == (3, LENGTH + 1, 40)
    torch.testing.assert_close(text[:, :-1], states)
    torch.testing.assert_close(text[:, -1, :20], pooled)
    assert not text[:, -1, 20:].any()


def test_null_text_is_zero_or_that_of_the_empty_prompt() -> None:
    target = tiny_target()
    assert target.null_text.shape == (1, LENGTH + 1, 40)
    assert not target.null_text.any()
    told = tiny_target(force_zeros_for_empty_prompt=False)
    assert torch.equal(told.null_text, told.embed(told.tokenize([""])))


@pytest.mark.parametrize(("at", "prompt"), [(1, ""), (1, "red fish"), (2, "red fish")])
def test_embedding_table_rows_is_embedding_their_ids(at: int, prompt: str) -> None:
    target = tiny_target()
    words = target.tokenizer(prompt, add_special_tokens=False).input_ids
    new = target.tokenizer("moon heart", add_special_tokens=False).input_ids
    joined = " ".join(target.detokenize([i]) for i in [*words[: at - 1], *new, *words[at - 1 :]])
    rows = target.token_table[None, new].clone().requires_grad_()
    assert rows.shape == (1, 2, 40)
    found = target.embed(target.tokenize([prompt]), rows, at)
    torch.testing.assert_close(found, target.embed(target.tokenize([joined])))
    (grad,) = torch.autograd.grad(found.square().sum(), rows)
    assert (grad[..., :16].norm(dim=2) > 0).all()
    assert (grad[..., 16:].norm(dim=2) > 0).all()


def test_the_token_table_follows_an_encoder_that_is_trained_in_place() -> None:
    target = tiny_target()
    before = target.token_table
    assert target.token_table is before
    with torch.no_grad():
        target.text_encoder_2.get_input_embeddings().weight.mul_(2)
    torch.testing.assert_close(target.token_table[:, 16:], before[:, 16:] * 2)


def test_it_is_a_target_as_any_other() -> None:
    target: TextToImageTarget = tiny_target()
    text = target.embed(target.tokenize(PROMPTS[:1])).requires_grad_()
    latents = target.start_noise(SEEDS[:1]).requires_grad_()
    out = target.x0(latents, torch.tensor([400]), text).square().sum()
    grads = torch.autograd.grad(out, (latents, text))
    assert all(grad.norm() > 0 for grad in grads)
    assert (grads[1][0, -1, :20] != 0).any()  # the pooled state too
    assert len(target.plain_tokens) == len(target.token_table) - 2


def test_copies_and_adapters() -> None:
    target = tiny_target()
    twin = target.trainable_copy()
    assert isinstance(twin, TextToImageXL)
    assert twin.text_encoder_2 is target.text_encoder_2
    guided = target.with_adapter(GuidanceAdapter(target.unet, 8))
    text, t = target.embed(target.tokenize(PROMPTS[:1])), torch.tensor([400])
    noise = target.start_noise(SEEDS[:1])
    assert torch.equal(guided.x0(noise, t, text, guidance=3.0), target.x0(noise, t, text))


# Files


@pytest.mark.parametrize("zeros", [True, False])
def test_a_saved_target_loads_back_and_in_plain_diffusers(tmp_path: Path, zeros: bool) -> None:
    target = tiny_target(force_zeros_for_empty_prompt=zeros)
    target.save(tmp_path / "xl", {"lineage": ["xl"]})
    assert check_target(tmp_path / "xl") == ()
    back = load_target(tmp_path / "xl", device="cpu")
    assert isinstance(back, TextToImageXL)
    assert back.force_zeros_for_empty_prompt == zeros
    images = target.generate(PROMPTS, SEEDS)
    torch.testing.assert_close(back.generate(PROMPTS, SEEDS), images, rtol=0, atol=1e-5)
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "xl", add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    torch.testing.assert_close(own_images(pipeline), images, rtol=0, atol=1e-4)


def test_a_directory_of_plain_diffusers_loads(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "xl")
    target = load_target({"path": str(tmp_path / "xl"), "steps": 3, "guidance": 5.0}, device="cpu")
    found = target.generate(PROMPTS, SEEDS)
    torch.testing.assert_close(found, own_images(tiny_pipeline()), rtol=0, atol=1e-4)


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    tiny_target().save(tmp_path / "xl")
    index = tmp_path / "xl/model_index.json"
    told = json.loads(index.read_text(encoding="utf-8"))
    del told["tokenizer_2"]
    index.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(TargetFailed) as caught:
        check_target(str(tmp_path / "xl"))
    assert str(caught.value) == f"model_index.json of '{tmp_path}/xl' names no tokenizer_2"


# What is refused


def test_models_that_are_no_sdxl_base_are_refused() -> None:
    def refusal(pipeline: Any) -> str:
        with pytest.raises(Unavailable) as caught:
            TextToImageXL.from_pipeline(pipeline, name="xl")
        return str(caught.value)

    pipeline = tiny_pipeline()
    pipeline.unet.register_to_config(projection_class_embeddings_input_dim=5 * 4 + 20)
    assert refusal(pipeline) == (
        "the denoiser does not take a pooled text and six image sizes: not a base model of SDXL"
    )
    pipeline = tiny_pipeline()
    pipeline.tokenizer_2.add_tokens(["more"])
    assert refusal(pipeline) == ("the two tokenizers have different vocabularies: not supported")
    pipeline = tiny_pipeline()
    pipeline.text_encoder_2.config.max_position_embeddings = 9
    assert refusal(pipeline) == (
        "the two text encoders take texts of different length: not supported"
    )
    pipeline = tiny_pipeline()
    pipeline.text_encoder_2.config.projection_dim = 41
    assert refusal(pipeline) == ("the pooled state is wider than the text states: not supported")
    pipeline = tiny_pipeline()
    pipeline.vae.register_to_config(latents_mean=[0.0] * 4)
    assert refusal(pipeline) == ("autoencoders that shift each channel by itself are not supported")
