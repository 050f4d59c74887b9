"""What a target can do, as protocols: the threat model in types, read by contracts.py's authors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:  # torch takes two seconds to import, and `safetybench --help` needs none of it
    import torch
    from torch import Tensor

    from safetybench.distill.process import Process


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What distillation changed about how a model runs; attacks declare needs against these.

    guidance: classifier-free guidance in the Ho form, 1.0 when there is none;
    data: what the student saw ("none", "real", "synthetic"); prompts: what it was distilled on;
    defended_at: "sampling" when `generate` has a defense that `x0` and `embed` have not, so that
    no white-box objective sees it.
    """

    steps: int
    guidance: float
    prediction: Literal["epsilon", "v_prediction", "sample"]
    sampler: str
    has_intermediate_state: bool
    negative_prompt_works: bool
    shared_with_teacher: tuple[str, ...] = ()
    data: str = "unknown"
    prompts: str = "unknown"
    defended_at: Literal["weights", "sampling"] = "weights"


@runtime_checkable
class GeneratesImages(Protocol):
    """Text in, images out, through the target's own sampler."""

    name: str
    traits: Traits

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], guidance: float | None = None
    ) -> Tensor:
        """Return images: (batch, 3, height, width), float, in [0, 1]; one start noise a seed."""
        ...


@runtime_checkable
class EncodesText(Protocol):
    """White-box access to the text encoder, differentiable from token embeddings on."""

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Return token ids: (batch, length) with start, end and padding."""
        ...

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the string that these ids stand for; tokenizing it again may differ."""
        ...

    @property
    def token_table(self) -> Tensor:
        """The embedding table: (vocabulary, width)."""
        ...

    @property
    def plain_tokens(self) -> Tensor:
        """Ids of vocabulary entries an attacker may type: no special token, (n,) int64."""
        ...

    def embed(self, ids: Tensor, table_rows: Tensor | None = None, at: int = 1) -> Tensor:
        """Return text states: (batch, length, width).

        table_rows: (batch, k, width) inserted as token embeddings at position `at`, the rest of
        `ids` moves right and is cut at the length the encoder takes; gradients flow to them.
        """
        ...


@runtime_checkable
class DrawsStates(Protocol):
    """Images from text states, as one who holds the weights can ask for without any text."""

    def draw(
        self,
        text: Tensor,
        seeds: Sequence[int],
        guidance: float | None = None,
        *,
        with_grad: bool = False,
    ) -> Tensor:
        """Return images of text states, (batch, length, width), through the native sampler.

        with_grad: differentiable in `text`, at the memory of every sampler step.
        """
        ...


@runtime_checkable
class Denoises(Protocol):
    """White-box access to the denoiser, whatever it predicts, as an x0-prediction."""

    process: Process

    def x0(self, latents: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """Return the predicted clean latents, (batch, channels, h, w); t: (batch,) int64."""
        ...

    def start_noise(self, seeds: Sequence[int]) -> Tensor:
        """Return standard normal start noise, one independent draw for each seed."""
        ...

    @property
    def sampler_times(self) -> tuple[int, ...]:
        """The timesteps of the native sampler, first (noisiest) to last."""
        ...


@runtime_checkable
class EncodesImages(Protocol):
    """Differentiable access to the autoencoder."""

    def encode(self, images: Tensor) -> Tensor:
        """Return latents (posterior mean) of images: (batch, 3, height, width) in [0, 1]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Return images: (batch, 3, height, width), in [0, 1]."""
        ...


@runtime_checkable
class EditsImages(Protocol):
    """Image to image through the native sampler, entered part of the way (SDEdit)."""

    def edit(
        self,
        images: Tensor,
        prompts: Sequence[str],
        seeds: Sequence[int],
        strength: float,
        guidance: float | None = None,
    ) -> Tensor:
        """Return edited images: (batch, 3, height, width), in [0, 1].

        strength: in (0, 1], the noise level at which the sampler is entered, as the share of
        its way that is left; 1 keeps nothing but what pure noise lets through.
        """
        ...


@runtime_checkable
class Inpaints(Protocol):
    """Redraws a masked area of an image, with a denoiser that sees the rest of it."""

    process: Process

    def inpaint(
        self,
        images: Tensor,
        masks: Tensor,
        prompts: Sequence[str],
        seeds: Sequence[int],
        guidance: float | None = None,
    ) -> Tensor:
        """Return images, (batch, 3, height, width) in [0, 1]; masks: (batch, 1, h, w), 1 anew."""
        ...

    def given(self, images: Tensor, masks: Tensor) -> Any:
        """Return the target with images and masks bound, to sample, `x0` or predict under them."""
        ...

    def beside(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return what the denoiser sees beside the noisy latents, (batch, channels, h, w).

        Mask and latents of the masked image, in that order; differentiable in `images`.
        """
        ...


@runtime_checkable
class SamplesNoise(Protocol):
    """An unconditional model of images whose start noise the caller gives: no text, no latents.

    Inside, an image x in [0, 1] is 2 x - 1, and noise is of that space too.
    """

    name: str
    process: Process

    @property
    def device(self) -> torch.device:
        """Where the denoiser lives."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image and of its noise."""
        ...

    def start_noise(self, seeds: Sequence[int]) -> Tensor:
        """Return standard normal start noise, one independent draw for each seed."""
        ...

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the predicted noise of x: (batch, channels, h, w), differentiable; t: int64."""
        ...

    def sample(self, noise: Tensor, sampler: str = "ddpm", seeds: Sequence[int] = ()) -> Tensor:
        """Return images in [0, 1] from start noise; seeds: of the noise a sampler adds itself."""
        ...

    def clone(self) -> Any:
        """Return a copy that shares no weights."""
        ...


class TextToImageTarget(
    GeneratesImages, EncodesText, DrawsStates, Denoises, EncodesImages, Protocol
):
    """All that a white-box attack on a text-to-image model may use."""
