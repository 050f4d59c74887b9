"""Loss terms: each returns a function of the step, and none knows which method it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from safetybench.distill import times as sampled
from safetybench.distill.guidance import Triple, guided, resolve
from safetybench.distill.lab import Lab
from safetybench.distill.rollouts import Roll, Rollout, trajectories
from safetybench.distill.rules import pull
from safetybench.distill.schedule import Group, Stage, Step
from safetybench.distill.views import draw

Loss = Callable[[Step], Tensor]


def together(*losses: Loss) -> Loss:
    """Return the sum of losses."""
    return lambda step: torch.stack([loss(step) for loss in losses]).sum()


def once(rollout: Rollout) -> Rollout:
    """Return a rollout that is made once a turn and shared by all terms that ask for it."""
    made: dict[tuple[Step, bool], Roll] = {}

    def roll(step: Step, with_grad: bool) -> Roll:
        if (step, with_grad) not in made:
            made.clear()
            made[step, with_grad] = rollout(step, with_grad)
        return made[step, with_grad]

    return roll


class Scores:
    """A noised sample and what the two scores say of it: what a gradient rule reads.

    x, x_t, noise, real, fake, alpha, sigma: tensors; t: (batch,) int64; roll: the sample's.
    """

    def __init__(self, lab: Lab, roll: Roll, t: Tensor, noise: Tensor) -> None:
        self.roll, self.x, self.t, self.noise = roll, roll.x, t, noise
        self.x_t = lab.process.add(roll.x, noise, t)
        self.alpha, self.sigma = lab.process.alpha(t), lab.process.sigma(t)
        self.real = self.fake = roll.x

    def ask(
        self, model: Any, scale: float, text: Tensor | None = None, negative: Tensor | None = None
    ) -> Tensor:
        """Return a model's guided x0-prediction of the noised sample; text: the roll's own."""
        text = self.roll.text if text is None else text
        return guided(model, self.x_t, self.t, text, scale, negative)


def match(
    lab: Lab,
    fake: Any,
    rollout: Rollout,
    rule: Callable[[Scores], Tensor],
    triple: Triple,
    *,
    low: float = 0.02,
    high: float = 0.98,
    through: bool = False,
    condition: Callable[[Roll], Tensor] | None = None,
    negative: Tensor | None = None,
) -> Loss:
    """Return the student's term of the fake-score family.

    rule: gradient on the sample, from Scores. through: the rule is instead a scalar whose
    gradient also goes through the two networks' inputs (SiD). condition: what the teacher is
    asked about, the student's own text by default (`guidance.swapped` is another); negative: text
    states in the place of the empty prompt's, for the teacher alone.
    """

    def loss(step: Step) -> Tensor:
        roll = rollout(step, True)
        t = sampled.uniform(lab.batch, lab.process.steps, step.rng("times"), low, high)
        with torch.set_grad_enabled(through):
            scores = Scores(lab, roll, t.to(roll.x.device), lab.noise(step.rng("noise")))
            about = condition(roll) if condition is not None else roll.text
            scale = resolve(triple.real, step.rng("guidance"))
            scores.real = scores.ask(lab.teacher, scale, about, negative)
            scores.fake = scores.ask(fake, resolve(triple.fake, step.rng("guidance")))
            answer = rule(scores)
        return answer if through else pull(roll.x, answer)

    return loss


def follow(
    lab: Lab, fake: Any, rollout: Rollout, triple: Triple, *, drop: float = 0.1, low: float = 0.0
) -> Loss:
    """Return the fake score's term: denoise the student's samples, as velocity.

    drop: share of prompts replaced by the empty one where a guided fake score is asked for.
    """
    drops = (triple.train, triple.fake) != (1.0, 1.0)

    def loss(step: Step) -> Tensor:
        roll = rollout(step, False)
        text = roll.text
        if drops:
            lost = torch.rand(len(text), generator=step.rng("drop")) < drop
            text = torch.where(lost.to(text.device)[:, None, None], lab.teacher.null_text, text)
        t = sampled.uniform(lab.batch, lab.process.steps, step.rng("times"), low, 1.0)
        t = t.to(text.device)
        noise = lab.noise(step.rng("noise"))
        x_t = lab.process.add(roll.x, noise, t)
        said = guided(fake, x_t, t, text, resolve(triple.train, step.rng("guidance")))
        return velocity_error(lab, said, roll.x, x_t, t)

    return loss


def velocity_error(lab: Lab, said: Tensor, clean: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """Return the mean squared error of an x0-prediction in velocity, finite at every time."""
    answers = [lab.process.convert(each, "sample", "v_prediction", x_t, t)
               for each in (said, clean)]  # fmt: skip
    error: Tensor = (answers[0] - answers[1]).square().mean()
    return error


def regress(lab: Lab, start: int, count: int, scale: float) -> Loss:
    """Return the regression of a one-step student on the teacher's own samples for the same noise.

    DMD2 does so before its one-step SDXL training. start: the time at which noise is read.
    """

    def loss(step: Step) -> Tensor:
        paths = trajectories(lab, count, scale, ends=True)
        pick = draw(count, lab.batch, step.rng("pairs"))
        made = lab.student.x0(paths.x[0][pick], lab.times(start), lab.text(paths.rows[pick]))
        error: Tensor = (made - paths.clean[-1][pick]).square().mean()
        return error

    return loss


def warm_up(lab: Lab, weights: Any, start: int, steps: int, pairs: int, scale: float,
            lr: float) -> list[Stage]:  # fmt: skip
    """Return the stage that regresses a one-step student first; none for 0 steps."""
    if not steps:
        return []
    group = Group(name="student", weights=weights, loss=regress(lab, start, pairs, scale), lr=lr,
                  betas=(0.9, 0.99))  # fmt: skip
    return [Stage(steps=steps, groups=[group])]


def huber(a: Tensor, b: Tensor, c: float = 0.03) -> Tensor:
    """Return the pseudo-Huber distance sqrt(|a - b|^2 + c^2) - c, mean over elements."""
    return ((a - b).square() + c**2).sqrt().mean() - c
