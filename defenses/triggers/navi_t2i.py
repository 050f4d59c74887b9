"""NaviT2I: a trigger token moves the denoiser more than its meaning accounts for.

Each token in turn is replaced by padding; what that does to activations at the first step is
divided by what it does to the text states of a trusted encoder. Access: weights of the denoiser,
and a base for the trusted encoder; one denoiser pass a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from safetybench.contracts import Denoises, EncodesText, PromptDetector
from safetybench.registry import register

# Function words and signs that are one token of CLIP; a list of our own for NLTK's.
_STOP = (
    "a about after all am an and any are as at be been before being below between both but by can "
    "did do does doing down during each few for from further had has have having he her here him "
    "his how i if in into is it its just me more most my no nor not now of off on once only or "
    "other our out over own same she should so some such than that the their them then there "
    "these they this those through to too under until up very was we were what when where which "
    "while who why will with you your . , ? ! : ;"
)


@register
@dataclass(frozen=True, kw_only=True)
class NaviT2I(PromptDetector):
    """Early-step activation variation (Zhai et al. 2025): max over the mean of the lowest 75 %.

    share: of the tokens that the mean is over, published 0.75. stop: words whose tokens are left
    out, apart by spaces (published: NLTK's English list and signs). batch: denoiser passes at a
    time, the prompt's own among them. Published threshold 1.598, of SD 1.4 alone.

    Without a base the model's own encoder is taken for the trusted one: a backdoor in that
    encoder then moves both sides of the ratio and may hide. A prompt with no token to replace
    scores 1, as one in which no token stands out.
    """

    share: float = 0.75
    stop: str = _STOP
    batch: int = 32

    source: ClassVar[str] = "https://arxiv.org/abs/2503.06453"
    needs: ClassVar[tuple[type, ...]] = (EncodesText, Denoises)
    uses_base: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.batch < 2:
            raise ValueError(
                f"share must be in (0, 1] and batch 2 or more, got {self.share} and {self.batch}"
            )

    def scores(
        self, target: Any, prompts: Sequence[str], seeds: Sequence[int], base: Any = None
    ) -> Tensor:
        """Return (batch,) scores; see `PromptDetector.scores`."""
        skipped = set(target.tokenizer.all_special_ids)
        for word in self.stop.split():
            ids = target.tokenizer(word, add_special_tokens=False).input_ids
            skipped |= set(ids) if len(ids) == 1 else set()
        found = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            ratios = self._ratios(target, base or target, prompt, seed, skipped)
            found.append(self._score(ratios))
        return torch.tensor(found)

    def _score(self, ratios: Tensor) -> float:
        if not len(ratios):
            return 1.0
        low = ratios.sort().values[: max(1, int(len(ratios) * self.share))].mean()
        return float(ratios.max() / low.clamp(min=torch.finfo(low.dtype).tiny))

    @torch.no_grad()
    def _ratios(
        self, target: Any, trusted: Any, prompt: str, seed: int, skipped: set[int]
    ) -> Tensor:
        """Return each counted token's variation over the move of its text states, (tokens,)."""
        (ids,) = target.tokenize([prompt])
        places = [i for i, token in enumerate(ids.tolist()) if i and token not in skipped]
        masked = ids.repeat(len(places), 1)
        masked[range(len(places)), places] = target.tokenizer.pad_token_id
        noise = target.start_noise([seed])
        found = []
        for part in masked.split(self.batch - 1):
            rows = torch.cat([ids[None], part])
            states = trusted.embed(rows)
            moved = (states[1:] - states[:1]).flatten(1).norm(dim=1)
            varied = _variation(target, noise, target.embed(rows))
            found.append(varied / moved.clamp(min=torch.finfo(moved.dtype).tiny))
        return torch.cat(found).float().cpu() if found else torch.zeros(0)


def _variation(target: Any, noise: Tensor, text: Tensor) -> Tensor:
    """Return how far all rows' activations are from the first row's, (rows - 1,).

    Mean absolute difference of each linear and convolutional layer's output, summed over layers;
    of a convolution's, the mean over the image.
    """
    total = torch.zeros(len(text) - 1, device=text.device)

    def look(module: nn.Module, args: Any, output: Tensor) -> None:
        if len(output) == len(text):  # of what depends on the time alone there may be one row
            rows = output.mean((2, 3)) if output.ndim == 4 else output
            total.add_((rows[1:] - rows[:1]).abs().flatten(1).mean(1))

    with _hooked(target.unet, look):
        time = torch.full((len(text),), target.sampler_times[0], device=text.device)
        target.predict(noise.expand(len(text), -1, -1, -1), time, text)
    return total


@contextmanager
def _hooked(unet: nn.Module, look: Any) -> Iterator[None]:
    hooks = [
        module.register_forward_hook(look)
        for module in unet.modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
