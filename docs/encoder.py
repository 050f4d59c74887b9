"""Is the encoder what image protection breaks? `python -m docs.encoder --measure` finds out.

Two figures of the finding of Xue et al. (2024), on the zoo's teacher: how much further a protection
moves the latent than the pixels, beside noise of the same size; and how much of the denoising
loss's gradient is signal, at each time of the process. The page is written from what was measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from docs.markdown import NOTE, table

FILE = Path(__file__).resolve().parent / "results" / "encoder.json"
COMMAND = "python -m docs.encoder --measure"
TARGET = "zoo:teacher"
COUNT, STEPS, DRAWS, SEED = 64, 60, 16, 605
LEVELS = (8, 16)
TIMES = (20, 100, 200, 300, 400, 500, 600, 700, 800, 900)
NOISE = "sign_noise"
METHODS: Mapping[str, Mapping[str, Any]] = {
    NOISE: {},
    "photoguard_encoder": {},
    "mist": {},
    "advdm": {},
    "sds": {"sign": "down"},
    "ace": {},
}
_ABOUT = """\
Diff-Protect (2311.12832) says that of a latent diffusion model the encoder is what gives way: a
small change of the pixels becomes a large one of the latent, while the denoiser's own gradient is
mostly noise. Both were measured on the zoo's teacher, whose latents are 8x8."""
_ABOUT_SHIFT = """\
A: relative shift of the latent over the relative shift of the pixels (L2), mean over images with a
95 % bootstrap interval. Ratio: to sign noise of the same epsilon on the same images; the interval
is that of the mean of the images' ratios. The spec of this suite expects 5 or more of an attack
that aims at the encoder."""
_ABOUT_SNR = """\
|E g|^2 / E|g - E g|^2 of the gradient g of the denoising loss in the latent, over draws of the
noise, without the bias of few draws. 1 is as much signal as noise in one draw. Median over images,
with a 95 % bootstrap interval of the median."""


def measure() -> dict[str, Any]:
    """Return both figures, JSON-safe; about four minutes on one core."""
    import torch

    from safetybench import registry
    from safetybench.contracts import Album, Budget
    from safetybench.metrics.encoder import amplification, gradient_snr
    from safetybench.pixels import rounded
    from safetybench.targets.loading import load_target
    from safetybench.zoo.world import render, sample_scenes

    target = load_target(TARGET, device="cpu")
    scenes = sample_scenes(COUNT, torch.Generator().manual_seed(900_000_000 + SEED))
    album = Album(images=rounded(render(scenes)), ids=tuple(f"encoder-{i}" for i in range(COUNT)))
    shifts = []
    for levels in LEVELS:
        floor = None
        for name, options in METHODS.items():
            component = registry.create(f"defenses/images/{name}", options)
            budget = Budget(steps=STEPS, epsilon=levels / 255)
            made = component.protect(target, album, budget)
            found = amplification(target, album.images, made).tolist()
            floor = floor or found
            row = {"levels": levels, "method": name, "options": dict(options), "a": _mean(found)}
            if name != NOISE:
                ratios = [mine / noise for mine, noise in zip(found, floor, strict=True)]
                row["ratio"] = _mean(ratios)
            shifts.append(row)
    snr = gradient_snr(target, album.images, TIMES, DRAWS, seed=SEED)
    return {
        "target": TARGET,
        "digest": target.digest,
        "count": COUNT,
        "steps": STEPS,
        "draws": DRAWS,
        "shifts": shifts,
        "snr": [{"time": time, **_median(snr[:, i].tolist())} for i, time in enumerate(TIMES)],
    }


def _mean(values: Sequence[float]) -> dict[str, float]:
    from statistics import fmean

    from safetybench import stats

    most = max(map(abs, values)) * 4
    interval = stats.bootstrap_mean(list(values), seed=0, span=stats.Span(-most, most))
    return {"value": fmean(values), "low": interval.low, "high": interval.high}


def _median(values: Sequence[float]) -> dict[str, float]:
    import numpy as np

    drawn = np.random.default_rng(0).integers(0, len(values), (4000, len(values)))
    medians = np.median(np.array(values)[drawn], axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return {"value": float(np.median(values)), "low": float(low), "high": float(high)}


def read() -> dict[str, Any] | None:
    """Return what was measured last, None where nothing was."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else None


def page(found: Mapping[str, Any]) -> str:
    """Return the page of what was measured."""
    lines = [
        (f"{row['levels']}/255", f"`{row['method']}`" + _options(row["options"]), _told(row["a"]),
         _told(row["ratio"]) if "ratio" in row else "1")
        for row in found["shifts"]
    ]  # fmt: skip
    aimed = [r for r in found["shifts"] if r["method"] == "photoguard_encoder"]
    snr = [float(row["value"]) for row in found["snr"]]
    clear = sum(row["low"] > 1 for row in found["snr"])
    dim = sum(row["high"] < 0.1 for row in found["snr"])
    answer = " and ".join(f"{_told(row['ratio'])} at {row['levels']}/255" for row in aimed)
    return "\n\n".join(
        [
            "# What image protection breaks: encoder or denoiser",
            NOTE,
            _ABOUT,
            f"The encoder's part: an attack on it moves the latent {answer} times as far as noise "
            f"does. The denoiser's: in one draw its gradient is {min(snr):.2g} to {max(snr):.2g} "
            f"times as much signal as noise; at {clear} of {len(snr)} times signal prevails, at "
            f"{dim} it is under a tenth. "
            + ("It is mostly noise." if dim > len(snr) / 2 else "It is not mostly noise here."),
            f"`{COMMAND}`, {found['count']} renders, {found['steps']} steps, "
            f"on `{found['target']}`.",
            "## How far the latent moves",
            _ABOUT_SHIFT,
            table(("epsilon", "method", "A", "ratio to noise"), lines),
            "## How much of the denoiser's gradient is signal",
            _ABOUT_SNR + f" {found['draws']} draws.",
            table(("time", "signal over noise"), [(r["time"], _told(r)) for r in found["snr"]]),
        ]
    ) + "\n"  # fmt: skip


def _options(options: Mapping[str, Any]) -> str:
    told = ", ".join(f"{name}={value}" for name, value in options.items())
    return f" ({told})" if told else ""


def _told(row: Mapping[str, float]) -> str:
    return f"{row['value']:.3g} ({row['low']:.3g} to {row['high']:.3g})"


def main(given: Sequence[str] | None = None) -> int:
    """Measure, and write docs/results/encoder.json."""
    parser = argparse.ArgumentParser(prog="python -m docs.encoder", description=__doc__)
    parser.add_argument("--measure", action="store_true", required=True, help="four minutes")
    parser.parse_args(given)
    FILE.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
