"""Read a text file of prompts: the one rule for every command that takes one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from safetybench.contracts import SafetyBenchError


class Line(NamedTuple):
    """A prompt and the number of its line, counted from 1."""

    number: int
    text: str


def read_prompt_file(path: Path) -> list[str]:
    """Return the prompts of a file; see `read_prompt_lines`."""
    return [line.text for line in read_prompt_lines(path)]


def read_prompt_lines(path: Path) -> list[Line]:
    """Return the prompts of a file, one a line, without blank lines and lines that begin with #.

    The file is UTF-8, with or without a byte order mark; `~` is the user's folder.

    Raises:
        SafetyBenchError: it is not there, cannot be read, is no UTF-8, or holds no prompt.
    """
    shown = repr(str(path))
    try:
        text = Path(os.path.expanduser(path)).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise SafetyBenchError(f"there is no file {shown}") from error
    except UnicodeDecodeError as error:
        raise SafetyBenchError(
            f"{shown} is not UTF-8 at byte {error.start}; convert it first"
        ) from error
    except (OSError, ValueError) as error:  # a ValueError: a path with a null byte
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise SafetyBenchError(f"cannot read {shown}: {reason}") from error
    # Not splitlines: a prompt may hold U+2028 and the like.
    lines = [line.strip() for line in text.split("\n")]
    prompts = [Line(n, s) for n, s in enumerate(lines, 1) if s and not s.startswith("#")]
    if not prompts:
        what = "only comments and blank lines" if any(lines) else "nothing"
        raise SafetyBenchError(f"{shown} holds {what}; write one prompt a line")
    return prompts
