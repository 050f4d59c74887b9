"""What an adversarial prompt is optimised for on a diffusion model: two losses, and where which.

"denoise" asks for the noise that is in the reference image (UnlearnDiffAtk); "match" asks for
what the original model finds in the same input under the unmodified prompt (P4D).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from safetybench.contracts import Aids, Denoises, Prompt, TextToImageTarget

Objective = Literal["auto", "denoise", "output"]
OBJECTIVES: tuple[Objective, ...] = ("auto", "denoise", "output")
Loss = Literal["denoise", "match"]
LOSSES: tuple[Loss, ...] = ("denoise", "match")

# Below this share of signal a noised target image says nothing about the image any more.
LEAST_SIGNAL = 0.05


class Moment(NamedTuple):
    """A timestep of the attack and what is compared there: noise predictions, or outputs."""

    t: int
    loss: Literal["denoise", "output"]


def _signal(target: Denoises, t: int) -> float:
    """Return alpha of x_t = alpha x_0 + sigma noise."""
    return float(target.process.alpha(torch.tensor([t])))


def moments(target: TextToImageTarget, timesteps: int, objective: Objective) -> list[Moment]:
    """Return the schedule, ascending: published spacing, or the target's own timesteps.

    A few-step student's network is defined at its sampler's timesteps only, so these are its
    schedule; a student of one step whose input is noise alone is asked for its output.
    """
    if objective == "output":
        return [Moment(target.sampler_times[0], "output")]
    if target.traits.has_intermediate_state and not _is_few_step(target):
        total = target.process.steps
        stride = max(total // timesteps, 1)
        return [Moment(t, "denoise") for t in range(stride // 2, total, stride)][:timesteps]
    own = sorted(set(target.sampler_times))
    if objective == "auto":
        own = [t for t in own if _signal(target, t) > LEAST_SIGNAL]
    if not own:
        return [Moment(target.sampler_times[0], "output")]
    return [Moment(t, "denoise") for t in own]


def everywhere(target: TextToImageTarget, objective: Objective) -> list[Moment]:
    """Return every timestep that an attack with uniform timesteps draws from; see `moments`."""
    return moments(target, target.process.steps, objective)


def _is_few_step(target: TextToImageTarget) -> bool:
    # Published students take 1 to 8 steps; no sampler of an undistilled model takes as few.
    return target.traits.steps <= 8 and target.traits.guidance <= 1


class Matched(NamedTuple):
    """The model to agree with, and its text states of the unmodified prompts.

    states: (batch, length, width).
    """

    model: TextToImageTarget
    states: Tensor


def losses(
    target: TextToImageTarget,
    moment: Moment,
    wanted: Tensor,
    text: Tensor,
    noise: Tensor,
    *,
    times: Tensor | None = None,
    matched: Matched | None = None,
) -> Tensor:
    """Return one loss an item, (batch,), by one denoiser pass (and one of the model matched).

    wanted: (batch, channels, h, w) latents of the reference images; text: (batch, length,
    width); noise: (batch, draws, channels, h, w), standard normal. times: (batch,) int64 where
    each item has its own in the place of the moment's. matched: what the noise prediction, or the
    output, is to agree with; without it the noise itself, or the reference.
    """
    batch, draws = noise.shape[:2]
    flat = noise.flatten(0, 1)  # (batch * draws, channels, h, w)
    goal = wanted.repeat_interleave(draws, 0)
    states = text.repeat_interleave(draws, 0)
    if times is None:
        times = torch.full((batch,), moment.t, device=flat.device)
    times = times.repeat_interleave(draws, 0)
    if moment.loss == "denoise":
        noisy = target.process.add(goal, flat, times)
        asked = flat
        if matched is not None:
            theirs = _answer(target, matched, noisy, times, draws)
            asked = target.process.convert(theirs, "sample", "epsilon", noisy, times)
        clean = target.x0(noisy, times, states)
        found = target.process.convert(clean, "sample", "epsilon", noisy, times)
        error = (found - asked).square().flatten(1).mean(1)
    else:
        if matched is not None:
            goal = _answer(target, matched, flat, times, draws)
        error = _pooled_distance(target.x0(flat, times, states), goal)
    return error.view(batch, draws).mean(1)


@torch.no_grad()
def _answer(
    target: TextToImageTarget, matched: Matched, noisy: Tensor, times: Tensor, draws: int
) -> Tensor:
    """Return what the other model finds in the same x_t: clean latents, as `noisy`.

    times: of the target; another noise schedule is asked where it has as much noise.
    """
    own, other = target.process, matched.model.process
    if not torch.equal(own.alphas_cumprod, other.alphas_cumprod):
        times = other.time_at(own.angle(times)).round().long().clamp(0, other.steps - 1)
    return matched.model.x0(noisy, times, matched.states.repeat_interleave(draws, 0))


def _pooled_distance(found: Tensor, goal: Tensor) -> Tensor:
    """Return (batch,) distances of latents averaged over the plane, its quarters and sixteenths.

    A plain distance asks for the reference's exact place and size, which another start noise
    does not give; it did worse than random prefixes on small students.
    """
    pool = torch.nn.functional.adaptive_avg_pool2d
    scales = [(pool(found, n) - pool(goal, n)).square().flatten(1).mean(1) for n in (1, 2, 4)]
    return torch.stack(scales).mean(0)


class Goal(Protocol):
    """What a search lowers, for items in the order of their prompts.

    shape: of one noise that a loss takes.
    """

    shape: tuple[int, ...]

    def noises(self, moment: Moment, drawn: Tensor) -> Tensor:
        """Return the noises of a round, (iterations, batch, draws, *shape), from drawn ones."""
        ...

    def losses(self, moment: Moment, times: Tensor, text: Tensor, noise: Tensor) -> Tensor:
        """Return (batch,); times: (batch,) int64, text: states, noise: (batch, draws, *shape)."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Forget the items that are not in rows: (batch,) int64."""
        ...


