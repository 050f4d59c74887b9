"""Tiny random targets for tests: real StableDiffusionPipelines, built in no time."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any, Literal

import torch

from safetybench.targets.inpainting import Inpainting
from safetybench.targets.spec import Sampler
from safetybench.targets.text_to_image import TextToImage

WORDS = (
    "a", "an", "the", "red", "blue", "green", "fish", "star", "heart", "moon", "on", "dark", "pale",
    "background", "picture", "of", "shape", "striped", "solid", "one",
)  # fmt: skip
LENGTH = 12
Variant = Literal["teacher", "velocity", "turbo", "student"]
VARIANTS: tuple[Variant, ...] = ("teacher", "velocity", "turbo", "student")
SAMPLERS: dict[Variant, Sampler] = {
    "teacher": Sampler(steps=4, guidance=7.5),
    "velocity": Sampler(steps=4, guidance=5.0),
    "turbo": Sampler(steps=1, guidance=0.0),
    "student": Sampler(steps=1, guidance=1.0),
}


def tiny_tokenizer() -> Any:
    """Return a CLIPTokenizer in which every one of WORDS is one token, as is every letter.

    Byte-pair merges by count and then alphabet: the tokenizers library breaks ties by chance, and
    two tokenizers of one vocabulary would number its words differently.
    """
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    vocab = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{a}</w>" for a in letters)]
    words = [[*word[:-1], f"{word[-1]}</w>"] for word in WORDS]
    merges: Any = []  # pairs; the annotation of CLIPTokenizer says strings
    while pairs := Counter(pair for word in words for pair in pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        vocab.append("".join(best))
        for word in words:
            for i in range(len(word) - 2, -1, -1):
                if tuple(word[i : i + 2]) == best:
                    word[i : i + 2] = ["".join(best)]
    ids = {token: i for i, token in enumerate(dict.fromkeys(vocab))}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=LENGTH)


def tiny_scheduler(variant: Variant) -> Any:
    """Return the scheduler of a variant."""
    from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler

    common = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
    }
    if variant == "turbo":
        return EulerAncestralDiscreteScheduler(**common, timestep_spacing="trailing")
    options: dict[Variant, dict[str, Any]] = {
        "teacher": {},
        "velocity": {
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        },
        "student": {"timestep_spacing": "trailing"},
    }
    return DDIMScheduler(**common, clip_sample=False, set_alpha_to_one=True, **options[variant])


def tiny_pipeline(variant: Variant = "teacher", seed: int = 0) -> Any:
    """Return a random StableDiffusionPipeline: 16x16 pixels, 4 latent channels of 8x8."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        text_encoder = CLIPTextModel(config)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=16,
            attention_head_dim=4,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=16,
            scaling_factor=0.5,
        )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=tiny_scheduler(variant),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_target(variant: Variant = "teacher", seed: int = 0) -> TextToImage:
    """Return a target over a tiny random pipeline, with the sampler of its variant."""
    pipeline = tiny_pipeline(variant, seed)
    return TextToImage.from_pipeline(pipeline, name=variant, sampler=SAMPLERS[variant])


def tiny_inpainting_pipeline(variant: Variant = "teacher", seed: int = 0) -> Any:
    """Return a random StableDiffusionInpaintPipeline, of 9 channels into the denoiser."""
    from diffusers import StableDiffusionInpaintPipeline, UNet2DConditionModel

    parts = dict(tiny_pipeline(variant, seed).components)
    config = {k: v for k, v in parts["unet"].config.items() if not k.startswith("_")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts["unet"] = UNet2DConditionModel.from_config({**config, "in_channels": 9})
    pipeline = StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_inpainting_target(variant: Variant = "teacher", seed: int = 0) -> Inpainting:
    """Return an inpainting target over a tiny random pipeline, with the sampler of its variant."""
    pipeline = tiny_inpainting_pipeline(variant, seed)
    target = Inpainting.from_pipeline(pipeline, name=variant, sampler=SAMPLERS[variant])
    assert isinstance(target, Inpainting)
    return target
