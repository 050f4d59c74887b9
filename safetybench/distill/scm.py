"""Continuous-time consistency on TrigFlow: the limit in which neighbouring points touch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from safetybench.distill.guidance import guided
from safetybench.distill.lab import Lab
from safetybench.distill.rollouts import Roll, Rollout
from safetybench.distill.schedule import Step
from safetybench.distill.times import atan_lognormal

# What draws (clean latents, text states) for a step.
Source = Callable[[Step], tuple[Tensor, Tensor]]


class LogVariance(nn.Module):
    """The learned log variance of the error at an angle, which weighs the loss (Lu and Song)."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():  # the draws do not stay
            self.line = nn.Linear(4, 1)
        nn.init.zeros_(self.line.weight)
        nn.init.zeros_(self.line.bias)

    def forward(self, angle: Tensor) -> Tensor:
        """Return log variances, (batch,); angle: (batch,)."""
        waves = [angle.cos(), angle.sin(), (2 * angle).cos(), (2 * angle).sin()]
        return cast(Tensor, self.line(torch.stack(waves, 1).float()))[:, 0]


def field(model: Any, x: Tensor, angle: Tensor, text: Tensor, scale: Tensor | None) -> Tensor:
    """Return a model's velocity dx/d(angle) at TrigFlow angles, (batch, channels, h, w).

    scale: guidance that the model takes as an input, (batch,); None for one without.
    """
    t = model.process.time_at(angle).to(x.dtype)
    more = {} if scale is None else {"guidance": scale}
    clean = model.x0(x, t, text, **more)
    answer: Tensor = model.process.convert(clean, "sample", "v_prediction", x, t)
    return answer


@contextmanager
def plain_attention(unet: Any) -> Iterator[None]:
    """Use attention written as softmax and products: fused kernels have no forward derivative."""
    from diffusers.models.attention_processor import AttnProcessor

    before = dict(unet.attn_processors)
    unet.set_attn_processor(AttnProcessor())
    try:
        yield
    finally:
        unet.set_attn_processor(before)


def slope(
    model: Any, x: Tensor, angle: Tensor, text: Tensor, scale: Tensor | None, tangent: Tensor,
    pace: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return a model's field and its derivative along (tangent, pace), by forward differentiation.

    tangent: of x, (batch, channels, h, w); pace: of the angle, (batch,).
    """
    with plain_attention(model.unet), torch.no_grad():
        both = torch.func.jvp(
            lambda x, a: field(model, x, a, text, scale), (x, angle), (tangent, pace.to(angle))
        )
    return both[0].detach(), both[1].detach()


def scm(
    lab: Lab,
    source: Source,
    variance: LogVariance,
    *,
    scales: Sequence[float],
    mean: float,
    std: float,
    top: int,
    warmup: float = 0.3,
) -> Callable[[Step], Tensor]:
    """Return the simplified continuous-time consistency loss (Lu and Song 2024; SANA-Sprint).

    g = -cos^2 (F - dx) - r (cos sin x_t + cos sin dF/da), normalised to g / (rms g + 0.1); loss
    e^{-v} |F - sg(F) - g|^2 / tan(a) + v. dx: the teacher's guided velocity; r rises from 0 to 1
    over the share `warmup` of the training. scales: guidance, drawn for each image and given to
    the student as an input. mean, std: of the angle's distribution, cut at the time `top`.
    Source: https://arxiv.org/abs/2503.09641
    """
    limit = float(lab.process.angle(torch.tensor([top])))

    def loss(step: Step) -> Tensor:
        clean, text = source(step)
        angle = atan_lognormal(len(clean), step.rng("times"), mean, std).clamp(max=limit)
        angle = angle.to(clean.device)
        which = torch.randint(len(scales), (len(clean),), generator=step.rng("guidance"))
        scale = torch.tensor(list(scales))[which].to(clean.device)
        cos, sin = (f(angle).reshape(-1, 1, 1, 1).to(clean.dtype) for f in (torch.cos, torch.sin))
        x = cos * clean + sin * lab.noise(step.rng("noise"))
        ratio = min(1.0, (step.index + 1) / max(1.0, warmup * step.total))
        with torch.no_grad():
            t = lab.process.time_at(angle).to(x.dtype)
            said = guided(lab.teacher, x, t, text, scale)
            dx = lab.process.convert(said, "sample", "v_prediction", x, t)
            still, rate = slope(lab.student, x, angle, text, scale, cos * sin * dx,
                                (cos * sin).flatten())  # fmt: skip
            g = -cos.square() * (still - dx) - ratio * (cos * sin * x + rate)
            g = g / (g.square().mean((1, 2, 3), keepdim=True).sqrt() + 0.1)
        error = (field(lab.student, x, angle, text, scale) - still - g).square().mean((1, 2, 3))
        v = variance(angle)
        weight = angle.tan().to(error.dtype).clamp(min=0.05)
        total: Tensor = ((-v).exp() * error / weight + v).mean()
        return total

    return loss


def trig_rollout(
    lab: Lab,
    source: Source,
    *,
    mean: float,
    std: float,
    top: int,
    rests: float,
    guidance: float,
) -> Rollout:
    """Return the rollout of a student on noised data at the angles of `scm`: what LADD looks at.

    rests: share of turns at the noisiest angle, that of the time `top`, where one step starts.
    """

    def roll(step: Step, with_grad: bool) -> Roll:
        clean, text = source(step)
        highest = lab.process.angle(torch.tensor([top]))
        angle = atan_lognormal(len(clean), step.rng("roll"), mean, std).minimum(highest)
        if float(torch.rand((), generator=step.rng("rests"))) < rests:
            angle = highest.expand(len(clean))
        angle = angle.to(clean.device)
        cos, sin = (f(angle).reshape(-1, 1, 1, 1).to(clean.dtype) for f in (torch.cos, torch.sin))
        x = cos * clean + sin * lab.noise(step.rng("roll noise"))
        scale = torch.full((len(clean),), guidance, device=clean.device)
        with torch.set_grad_enabled(with_grad):
            made: Tensor = cos * x - sin * field(lab.student, x, angle, text, scale)
        return Roll(made, text, top)

    return roll
