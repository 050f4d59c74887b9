"""Figures of single images in a protection run: what the cloak changed, what the edit became."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from safetybench.contracts import EncodesImages, Judge, Unavailable
from safetybench.metrics.similarity import lpips, psnr, ssim


def cloak(clean: Tensor, protected: Tensor, target: Any) -> dict[str, float]:
    """Return how visible a cloak is and how far it moves the latent; images: (3, h, w) in [0, 1].

    levels: greatest change of a value, in 1/255. latent: relative shift of the target's latent
    by relative shift of the pixels, where the target encodes images.
    """
    figures = {
        "levels": round(float((protected - clean).abs().max()) * 255, 3),
        **_likeness(clean, protected),
    }
    moved = float((protected - clean).norm())
    if moved and isinstance(target, EncodesImages):
        with torch.inference_mode():
            before, after = target.encode(torch.stack([clean, protected]))
        shift = float((after - before).norm() / before.norm())
        figures["latent"] = _rounded(shift / (moved / float(clean.norm())))
    return figures


def between(judge: Judge, source: Tensor, answer: Tensor, reference: Tensor) -> dict[str, float]:
    """Return how far an edit is from the edit of the clean image; images: (3, h, w) in [0, 1].

    psnr, ssim, lpips: of both edits (displacement). direction: cosine of what both edits changed
    of the source, in the judge's features; 1 is the same change, and it is left out where an edit
    changed nothing.
    """
    figures = _likeness(reference, answer)
    features = judge.features(torch.stack([source, answer, reference]))
    if features is None:
        return figures
    start, mine, clean = features.float()
    if float((mine - start).norm()) and float((clean - start).norm()):
        cosine = torch.nn.functional.cosine_similarity(mine - start, clean - start, dim=0)
        figures["direction"] = _rounded(float(cosine))
    return figures


def kept_by(judge: Judge, answer: Tensor, kept: str) -> dict[str, float]:
    """Return the share of what was to stay that the edit shows, where the judge can tell."""
    found = judge.similarity(answer[None], kept) if kept else None
    return {} if found is None else {"similarity": _rounded(float(found[0]))}


def _likeness(one: Tensor, other: Tensor) -> dict[str, float]:
    # 99 dB stands for equal images: infinity has no form in JSON, and no mean.
    figures = {
        "psnr": min(float(psnr(one[None], other[None])[0]), 99.0),
        "ssim": float(ssim(one[None], other[None])[0]),
    }
    try:
        figures["lpips"] = float(lpips(one[None], other[None])[0])
    except Unavailable:  # its weights come with an extra
        pass
    return {name: _rounded(value) for name, value in figures.items()}


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
