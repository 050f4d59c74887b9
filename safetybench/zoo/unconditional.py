"""A small unconditional model of the embedded world, trained where it is needed and not shipped.

Two minutes on one core. It is what noise triggers are planted in: no text, no latents.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor

from safetybench.targets.unconditional import Unconditional
from safetybench.zoo.fit import Fit, fit
from safetybench.zoo.world import render, sample_scenes

SIZE, TIMES = 16, 100
STEPS, BATCH, LR = 1800, 32, 6e-3
_SCENES = 8192


def new_scheduler() -> DDPMScheduler:
    """Return a hundred times from clean to 0.2 % signal power left."""
    return DDPMScheduler(
        num_train_timesteps=TIMES,
        beta_start=1e-3,
        beta_end=0.12,
        beta_schedule="linear",
        clip_sample=False,
        variance_type="fixed_small",
    )


def new_unet(size: int = SIZE, widths: tuple[int, ...] = (16, 32, 48)) -> UNet2DModel:
    """Return an untrained denoiser of 451,000 weights; widths: channels at each halved size.

    Few groups, and times that scale: with the defaults and a third of the learning rate the
    error at the noisiest times is 2.6 times as large after 250 steps, and a backdoor,
    which needs these times exact, is hardly learnt.
    """
    return UNet2DModel(
        sample_size=size,
        block_out_channels=widths,
        down_block_types=("DownBlock2D",) * len(widths),
        up_block_types=("UpBlock2D",) * len(widths),
        layers_per_block=1,
        norm_num_groups=2,
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=8,
    )


def world_images(count: int, seed: int, size: int = SIZE) -> Tensor:
    """Return renders of random scenes, (count, 3, size, size) in [0, 1]."""
    return render(sample_scenes(count, torch.Generator().manual_seed(seed)), size)


def train_unconditional(
    *,
    seed: int,
    size: int = SIZE,
    steps: int = STEPS,
    lr: float = LR,
    start: Unconditional | None = None,
    checkpoint: Path | None = None,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> Unconditional:
    """Train on renders that no other seed has, with averaged weights; start: go on from it.

    steps: of 32 images each; 1800 take two minutes. checkpoint: file for exact resume.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = new_unet(size) if start is None else start.clone().unet
    unet.train().requires_grad_(True)
    found = Unconditional(unet=unet, scheduler=new_scheduler(), name=f"unconditional-{seed}")
    unet.train().requires_grad_(True)
    images = world_images(_SCENES, random.Random(f"unconditional/{seed}").getrandbits(40), size)

    def loss_at(step: int, rng: torch.Generator) -> Tensor:
        x = images[torch.randint(len(images), (BATCH,), generator=rng)] * 2 - 1
        t = torch.randint(TIMES, (BATCH,), generator=rng)
        noise = torch.randn(x.shape, generator=rng)
        said = found.predict(found.process.add(x, noise, t), t)
        return (said - noise).square().mean()

    decay = 0.995 if steps >= 1000 else 0.98
    plan = Fit(steps=steps, lr=lr, ema=decay, seed=seed, save_every=200)
    fit(unet, loss_at, plan, checkpoint=checkpoint, report=report)
    unet.eval().requires_grad_(False)
    found.nfe = 0
    return found
