"""What a distillation may learn from beside its teacher: a folder of real images."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from safetybench.contracts import Pictures, SafetyBenchError

if TYPE_CHECKING:
    from torch import Tensor

_SUFFIXES = (".png", ".jpg", ".jpeg")
_SHOWN = 10  # files that are named where more are left out


class Captioned(NamedTuple):
    """A real image's file and its caption."""

    file: Path
    caption: str


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """The images of a folder that can be used; left_out: what cannot, each with its reason."""

    images: tuple[Captioned, ...]
    left_out: tuple[str, ...]
    digest: str

    @property
    def notes(self) -> list[str]:
        """Return what the user should know about what is left out."""
        if not self.left_out:
            return []
        total = len(self.images) + len(self.left_out)
        more = len(self.left_out) - _SHOWN
        listed = [*self.left_out[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]
        return [f"{len(self.left_out)} of {total} images are left out: {'; '.join(listed)}"]

    def load(self, height: int, width: int) -> Pictures:
        """Return the images, resized and cut around the middle to one size, in [0, 1].

        Raises:
            SafetyBenchError: they are more than memory holds.
        """
        import torch

        need = 12 * height * width * len(self.images)
        if need > _memory() // 2:
            raise SafetyBenchError(
                f"{len(self.images)} images of {width}x{height} pixels take {need / 2**30:.0f} GiB "
                "of memory, more than half of this machine's; name a folder with fewer"
            )
        tensors = [_pixels(each.file, height, width) for each in self.images]
        return Pictures(torch.stack(tensors), [each.caption for each in self.images])


def find_images(folder: Path) -> ImageFolder:
    """Return the captioned images of a folder; every file is read once, and known by content.

    Raises:
        SafetyBenchError: no folder, a broken metadata.jsonl, or no image that can be used.
    """
    if not folder.is_dir():
        raise SafetyBenchError(f"--images: there is no folder {str(folder)!r}")
    table = folder / "metadata.jsonl"
    pairs = list(_table(table, folder) if table.is_file() else _stems(folder))
    whole, kept, left_out = hashlib.sha256(), [], []
    for file, caption in pairs:
        reason = "it has no caption" if not caption else _fault(file)
        if reason:
            left_out.append(f"{file.relative_to(folder)}: {reason}")
            continue
        kept.append(Captioned(file, caption))
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        whole.update(json.dumps([content, caption]).encode())
    found = ImageFolder(images=tuple(kept), left_out=tuple(left_out), digest=whole.hexdigest())
    if not kept:
        why = found.notes[0] if left_out else "there are no PNG or JPEG files in it"
        raise SafetyBenchError(f"--images: {str(folder)!r} has no image to use: {why}")
    return found


def _stems(folder: Path) -> Iterator[Captioned]:
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in _SUFFIXES and file.is_file():
            beside = file.with_suffix(".txt")
            try:
                text = beside.read_text(encoding="utf-8-sig") if beside.is_file() else ""
            except (OSError, UnicodeDecodeError):
                text = ""
            yield Captioned(file, " ".join(text.split()))


def _table(table: Path, folder: Path) -> Iterator[Captioned]:
    try:
        lines = table.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SafetyBenchError(f"--images: cannot read metadata.jsonl: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        is_right = isinstance(row, Mapping) and all(
            isinstance(row.get(key), str) for key in ("file_name", "text")
        )
        if row is None or not is_right:
            raise SafetyBenchError(
                f'metadata.jsonl:{number}: a line must be {{"file_name": ..., "text": ...}}'
            )
        fault = _misplaced(row["file_name"], folder)
        if fault:
            raise SafetyBenchError(f"metadata.jsonl:{number}: {row['file_name']!r} {fault}")
        yield Captioned(folder / row["file_name"], " ".join(row["text"].split()))


def _misplaced(name: str, folder: Path) -> str:
    """Return why a name of metadata.jsonl is not that of a file in the folder, "" if it is."""
    if Path(name).is_absolute():
        return "must be relative to the folder"
    try:
        place = (folder / name).resolve()
        place.is_file()
    except (OSError, ValueError, RuntimeError):  # a null byte, a name too long, links in a circle
        return "is no name of a file"
    return "" if place.is_relative_to(folder.resolve()) else "lies outside the folder"


def _fault(file: Path) -> str:
    """Return why an image cannot be used, "" if it can; its pixels are decoded to know."""
    from PIL import Image

    if file.suffix.lower() not in _SUFFIXES:
        return "it is no PNG or JPEG file"
    if not file.is_file():
        return "there is no such file"
    try:
        with Image.open(file, formats=("PNG", "JPEG")) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return "it cannot be read"
    return ""


def _pixels(file: Path, height: int, width: int) -> Tensor:
    """Return an image as (3, height, width), float, in [0, 1], cut around its middle."""
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    with Image.open(file, formats=("PNG", "JPEG")) as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGB")
    fitted = ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).float() / 255


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
