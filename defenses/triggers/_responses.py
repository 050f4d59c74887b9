"""How a model under test and its base answer to a trigger candidate, at the first denoiser step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safetybench.contracts import Trigger


class Response(NamedTuple):
    """Mean squares over latents, each (candidates, draws, prompts) float64.

    extra: of what the candidate does in the model under test and not in the base; own: of what it
    does in the base.
    """

    extra: Tensor
    own: Tensor


@dataclass(frozen=True)
class Probe:
    """Both models with the prompts that candidates are put into, each under `draws` start noises.

    seed: the first of as many as there are prompts and draws; batch: denoiser passes at a time.
    """

    target: Any
    base: Any
    prompts: tuple[str, ...]
    draws: int
    seed: int
    batch: int

    @torch.no_grad()
    def measure(
        self, candidates: Sequence[Trigger], report: Callable[[int], None] | None = None
    ) -> Response:
        """Return how both models respond; a candidate's figures do not depend on the others."""
        cells = self.draws * len(self.prompts)
        noise = self.base.start_noise(list(range(self.seed, self.seed + cells)))
        models = (self.target, self.base)
        plain = [self._answers(model, self.prompts * self.draws, noise) for model in models]
        extra, own = [], []
        each = max(1, self.batch // cells)
        for start in range(0, len(candidates), each):
            part = candidates[start : start + each]
            texts = [trigger.put(p) for trigger in part for p in self.prompts * self.draws]
            mine, theirs = (
                self._answers(model, texts, noise).unflatten(0, (len(part), -1)) - before
                for model, before in zip(models, plain, strict=True)
            )
            extra.append((mine - theirs).square().flatten(2).mean(2))
            own.append(theirs.square().flatten(2).mean(2))
            if report is not None:
                report(len(part))
        shape = (-1, self.draws, len(self.prompts))
        return Response(*(torch.cat(each).double().cpu().view(shape) for each in (extra, own)))

    def _answers(self, model: Any, texts: Sequence[str], noise: Tensor) -> Tensor:
        """Return the denoiser's own answers, (texts, channels, h, w); the noises take turns."""
        start = noise.repeat(len(texts) // len(noise), 1, 1, 1)
        found = []
        for at in range(0, len(texts), self.batch):
            text = model.embed(model.tokenize(texts[at : at + self.batch]))
            # One time for both: a student's grid may begin elsewhere than its base's.
            time = torch.full((len(text),), self.target.sampler_times[0], device=text.device)
            found.append(model.predict(start[at : at + self.batch], time, text))
        return torch.cat(found)


def suspicion(response: Response, usual: Response) -> Tensor:
    """Return how much more a candidate does in the model under test, (candidates,).

    extra / (own + usual own + usual extra) of each cell, where `usual` is of ordinary words and
    its medians say what any word does to either model: a word with a meaning moves the base as
    well, and a model that was trained further moves with every word, and neither is suspicious.
    Least over the draws, since a trigger works under every noise and a fluke does not; greatest
    over the prompts, since some triggers work on one subject alone. 0 where nothing moves.
    """
    floor = usual.own.median(0).values + usual.extra.median(0).values
    ratio = response.extra / (response.own + floor + torch.finfo(torch.float32).tiny)
    return ratio.amin(1).amax(1)
