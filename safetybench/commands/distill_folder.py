"""The folder of a student: a checkpoint while it is made, then the whole of it at once.

The new student is written beside OUT and takes its place by a rename, so OUT holds the old one,
or the new one, or a checkpoint alone, and never a part of a model.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetybench.contracts import SafetyBenchError

SCHEMA = "safetybench.student/1"
_HIDDEN = ".checkpoint"


def check_out(out: Path, *, overwrite: bool) -> None:
    """Refuse an OUT that holds something else, or a finished student that is to stay.

    Raises:
        SafetyBenchError: one sentence on what is there and what to do.
    """
    home = out.expanduser().resolve()
    _put_back(home)
    if home.exists() and not home.is_dir():
        raise SafetyBenchError(f"--out {str(out)!r} is a file; choose a folder")
    there = next(p for p in (home, *home.parents) if p.exists())
    for place in (there, home.parent if home.exists() else there):
        if not there.is_dir():
            raise SafetyBenchError(f"--out {str(out)!r} lies below a file; choose another folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise SafetyBenchError(f"--out {str(out)!r} cannot be written; choose another folder")
    entries = {each.name for each in home.iterdir()} - {_HIDDEN} if home.exists() else set()
    if not entries:
        return
    if not _is_student(home):
        raise SafetyBenchError(
            f"--out {str(out)!r} is not empty and holds no student of this command; choose "
            "another folder"
        )
    if not overwrite:
        raise SafetyBenchError(
            f"--out {str(out)!r} holds a finished student; choose another folder, or replace it "
            "with --overwrite"
        )


def has_checkpoint(out: Path) -> bool:
    """Tell whether an unfinished training lies in OUT."""
    hidden = out.expanduser().resolve() / _HIDDEN
    return any((hidden / name).exists() for name in ("training.pt", "kept.pt"))


def check_same(out: Path, fingerprint: Mapping[str, Any]) -> None:
    """Refuse the checkpoint of another command.

    Raises:
        SafetyBenchError: what differs, and what to do.
    """
    if not has_checkpoint(out):
        return
    file = out.expanduser().resolve() / _HIDDEN / "command.json"
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
        if was.get(key) != now.get(key)
    ]
    if changed:
        raise SafetyBenchError(
            f"the checkpoint in {str(out)!r} is of another command ({'; '.join(changed)}); repeat "
            "that one, choose another --out, or start anew with --no-resume"
        )


@dataclass(kw_only=True)
class StudentFolder:
    """An open folder, locked against a second process."""

    path: Path
    _lock: int

    @classmethod
    def open(cls, out: Path, fingerprint: Mapping[str, Any], *, resume: bool) -> StudentFolder:
        """Make the folder, or take up what is in it; the checks above must have passed.

        Raises:
            SafetyBenchError: it cannot be written, or another process works in it.
        """
        home = out.expanduser().resolve()
        hidden = home / _HIDDEN
        try:
            hidden.mkdir(parents=True, exist_ok=True)
            lock = os.open(hidden / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            raise SafetyBenchError(
                f"cannot create --out {str(out)!r}: {reason}; choose another folder"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise SafetyBenchError(
                f"another process works in {str(out)!r}; wait for it, or choose another folder"
            ) from error
        folder = cls(path=home, _lock=lock)
        if not resume:
            for name in ("training.pt", "kept.pt"):
                (hidden / name).unlink(missing_ok=True)
        if not has_checkpoint(home):
            (hidden / "command.json").write_text(json.dumps(fingerprint), encoding="utf-8")
        elif not folder.checkpoint.exists():  # the training had ended, the student was not saved
            os.link(folder._kept, folder.checkpoint)
        return folder

    @property
    def checkpoint(self) -> Path:
        """The file that the training writes, and removes at its end."""
        return self.path / _HIDDEN / "training.pt"

    @property
    def part(self) -> Path:
        """The folder beside OUT in which the student is put together."""
        return self.path.with_name(f".{self.path.name}.part")

    @property
    def _kept(self) -> Path:
        return self.path / _HIDDEN / "kept.pt"

    def keep(self) -> None:
        """Give the last checkpoint a second name: saving may fail after the training removed it."""
        if self.checkpoint.exists():
            if self._kept.exists() and self._kept.samefile(self.checkpoint):
                return
            with suppress(OSError):  # a file system without links: a failed save costs more then
                self._kept.unlink(missing_ok=True)
                os.link(self.checkpoint, self._kept)

    def finish(self) -> None:
        """Put the student that lies in `part` into the place of OUT."""
        old = _aside(self.path)
        try:
            shutil.rmtree(old, ignore_errors=True)
            self.path.rename(old)
            self.part.rename(self.path)
        except OSError as error:
            _put_back(self.path)
            reason = (error.strerror or type(error).__name__).lower()
            raise SafetyBenchError(f"cannot put the student into place: {reason}") from error
        shutil.rmtree(old, ignore_errors=True)

    def close(self) -> None:
        """Unlock; where nothing was trained, leave nothing behind."""
        shutil.rmtree(self.part, ignore_errors=True)
        if self.path.is_dir() and not has_checkpoint(self.path):
            shutil.rmtree(self.path / _HIDDEN, ignore_errors=True)
            with suppress(OSError):  # it holds an older student
                self.path.rmdir()
        os.close(self._lock)


def _aside(home: Path) -> Path:
    return home.with_name(f".{home.name}.old")


def _put_back(home: Path) -> None:
    """Undo the first of two renames if a kill fell between them."""
    if not home.exists() and _aside(home).is_dir():
        _aside(home).rename(home)


def _is_student(home: Path) -> bool:
    try:
        card = json.loads((home / "card.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(card, dict) and card.get("schema") == SCHEMA


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 and text.isalnum() else text
