"""Samplers of students: what a Plan says so that a student runs as it was trained."""

from __future__ import annotations

from typing import Any, TypedDict


class Sampling(TypedDict, total=False):
    """The fields of a Plan that say how the student is sampled."""

    times: tuple[int, ...]
    scheduler: Any
    eta: float


def renoising(target: Any, times: tuple[int, ...]) -> Sampling:
    """Return the sampler that renoises each x0-prediction afresh, as LCM, DMD2 and SiD do."""
    if len(times) == 1:
        return {"times": times}  # nothing to renoise: any scheduler's single step is the same
    from diffusers import LCMScheduler

    return {"times": times, "scheduler": LCMScheduler.from_config(_config(target))}


def tcd(target: Any, times: tuple[int, ...], eta: float = 0.0) -> Sampling:
    """Return TCD's sampler; eta is its gamma: how far a step overshoots before it renoises."""
    from diffusers import TCDScheduler

    return {"times": times, "scheduler": TCDScheduler.from_config(_config(target)), "eta": eta}


def _config(target: Any) -> dict[str, Any]:
    # Thresholds and offsets of the teacher's scheduler mean other things to another class.
    kept = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "num_train_timesteps",
            "prediction_type", "rescale_betas_zero_snr")  # fmt: skip
    config = target.scheduler.config
    return {key: config[key] for key in kept if key in config} | {"clip_sample": False}
