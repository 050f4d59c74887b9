"""Drive a diffusers scheduler through the steps and the time grid of a target's sampler."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from safetybench.contracts import Traits, Unavailable
from safetybench.distill.process import Prediction, Process
from safetybench.targets.guidance import per_image
from safetybench.targets.safety import NegativePrompt, SafeGuidance, refusal
from safetybench.targets.spec import TOLD_TRAITS, Sampler


class GivenTimes:
    """Deterministic DDIM over a given time grid, for schedulers that take no grid of their own.

    It ends at the x0-prediction of the last time, as DDIM does with `set_alpha_to_one`.
    """

    init_noise_sigma = 1.0

    def __init__(self, process: Process, prediction: Prediction, times: Sequence[int]) -> None:
        self.process = process
        self.prediction: Prediction = prediction
        self.timesteps = torch.tensor(list(times), device=process.alphas_cumprod.device)

    def scale_model_input(self, sample: Tensor, t: Tensor) -> Tensor:
        """Return the sample as it is."""
        return sample

    def step(self, pred: Tensor, t: Tensor, sample: Tensor, return_dict: bool) -> tuple[Tensor]:
        """Return the latents at the next time of the grid, (batch, channels, h, w)."""
        times = t.expand(len(sample))
        clean = self.process.convert(pred, self.prediction, "sample", sample, times)
        after = self.timesteps[self.timesteps < t]
        if len(after) == 0:
            return (clean,)
        noise = self.process.convert(pred, self.prediction, "epsilon", sample, times)
        return (self.process.add(clean, noise, after[0].expand(len(sample))),)


def start(scheduler: Any, sampler: Sampler, process: Process, device: torch.device) -> Any:
    """Return a fresh scheduler at the first time of `sampler`; the one given stays as it was."""
    if sampler.timesteps is not None:
        if "timesteps" not in inspect.signature(scheduler.set_timesteps).parameters:
            prediction = cast(Prediction, scheduler.config.prediction_type)
            return GivenTimes(process.to(device), prediction, sampler.timesteps)
        fresh = copy.deepcopy(scheduler)
        with _untold(type(scheduler).__module__):
            fresh.set_timesteps(timesteps=list(sampler.timesteps), device=device)
        return fresh
    fresh = copy.deepcopy(scheduler)
    fresh.set_timesteps(sampler.steps, device=device)
    return fresh


@contextmanager
def _untold(name: str) -> Iterator[None]:
    """Silence a logger: at every call LCM and TCD find fault with a grid not evenly spaced."""
    logger = logging.getLogger(name)
    was = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(was)


def corrected(scheduler: Any) -> Any:
    """Return a scheduler as StableDiffusionPipeline corrects it: one step of offset, no clipping.

    Both are wrong defaults of old configurations; left in, a target would make other images than
    plain diffusers makes of the same directory.
    """
    fixes: dict[str, Any] = {}
    if scheduler.config.get("steps_offset", 1) != 1:
        fixes["steps_offset"] = 1
    if scheduler.config.get("clip_sample", False):
        fixes["clip_sample"] = False
    return type(scheduler).from_config(scheduler.config, **fixes) if fixes else scheduler


def step_options(
    scheduler: Any, sampler: Sampler, generators: list[torch.Generator]
) -> dict[str, Any]:
    """Return what a scheduler's step takes beside the prediction, as the pipeline passes it."""
    offered = {"generator": generators, "eta": sampler.eta}
    taken = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in offered.items() if name in taken}


def generators_of(seeds: Sequence[int]) -> list[torch.Generator]:
    """Return a generator on the CPU for each seed."""
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def sample(
    target: Any,
    text: Tensor,
    noise: Tensor,
    guidance: float | Tensor | None,
    negative: Tensor | None,
    steps: int | None,
    generators: list[torch.Generator],
) -> Tensor:
    """Run the native sampler of a TextToImage; see its `sample_latents`."""
    sampler = target.sampler if steps is None else target.sampler.with_settings({"steps": steps})
    scheduler = start(target.scheduler, sampler, target.process, target.device)
    latents = noise * scheduler.init_noise_sigma
    times = scheduler.timesteps
    return _walk(target, scheduler, times, latents, text, guidance, negative, generators, sampler)


def sample_from(
    target: Any,
    latents: Tensor,
    text: Tensor,
    noise: Tensor,
    strength: float,
    guidance: float | Tensor | None,
    generators: list[torch.Generator],
) -> Tensor:
    """Run the rest of the native sampler from noised latents; see TextToImage.`edit_latents`."""
    scheduler, times = entered(target, strength)
    if isinstance(scheduler, GivenTimes):
        noisy = target.process.add(latents, noise, times[:1].expand(len(latents)))
    else:
        noisy = scheduler.add_noise(latents, noise, times[:1].expand(len(latents)))
    return _walk(target, scheduler, times, noisy, text, guidance, None, generators, target.sampler)


