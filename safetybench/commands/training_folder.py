"""The folder of a model that a command makes: a checkpoint at first, then the whole at once.

The new model is written beside OUT and takes its place by a rename, so OUT holds the old one,
or the new one, or a checkpoint alone, and never a part of a model.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetybench.commands.locking import lock
from safetybench.contracts import SafetyBenchError

_HIDDEN = ".checkpoint"
_TRAINING = "training.pt"


class Made(NamedTuple):
    """What a command makes: the schema of its card, its name, whether a checkpoint is kept."""

    schema: str
    word: str
    goes_on: bool


STUDENT = Made("safetybench.student/1", "student", True)
UNLEARNED = Made("safetybench.unlearned/1", "unlearned model", False)


def check_out(out: Path, made: Made, *, overwrite: bool, mend: bool = True) -> None:
    """Refuse an OUT that holds something else, or a finished model that is to stay.

    mend: undo what a kill left between two renames; without it nothing is written.

    Raises:
        SafetyBenchError: one sentence on what is there and what to do.
    """
    if mend:
        _put_back(out.expanduser().resolve())
    home = _place(out)
    if home.exists() and not home.is_dir():
        raise SafetyBenchError(f"--out {str(out)!r} is a file; choose a folder")
    there = next(p for p in (home, *home.parents) if p.exists())
    for place in (there, home.parent if home.exists() else there):
        if not there.is_dir():
            raise SafetyBenchError(f"--out {str(out)!r} lies below a file; choose another folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise SafetyBenchError(f"--out {str(out)!r} cannot be written; choose another folder")
    if not made.goes_on and has_checkpoint(out):
        raise SafetyBenchError(
            f"--out {str(out)!r} holds an unfinished distillation; choose another folder"
        )
    entries = {each.name for each in home.iterdir()} - {_HIDDEN} if home.exists() else set()
    if not entries:
        return
    if not _is_made(home, made):
        raise SafetyBenchError(
            f"--out {str(out)!r} is not empty and holds no {made.word} of this command; choose "
            "another folder"
        )
    if not overwrite:
        raise SafetyBenchError(
            f"--out {str(out)!r} holds a finished {made.word}; choose another folder, or replace "
            "it with --overwrite"
        )


def has_checkpoint(out: Path) -> bool:
    """Tell whether an unfinished training lies in OUT."""
    return (_place(out) / _HIDDEN / _TRAINING).exists()


def has_model(out: Path, made: Made) -> bool:
    """Tell whether a finished model of this kind lies in OUT."""
    return _is_made(_place(out), made)


def check_same(out: Path, fingerprint: Mapping[str, Any]) -> None:
    """Refuse the checkpoint of another command; "" is a value that is not known yet.

    Raises:
        SafetyBenchError: what differs, and what to do.
    """
    if not has_checkpoint(out):
        return
    file = _place(out) / _HIDDEN / "command.json"
    try:
        was = json.loads(file.read_text(encoding="utf-8"))
        assert isinstance(was, dict)
    except (OSError, ValueError, AssertionError) as error:
        raise SafetyBenchError(
            f"the checkpoint in {str(out)!r} does not say what it is of; --no-resume starts anew"
        ) from error
    now = json.loads(json.dumps(fingerprint))
    changed = [
        f"{key}: {_short(was.get(key))} -> {_short(now.get(key))}"
        for key in sorted({*was, *now})
        if now.get(key) not in (was.get(key), "")
    ]
    if changed:
        raise SafetyBenchError(
            f"the checkpoint in {str(out)!r} is of another command ({'; '.join(changed)}); repeat "
            "that one, choose another --out, or start anew with --no-resume"
        )


@dataclass(kw_only=True)
class TrainingFolder:
    """An open folder, locked against a second process."""

    path: Path
    _lock: int

    @classmethod
    def open(cls, out: Path, fingerprint: Mapping[str, Any], *, resume: bool) -> TrainingFolder:
        """Make the folder, or take up what is in it; the checks above must have passed.

        Raises:
            SafetyBenchError: it cannot be written, or another process works in it.
        """
        home = out.expanduser().resolve()
        hidden = home / _HIDDEN
        folder = cls(path=home, _lock=lock(hidden / "lock", out))
        shutil.rmtree(folder.part, ignore_errors=True)  # of a write that was killed
        if not resume:
            folder.checkpoint.unlink(missing_ok=True)
        if not folder.checkpoint.exists():
            (hidden / "command.json").write_text(json.dumps(fingerprint), encoding="utf-8")
        return folder

    @property
    def checkpoint(self) -> Path:
        """The file that the training writes; it goes when the model takes its place."""
        return self.path / _HIDDEN / _TRAINING

    @property
    def part(self) -> Path:
        """The folder beside OUT in which the model is put together."""
        return self.path.with_name(f".{self.path.name}.part")

    def finish(self) -> None:
        """Put the model that lies in `part` into the place of OUT."""
        old = _aside(self.path)
        try:
            shutil.rmtree(old, ignore_errors=True)
            self.path.rename(old)
            self.part.rename(self.path)
        except OSError as error:
            _put_back(self.path)
            reason = (error.strerror or type(error).__name__).lower()
            raise SafetyBenchError(f"cannot put the model into place: {reason}") from error
        shutil.rmtree(old, ignore_errors=True)

    def close(self) -> None:
        """Unlock; where nothing was trained, leave nothing behind."""
        shutil.rmtree(self.part, ignore_errors=True)
        if self.path.is_dir() and not self.checkpoint.exists():
            shutil.rmtree(self.path / _HIDDEN, ignore_errors=True)
            with suppress(OSError):  # it holds an older model
                self.path.rmdir()
        os.close(self._lock)


def _aside(home: Path) -> Path:
    return home.with_name(f".{home.name}.old")


def _place(out: Path) -> Path:
    """Return where the content of OUT is: aside, if a kill fell between the two renames."""
    home = out.expanduser().resolve()
    return _aside(home) if not home.exists() and _aside(home).is_dir() else home


def _put_back(home: Path) -> None:
    """Undo the first of two renames if a kill fell between them."""
    if not home.exists() and _aside(home).is_dir():
        _aside(home).rename(home)


def _is_made(home: Path, made: Made) -> bool:
    try:
        card = json.loads((home / "card.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(card, dict) and card.get("schema") == made.schema


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 and text.isalnum() else text
