"""The noise process of a diffusion model, and the one place that converts what networks predict.

x_t = alpha_t x + sigma_t e with alpha_t^2 + sigma_t^2 = 1. Losses and attacks speak of x0 alone
and never learn whether a network predicts noise, velocity, flow or the sample itself. With the
angle alpha = cos(a), sigma = sin(a) this is TrigFlow (sigma_d = 1), whose dx_t/da is velocity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "sample", "flow_prediction")


@dataclass(frozen=True, kw_only=True, eq=False)
class Process:
    """A variance-preserving process on discrete times.

    alphas_cumprod: (steps,) float64, alpha_t squared; the last is 0 at zero terminal SNR.

    Example:
        >>> import torch
        >>> process = Process(alphas_cumprod=torch.tensor([0.64]))
        >>> x, noise, t = torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1), torch.tensor([0, 0])
        >>> process.add(x, noise, t).flatten().tolist()
        [0.800000011920929, 0.800000011920929]
    """

    alphas_cumprod: Tensor

    def __post_init__(self) -> None:
        table = self.alphas_cumprod.detach().to(torch.float64)
        if table.ndim != 1 or len(table) == 0 or bool(((table < 0) | (table > 1)).any()):
            raise ValueError(
                "alphas_cumprod must be one axis of numbers in [0, 1], got shape "
                f"{tuple(self.alphas_cumprod.shape)}"
            )
        object.__setattr__(self, "alphas_cumprod", table)

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> Process:
        """Return the process that a diffusers scheduler samples from."""
        table = getattr(scheduler, "alphas_cumprod", None)
        if table is None:
            raise ValueError(
                f"{type(scheduler).__name__} has no alphas_cumprod, so its noise process is not "
                "a variance-preserving one"
            )
        return cls(alphas_cumprod=torch.as_tensor(table).cpu())

    @property
    def steps(self) -> int:
        """Return the number of discrete times; the noisiest is `steps - 1`."""
        return len(self.alphas_cumprod)

    def to(self, device: torch.device | str) -> Process:
        """Return the same process with its table on `device`, to save a copy at every use."""
        return Process(alphas_cumprod=self.alphas_cumprod.to(device))

    def alpha(self, t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the signal's factor, (batch, 1, 1, 1); t: (batch,) int64, or float in between."""
        return self._squared(t).sqrt().to(dtype)

    def sigma(self, t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the noise's factor, (batch, 1, 1, 1); t: (batch,) int64, or float in between."""
        return (1 - self._squared(t)).sqrt().to(dtype)

    def add(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t, in the dtype of `x`; x, noise: (batch, channels, h, w), t: (batch,) int64."""
        return (self._alpha(t) * x + self._sigma(t) * noise).to(x.dtype)

    def angle(self, t: Tensor) -> Tensor:
        """Return TrigFlow's time atan(sigma / alpha), (batch,) float64; t: int64 or float."""
        table = torch.atan2((1 - self.alphas_cumprod).sqrt(), self.alphas_cumprod.sqrt())
        table = table.to(t.device)
        if not t.is_floating_point():
            return table[t]
        low = t.detach().floor().long().clamp(0, self.steps - 2)
        return table[low] + (t.double() - low) * (table[low + 1] - table[low])

    def time_at(self, angle: Tensor) -> Tensor:
        """Return the time of an angle, (batch,) float64, linear between the discrete ones.

        Differentiable, so that a network's derivative along the angle can be taken.
        """
        table = torch.atan2((1 - self.alphas_cumprod).sqrt(), self.alphas_cumprod.sqrt())
        table = table.to(angle.device)
        asked = angle.detach().double().contiguous()
        high = torch.searchsorted(table, asked).clamp(1, self.steps - 1)
        low = high - 1
        return low + (angle.double() - table[low]) / (table[high] - table[low])

    def convert(
        self, pred: Tensor, source: Prediction, goal: Prediction, x_t: Tensor, t: Tensor
    ) -> Tensor:
        """Return what `pred` says about x_t, spoken as `goal`, in the dtype of `pred`.

        flow_prediction is e - x, what rectified flows predict. pred, x_t: (batch, channels, h, w);
        t: (batch,) int64, or float between the discrete times. Computed in float64, because noise
        to x0 divides by a small alpha close to the last time.

        Raises:
            ValueError: where the answer does not exist: from noise at alpha 0 (zero terminal
                SNR), or from x0 at sigma 0. Velocity and flow convert everywhere.
        """
        for name in (source, goal):
            if name not in PREDICTIONS:
                raise ValueError(f"a prediction is one of {', '.join(PREDICTIONS)}, got {name!r}")
        if source == goal:
            return pred
        self._refuse_singular(source, t)
        alpha, sigma = self._alpha(t), self._sigma(t)
        noisy, given = x_t.double(), pred.double()
        if source == "epsilon":
            clean, noise = (noisy - sigma * given) / alpha, given
        elif source == "v_prediction":
            clean, noise = alpha * noisy - sigma * given, sigma * noisy + alpha * given
        elif source == "flow_prediction":
            clean = (noisy - sigma * given) / (alpha + sigma)
            noise = clean + given
        else:
            clean, noise = given, (noisy - alpha * given) / sigma
        if goal == "v_prediction":
            return (alpha * noise - sigma * clean).to(pred.dtype)
        answer = {"sample": clean, "epsilon": noise, "flow_prediction": noise - clean}
        return answer[goal].to(pred.dtype)

    def _refuse_singular(self, source: Prediction, t: Tensor) -> None:
        bad = {"epsilon": 0.0, "sample": 1.0}.get(source)
        # The table is looked at first: a look at `t` would wait for the GPU at every call.
        if bad is not None and self._has(bad) and bool((self._squared(t) == bad).any()):
            part = "signal" if source == "epsilon" else "noise"
            raise ValueError(
                f"a network that predicts {source} says nothing at a time with no {part} at all; "
                "start the sampler at another time or use v_prediction"
            )

    def _has(self, value: float) -> bool:
        ends = cast(tuple[float, float], self.__dict__.get("_ends"))
        if ends is None:
            ends = (float(self.alphas_cumprod.min()), float(self.alphas_cumprod.max()))
            object.__setattr__(self, "_ends", ends)
        return value in ends

    def _squared(self, t: Tensor) -> Tensor:
        if t.is_floating_point():
            return self.angle(t).cos().square().reshape(-1, 1, 1, 1)
        return self.alphas_cumprod.to(t.device)[t].reshape(-1, 1, 1, 1)

    def _alpha(self, t: Tensor) -> Tensor:
        return self.alpha(t, torch.float64)

    def _sigma(self, t: Tensor) -> Tensor:
        return self.sigma(t, torch.float64)
