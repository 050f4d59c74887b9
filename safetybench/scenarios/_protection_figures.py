"""Figures of single images in a protection run: what the cloak changed, what the edit became."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from safetybench.contracts import EncodesImages, Judge, Unavailable
from safetybench.metrics.similarity import lpips, ms_ssim, psnr, ssim


def cloak(clean: Tensor, protected: Tensor, target: Any) -> dict[str, float]:
    """Return how visible a cloak is and how far it moves the latent; images: (3, h, w) in [0, 1].

    levels: greatest change of a value, in 1/255. latent: relative shift of the target's latent
    by relative shift of the pixels, where the target encodes images.
    """
    figures = {
        "levels": round(float((protected - clean).abs().max()) * 255, 3),
        **_likeness(clean[None], protected[None])[0],
    }
    moved = float((protected - clean).norm())
    if moved and isinstance(target, EncodesImages):
        with torch.inference_mode():
            before, after = target.encode(torch.stack([clean, protected]))
        shift = float((after - before).norm() / before.norm())
        figures["latent"] = _rounded(shift / (moved / float(clean.norm())))
    return figures


def between(
    judge: Judge, sources: Tensor, answers: Tensor, references: Tensor
) -> list[dict[str, float]]:
    """Return how far edits are from the edits of the clean images; each (batch, 3, h, w).

    psnr, ssim, lpips: of both edits (displacement). direction: cosine of what both edits changed
    of the source, in the judge's features; 1 is the same change, and it is left out where an edit
    changed nothing.
    """
    figures = _likeness(references, answers)
    features = [judge.features(images) for images in (sources, answers, references)]
    if any(each is None for each in features):
        return figures
    start, mine, clean = (each.float() for each in features if each is not None)
    moved, wanted = mine - start, clean - start
    cosines = torch.nn.functional.cosine_similarity(moved, wanted, dim=1)
    for i, cosine in enumerate(cosines.tolist()):
        if float(moved[i].norm()) and float(wanted[i].norm()):
            figures[i]["direction"] = _rounded(cosine)
    return figures


def kept_by(judge: Judge, answer: Tensor, kept: str) -> dict[str, float]:
    """Return the share of what was to stay that the edit shows, where the judge can tell."""
    found = judge.similarity(answer[None], kept) if kept else None
    return {} if found is None else {"similarity": _rounded(float(found[0]))}


def _likeness(ones: Tensor, others: Tensor) -> list[dict[str, float]]:
    # 99 dB stands for equal images: infinity has no form in JSON, and no mean.
    figures = {
        "psnr": psnr(ones, others).clamp(max=99.0),
        "ssim": ssim(ones, others),
        "ms_ssim": ms_ssim(ones, others),
    }
    try:
        figures["lpips"] = lpips(ones, others)
    except (Unavailable, ValueError):  # no features on this machine, or too small for its pooling
        pass
    return [{name: _rounded(float(f[i])) for name, f in figures.items()} for i in range(len(ones))]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
