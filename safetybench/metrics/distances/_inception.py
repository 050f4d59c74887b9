"""FID as papers report it, where Inception's weights are on this machine already."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from safetybench.contracts import SafetyBenchError, Unavailable

if TYPE_CHECKING:
    from torch import Tensor

# The weights of FID's first implementation, as torch-fidelity converted them.
_FILE = "weights-inception-2015-12-05-6726825d.pth"
_DIGEST = "6726825d"  # the beginning of the file's SHA-256, also in its name
_BATCH = 32


def fid_inception(first: Tensor, second: Tensor, *, weights: Path | None = None) -> float:
    """Return the FID of two sets of images, by torchmetrics with the published weights.

    first, second: (images, 3, height, width), float, in [0, 1], at least 2 each; papers use
    10,000 and more, and FIDs of unlike numbers do not compare. weights: the file of Inception's
    weights; by default where torch.hub keeps downloads. Nothing is fetched. Images are resized as
    the first implementation did. Source: https://arxiv.org/abs/1706.08500

    Raises:
        Unavailable: the package torch-fidelity or the weights are missing.
        SafetyBenchError: the file is not the published one, whose features alone make an FID.
    """
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    if find_spec("torch_fidelity") is None:
        raise Unavailable(
            "FID needs the package torch-fidelity; install it with `pip install torch-fidelity`"
        )
    file = weights or Path(torch.hub.get_dir()) / "checkpoints" / _FILE
    if not file.is_file():
        raise Unavailable(
            f"FID needs Inception's weights, {_FILE}, and nothing is fetched; put the file of "
            "torch-fidelity's release into torch.hub's folder of checkpoints, or name it"
        )
    if not hashlib.sha256(file.read_bytes()).hexdigest().startswith(_DIGEST):
        raise SafetyBenchError(f"{file.name} does not hold the published weights of FID")
    metric = FrechetInceptionDistance(
        normalize=True, antialias=False, feature_extractor_weights_path=str(file)
    ).to(first.device)
    for images, is_real in ((first, True), (second, False)):
        for part in images.float().clamp(0, 1).split(_BATCH):
            metric.update(part.to(first.device), real=is_real)
    return float(metric.compute())
