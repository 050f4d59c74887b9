"""The folder of `safetybench protect`: pictures, comparisons, and protect.json, which tells all.

protect.json is written anew after each batch, whole or not at all; a picture counts as done
when its record and its file are both there and fit.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetybench.commands.locking import lock
from safetybench.commands.protect_pictures import Source
from safetybench.contracts import SafetyBenchError
from safetybench.private import scrub
from safetybench.store import digest, read_json, write_json

SCHEMA = "safetybench.protect/1"
IMAGES, COMPARISONS = "images", "comparisons"
_FILE, _LOCK = "protect.json", ".lock"

Record = dict[str, Any]


def check_out(out: Path, settings: Mapping[str, Any], *, overwrite: bool) -> dict[str, Record]:
    """Return the records that lie in OUT and are of these settings; "" is not known yet.

    Raises:
        SafetyBenchError: it holds something else, pictures made with other settings, or cannot be
            written; says what differs and what to do.
    """
    home, shown = out.expanduser().resolve(), repr(str(out))
    there = next(place for place in (home, *home.parents) if place.exists())
    if not there.is_dir():
        where = "is a file" if there == home else "lies below a file"
        raise SafetyBenchError(f"--out {shown} {where}; choose a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise SafetyBenchError(f"--out {shown} cannot be written; choose another folder")
    entries = {entry.name for entry in home.iterdir()} if there == home else set()
    entries = {name for name in entries if not name.startswith(".")}
    if not entries:
        return {}
    if _FILE not in entries or entries - {_FILE, IMAGES, COMPARISONS}:
        raise SafetyBenchError(
            f"--out {shown} is not empty and not of this command alone; choose another folder"
        )
    held = read_json(home / _FILE)
    if held.get("schema") != SCHEMA:
        raise SafetyBenchError(
            f"--out {shown} has a protect.json of another schema; choose another folder"
        )
    if overwrite:
        return {}
    changed = _changed(held.get("settings") or {}, settings)
    if changed:
        raise SafetyBenchError(
            f"--out {shown} holds pictures made with other settings ({'; '.join(changed)}); choose "
            "another folder, or make all anew with --overwrite"
        )
    return {str(each["name"]): each for each in held.get("pictures", ())}


def _changed(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}: {_short(was.get(key))} -> {_short(now.get(key))}"
        for key in sorted({*was, *now})
        if now.get(key) not in (was.get(key), "")
    ]


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 and text.isalnum() else text


@dataclass(kw_only=True)
class Folder:
    """An open OUT, locked against a second process.

    head: what stands in protect.json before the pictures; records: by the picture's name, those
    of earlier commands too.
    """

    path: Path
    head: Mapping[str, Any]
    records: dict[str, Record] = field(default_factory=dict)

    def key(self, source: Source) -> str:
        """Return what decides whether a record is of this picture, mask and settings."""
        files = {"image": source.sha256, "mask": source.mask_sha256}
        return digest({"settings": self.head["settings"], **files})

    def is_done(self, source: Source) -> bool:
        """Tell whether the picture was protected already, and its file is as it was written."""
        record = self.records.get(source.name, {})
        if record.get("status") != "done" or record.get("key") != self.key(source):
            return False
        file = self.image(source)
        return file.is_file() and self.digest_of(file) == record.get("protected_sha256")

    def image(self, source: Source) -> Path:
        """Return where the protected picture goes."""
        return self.path / IMAGES / source.name

    def comparison(self, source: Source) -> Path:
        """Return where the side-by-side goes."""
        return self.path / COMPARISONS / source.name

    @staticmethod
    def digest_of(file: Path) -> str:
        """Return the SHA-256 of a file."""
        return hashlib.sha256(file.read_bytes()).hexdigest()

    def drop(self, source: Source) -> None:
        """Remove what is there of a picture, so that none lies there without a record."""
        self.image(source).unlink(missing_ok=True)
        self.comparison(source).unlink(missing_ok=True)

    def fail(self, source: Source, message: str) -> None:
        """Record a picture as failed; what was there of it goes."""
        self.drop(source)
        self.records[source.name] = {
            "name": source.name,
            "origin": source.origin,
            "status": "failed",
            "error": scrub(message),
            "key": self.key(source),
        }

    def read(self) -> Record:
        """Return protect.json."""
        return read_json(self.path / _FILE)

    def save(self, summary: Mapping[str, Any]) -> None:
        """Write protect.json."""
        pictures = [self.records[name] for name in sorted(self.records)]
        whole = {"schema": SCHEMA, **self.head, "summary": summary, "pictures": pictures}
        write_json(self.path / _FILE, whole)


@contextmanager
def opened(out: Path, head: Mapping[str, Any], *, overwrite: bool = False) -> Iterator[Folder]:
    """Make the folder or take up what is in it, and hold it; see `check_out`.

    overwrite: what this command wrote there before is removed first.

    Raises:
        SafetyBenchError: as `check_out`, or another process works there.
    """
    home = out.expanduser().resolve()
    held = lock(home / _LOCK, out)
    try:
        records = check_out(out, head["settings"], overwrite=overwrite)
        if overwrite and (home / _FILE).exists():
            for name in (IMAGES, COMPARISONS):  # the file goes last: it says that they are ours
                shutil.rmtree(home / name, ignore_errors=True)
        yield Folder(path=home, head=head, records=records)
    finally:
        os.close(held)
