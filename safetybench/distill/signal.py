"""BOOT's term: a student that reads nothing but noise learns the signal of the teacher's path."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from safetybench.distill.guidance import guided
from safetybench.distill.lab import Lab
from safetybench.distill.schedule import Step


def bootstrap(
    lab: Lab, *, inputs: list[int], times: list[int], scale: float, boundary: float = 0.5
) -> Callable[[Step], Tensor]:
    """Return the signal-ODE bootstrapping loss with its boundary (Gu et al. 2023, BOOT).

    The signal y_t = (x_t - sigma_t e) / alpha_t obeys dy/dlambda = f(x_t) - y, with lambda the log
    of alpha over sigma, so one exact
    exponential step from t to s is y_s = f + rho (y_t - f) with rho = (alpha_t sigma_s) /
    (sigma_t alpha_s). The student g(e, i) predicts y at times[i] from the same noise e, and is
    asked at the network time inputs[i]: a map of time that keeps its conversion to x0 well
    conditioned, where BOOT adds a second time input. No image is read.
    Source: https://arxiv.org/abs/2306.05544
    """

    def student(noise: Tensor, text: Tensor, index: int) -> Tensor:
        answer: Tensor = lab.student.x0(noise, lab.times(inputs[index]), text)
        return answer

    def loss(step: Step) -> Tensor:
        text, noise, _ = lab.draw(step)
        # Progressive: late times only once the early ones are learnt.
        reached = min(1.0, 2 * (step.index + 1) / step.total) * (len(times) - 1)
        index = int(torch.randint(max(1, round(reached)), (), generator=step.rng("index")))
        t, s = lab.times(times[index]), lab.times(times[index + 1])
        with torch.no_grad():
            y = student(noise, text, index)
            said = guided(lab.teacher, lab.process.add(y, noise, t), t, text, scale)
            a_t, s_t = lab.process.alpha(t), lab.process.sigma(t)
            rho = a_t * lab.process.sigma(s) / (s_t * lab.process.alpha(s))
            goal = said + rho * (y - said)
            top = lab.times(times[0])
            edge = guided(lab.teacher, noise, top, text, scale)
        error = (student(noise, text, index + 1) - goal).square().mean()
        total: Tensor = error + boundary * (student(noise, text, 0) - edge).square().mean()
        return total

    return loss
