"""A text-to-image model of the SDXL family: two text encoders, a pooled state and image sizes.

Text states stay one tensor, so that whatever holds, joins or optimises them need not know: its
last row carries the pooled state, padded with zeros to the width of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from safetybench.contracts import Unavailable
from safetybench.targets.text_to_image import TextToImage


class TextToImageXL(TextToImage):
    """A target over the parts of a StableDiffusionXLPipeline.

    Text states are (batch, length + 1, width of both encoders). Token ids are those of the first
    tokenizer: both have one vocabulary, and the second's padding follows. SDXL pads the second
    with "!", which plain diffusers splits off words there and this class does not: prompts with
    exclamation marks differ a little. The token table holds the rows of both encoders side by
    side, so that inserted rows reach both.
    """

    pipeline = "StableDiffusionXLPipeline"

    def __init__(
        self,
        *,
        text_encoder_2: Any,
        tokenizer_2: Any,
        force_zeros_for_empty_prompt: bool = True,
        **parts: Any,
    ) -> None:
        self.text_encoder_2 = text_encoder_2.eval().requires_grad_(False)
        self.tokenizer_2 = tokenizer_2
        self.force_zeros_for_empty_prompt = force_zeros_for_empty_prompt
        self._refuse(parts)
        super().__init__(**parts)
        self._table: tuple[object, Tensor] | None = None
        height, width = (side * self._pixels_per_latent for side in self.latent_shape[1:])
        # Original size, top left corner of the crop, target size: a whole image at native size.
        sizes = torch.tensor([[height, width, 0, 0, height, width]])
        self._time_ids = sizes.to(self.device, self.dtype)

    def _refuse(self, parts: Mapping[str, Any]) -> None:
        if parts["tokenizer"].get_vocab() != self.tokenizer_2.get_vocab():
            raise Unavailable("the two tokenizers have different vocabularies: not supported")
        config, other = parts["text_encoder"].config, self.text_encoder_2.config
        if config.max_position_embeddings != other.max_position_embeddings:
            raise Unavailable("the two text encoders take texts of different length: not supported")
        if other.projection_dim > config.hidden_size + other.hidden_size:
            raise Unavailable("the pooled state is wider than the text states: not supported")
        sizes = parts["unet"].config
        taken = sizes.get("projection_class_embeddings_input_dim")
        if taken != 6 * (sizes.get("addition_time_embed_dim") or 0) + other.projection_dim:
            raise Unavailable(
                "the denoiser does not take a pooled text and six image sizes: not a base model "
                "of SDXL"
            )

    @classmethod
    def _beside_parts(cls, pipeline: Any) -> dict[str, Any]:
        return {"force_zeros_for_empty_prompt": pipeline.config.force_zeros_for_empty_prompt}

    @staticmethod
    def _corrected(scheduler: Any) -> Any:
        return scheduler  # its pipeline takes a scheduler as it is

    @property
    def token_table(self) -> Tensor:
        """The embedding tables of both encoders side by side: (vocabulary, width)."""
        tables = [encoder.get_input_embeddings().weight for encoder in self._encoders]
        version = [(id(table), table._version) for table in tables]
        if self._table is None or self._table[0] != version:
            with torch.inference_mode(False), torch.no_grad():
                self._table = (version, torch.cat(tables, 1))
        return self._table[1]

    @property
    def null_text(self) -> Tensor:
        """Return the text states of no prompt, (1, length + 1, width): zeros where SDXL says so."""
        if not self.force_zeros_for_empty_prompt:
            return super().null_text
        width = sum(encoder.config.hidden_size for encoder in self._encoders)
        return torch.zeros(1, self.length + 1, width, device=self.device, dtype=self.dtype)

    @property
    def _encoders(self) -> tuple[Any, ...]:
        return (self.text_encoder, self.text_encoder_2)

    def _states(self, ids: Tensor) -> Tensor:
        first = self.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
        second = self.text_encoder_2(self._second_ids(ids), output_hidden_states=True)
        states = torch.cat([first, second.hidden_states[-2]], -1)  # (batch, length, width)
        missing = states.shape[-1] - second.text_embeds.shape[-1]
        pooled = functional.pad(second.text_embeds, (0, missing))[:, None]
        return torch.cat([states, pooled], 1)

    def _second_ids(self, ids: Tensor) -> Tensor:
        """Return ids as the second tokenizer pads them: what is behind the end differs."""
        is_end = (ids == self.tokenizer.eos_token_id).int()
        is_padding = is_end.cumsum(1) - is_end > 0
        return ids.masked_fill(is_padding, int(self.tokenizer_2.pad_token_id))

    def _conditions(self, text: Tensor, guidance: Tensor | None) -> dict[str, Any]:
        pooled = text[:, -1, : self.text_encoder_2.config.projection_dim]
        added = {
            "text_embeds": pooled.to(self.dtype),
            "time_ids": self._time_ids.expand(len(text), -1),
        }
        return {**super()._conditions(text, guidance), "added_cond_kwargs": added}

    def attended(self, text: Tensor) -> Tensor:
        """Return text states without the pooled embedding that rides in their last row."""
        return text[:, :-1]
