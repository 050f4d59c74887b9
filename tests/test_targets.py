"""TextToImage on tiny random pipelines, held to diffusers' own pipeline and to closed forms."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor, nn

from safetybench.contracts import (
    Denoises,
    EncodesImages,
    EncodesText,
    GeneratesImages,
    TextToImageTarget,
    Unavailable,
)
from safetybench.targets.spec import Sampler
from safetybench.targets.text import make_room
from safetybench.targets.text_to_image import TextToImage
from tests.targets import (
    LENGTH,
    SAMPLERS,
    VARIANTS,
    Variant,
    tiny_pipeline,
    tiny_scheduler,
    tiny_target,
)

PROMPTS = ["a red fish", "blue star on the dark background", ""]
SEEDS = [3, 2**40, 5]


def own_images(pipeline: Any, sampler: Sampler, guidance: float | None = None) -> Tensor:
    """Return what diffusers' own pipeline makes of PROMPTS and SEEDS."""
    images: Tensor = pipeline(
        PROMPTS,
        num_inference_steps=sampler.steps,
        guidance_scale=sampler.guidance if guidance is None else guidance,
        eta=sampler.eta,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
    ).images
    return images


class Oracle(nn.Module):
    """A denoiser that knows the noise in its input, spoken in any of the three ways."""

    def __init__(self, target: TextToImage, clean: Tensor, noise: Tensor) -> None:
        super().__init__()
        self.config, self.device, self.dtype = target.unet.config, target.device, target.dtype
        self.process, self.kind = target.process, target.prediction
        self.clean, self.noise = clean, noise

    def forward(self, latents: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> Any:
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        velocity = alpha * self.noise - sigma * self.clean
        answers = {"epsilon": self.noise, "sample": self.clean, "v_prediction": velocity}
        return SimpleNamespace(sample=answers[self.kind])


# Protocols


@pytest.mark.parametrize(
    "protocol", [GeneratesImages, EncodesText, Denoises, EncodesImages], ids=lambda p: p.__name__
)
def test_has_every_capability(protocol: type) -> None:
    target: TextToImageTarget = tiny_target()
    assert isinstance(target, protocol)


# The native sampler


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_equal_those_of_diffusers(variant: Variant) -> None:
    target = tiny_target(variant)
    expected = own_images(tiny_pipeline(variant), SAMPLERS[variant])
    assert expected.std() > 0.05
    torch.testing.assert_close(target.generate(PROMPTS, SEEDS), expected, rtol=0, atol=1e-4)


def test_stochastic_steps_go_on_from_each_seeds_generator() -> None:
    pipeline, sampler = tiny_pipeline("turbo"), Sampler(steps=4, guidance=3.0)
    target = TextToImage.from_pipeline(pipeline, name="many-step", sampler=sampler)
    expected = own_images(tiny_pipeline("turbo"), sampler)
    torch.testing.assert_close(target.generate(PROMPTS, SEEDS), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "kind",
    [
        DDIMScheduler,
        PNDMScheduler,
        DDPMScheduler,
        EulerDiscreteScheduler,
        HeunDiscreteScheduler,
        DPMSolverMultistepScheduler,
        UniPCMultistepScheduler,
        LCMScheduler,
        TCDScheduler,
    ],
    ids=lambda kind: kind.__name__,
)
def test_every_usual_scheduler_gives_diffusers_images(kind: Any) -> None:
    sampler = Sampler(steps=3, guidance=3.0, eta=0.3)
    pipelines = [tiny_pipeline("teacher"), tiny_pipeline("teacher")]
    for pipeline in pipelines:
        pipeline.scheduler = kind.from_config({**pipeline.scheduler.config, "skip_prk_steps": True})
    expected = own_images(pipelines[0], sampler)
    target = TextToImage.from_pipeline(pipelines[1], name="it", sampler=sampler)
    torch.testing.assert_close(target.generate(PROMPTS, SEEDS), expected, rtol=0, atol=1e-4)
    alone = target.generate(PROMPTS[1:2], SEEDS[1:2])
    torch.testing.assert_close(alone[0], expected[1], rtol=0, atol=1e-4)


def test_a_scheduler_is_corrected_as_the_pipeline_corrects_it() -> None:
    scheduler = DDIMScheduler()  # offset 0 and clipping are its defaults
    target = tiny_target().with_sampler(Sampler(steps=4), scheduler)
    assert target.scheduler.config.steps_offset == 1
    assert target.scheduler.config.clip_sample is False
    assert target.sampler_times == (751, 501, 251, 1)


def test_guidance_can_be_given() -> None:
    expected = own_images(tiny_pipeline("teacher"), SAMPLERS["teacher"], guidance=2.0)
    found = tiny_target("teacher").generate(PROMPTS, SEEDS, guidance=2.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_image_does_not_depend_on_its_batch(variant: Variant) -> None:
    target = tiny_target(variant)
    together = target.generate(PROMPTS, SEEDS)
    for i in range(len(PROMPTS)):
        alone = target.generate(PROMPTS[i : i + 1], SEEDS[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)


def test_generating_twice_gives_the_same_and_leaves_the_scheduler_alone() -> None:
    target = tiny_target("turbo")
    before = copy.deepcopy(target.scheduler.__dict__["sigmas"])
    first = target.generate(PROMPTS, SEEDS)
    assert torch.equal(first, target.generate(PROMPTS, SEEDS))
    assert torch.equal(target.scheduler.sigmas, before)


def test_images_may_enter_a_graph() -> None:
    target = tiny_target("student")
    images = target.generate(PROMPTS[:1], SEEDS[:1])
    scale = torch.ones(1, requires_grad=True)
    target.encode(images * scale).sum().backward()
    assert scale.grad is not None


def test_null_text_made_while_sampling_may_enter_a_graph() -> None:
    target = tiny_target("teacher")
    target.generate(PROMPTS[:1], SEEDS[:1])
    assert not target.null_text.is_inference()
    assert not target.plain_tokens.is_inference()


def test_no_prompt_gives_no_image() -> None:
    assert tiny_target().generate([], []).shape == (0, 3, 16, 16)


def test_one_seed_for_each_prompt() -> None:
    with pytest.raises(ValueError, match="seed") as caught:
        tiny_target().generate(PROMPTS, [1])
    assert str(caught.value) == "one seed for each prompt: got 3 and 1"


def test_start_noise_is_one_draw_for_each_seed() -> None:
    target = tiny_target()
    noise = target.start_noise([7, 8])
    assert noise.shape == (2, 4, 8, 8)
    assert torch.equal(noise[1], target.start_noise([8])[0])
    expected = torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(7))
    assert torch.equal(noise[0], expected)


@pytest.mark.parametrize(
    ("variant", "times"),
    [
        ("teacher", (751, 501, 251, 1)),
        ("velocity", (999, 749, 499, 249)),
        ("turbo", (999,)),
        ("student", (999,)),
    ],
)
def test_sampler_times_are_the_schedulers(variant: Variant, times: tuple[int, ...]) -> None:
    assert tiny_target(variant).sampler_times == times


@pytest.mark.parametrize(
    ("variant", "calls"), [("teacher", 2 * 3 * 4), ("velocity", 2 * 3 * 4), ("turbo", 3)]
)
def test_nfe_counts_images_times_passes(variant: Variant, calls: int) -> None:
    target = tiny_target(variant)
    target.generate(PROMPTS, SEEDS)
    assert target.nfe == calls
    text = target.embed(target.tokenize(PROMPTS[:2]))
    target.x0(torch.zeros(2, 4, 8, 8), torch.tensor([5, 6]), text)
    assert target.nfe == calls + 2


# A time grid of the student's own


def test_a_given_time_is_where_a_one_step_student_is_asked() -> None:
    sampler = Sampler(steps=1, guidance=1.0, timesteps=(625,))
    target = TextToImage.from_pipeline(tiny_pipeline("student"), name="dmd", sampler=sampler)
    assert target.sampler_times == (625,)
    text, noise = target.embed(target.tokenize(["a fish"])), target.start_noise([1])
    expected = target.x0(noise, torch.tensor([625]), text)
    torch.testing.assert_close(target.sample_latents(text, noise), expected)
    assert target.nfe == 2


def test_a_given_grid_that_is_ddims_own_gives_ddims_images() -> None:
    grid = tiny_target("velocity").sampler_times
    sampler = Sampler(steps=4, guidance=5.0, timesteps=grid)
    target = TextToImage.from_pipeline(tiny_pipeline("velocity"), name="grid", sampler=sampler)
    expected = own_images(tiny_pipeline("velocity"), SAMPLERS["velocity"])
    torch.testing.assert_close(target.generate(PROMPTS, SEEDS), expected, rtol=0, atol=1e-4)


def test_a_scheduler_that_takes_a_grid_is_given_it() -> None:
    pipeline = tiny_pipeline("student")
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    sampler = Sampler(steps=2, guidance=1.0, timesteps=(799, 399))
    target = TextToImage.from_pipeline(pipeline, name="lcm", sampler=sampler)
    assert target.sampler_times == (799, 399)
    assert target.generate(PROMPTS, SEEDS).isfinite().all()


# Latents and gradients


@pytest.mark.parametrize("variant", VARIANTS)
def test_sampling_is_differentiable_in_the_text(variant: Variant) -> None:
    target = tiny_target(variant)
    ids, noise = target.tokenize(["a fish"]), target.start_noise([1])
    rows = target.token_table[None, 60:62].clone().requires_grad_()
    latents = target.sample_latents(target.embed(ids, rows), noise, with_grad=True)
    (grad,) = torch.autograd.grad(target.decode(latents).mean(), rows)
    assert grad.isfinite().all()
    assert grad.norm() > 0
    torch.testing.assert_close(
        latents.detach(), target.sample_latents(target.embed(ids, rows).detach(), noise)
    )


def test_sampling_without_gradients_keeps_no_graph() -> None:
    target = tiny_target("student")
    rows = target.token_table[None, 60:62].clone().requires_grad_()
    text = target.embed(target.tokenize(["a fish"]), rows)
    assert not target.sample_latents(text, target.start_noise([1])).requires_grad


def test_steps_can_be_given_for_one_call() -> None:
    target = tiny_target("teacher")
    text = target.embed(target.tokenize(["a fish"]))
    target.sample_latents(text, target.start_noise([1]), guidance=1.0, steps=2)
    assert target.nfe == 2


def test_a_negative_text_takes_the_place_of_the_empty_one() -> None:
    target = tiny_target("teacher")
    text, noise = target.embed(target.tokenize(["a fish", "a star"])), target.start_noise([1, 2])
    negative = target.embed(target.tokenize(["red"]))
    plain = target.sample_latents(text, noise)
    assert torch.equal(plain, target.sample_latents(text, noise, negative=target.null_text))
    assert not torch.equal(plain, target.sample_latents(text, noise, negative=negative))
    # Steering away from the prompt itself leaves the prompt: the Ho form at any scale.
    torch.testing.assert_close(
        target.sample_latents(text, noise, guidance=6.0, negative=text),
        target.sample_latents(text, noise, guidance=1.0),
        rtol=0,
        atol=1e-5,
    )


def test_null_text_follows_a_text_encoder_that_is_trained_in_place() -> None:
    target = tiny_target()
    before = target.null_text
    assert target.null_text is before
    with torch.no_grad():
        target.text_encoder.final_layer_norm.weight.mul_(2)
    assert not torch.equal(target.null_text, before)
    assert torch.equal(target.null_text, target.embed(target.tokenize([""])))


# The denoiser


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_x0_of_every_prediction_type_is_the_known_one(prediction: str) -> None:
    pipeline = tiny_pipeline("velocity" if prediction == "v_prediction" else "teacher")
    pipeline.scheduler.register_to_config(prediction_type=prediction)
    target = TextToImage.from_pipeline(pipeline, name="oracle", sampler=Sampler(steps=4))
    rng = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 3, 4, 8, 8, generator=rng)
    target.unet = Oracle(target, clean, noise)
    t = torch.tensor([0, 500, 999])
    noisy = target.process.add(clean, noise, t)
    found = target.x0(noisy, t, target.null_text.expand(3, -1, -1))
    torch.testing.assert_close(found, clean, rtol=0, atol=1e-4)


def test_x0_is_differentiable_in_latents_and_text() -> None:
    target = tiny_target()
    latents = target.start_noise([1]).requires_grad_()
    text = target.null_text.clone().requires_grad_()
    out = target.x0(latents, torch.tensor([400]), text).square().sum()
    assert all(grad.norm() > 0 for grad in torch.autograd.grad(out, (latents, text)))
    assert not any(p.requires_grad for p in target.unet.parameters())


# Text


def test_tokenizing_and_back() -> None:
    target = tiny_target()
    ids = target.tokenize(PROMPTS)
    assert ids.shape == (3, LENGTH)
    assert ids.dtype == torch.int64
    assert [target.detokenize(row) for row in ids.tolist()] == PROMPTS


def test_plain_tokens_can_be_typed() -> None:
    target = tiny_target()
    plain = target.plain_tokens
    special = set(target.tokenizer.all_special_ids)
    assert special.isdisjoint(plain.tolist())
    assert len(plain) == len(target.token_table) - len(special)
    for token in plain.tolist():
        assert target.tokenizer(target.detokenize([token]), add_special_tokens=False).input_ids


def test_a_token_that_nobody_can_type_is_not_plain() -> None:
    pipeline = tiny_pipeline()
    space = pipeline.tokenizer.convert_tokens_to_ids("a")
    target = TextToImage.from_pipeline(pipeline, name="odd", sampler=SAMPLERS["teacher"])
    decode = target.detokenize
    target.detokenize = lambda ids: "" if list(ids) == [space] else decode(ids)  # type: ignore[method-assign] # a stub
    assert space not in target.plain_tokens


@pytest.mark.parametrize(
    ("at", "prompt"),
    [
        (1, ""),
        (1, "red fish"),
        (2, "red fish"),
        (3, "red fish"),
        (1, "blue star on the dark background a red fish of"),
        (3, "blue star on the dark background a red fish of"),
    ],
)
def test_embedding_table_rows_is_embedding_their_ids(at: int, prompt: str) -> None:
    target = tiny_target()
    ids = target.tokenize([prompt])
    words = target.tokenizer(prompt, add_special_tokens=False).input_ids
    new = target.tokenizer("moon heart", add_special_tokens=False).input_ids
    joined = " ".join(target.detokenize([i]) for i in [*words[: at - 1], *new, *words[at - 1 :]])
    expected = target.text_encoder(target.tokenize([joined]))[0]
    found = target.embed(ids, target.token_table[None, new], at)
    assert torch.equal(found, expected)


def test_embedding_ids_is_the_text_encoders_answer() -> None:
    target = tiny_target()
    ids = target.tokenize(PROMPTS)
    assert torch.equal(target.embed(ids), target.text_encoder(ids)[0])


def test_inserted_rows_take_gradients_and_leave_no_hook() -> None:
    target = tiny_target()
    ids = target.tokenize(PROMPTS)
    rows = torch.zeros(3, 2, 16, requires_grad=True)
    (grad,) = torch.autograd.grad(target.embed(ids, rows).square().sum(), rows)
    assert (grad.flatten(1).norm(dim=1) > 0).all()
    assert not target.text_encoder.get_input_embeddings()._forward_hooks


def test_the_end_token_survives_the_cut_when_padding_is_another_token() -> None:
    target = tiny_target()
    target.tokenizer.pad_token = "a"  # as in SD 2.x, where padding is "!"
    full = target.tokenize(["blue star on the dark background a red fish of"])
    end = target.tokenizer.eos_token_id
    assert int(full[0, -1]) == end
    moved = make_room(full, 3, 1, end)
    assert int(moved[0, -1]) == end
    assert int((moved == end).sum()) == 1
    short = make_room(target.tokenize(["fish"]), 3, 1, end)
    assert int(short[0, -1]) != end


@pytest.mark.parametrize(("at", "count"), [(0, 1), (1, LENGTH - 1), (LENGTH - 1, 1)])
def test_rows_must_fit_between_start_and_end(at: int, count: int) -> None:
    target = tiny_target()
    with pytest.raises(ValueError, match="do not fit") as caught:
        target.embed(target.tokenize(["fish"]), torch.zeros(1, count, 16), at)
    assert str(caught.value) == (
        f"{count} tokens at position {at} do not fit between the start token and the last of 12 "
        "positions"
    )


# Autoencoder


def test_encode_and_decode_are_the_pipelines() -> None:
    pipeline = tiny_pipeline()
    target = TextToImage.from_pipeline(pipeline, name="vae")
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = pipeline.vae.encode(images * 2 - 1).latent_dist.mean * 0.5
    latents = target.encode(images)
    torch.testing.assert_close(latents, expected)
    raw = pipeline.vae.decode(latents / 0.5).sample
    torch.testing.assert_close(target.decode(latents), (raw / 2 + 0.5).clamp(0, 1))


def test_a_shift_factor_is_taken_off_and_put_back() -> None:
    pipeline = tiny_pipeline()
    plain = TextToImage.from_pipeline(pipeline, name="vae").encode(torch.zeros(1, 3, 16, 16))
    pipeline.vae.register_to_config(shift_factor=0.25)
    target = TextToImage.from_pipeline(pipeline, name="vae")
    torch.testing.assert_close(target.encode(torch.zeros(1, 3, 16, 16)), plain - 0.25 * 0.5)
    raw = pipeline.vae.decode(plain / 0.5 + 0.25).sample
    torch.testing.assert_close(target.decode(plain), (raw / 2 + 0.5).clamp(0, 1))


def test_encode_and_decode_take_gradients() -> None:
    target = tiny_target()
    images = torch.full((1, 3, 16, 16), 0.5, requires_grad=True)
    (grad,) = torch.autograd.grad(target.decode(target.encode(images)).sum(), images)
    assert grad.norm() > 0


def test_half_precision_networks_still_speak_float32() -> None:
    pipeline = tiny_pipeline()
    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        network.to(torch.bfloat16)
    target = TextToImage.from_pipeline(pipeline, name="half", sampler=SAMPLERS["teacher"])
    images = target.generate(PROMPTS, SEEDS)
    assert target.dtype == torch.bfloat16
    assert images.dtype == target.start_noise([1]).dtype == torch.float32
    full = tiny_target().generate(PROMPTS, SEEDS)
    assert (images - full).abs().mean() < 0.05


# Copies and traits


def test_a_trainable_copy_has_its_own_denoiser_alone() -> None:
    target = tiny_target()
    twin = target.trainable_copy("student")
    assert twin.name == "student"
    assert twin.unet is not target.unet
    assert twin.vae is target.vae
    assert twin.text_encoder is target.text_encoder
    assert all(p.requires_grad for p in twin.unet.parameters())
    before = target.generate(PROMPTS[:1], SEEDS[:1])
    with torch.no_grad():
        for parameter in twin.unet.parameters():
            parameter.add_(0.1)
    assert torch.equal(target.generate(PROMPTS[:1], SEEDS[:1]), before)
    assert not any(p.requires_grad for p in twin.clone().unet.parameters())
    assert twin.nfe == 0


def test_traits_follow_the_sampler_and_the_card_tells_the_rest() -> None:
    card = {"traits": {"data": "none", "shared_with_teacher": ["vae"], "steps": 99}}
    target = TextToImage.from_pipeline(
        tiny_pipeline("turbo"), name="t", sampler=SAMPLERS["turbo"], card=card
    )
    traits = target.traits
    assert (traits.steps, traits.guidance, traits.sampler) == (1, 1.0, "EulerAncestralDiscrete")
    assert not traits.has_intermediate_state
    assert not traits.negative_prompt_works
    assert (traits.data, traits.shared_with_teacher) == ("none", ("vae",))
    many = tiny_target("teacher").traits
    assert (many.steps, many.guidance) == (4, 7.5)
    assert many.has_intermediate_state
    assert many.negative_prompt_works


def test_another_sampler_brings_its_own_traits_and_shares_the_networks() -> None:
    target = tiny_target("teacher")
    other = target.with_sampler(Sampler(steps=1, guidance=1.0), tiny_scheduler("velocity"))
    assert other.unet is target.unet
    assert other.traits.steps == 1
    assert other.prediction == "v_prediction"
    assert target.traits.steps == 4


def test_the_card_names_the_sampler() -> None:
    card = {"sampler": {"steps": 2, "guidance": 3.0}, "lineage": ["teacher", "ca"]}
    target = TextToImage.from_pipeline(tiny_pipeline(), name="t", card=card)
    assert target.sampler == Sampler(steps=2, guidance=3.0)
    assert target.lineage == ("teacher", "ca")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be 1 or more, got 0"),
        ({"steps": 2, "timesteps": [5]}, "timesteps must name 2 times, got 1"),
        ({"timesteps": [5, 9]}, "timesteps must fall, noisiest first, got [5, 9]"),
        ({"step": 2}, "a sampler has steps, guidance, timesteps and eta, got step"),
    ],
)
def test_sampler_settings_that_make_no_sampler(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="s") as caught:
        Sampler().with_settings(settings)
    assert str(caught.value) == message


# What is refused


def test_an_inpainting_denoiser_is_refused() -> None:
    pipeline = tiny_pipeline()
    pipeline.unet.register_to_config(in_channels=9)
    with pytest.raises(Unavailable, match="inpainting") as caught:
        TextToImage.from_pipeline(pipeline, name="inpaint")
    assert str(caught.value) == (
        "the denoiser takes 9 channels and the autoencoder makes 4: inpainting and "
        "image-conditioned models are not supported as text-to-image targets"
    )


def test_a_text_encoder_that_masks_padding_is_refused() -> None:
    pipeline = tiny_pipeline()
    pipeline.text_encoder.config.use_attention_mask = True
    with pytest.raises(Unavailable, match=r"^text encoders that mask padding are not supported$"):
        TextToImage.from_pipeline(pipeline, name="masked")


def test_noise_prediction_cannot_start_where_there_is_no_signal() -> None:
    scheduler = DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    target = tiny_target("teacher").with_sampler(Sampler(steps=1, guidance=1.0), scheduler)
    with pytest.raises(ValueError, match="predicts epsilon says nothing"):
        target.x0(target.start_noise([1]), torch.tensor([999]), target.null_text)
