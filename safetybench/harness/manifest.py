"""What made a run: versions, device, digests. Nothing of it names a person, a host or a folder."""

from __future__ import annotations

import platform
import secrets
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import safetybench
from safetybench.harness.device import seen_device
from safetybench.harness.plan import Plan
from safetybench.private import scrub

SCHEMA = "safetybench.manifest/1"
_PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "safetensors",
    "numpy",
    "scipy",
    "pillow",
)


def run_id(suite: str, now: datetime) -> str:
    """Return a name for a run: sorts by time, portable, and not shared by two in one second."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{suite}-{secrets.token_hex(2)}"


def describe_run(plan: Plan, argv: Sequence[str], now: datetime, name: str) -> dict[str, Any]:
    """Return manifest.json; argv: the command line, whose paths are cut to their last part."""
    import torch

    is_cuda = plan.place.device.startswith("cuda")
    judge = plan.suite.new_judge()
    return {
        "schema": SCHEMA,
        "id": name,
        "created": f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "suite": plan.suite.name,
        "plan_hash": plan.hash,
        "argv": [scrub(word) for word in argv],
        "version": safetybench.__version__,
        "git": _revision(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": _packages(),
        "device": seen_device(plan.place),
        "device_name": torch.cuda.get_device_name(plan.place.device) if is_cuda else "cpu",
        "dtype": plan.place.dtype,
        "threads": torch.get_num_threads(),
        "targets": {label: target["digest"] for label, target in plan.targets.items()},
        "judge": {"name": plan.suite.judge, "digest": plan.judge, "card": dict(judge.card)},
        "code": dict(plan.code),
    }


def _packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _revision() -> dict[str, Any] | None:
    """Return commit and cleanliness of the checkout that runs; None for an installed wheel."""
    root = Path(safetybench.__file__).resolve().parent.parent
    if not (root / ".git").exists():  # else git would answer for the user's own repository
        return None
    commit, status = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    return {"commit": commit, "dirty": bool(status)} if commit else None


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
