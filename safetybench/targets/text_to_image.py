"""A text-to-image model under test: the parts of a diffusers StableDiffusionPipeline, opened up.

Its own sampler for black-box use; token embeddings, denoiser (as x0) and autoencoder,
differentiable, for white-box use. Networks are frozen: gradients flow to inputs alone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from safetybench.contracts import Traits
from safetybench.distill.process import Prediction, Process
from safetybench.targets.adapter import GuidanceAdapter
from safetybench.targets.guidance import guidance_embedding, per_image
from safetybench.targets.layout import PIPELINES
from safetybench.targets.sampling import (
    corrected,
    generators_of,
    sample,
    sample_from,
    start,
    traits_of,
)
from safetybench.targets.spec import Sampler
from safetybench.targets.supported import refuse_unsupported
from safetybench.targets.text import inserted, make_room, typable


class TextToImage:
    """A text-to-image target; see `safetybench.contracts.TextToImageTarget` for what it can do.

    nfe: network evaluations so far, one for each image and denoiser pass (guidance costs two).
    digest: of the files it was loaded from, "" for a model made in memory.
    notes: what a reader of its results should know about how it was set up.
    adapter: answers for guidance in one pass; see `with_adapter`.
    """

    pipeline: ClassVar[str] = "StableDiffusionPipeline"

    def __init__(
        self,
        *,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        name: str,
        sampler: Sampler | None = None,
        traits: Traits | None = None,
        card: Mapping[str, Any] | None = None,
        digest: str = "",
        notes: Sequence[str] = (),
        adapter: GuidanceAdapter | None = None,
    ) -> None:
        refuse_unsupported(unet, vae, text_encoder, self._channels_beside(vae))
        self.unet, self.vae, self.text_encoder = unet, vae, text_encoder
        self.tokenizer, self.scheduler = tokenizer, self._corrected(scheduler)
        for network in (unet, vae, text_encoder):
            network.eval().requires_grad_(False)
        self.adapter = adapter.to(unet.device).install(unet) if adapter is not None else None
        self.name = name
        self.card = dict(card or {})
        self.sampler = sampler or Sampler().with_settings(self.card.get("sampler", {}))
        self.traits = traits or traits_of(
            scheduler, self.sampler, self.card, takes_guidance=self.takes_guidance
        )
        self.lineage: tuple[str, ...] = tuple(self.card.get("lineage", (name,)))
        self.digest = digest
        self.notes = tuple(notes)
        self.nfe = 0
        self.prediction: Prediction = cast(Prediction, scheduler.config.prediction_type)
        self.process = Process.from_scheduler(scheduler).to(self.device)
        self._null: tuple[object, Tensor] | None = None
        self._plain: Tensor | None = None

    @classmethod
    def from_pipeline(
        cls,
        pipeline: Any,
        *,
        name: str,
        sampler: Sampler | None = None,
        card: Mapping[str, Any] | None = None,
    ) -> TextToImage:
        """Return a target over the parts of a diffusers pipeline, shared and not copied."""
        parts = {part: getattr(pipeline, part) for part in PIPELINES[cls.pipeline]}
        options = {**parts, **cls._beside_parts(pipeline)}
        return cls(**options, name=name, sampler=sampler, card=card)

    # What it is

    @property
    def device(self) -> torch.device:
        """Return where the denoiser lives."""
        return cast(torch.device, self.unet.device)

    @property
    def dtype(self) -> torch.dtype:
        """Return the number format of the denoiser; latents and images stay float32."""
        return cast(torch.dtype, self.unet.dtype)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return (channels, h, w) of one image's latents."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return (self.unet.config.in_channels, height, width)

    @property
    def length(self) -> int:
        """Return the number of tokens that the text encoder takes."""
        limit = int(self.text_encoder.config.max_position_embeddings)
        return min(limit, int(self.tokenizer.model_max_length))

    # Text

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Return token ids, (batch, length) int64, padded and cut as the pipeline does."""
        ids = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return cast(Tensor, ids).to(self.device)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of these ids without special tokens; tokenizing it again may differ."""
        plain = [int(i) for i in ids]
        return str(self.tokenizer.decode(plain, skip_special_tokens=True)).strip()

    @property
    def token_table(self) -> Tensor:
        """The embedding table: (vocabulary, width)."""
        return cast(Tensor, self.text_encoder.get_input_embeddings().weight)

    @property
    def plain_tokens(self) -> Tensor:
        """Ids an attacker may type, (n,) int64: not special, and something of them survives."""
        if self._plain is None:
            kept = typable(self.tokenizer, len(self.token_table), self.detokenize)
            with torch.inference_mode(False):
                self._plain = torch.tensor(kept, dtype=torch.int64, device=self.device)
        return self._plain

    def embed(self, ids: Tensor, table_rows: Tensor | None = None, at: int = 1) -> Tensor:
        """Return text states, (batch, length, width), differentiable in `table_rows`.

        ids: (batch, length) with start, end and padding. table_rows: (batch, k, width), put in
        as token embeddings at position `at`; what is behind moves right and is cut, and the last
        position is the end token if the cut took it away. With rows of the table itself this is
        exactly the text encoder's answer to the ids that they stand for.
        """
        if table_rows is None:
            return self._states(ids)
        batch, count, _ = table_rows.shape
        ids = make_room(ids.expand(batch, -1), count, at, self.tokenizer.eos_token_id)
        with inserted(self._encoders, table_rows, at):
            return self._states(ids)

    @property
    def null_text(self) -> Tensor:
        """Return the text states of the empty prompt, (1, length, width)."""
        # In-place training bumps the versions, so that a stale answer is never given.
        weights = [p for encoder in self._encoders for p in encoder.parameters()]
        version = (id(self.text_encoder), sum(p._version for p in weights))
        if self._null is None or self._null[0] != version:
            with torch.inference_mode(False), torch.no_grad():  # it may enter a graph later
                self._null = (version, self.embed(self.tokenize([""])))
        return self._null[1]

    def attended(self, text: Tensor) -> Tensor:
        """Return the part of text states that cross-attention reads, (batch, tokens, width)."""
        return text

    # Denoiser

    @property
    def takes_guidance(self) -> bool:
        """Tell whether the guidance scale is an input of the denoiser, so that one pass is all."""
        has_input = self.unet.config.get("time_cond_proj_dim") is not None
        return has_input or self.adapter is not None

    def x0(
        self, latents: Tensor, t: Tensor, text: Tensor, guidance: float | Tensor | None = None
    ) -> Tensor:
        """Return the predicted clean latents, in the dtype of `latents`.

        latents: (batch, channels, h, w), variance preserving; t: (batch,) int64;
        text: (batch, length, width). guidance: one scale or (batch,) of them, for a denoiser that
        takes it as an input; None for the target's own. Any other denoiser answers unguided.
        """
        if guidance is not None and not self.takes_guidance:
            raise ValueError(
                f"the denoiser of {self.name} takes no guidance as an input; guide by x0 of the "
                "text and of null_text"
            )
        pred = self.predict(latents, t, text, guidance)
        return self.process.convert(pred, self.prediction, "sample", latents, t)

    def predict(
        self, latents: Tensor, t: Tensor, text: Tensor, guidance: float | Tensor | None = None
    ) -> Tensor:
        """Return the denoiser's own answer, which is of the kind `prediction`; see `x0`."""
        self.nfe += len(latents)
        weight = None
        if self.takes_guidance:
            asked = self.sampler.guidance if guidance is None else guidance
            weight = per_image(asked, len(latents), self.device)
        if self.adapter is not None:
            self.adapter.guidance = weight
        answer = self.unet(latents.to(self.dtype), t, **self._conditions(text, weight))
        return cast(Tensor, answer.sample).to(latents.dtype)

    def start_noise(self, seeds: Sequence[int]) -> Tensor:
        """Return standard normal noise, (batch, channels, h, w) float32, one draw for each seed.

        Drawn on the CPU, so that a seed means the same image on every device.
        """
        return self._start_noise(generators_of(seeds))

    @property
    def sampler_times(self) -> tuple[int, ...]:
        """The timesteps of the native sampler, first (noisiest) to last."""
        times = start(self.scheduler, self.sampler, self.process, torch.device("cpu")).timesteps
        return tuple(round(float(t)) for t in times)

    def sample_latents(
        self,
        text: Tensor,
        noise: Tensor,
        guidance: float | Tensor | None = None,
        negative: Tensor | None = None,
        *,
        with_grad: bool = False,
        steps: int | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Tensor:
        """Run the native sampler, (batch, channels, h, w) in, clean latents out.

        text: (batch, length, width); noise: standard normal; guidance: one scale or (batch,) of
        them, None for the target's own; negative: text states to steer away from, (1 or batch,
        length, width), the empty prompt's by default, for classifier-free guidance alone.
        with_grad: differentiable in text and noise, at the memory of every step. seeds: of the
        start noise, for schedulers that draw more noise on the way; without them every image
        gets the draws of seed 0.
        """
        generators = generators_of([0] * len(noise) if seeds is None else seeds)
        if seeds is not None:
            self._start_noise(generators)  # a generator goes on where the start noise ended
        if with_grad:
            return sample(self, text, noise, guidance, negative, steps, generators)
        with torch.inference_mode():
            latents = sample(self, text, noise, guidance, negative, steps, generators)
        return latents.clone()  # an inference tensor could not enter anyone's graph

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        guidance: float | Tensor | None = None,
    ) -> Tensor:
        """Return images, (batch, 3, height, width) float32 in [0, 1], from the native sampler.

        An image depends on its prompt, seed and guidance, not on its batch.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"one seed for each prompt: got {len(prompts)} and {len(seeds)}")
        with torch.inference_mode():
            text = self.embed(self.tokenize(prompts)) if prompts else self.null_text[:0]
        return self.draw(text, seeds, guidance)

    def draw(
        self,
        text: Tensor,
        seeds: Sequence[int],
        guidance: float | Tensor | None = None,
        *,
        with_grad: bool = False,
    ) -> Tensor:
        """Return images of text states, as `generate` makes them of prompts.

        text: (batch, length, width), of `embed`; with_grad: differentiable in it.
        """
        if not len(text):
            height, width = (side * self._pixels_per_latent for side in self.latent_shape[1:])
            return torch.zeros(0, 3, height, width, device=self.device)
        with nullcontext() if with_grad else torch.inference_mode():
            noise = self.start_noise(seeds)
            images = self.decode(
                self.sample_latents(text, noise, guidance, with_grad=with_grad, seeds=seeds)
            )
        return images if with_grad else images.clone()

    # Image to image

    def edit(
        self,
        images: Tensor,
        prompts: Sequence[str],
        seeds: Sequence[int],
        strength: float,
        guidance: float | None = None,
    ) -> Tensor:
        """Return images drawn anew from noised ones (SDEdit), (batch, 3, height, width) in [0, 1].

        images: (batch, 3, height, width) in [0, 1], of sides that the networks can halve.
        strength: in (0, 1]; see `safetybench.targets.sampling.entered` for where that starts.
        """
        if not len(images) == len(prompts) == len(seeds):
            raise ValueError(
                f"one prompt and one seed for each image: got {len(images)} images, "
                f"{len(prompts)} prompts and {len(seeds)} seeds"
            )
        if not len(images):
            return images.clone()
        with torch.inference_mode():
            text = self.embed(self.tokenize(prompts))
            latents = self.encode(images.to(self.device))
            drawn = self.decode(self.edit_latents(latents, text, seeds, strength, guidance))
        return drawn.clone()

    def edit_latents(
        self,
        latents: Tensor,
        text: Tensor,
        seeds: Sequence[int],
        strength: float,
        guidance: float | None = None,
        *,
        with_grad: bool = False,
    ) -> Tensor:
        """Noise clean latents and run the rest of the native sampler, (batch, channels, h, w).

        with_grad: differentiable in latents and text, at the memory of every step.
        """
        generators = generators_of(seeds)
        noise = torch.stack([torch.randn(latents.shape[1:], generator=g) for g in generators])
        with nullcontext() if with_grad else torch.inference_mode():
            edited = sample_from(
                self, latents, text, noise.to(latents), strength, guidance, generators
            )
        return edited if with_grad else edited.clone()

    # Autoencoder

    def encode(self, images: Tensor) -> Tensor:
        """Return latents (posterior mean) of images: (batch, 3, height, width) in [0, 1]."""
        mean = self.vae.encode(images.to(self.vae.dtype) * 2 - 1).latent_dist.mode()
        shift = self.vae.config.get("shift_factor") or 0.0
        return cast(Tensor, (mean.to(images.dtype) - shift) * self.vae.config.scaling_factor)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images: (batch, 3, height, width), in [0, 1]."""
        shift = self.vae.config.get("shift_factor") or 0.0
        raw = latents / self.vae.config.scaling_factor + shift
        images: Tensor = self.vae.decode(raw.to(self.vae.dtype)).sample.to(latents.dtype)
        return (images / 2 + 0.5).clamp(0, 1)

    # Copies

    def clone(self, name: str | None = None, *, with_text: bool = False) -> TextToImage:
        """Return a target with its own denoiser, frozen; everything else is shared.

        with_text: the text encoders are its own too.
        """
        twin = copy.copy(self)
        if with_text:
            for part in ("text_encoder", "text_encoder_2"):
                if hasattr(self, part):
                    setattr(twin, part, copy.deepcopy(getattr(self, part)).requires_grad_(False))
        if self.adapter is not None:
            self.adapter.remove()  # its hooks would be copied with the denoiser, for good
        twin.unet = copy.deepcopy(self.unet).requires_grad_(False)
        if self.adapter is not None:
            self.adapter.install(self.unet)
            twin.adapter = copy.deepcopy(self.adapter).requires_grad_(False).install(twin.unet)
        twin.name, twin.digest, twin.nfe = name or self.name, "", 0
        return twin

    def trainable_copy(self, name: str | None = None) -> TextToImage:
        """Return a clone whose denoiser takes gradients, for unlearning and distillation.

        An adapter stays frozen.
        """
        twin = self.clone(name)
        twin.unet.requires_grad_(True)
        return twin

    def with_adapter(self, adapter: GuidanceAdapter | None) -> TextToImage:
        """Return a clone in which `adapter`, not copied, answers for guidance; None takes it off.

        To train one: `target.with_adapter(GuidanceAdapter(target.unet))`, whose
        `x0(..., guidance=w)` is differentiable in the adapter's weights.
        """
        twin = self.clone()
        if twin.adapter is not None:
            twin.adapter.remove()
        twin.adapter = adapter.to(self.device).install(twin.unet) if adapter is not None else None
        return twin.with_sampler(self.sampler)

    def with_sampler(self, sampler: Sampler, scheduler: Any = None) -> TextToImage:
        """Return the same networks under another native sampler; traits follow."""
        twin = copy.copy(self)
        twin.scheduler = self._corrected(scheduler) if scheduler is not None else self.scheduler
        twin.prediction = cast(Prediction, twin.scheduler.config.prediction_type)
        twin.process = Process.from_scheduler(twin.scheduler).to(self.device)
        twin.sampler, twin.digest, twin.nfe = sampler, "", 0
        twin.traits = traits_of(
            twin.scheduler, sampler, self.card, takes_guidance=self.takes_guidance
        )
        return twin

    def save(
        self,
        path: Path,
        card: Mapping[str, Any] | None = None,
        *,
        half: bool = False,
        parts: Sequence[str] | None = None,
    ) -> Path:
        """Write safetensors that plain diffusers reads, and a card.json; return `path`.

        half: store fp16. parts: only these folders, for a zoo entry that names its base.
        """
        from safetybench.targets.saving import save_target

        return save_target(self, Path(path), card, half=half, parts=parts)

    # Inside

    @classmethod
    def _beside_parts(cls, pipeline: Any) -> dict[str, Any]:
        """Return what a pipeline says beside its parts, as options of the constructor."""
        return {}

    @staticmethod
    def _channels_beside(vae: Any) -> int:
        """Return how many channels the denoiser sees beside the noisy latents."""
        return 0

    @staticmethod
    def _corrected(scheduler: Any) -> Any:
        return corrected(scheduler)

    @property
    def _pixels_per_latent(self) -> int:
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def _start_noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        draws = [torch.randn(self.latent_shape, generator=g) for g in generators]
        return torch.stack(draws).to(self.device)

    @property
    def _encoders(self) -> tuple[Any, ...]:
        return (self.text_encoder,)

    def _states(self, ids: Tensor) -> Tensor:
        """Return text states of token ids, (batch, length, width)."""
        return cast(Tensor, self.text_encoder(ids)[0])

    def _conditions(self, text: Tensor, guidance: Tensor | None) -> dict[str, Any]:
        """Return what the denoiser takes beside latents and time; guidance: (batch,)."""
        conditions: dict[str, Any] = {"encoder_hidden_states": self.attended(text).to(self.dtype)}
        width = self.unet.config.get("time_cond_proj_dim")
        if width is not None and guidance is not None:
            conditions["timestep_cond"] = guidance_embedding(guidance, width).to(self.dtype)
        return conditions