def entered(target: Any, strength: float) -> tuple[Any, Tensor]:
    """Return a scheduler and those of its times that are left at a strength, noisiest first.

    These are the native times at most `strength` of the way up the noise process, so that models
    with different grids start from alike noise. Where a model has no time that low, as one-step
    students, it is entered off its grid, in one step at that noise level.

    Raises:
        ValueError: a strength outside (0, 1].
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be in (0, 1], got {strength}")
    scheduler = start(target.scheduler, target.sampler, target.process, target.device)
    limit = strength * target.process.steps
    left = [i for i, t in enumerate(scheduler.timesteps.tolist()) if t <= limit]
    if not left:
        time = max(round(limit) - 1, 0)
        scheduler = GivenTimes(target.process.to(target.device), target.prediction, [time])
        return scheduler, scheduler.timesteps
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(left[0])
    return scheduler, scheduler.timesteps[left[0] :]


def _walk(
    target: Any,
    scheduler: Any,
    times: Tensor,
    latents: Tensor,
    text: Tensor,
    guidance: float | Tensor | None,
    negative: Tensor | None,
    generators: list[torch.Generator],
    sampler: Sampler,
) -> Tensor:
    """Take the steps at `times`, guided as the sampler says; latents: of the first time."""
    scale = sampler.guidance if guidance is None else guidance
    extra = step_options(scheduler, sampler, generators)
    # Scales of a batch are never looked at, which would wait for the device.
    is_twofold = not target.takes_guidance and (
        isinstance(scale, Tensor) or scale > 1 or sampler.safety is not None
    )
    guide = Guide(target, scale, negative, len(latents)) if is_twofold else None
    text = text if guide is None else guide.texts(text)
    for index, t in enumerate(times):
        scaled = scheduler.scale_model_input(latents, t)
        if guide is not None:
            preds = target.predict(torch.cat([scaled] * guide.passes), t, text)
            pred = guide.guided(index, preds.chunk(guide.passes))
        else:
            pred = target.predict(scaled, t, text, scale)
        latents = scheduler.step(pred, t, latents, **extra, return_dict=False)[0]
    return latents


class Guide:
    """Classifier-free guidance over one run of a sampler, turned by the sampler's safety.

    negative: text states in the place of the empty prompt's. passes: of the denoiser in a step.
    A safety takes a scale below 1 for 1, so that SLD cannot be switched off by asking for less
    guidance; a negative prompt vanishes at 1 by its own formula.

    Raises:
        ValueError: a negative text, where the safety is a negative prompt already.
    """

    def __init__(
        self, target: Any, scale: float | Tensor, negative: Tensor | None, batch: int
    ) -> None:
        safety = target.sampler.safety
        if negative is not None and isinstance(safety, NegativePrompt):
            raise ValueError(f"the sampler of {target.name} has a negative prompt of its own")
        concept = None if safety is None else target.embed(target.tokenize([safety.concept]))
        null = target.null_text if negative is None else negative
        self._sld = safety if isinstance(safety, SafeGuidance) else None
        self._around = [null if concept is None or self._sld else concept]
        self._around += [concept] if self._sld else []
        self.passes = 1 + len(self._around)
        self._scale = per_image(scale, batch, target.device).reshape(-1, 1, 1, 1)
        if safety is not None:
            self._scale = self._scale.clamp(min=1)
        # An x0-prediction points the other way than noise, and SLD looks at signs.
        self._sign = -1 if target.prediction == "sample" else 1
        self._momentum: Tensor | None = None

    def texts(self, text: Tensor) -> Tensor:
        """Return text states of all passes; text: (batch, length, width) of the prompts."""
        null, *unsafe = (states.expand(len(text), -1, -1) for states in self._around)
        return torch.cat([null, text, *unsafe])

    def guided(self, index: int, preds: Sequence[Tensor]) -> Tensor:
        """Return the guided answer of step `index` from those of all passes."""
        null, aimed, *unsafe = preds
        direction = aimed - null
        if self._sld is not None:
            signed = [self._sign * pred for pred in (null, aimed, *unsafe)]
            turned, self._momentum = self._sld.turn(
                index, signed[0], signed[1], signed[2], self._momentum
            )
            direction = self._sign * turned
        return null + self._scale * direction


def traits_of(
    scheduler: Any, sampler: Sampler, card: Mapping[str, Any], *, takes_guidance: bool = False
) -> Traits:
    """Return a target's traits: what its sampler says, and what its card tells of its making.

    takes_guidance: the scale is an input of the denoiser, and there is no second pass.

    Raises:
        Unavailable: the sampler has a safety, and this denoiser cannot be guided by it.
    """
    if sampler.safety is not None:
        why = refusal(
            sampler.safety,
            steps=sampler.steps,
            guidance=sampler.guidance,
            takes_guidance=takes_guidance,
        )
        if why:
            raise Unavailable(why)
    guided = sampler.guidance > 1 and not takes_guidance
    told = {
        key: card.get("traits", {})[key] for key in TOLD_TRAITS if key in card.get("traits", {})
    }
    if "shared_with_teacher" in told:
        told["shared_with_teacher"] = tuple(told["shared_with_teacher"])
    if sampler.safety is not None:
        told["defended_at"] = "sampling"
    return Traits(
        steps=sampler.steps,
        guidance=sampler.guidance if guided or takes_guidance else 1.0,
        prediction=scheduler.config.prediction_type,
        sampler=type(scheduler).__name__.removesuffix("Scheduler"),
        has_intermediate_state=sampler.steps > 1,
        negative_prompt_works=guided and not isinstance(sampler.safety, NegativePrompt),
        **told,
    )
