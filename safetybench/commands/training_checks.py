"""What commands that train check of a model, a folder and a device before a weight is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetybench.contracts import SafetyBenchError
from safetybench.targets.spec import TargetSpec

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def check_model(flag: str, spec: TargetSpec, *, offline: bool, cannot: str) -> tuple[str, ...]:
    """Refuse by its configuration what loading would refuse later; return notes for the user.

    flag: the option that names the model; cannot: what cannot be done with inpainting models.

    Raises:
        SafetyBenchError: one sentence on what is wrong and what to do.
    """
    from safetybench.targets.finding import find
    from safetybench.targets.loading import check_target

    try:
        notes = check_target(spec, offline=offline)
        if spec.kind != "hub":
            layout = find(spec)
            _check_unet(layout.config("unet"), layout.config("vae"), cannot)
    except SafetyBenchError as error:
        raise SafetyBenchError(f"{flag}: {error}") from error
    return notes


def _check_unet(unet: Mapping[str, Any], vae: Mapping[str, Any], cannot: str) -> None:
    """Refuse by configuration what loading would refuse after reading all weights."""
    takes, makes = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if takes != makes:
        raise SafetyBenchError(
            f"the denoiser takes {takes} channels and the autoencoder makes {makes}: inpainting "
            f"and image-conditioned models cannot be {cannot} here"
        )


def check_paths(out: Path, word: str, spec: TargetSpec, files: Mapping[str, Path | None]) -> None:
    """Refuse an OUT whose writing would touch what the model is made from.

    word: what the command calls the model it starts from; files: what each flag names.

    Raises:
        SafetyBenchError: the one that lies in the other.
    """
    place = out.expanduser().resolve()
    if spec.kind == "directory":
        home = Path(spec.path).expanduser().resolve()
        if place.is_relative_to(home) or home.is_relative_to(place):
            where = "is" if place == home else "lies in" if home in place.parents else "holds"
            raise SafetyBenchError(f"--out {where} the {word}'s folder; choose another folder")
    for flag, path in files.items():
        if path is not None and path.expanduser().resolve().is_relative_to(place):
            raise SafetyBenchError(f"{flag} lies in --out, which is replaced; choose another --out")


def model_digest(spec: TargetSpec, *, offline: bool, plan_only: bool) -> str:
    """Return the digest of a model, "" for a plan of a hub id: a plan fetches nothing."""
    from safetybench.targets.loading import target_digest

    if spec.kind == "hub" and plan_only:
        return ""
    return target_digest(spec, offline=offline)


def choose_device(wanted: str) -> str:
    """Return the device that is meant by `--device`.

    Raises:
        SafetyBenchError: it is no device, or is not there.
    """
    from safetybench.harness.device import choose

    if not _DEVICE.fullmatch(wanted):
        raise SafetyBenchError(f"--device must be auto, cpu, cuda or cuda:N, got {wanted!r}")
    return choose(wanted, "float32").device
