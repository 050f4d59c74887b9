"""What a distillation is given: options as text, a file of prompts, a folder of real images."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from safetybench import registry
from safetybench.contracts import Pictures, SafetyBenchError
from safetybench.prompt_file import read_prompt_file

if TYPE_CHECKING:
    from torch import Tensor

_SUFFIXES = (".png", ".jpg", ".jpeg")
_SHOWN = 10  # files that are named where more are left out
_NO = object()  # what a value is when it does not fit a type


# Options


def read_options(name: str, given: Sequence[str], batch: int | None) -> dict[str, Any]:
    """Return the options of a recipe from `KEY=VALUE` texts, each of the type of its field.

    Raises:
        SafetyBenchError: no such option, given twice, or a value of another type.
    """
    component = registry.load(name)
    hints = get_type_hints(component)
    known = _fields(component)
    found: dict[str, Any] = {}
    for text in [*given, *([f"batch={batch}"] if batch is not None else [])]:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise SafetyBenchError(f"--option must be KEY=VALUE, got {text!r}")
        if key not in known:
            near = registry.suggestion(key, known) or ";"
            raise SafetyBenchError(
                f"{name} has no option {key!r}{near} it takes {', '.join(known) or 'none'}"
            )
        if key in found:
            raise SafetyBenchError(f"the option {key!r} is given twice; give it once")
        found[key] = _read(name, key, value, hints.get(key, Any))
    return found


def _fields(component: type) -> list[str]:
    return [each.name for each in dataclasses.fields(component) if each.init]


def _read(name: str, key: str, text: str, kind: Any) -> Any:
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise SafetyBenchError(f"--option {key}={text!r} is no YAML value: {reason}") from error
    fitting = _fit(value, kind, text)
    if fitting is _NO:
        raise SafetyBenchError(f"{name}: {key} must be {_said(kind)}, got {text!r}")
    return fitting


def _fit(value: Any, kind: Any, text: str) -> Any:
    """Return a YAML value as one of a type, or _NO; text: as it was written."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return next((v for v in (_fit(value, k, text) for k in inside) if v is not _NO), _NO)
    if origin is Literal:
        return next((v for v in inside if v == value or v == text.strip()), _NO)
    if origin is tuple:
        return _fit_tuple(value, inside)
    if kind is float:
        return _fit_float(value)
    if kind is str:  # `no` and `1` are text where text is wanted
        return value if isinstance(value, str) else text.strip()
    if kind in (int, bool, type(None)):
        return value if type(value) is kind else _NO
    return value


def _fit_tuple(value: Any, inside: tuple[Any, ...]) -> Any:
    if not isinstance(value, list):
        return _NO
    kinds = inside[:1] * len(value) if inside[-1:] == (...,) else inside
    if len(kinds) != len(value):
        return _NO
    fitted = tuple(_fit(v, k, str(v)) for v, k in zip(value, kinds, strict=True))
    return _NO if _NO in fitted else fitted


def _fit_float(value: Any) -> Any:
    # PyYAML takes 1e-5 for text: YAML 1.1 wants 1.0e-5.
    try:
        number = float(value) if type(value) in (int, float, str) else math.nan
    except ValueError:
        return _NO
    return number if math.isfinite(number) else _NO


def _said(kind: Any) -> str:
    """Return a type in words."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_said(each) for each in inside)
    if origin is Literal:
        return f"one of {', '.join(map(str, inside))}"
    if origin is tuple and inside[-1:] == (...,):
        return f"a list, as in [1, 2], each {_said(inside[0])}"
    if origin is tuple:
        return f"a list of {len(inside)}: {', '.join(map(_said, inside))}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(kind, "none" if kind is type(None) else getattr(kind, "__name__", str(kind)))


# Prompts


def read_prompts(file: Path) -> list[str]:
    """Return the prompts of a file; see `read_prompt_file`.

    Raises:
        SafetyBenchError: it is not there, cannot be read, is no UTF-8, or holds no prompt.
    """
    try:
        return read_prompt_file(file)
    except SafetyBenchError as error:
        raise SafetyBenchError(f"--prompts: {error}") from error


# Images


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


def digest_of(texts: Iterable[str]) -> str:
    """Return a SHA-256 of texts in their order."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
