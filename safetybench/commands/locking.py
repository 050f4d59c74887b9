"""A lock on an output folder, so that two processes do not write into one."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from safetybench.contracts import SafetyBenchError


def lock(file: Path, out: Path) -> int:
    """Make a folder and lock a file in it; return the descriptor, whose closing frees it.

    out: the folder as the user named it, for messages.

    Raises:
        SafetyBenchError: it cannot be made, or another process works there.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        held = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise SafetyBenchError(
            f"cannot create --out {str(out)!r}: {reason}; choose another folder"
        ) from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        raise SafetyBenchError(
            f"another process works in {str(out)!r}; wait for it, or choose another folder"
        ) from error
    return held
