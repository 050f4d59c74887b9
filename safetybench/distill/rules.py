"""Gradient rules of the fake-score family: what pulls a generator's sample, as pure functions.

Every rule but `sid` returns a gradient on the sample, a constant to be applied by `pull`. All
tensors are (batch, channels, h, w); real and fake are x0-predictions of the same noised sample.
"""

from __future__ import annotations

from torch import Tensor


def pull(x: Tensor, gradient: Tensor) -> Tensor:
    """Return a scalar whose gradient on `x` is `gradient`, up to the mean over elements.

    0.5 |x - sg(x - gradient)|^2, as DMD's code writes it.
    """
    return 0.5 * (x - (x - gradient).detach()).square().mean()


def dmd(x: Tensor, real: Tensor, fake: Tensor, floor: float = 1e-2) -> Tensor:
    """Return the distribution matching gradient on a sample (Yin et al. 2024, DMD and DMD2).

    x, real, fake: (batch, channels, h, w): the generator's sample, and the teacher's (guided)
    and the fake denoiser's x0-prediction of the same noised sample. Divided for each sample by
    mean |x - real|, not below `floor`: late in training the teacher agrees and that goes to 0.
    Source: https://arxiv.org/abs/2405.14867

    Example:
        >>> import torch
        >>> x = torch.zeros(1, 1, 1, 2)
        >>> dmd(x, real=x + 2, fake=x + 1).flatten().tolist()
        [-0.5, -0.5]
    """
    return (fake - real) / normaliser(x, real, floor)


def normaliser(x: Tensor, real: Tensor, floor: float = 1e-2) -> Tensor:
    """Return mean |x - real| of each sample, (batch, 1, 1, 1), not below `floor`, detached."""
    return (x - real).detach().abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=floor)


def vsd(real: Tensor, fake: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return sigma^2 (e_real - e_fake), the variational score distillation gradient.

    Nguyen and Tran 2024, SwiftBrush; noise predictions are spoken as x0 here, by
    e_real - e_fake = alpha / sigma (fake - real). alpha, sigma: (batch, 1, 1, 1).
    Source: https://arxiv.org/abs/2312.05239
    """
    return sigma * alpha * (fake - real)


def sds(x: Tensor, real: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return sigma^2 (e_real - e), score distillation sampling: `vsd` whose fake knows the sample.

    Poole et al. 2023; up to weight the gradient of |x - sg(real)|^2.
    Source: https://arxiv.org/abs/2209.14988
    """
    return vsd(real, x, alpha, sigma)


def asd(real: Tensor, shifted: Tensor, t: tuple[Tensor, Tensor], s: tuple[Tensor, Tensor],
        x: Tensor) -> Tensor:  # fmt: skip
    """Return sigma_t^2 (e_T(x_t) - e_T(x_s)), asynchronous score distillation.

    Ma et al. 2024, ScaleDreamer: the fake score is the teacher itself at a noisier time s, for
    the same sample x and noise. real, shifted: the x0-predictions at t and at s; t, s: the
    (alpha, sigma) of the two times. Source: https://arxiv.org/abs/2407.02040
    """
    (a_t, s_t), (a_s, s_s) = t, s
    # e = (x_t - alpha x0) / sigma, and x_t = alpha x + sigma e0 with one e0 in both.
    return s_t.square() * (a_t / s_t * (x - real) - a_s / s_s * (x - shifted))


def dm(real: Tensor, fake: Tensor) -> Tensor:
    """Return the distribution matching part of Decoupled DMD: fake - real, both conditional.

    Liu et al. 2025: grad = dm + (w - 1) ca is DMD with a guided teacher, before the normaliser.
    Source: https://arxiv.org/abs/2511.22677
    """
    return fake - real


def ca(conditional: Tensor, unconditional: Tensor) -> Tensor:
    """Return the guidance part of Decoupled DMD: -(f_T(text) - f_T(null)); alone, it diverges.

    Liu et al. 2025. Source: https://arxiv.org/abs/2511.22677
    """
    return unconditional - conditional


def sid(
    x: Tensor, real: Tensor, fake: Tensor, alpha: float = 1.0, floor: float = 1e-5
) -> Tensor:  # fmt: skip
    """Return the score identity distillation loss (Zhou et al. 2024, SiD and SiD-LSG), a scalar.

    mean of (real - fake) ((real - x) - alpha (real - fake)) / mean |x - real|. Its gradient goes
    through x and through both networks' inputs; with the predictions detached it is `dmd`'s for
    every alpha. The value is signed, and no measure of convergence.
    Source: https://arxiv.org/abs/2406.01561
    """
    gap = real - fake
    return (gap * ((real - x) - alpha * gap) / normaliser(x, real, floor)).mean()
