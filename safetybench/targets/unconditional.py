"""An unconditional diffusion model under test: a diffusers DDPMPipeline, opened up.

Start noise is the caller's, since that is where triggers of such models are. Networks predict
noise; pixels are in [0, 1] outside and in [-1, 1] inside.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from safetybench.contracts import TargetFailed
from safetybench.distill.process import Process
from safetybench.targets.quiet import quiet
from safetybench.targets.saving import save_part

_PIPELINES = ("DDPMPipeline", "DDIMPipeline")
_SAMPLER = re.compile(r"(?:(ddpm)|ddim-([1-9][0-9]*))(-clipped)?")
_WEIGHTS = "diffusion_pytorch_model.safetensors"


class Unconditional:
    """A target for noise triggers; see `safetybench.contracts.SamplesNoise`.

    nfe: network evaluations so far, one for each image and denoiser pass. digest: SHA-256 of the
    files it was loaded from, "" for a model made in memory.
    """

    def __init__(self, *, unet: Any, scheduler: Any, name: str, digest: str = "") -> None:
        kind = scheduler.config.prediction_type
        if kind != "epsilon":
            raise ValueError(f"an unconditional target must predict epsilon, got {kind!r}")
        self.unet, self.scheduler = unet.eval().requires_grad_(False), scheduler
        self.name, self.digest, self.nfe = name, digest, 0
        self.process = Process.from_scheduler(scheduler).to(self.device)

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> Unconditional:
        """Load a directory that `DDPMPipeline.save_pretrained` wrote; safetensors alone.

        Raises:
            TargetFailed: the directory is no such pipeline, is incomplete or holds pickles.
        """
        import diffusers

        path = Path(folder)
        files = _files(path)
        try:
            with quiet():
                unet, info = diffusers.UNet2DModel.from_pretrained(
                    files["unet"].parent,
                    use_safetensors=True,
                    local_files_only=True,
                    output_loading_info=True,
                )
            config = json.loads(files["scheduler"].read_text(encoding="utf-8"))
            # Any scheduler's: of it the noise process and its variance are read, not its steps.
            scheduler = diffusers.DDPMScheduler.from_config(config)
            if info["missing_keys"]:
                raise ValueError(f"its weights lack {sorted(info['missing_keys'])[0]}")
            digest = hashlib.sha256(b"".join(file.read_bytes() for file in files.values()))
            return cls(
                unet=unet.to(device), scheduler=scheduler, name=path.name, digest=digest.hexdigest()
            )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            first = str(error).replace(str(path), path.name).strip().partition("\n")[0]
            raise TargetFailed(f"could not load {path.name!r}: {first}") from error

    # What it is

    @property
    def device(self) -> torch.device:
        """Return where the denoiser lives."""
        return cast(torch.device, self.unet.device)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (channels, height, width) of one image."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return (self.unet.config.in_channels, height, width)

    # Black box

    def start_noise(self, seeds: Sequence[int]) -> Tensor:
        """Return standard normal start noise, one independent draw for each seed, of the CPU."""
        drawn = [torch.randn(self.shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return torch.stack(drawn).to(self.device)

    @torch.no_grad()
    def sample(self, noise: Tensor, sampler: str = "ddpm", seeds: Sequence[int] = ()) -> Tensor:
        """Return images, (batch, channels, height, width) in [0, 1].

        sampler: "ddpm", every time of the process and noise added at each; "ddim-N",
        deterministic, N times, the first the noisiest; with "-clipped" behind it, what each step
        takes for the clean image is cut to the range of pixels. seeds: of ddpm's own noise, one
        an image, 0, 1, 2... if left out.
        """
        steps, is_clipped = self._parse(sampler)
        chosen = list(seeds) or list(range(len(noise)))
        if len(chosen) != len(noise):
            raise ValueError(f"seeds must be one for each of {len(noise)} images, got {len(seeds)}")
        # Not the start's generator: its first numbers would be the start noise once more.
        drawers = [torch.Generator().manual_seed(s + 2**40) for s in chosen]
        times = _times(self.process.steps, steps or self.process.steps)
        x = noise
        for now, then in zip(times, [*times[1:], -1], strict=True):
            t = torch.full((len(x),), now, device=x.device)
            said = self.predict(x, t)
            clean = (x - self.process.sigma(t) * said) / self.process.alpha(t)
            if is_clipped:
                clean = clean.clamp(-1, 1)
                said = (x - self.process.alpha(t) * clean) / self.process.sigma(t)
            if steps:
                x = self._to(clean, said, then)
            else:
                drawn = [torch.randn(self.shape, generator=each) for each in drawers]
                x = self._ancestral(x, clean, now, torch.stack(drawn).to(x))
        return (x / 2 + 0.5).clamp(0, 1)

    # White box

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the predicted noise, (batch, channels, height, width); t: (batch,) int64."""
        self.nfe += len(x)
        return cast(Tensor, self.unet(x, t).sample)

    def clone(self) -> Unconditional:
        """Return a copy that shares no weights."""
        return Unconditional(
            unet=copy.deepcopy(self.unet), scheduler=self.scheduler, name=self.name
        )

    def trainable(self) -> tuple[Unconditional, list[torch.nn.Parameter]]:
        """Return a copy whose weights learn, and these weights."""
        student = self.clone()
        student.unet.requires_grad_(True)
        return student, list(student.unet.parameters())

    def save(self, folder: str | Path) -> Path:
        """Write a DDPMPipeline directory and return it."""
        import diffusers

        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        for part in ("unet", "scheduler"):
            save_part(getattr(self, part), path / part)
        index = {
            "_class_name": "DDPMPipeline",
            "_diffusers_version": diffusers.__version__,
            "scheduler": ["diffusers", "DDPMScheduler"],
            "unet": ["diffusers", "UNet2DModel"],
        }
        (path / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        return path

    # Steps

    def _parse(self, sampler: str) -> tuple[int, bool]:
        """Return the number of deterministic steps, 0 for ddpm, and whether it clips."""
        found = _SAMPLER.fullmatch(sampler)
        if not found or int(found[2] or 1) > self.process.steps:
            raise ValueError(
                f"sampler is ddpm or ddim-N with N in 1 to {self.process.steps}, with -clipped "
                f"behind it or not, got {sampler!r}"
            )
        return int(found[2] or 0), bool(found[3])

    def _to(self, clean: Tensor, noise: Tensor, then: int) -> Tensor:
        if then < 0:
            return clean
        t = torch.full((len(clean),), then, device=clean.device)
        return self.process.add(clean, noise, t)

    def _ancestral(self, x: Tensor, clean: Tensor, now: int, noise: Tensor) -> Tensor:
        """Draw from q(x_{t-1} | x_t, x_0), with the variance that the scheduler was made for."""
        table = self.process.alphas_cumprod
        here, before = float(table[now]), float(table[now - 1]) if now else 1.0
        beta = 1 - here / before
        mean: Tensor = before**0.5 * beta / (1 - here) * clean
        mean = mean + (here / before) ** 0.5 * (1 - before) / (1 - here) * x
        is_large = str(self.scheduler.config.variance_type).startswith("fixed_large")
        variance = beta if is_large else beta * (1 - before) / (1 - here)
        return mean + variance**0.5 * noise if now else mean


def _times(total: int, count: int) -> list[int]:
    """Return `count` times, evenly spaced downwards from the noisiest: "trailing" spacing.

    >>> _times(100, 4)
    [99, 74, 49, 24]
    """
    return [round(total - k * total / count) - 1 for k in range(count)]


def _files(path: Path) -> dict[str, Path]:
    """Return the files that make the pipeline; older releases keep them without folders."""
    name = path.name
    try:
        index = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TargetFailed(
            f"{name!r} must be a directory with a model_index.json that can be read; save a "
            "DDPMPipeline with save_pretrained"
        ) from error
    if index.get("_class_name") not in _PIPELINES:
        raise TargetFailed(
            f"{name!r} must be a {' or '.join(_PIPELINES)}, got {index.get('_class_name')!r}"
        )
    unet, scheduler = ((path / p if (path / p).is_dir() else path) for p in ("unet", "scheduler"))
    files = {
        "config": unet / "config.json",
        "unet": unet / _WEIGHTS,
        "scheduler": scheduler / "scheduler_config.json",
    }
    for file in files.values():
        if file.is_file():
            continue
        if file.name == _WEIGHTS and file.with_suffix(".bin").is_file():
            raise TargetFailed(
                f"{name!r} holds its weights as a pickle, which can run code; load it where you "
                "trust it and save it with safe_serialization=True"
            )
        raise TargetFailed(f"{name!r} has no {file.relative_to(path)}")
    return files