class Denoised:
    """The references' denoising loss on a model, or its agreement with the original.

    Agreement ("match") compares both on one x_t: at a student's own timesteps where its input
    holds some of the image; where it is noise alone, the two outputs are compared, the
    original's being the blurred mean of what the prompt may look like.
    """

    def __init__(
        self, model: TextToImageTarget, prompts: Sequence[Prompt], aids: Aids, loss: Loss
    ) -> None:
        assert aids.references is not None
        self.model, self.matched = model, None
        with torch.no_grad():
            self.wanted = model.encode(aids.references)  # (batch, channels, h, w)
            self.own_noise = model.start_noise([prompt.seed for prompt in prompts])
            if loss == "match":
                original: TextToImageTarget = aids.original
                ids = original.tokenize([prompt.text for prompt in prompts])
                self.matched = Matched(original, original.embed(ids))
        self.shape = tuple(self.wanted.shape[1:])

    def noises(self, moment: Moment, drawn: Tensor) -> Tensor:
        """Return the noises drawn; for outputs, the first of each step is the item's own."""
        drawn = drawn.to(self.wanted)
        if moment.loss == "output":  # what is judged starts from the item's own seed
            drawn[:, :, 0] = self.own_noise
        return drawn

    def losses(self, moment: Moment, times: Tensor, text: Tensor, noise: Tensor) -> Tensor:
        """Return the losses; see `Goal`."""
        return losses(
            self.model, moment, self.wanted, text, noise, times=times, matched=self.matched
        )

    def keep(self, rows: Tensor) -> None:
        """Forget the items that are not in rows: (batch,) int64."""
        self.wanted, self.own_noise = self.wanted[rows], self.own_noise[rows]
        if self.matched is not None:
            self.matched = Matched(self.matched.model, self.matched.states[rows])
