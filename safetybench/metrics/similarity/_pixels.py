"""Likeness of pixels: PSNR, SSIM and MS-SSIM, by torchmetrics."""

from __future__ import annotations

from torch import Tensor

from safetybench.metrics.similarity._pairs import checked

_WINDOW = 11  # pixels of SSIM's Gaussian window, sigma 1.5
_BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the five scales, finest first, as published


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Return peak signal-to-noise ratios in dB, (batch,); infinite for equal images.

    first, second: (batch, 3, height, width) in [0, 1]. The peak is 1, and the error is the mean
    over all pixels and channels: noise of 1/255 everywhere is 48.13 dB.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    first, second = checked(first, second)
    return peak_signal_noise_ratio(first, second, 1.0, reduction="none", dim=(1, 2, 3))


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Return structural similarity, (batch,), at most 1, which is the same image.

    first, second: (batch, 3, height, width) in [0, 1], of 11 pixels a side or more. Gaussian
    window, the mean over channels and all pixels with borders mirrored; Diff-Protect takes grey
    images, and other codes leave the border out. Source: https://doi.org/10.1109/TIP.2003.819861
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    first, second = checked(first, second, _WINDOW)
    if not len(first):
        return first.new_zeros(0)
    found = structural_similarity_index_measure(first, second, data_range=1.0, reduction="none")
    assert isinstance(found, Tensor)
    return found


def ms_ssim(first: Tensor, second: Tensor) -> Tensor:
    """Return multi-scale structural similarity, (batch,), in [0, 1].

    first, second: (batch, 3, height, width) in [0, 1], of 11 pixels a side or more. The five
    published scales need 176 pixels; smaller images have as many as fit (three at 64), with the
    weights of those scaled to the same sum. Figures of unlike numbers of scales do not compare.
    Negative terms count as 0. Source: https://doi.org/10.1109/ACSSC.2003.1292216
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    first, second = checked(first, second, _WINDOW)
    if not len(first):
        return first.new_zeros(0)
    some = _BETAS[: scales(min(first.shape[2:]))]
    betas = tuple(beta * sum(_BETAS) / sum(some) for beta in some)
    return multiscale_structural_similarity_index_measure(
        first, second, data_range=1.0, reduction="none", betas=betas
    )


def scales(side: int) -> int:
    """Return how many halvings of a side leave room for the window, counting none as the first.

    torchmetrics asks four scales of 99 pixels and not 88, as (4 - 1) squared is 9 and not 8.
    """
    fits = [n for n in range(1, 6) if side // max(2 ** (n - 1), (n - 1) ** 2) >= _WINDOW]
    return max(fits)
