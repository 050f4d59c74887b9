"""Anti-DreamBooth: make images that a model learns badly from, with a surrogate learning in turns.

White box: full gradients through denoiser and image encoder of a surrogate, and its weights, which
learn the images meanwhile as a mimic's would. An album is one set: its images share a surrogate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from safetybench.contracts import (
    Album,
    Budget,
    Denoises,
    EncodesImages,
    EncodesText,
    ImageProtection,
)
from safetybench.registry import register

from ._alternation import Alternation, Turns
from ._descent import Climb
from ._score import protected


@register
@dataclass(frozen=True, kw_only=True)
class Aspl(Turns, ImageProtection):
    """Climb the denoising loss of a surrogate that learns alternately (Van Le et al. 2023).

    Every `pgd_steps` steps the surrogate takes `surrogate_steps` on the images protected so far;
    a copy of it takes as many on the clean ones and is then attacked. warmup: steps on the clean
    images before all that. With surrogate_steps 0, warmup is FSMG (a fully trained surrogate),
    and without warmup the surrogate is the model as it is.
    prompt: what the mimic will call the images; class_prompt: of `class_images` pictures that the
    model draws and the surrogate is to keep, with the weight `prior`; "" for none. lr: of AdamW;
    batch: pictures a step. rate: of the climb, in units of epsilon. surrogate_dtype: of the
    surrogate's denoiser; in "bfloat16", as released, steps of the published lr are rounded away
    for all weights above 1e-4, and ASPL is nearly the attack on the model as it is.

    Published: 50 rounds of 3 and 6 steps, lr 5e-7, prior 1 with 200 class images, batch 1, for
    people ("a photo of sks person"). lr, batch, prompts and class_images are for the zoo. Departs
    from the code: the surrogate learns from the same images that are protected, not from others
    of the person; the text encoder does not learn; latents are the posterior's mean; times and
    noises are an image's own. A few-step surrogate learns and is attacked at its own times.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2303.15433"
    needs: ClassVar[tuple[type, ...]] = (EncodesImages, Denoises, EncodesText)
    sees: ClassVar[str] = "weights of the surrogate, which it trains"
    # 0.05 of [-1, 1]; 50 rounds of 6 steps.
    published: ClassVar[Budget] = Budget(epsilon=0.025, steps=300)

    def climb(self, target: Any, album: Album, seed: int = 0) -> Climb:
        """Return the climb, and as losses the denoising errors of the surrogate of the step.

        Steps must come in order: the surrogate learns between them.
        """
        return Alternation(self, target, album, seed, name="aspl").climb

    def protect(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Tensor:
        """Return the album's images, protected; see `ImageProtection.protect`."""
        climb = self.climb(target, album, budget.seed)
        return protected(target, album, climb, budget, rate=self.rate, report=report)
