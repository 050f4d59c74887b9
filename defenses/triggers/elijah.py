"""Elijah: search start noise for a pattern that the denoiser passes on, and train it away.

For unconditional models with noise triggers. White box: gradients of the denoiser to its input,
and images that the model draws. Detection needs no clean model; removal needs clean images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from safetybench.contracts import Budget, ModelDetector, SamplesNoise, Suspicion
from safetybench.distill.training import tune
from safetybench.distill.views import draw
from safetybench.registry import register

from ._inversion import STARTS, Start, check_starts, start, uniformity


class Candidate(NamedTuple):
    """Where one search ended: trigger (channels, h, w), its loss, and how alike its images are.

    uniformity: mean distance of images from triggered noise, in [0, 1]; 0 is one image alone.
    """

    start: str
    trigger: Tensor
    loss: float
    uniformity: float


class Inversion(NamedTuple):
    """All candidates, most uniform first, beside the uniformity of images from clean noise."""

    candidates: tuple[Candidate, ...]
    clean: float

    @property
    def score(self) -> float:
        """How much more uniform the best candidate is: 0 not at all, 1 it is one image alone."""
        return 1 - self.candidates[0].uniformity / max(self.clean, 1e-9)


@register
@dataclass(frozen=True, kw_only=True)
class Elijah(ModelDetector):
    """Trigger inversion by the shift of the mean, and its removal (An et al. 2024).

    shift: share of the trigger that the denoiser is to hand on at the noisiest time, published 0.5
    for samplers that add noise and 1 for deterministic ones (VillanDiffusion's "ode"); lr: of Adam,
    published 0.1; batch: noises of the search, published 100 at 32 pixels. starts: published
    "negative" alone, "both" for "ode"; the search depends on it, so that several share
    budget.steps (published 100 for the one, 10 for "ode"). sampler: what draws the images to
    compare; starts and clean noise share budget.images (published 16 for the one start).

    Departs from the paper in comparing images by pixels where it uses LPIPS, and in scoring a
    model by its uniformity against that of its own clean noise, where the paper trains a random
    forest on uniformity and total variation: thresholds are to be calibrated on clean models.
    """

    shift: float = 0.5
    lr: float = 0.1
    batch: int = 100
    starts: tuple[Start, ...] = STARTS
    sampler: str = "ddpm"
    removal_lr: float = 2e-4
    removal_batch: int = 64

    source: ClassVar[str] = "https://arxiv.org/abs/2312.00050"
    needs: ClassVar[tuple[type, ...]] = (SamplesNoise,)
    uses_base: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_starts(self.starts)
        if min(self.shift, self.lr, self.removal_lr, self.batch, self.removal_batch) <= 0:
            raise ValueError(
                "shift, lr, batch, removal_lr and removal_batch must be positive, got "
                f"{self.shift}, {self.lr}, {self.batch}, {self.removal_lr}, {self.removal_batch}"
            )

    def examine(self, target: Any, base: Any, budget: Budget, report: Any = None) -> Suspicion:
        """Return how uniform the best trigger found makes the images; `base` is not read."""
        found = self.invert(target, budget, report)
        best = found.candidates[0]
        return Suspicion(
            score=found.score,
            evidence=[(f"start {c.start}", c.uniformity) for c in found.candidates],
            note=f"Images from noise with the pattern found differ by {best.uniformity:.3f}, from "
            f"clean noise by {found.clean:.3f}.",
        )

    def invert(self, target: Any, budget: Budget, report: Any = None) -> Inversion:
        """Return the triggers that the searches ended at, the one that acts most first."""
        steps, images = budget.steps // len(self.starts), budget.images // (len(self.starts) + 1)
        if steps < 1 or images < 3:
            raise ValueError(
                f"budget must have a step for each of {len(self.starts)} starts and three images "
                f"for each and for clean noise, got {budget.steps} steps, {budget.images} images"
            )
        rng = torch.Generator().manual_seed(budget.seed)
        seeds = [budget.seed * 100_003 + i for i in range(images)]
        noise = target.start_noise(seeds)
        candidates = []
        for kind in self.starts:
            trigger, loss = self._search(target, kind, steps, rng, report)
            drawn = target.sample(noise + trigger, self.sampler, seeds)
            candidates.append(Candidate(kind, trigger, loss, uniformity(drawn)))
        clean = uniformity(target.sample(noise, self.sampler, seeds))
        return Inversion(tuple(sorted(candidates, key=lambda c: c.uniformity)), clean)

    def loss(self, target: Any, noise: Tensor, trigger: Tensor) -> Tensor:
        """Return | mean e(z + tau, T) - shift tau |_1, averaged over pixels; see the class.

        noise: (batch, channels, h, w); trigger: (channels, h, w).
        """
        t = torch.full((len(noise),), target.process.steps - 1, device=noise.device)
        said: Tensor = target.predict(noise + trigger, t)
        return (said.mean(0) - self.shift * trigger).abs().mean()

    def _search(
        self, target: Any, kind: Start, steps: int, rng: torch.Generator, report: Any
    ) -> tuple[Tensor, float]:
        noise = torch.randn((self.batch, *target.shape), generator=rng).to(target.device)
        trigger = start(kind, target.shape, rng).to(target.device).requires_grad_()
        optimiser = torch.optim.Adam([trigger], lr=self.lr)
        value = torch.zeros(())
        for step in range(steps):
            value = self.loss(target, noise, trigger)
            (trigger.grad,) = torch.autograd.grad(value, trigger)
            optimiser.step()
            if report is not None and step % 10 == 0:
                report(step, value.item())
        return trigger.detach(), value.item()

    def remove(
        self, target: Any, trigger: Tensor, images: Tensor, budget: Budget, report: Any = None
    ) -> Any:
        """Return a target trained to answer triggered noise as it answers clean noise.

        trigger: (channels, h, w); images: (count, channels, h, w) in [0, 1], clean ones, published
        a tenth of the training data. budget.steps: training steps; removal_lr: of AdamW.
        """
        student = target.clone()
        weights = list(student.unet.requires_grad_(True).parameters())
        pictures = images.to(target.device) * 2 - 1
        process = target.process

        def loss_at(step: int, rng: torch.Generator) -> Tensor:
            x = pictures[draw(len(pictures), self.removal_batch, rng).to(pictures.device)]
            t = torch.randint(process.steps, (len(x),), generator=rng).to(x.device)
            noise = torch.randn(x.shape, generator=rng).to(x)
            fresh = torch.randn(x.shape, generator=rng).to(x)
            last = torch.full_like(t, process.steps - 1)
            with torch.no_grad():
                wanted = target.predict(fresh, last)
            # One pass for the three terms: the clean loss, and triggered and clean noise at T.
            seen = torch.cat([process.add(x, noise, t), fresh + trigger, fresh])
            said = student.predict(seen, torch.cat([t, last, last])).chunk(3)
            pairs = zip(said, (noise, wanted, wanted), strict=True)
            return torch.stack([(a - b).square().mean() for a, b in pairs]).sum()

        tune(weights, loss_at, steps=budget.steps, lr=self.removal_lr, seed=budget.seed,
             report=report)  # fmt: skip
        return student
