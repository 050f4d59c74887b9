"""Regression of one guided pass on stored, guided trajectories: guidance distillation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from safetybench.distill.lab import Lab
from safetybench.distill.rollouts import trajectories
from safetybench.distill.schedule import Step
from safetybench.distill.terms import velocity_error
from safetybench.distill.views import draw

Ask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def guidance_regression(
    lab: Lab, ask: Ask, count: int, low: float, high: float
) -> Callable[[Step], Tensor]:
    """Return |v_S(x_t, t, text, w) - v_T^w(x_t, t, text)|^2 along CFG-guided teacher paths.

    ask: the student's x0-prediction of (x_t, t, text, scale); low, high: range of the guidance
    of the paths, which is Ho's. Error in velocity, the form that is finite at every time.
    """

    def loss(step: Step) -> Tensor:
        paths = trajectories(lab, count, low, high)
        pick = draw(count, lab.batch, step.rng("paths"))
        point = draw(len(paths.times), lab.batch, step.rng("points"))
        x, goal = paths.x[point, pick], paths.clean[point, pick]
        t = torch.tensor(paths.times)[point].to(x.device)
        said = ask(x, t, lab.text(paths.rows[pick]), paths.scale[pick])
        return velocity_error(lab, said, goal, x, t)

    return loss
