"""T2IShield: a trigger draws every token's attention to the same places; look for that.

One run of the native sampler a prompt, with its cross-attention maps recorded. Access: the
denoiser's attention; for the second statistic, labelled prompts of a model with a known backdoor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from safetybench.contracts import PromptDetector, SafetyBenchError
from safetybench.registry import register
from safetybench.targets.attention import recorded, token_maps

Statistic = Literal["ftt", "cda"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)


@register
@dataclass(frozen=True, kw_only=True)
class T2IShield(PromptDetector):
    """Assimilation of cross-attention maps (Wang et al. 2024), both of its detectors.

    statistic: "ftt" is the mean distance of token maps to their mean, low for a triggered prompt,
    so that the score is minus that (published threshold: 2.5 for SD 1.4 at 16x16, of no use to
    another model); "cda" is a linear discriminant of the maps' covariance, of `fit`.
    side: of the maps, published 16; the layers of the greatest side up to that are taken, or of
    the smallest there is. components: of the covariance, published 20. batch: images at a time.
    weights, bias: of the discriminant, made by `fit`.

    Maps are averaged over heads, layers and steps and scaled to a greatest value of 1, as
    published; not rounded to 8 bits, and the mean is over the same tokens as the distances, where
    the released code takes one token of padding more. The released covariance is of principal
    components, whose logarithm has no entries off its diagonal: the features here are that.
    """

    statistic: Statistic = "ftt"
    side: int = 16
    components: int = 20
    batch: int = 32
    weights: tuple[float, ...] = ()
    bias: float = 0.0

    source: ClassVar[str] = "https://arxiv.org/abs/2407.04215"

    def __post_init__(self) -> None:
        if self.statistic not in STATISTICS:
            raise ValueError(
                f"statistic must be one of {', '.join(STATISTICS)}, got {self.statistic!r}"
            )
        if min(self.side, self.components, self.batch) < 1:
            raise ValueError(
                "side, components and batch must be 1 or more, got "
                f"{self.side}, {self.components}, {self.batch}"
            )

    def scores(
        self, target: Any, prompts: Sequence[str], seeds: Sequence[int], base: Any = None
    ) -> Tensor:
        """Return (batch,) scores; see `PromptDetector.scores`.

        Raises:
            SafetyBenchError: the statistic is "cda", and nothing was fitted.
        """
        if self.statistic == "ftt":
            found = [-spread(maps[:last]) for maps, last in self._maps(target, prompts, seeds)]
            return torch.stack(found) if found else torch.zeros(0)
        if not self.weights:
            raise SafetyBenchError(
                "t2i_shield with statistic='cda' must be fitted on labelled prompts first; "
                "statistic='ftt' needs none"
            )
        weights = torch.tensor(self.weights, dtype=torch.float64)
        return (self._features(target, prompts, seeds) @ weights + self.bias).float()

    def fit(
        self, target: Any, clean: Sequence[str], triggered: Sequence[str], seed: int = 0
    ) -> T2IShield:
        """Return the detector with its discriminant; "ftt" learns nothing."""
        if self.statistic == "ftt":
            return self
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        prompts = [*clean, *triggered]
        features = self._features(target, prompts, range(seed, seed + len(prompts)))
        labels = [0] * len(clean) + [1] * len(triggered)
        fitted = LinearDiscriminantAnalysis().fit(features.numpy(), labels)
        return replace(
            self,
            weights=tuple(map(float, fitted.coef_[0])),
            bias=float(fitted.intercept_[0]),
        )

    def _features(self, target: Any, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        found = [
            log_spectrum(maps, self.components) for maps, _ in self._maps(target, prompts, seeds)
        ]
        return torch.stack(found) if found else torch.zeros(0, self.components).double()

    @torch.no_grad()
    def _maps(
        self, target: Any, prompts: Sequence[str], seeds: Sequence[int]
    ) -> Iterator[tuple[Tensor, int]]:
        """Yield each prompt's maps (tokens, side, side) and how many are of words and the end."""
        for start in range(0, len(prompts), self.batch):
            ids = target.tokenize(prompts[start : start + self.batch])
            given = list(seeds[start : start + self.batch])
            with recorded(target.unet) as kept:
                target.sample_latents(target.embed(ids), target.start_noise(given), seeds=given)
            layers = [_mean(passes, len(ids)) for passes in kept.layers.values()]
            edges = [round(layer.shape[2] ** 0.5) for layer in layers]
            edge = max((each for each in edges if each <= self.side), default=min(edges))
            chosen = [layer for layer, each in zip(layers, edges, strict=True) if each == edge]
            maps = token_maps(chosen, edge)[:, 1:]  # the start token's is of no word
            ends = (ids[:, 1:] == target.tokenizer.eos_token_id).int().argmax(1) + 1
            peak = maps.flatten(2).amax(2)[..., None, None].clamp(min=1e-12)
            yield from zip((maps / peak).cpu(), ends.tolist(), strict=True)


def spread(maps: Tensor) -> Tensor:
    """Return the mean Frobenius distance of maps (tokens, h, w) to their mean map."""
    distances: Tensor = (maps - maps.mean(0)).flatten(1).norm(dim=1)
    return distances.mean()


def log_spectrum(maps: Tensor, components: int) -> Tensor:
    """Return logarithms of the greatest eigenvalues of the maps' covariance, (components,).

    maps: (tokens, h, w). There are at most as many as tokens less one, and as pixels: what is
    asked for beyond is the logarithm of the least number that counts, 1e-12.
    """
    rows = maps.flatten(1).double()
    spectrum = torch.linalg.svdvals(rows - rows.mean(0)).square() / (len(rows) - 1)
    found = torch.zeros(components, dtype=torch.float64)
    count = min(components, len(spectrum))
    found[:count] = spectrum[:count]
    return found.clamp(min=1e-12).log()


def _mean(passes: Sequence[Tensor], count: int) -> Tensor:
    """Return one layer's maps of the prompts' own passes, averaged over the steps.

    With classifier-free guidance the empty prompt comes first in each pass, then the prompt.
    """
    first = count if len(passes[0]) > count else 0
    return torch.stack([each[first : first + count] for each in passes]).mean(0)
