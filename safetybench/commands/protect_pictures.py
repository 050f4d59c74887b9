"""Which pictures `safetybench protect` is to protect, what they will be called, and their masks."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safetybench.contracts import SafetyBenchError
from safetybench.picture_files import SUFFIXES, read_mask, read_size


@dataclass(frozen=True, kw_only=True)
class Source:
    """A picture that is to be protected.

    name: what it is called below OUT, a relative path that ends in .png; origin: its name and
    the folders below the one that was given; sha256, mask_sha256: of the files, "" for a file that
    cannot be read and where there is no mask.
    """

    path: Path
    name: str
    origin: str
    mask: Path | None = None
    sha256: str = ""
    mask_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Pictures in the order they were given; others: files of the folders that are none."""

    sources: tuple[Source, ...]
    others: int = 0


def find(images: Sequence[Path], *, recursive: bool, apart: Sequence[Path]) -> Found:
    """Return the pictures that are meant by files and folders.

    apart: files and folders in which none is looked for, such as OUT.

    Raises:
        SafetyBenchError: one is not there, is to be left apart, or two would get one name.
    """
    homes = [each.expanduser().resolve() for each in apart]
    paths: dict[Path, tuple[Path, str]] = {}
    others = 0
    for given in images:
        place = given.expanduser()
        if place.is_dir():
            for path in _walk(place, recursive, homes):
                if path.suffix.lower() in SUFFIXES:
                    origin = path.relative_to(place).as_posix()
                    paths.setdefault(path.resolve(), (path, origin))
                else:
                    others += 1
        else:
            _check_file(place, given, homes)
            paths.setdefault(place.resolve(), (place, place.name))
    return Found(sources=tuple(_named(list(paths.values()))), others=others)


def with_digests(source: Source) -> Source:
    """Return the source with digests of its files; one that cannot be read fails later, alone."""
    mask = "" if source.mask is None else _digest(source.mask)
    return replace(source, sha256=_digest(source.path), mask_sha256=mask)


def with_masks(sources: Sequence[Source], mask: Path | None) -> tuple[Source, ...]:
    """Return the sources with their masks: one file, or files of the same names in a folder.

    Raises:
        SafetyBenchError: there is no such file, it is no mask, or a picture has none in the
            folder, or several.
    """
    if mask is None:
        return tuple(sources)
    place = mask.expanduser()
    if place.is_file():
        read_mask(place, read_size(place))  # one mask for all that is no mask is no mask for any
        return tuple(replace(source, mask=place) for source in sources)
    if not place.is_dir():
        raise SafetyBenchError(f"--mask: there is no file or folder {str(mask)!r}")
    there: dict[str, list[Path]] = {}
    for path in _walk(place, True, ()):
        if path.suffix.lower() in SUFFIXES:
            stem = path.relative_to(place).with_suffix("").as_posix()
            there.setdefault(stem, []).append(path)
    return tuple(replace(source, mask=_mask_of(source, there, mask)) for source in sources)


def _mask_of(source: Source, there: dict[str, list[Path]], mask: Path) -> Path:
    stem = _stem(source.origin)
    found = there.get(stem, [])
    if not found:
        raise SafetyBenchError(
            f"--mask: {str(mask)!r} has no mask for {source.origin!r}; put it there as "
            f"{stem + '.png'!r}"
        )
    if len(found) > 1:
        names = ", ".join(repr(path.relative_to(mask.expanduser()).as_posix()) for path in found)
        raise SafetyBenchError(f"--mask: {source.origin!r} has {names}; leave one")
    return found[0]


def _walk(folder: Path, recursive: bool, apart: Sequence[Path]) -> Iterator[Path]:
    """Yield the files of a folder in the order of their names; hidden ones are left alone."""
    for home, folders, files in os.walk(folder, onerror=_refuse):
        inside = [name for name in folders if recursive and not name.startswith(".")]
        # In place: os.walk goes into what is left in the list, in its order.
        folders[:] = sorted(name for name in inside if (Path(home) / name).resolve() not in apart)
        for name in sorted(files):
            path = Path(home, name)
            if not name.startswith(".") and not _is_apart(path, apart):
                yield path


def _refuse(error: OSError) -> None:
    reason = (error.strerror or type(error).__name__).lower()
    raise SafetyBenchError(f"cannot look into {str(error.filename)!r}: {reason}") from error


def _is_apart(path: Path, apart: Sequence[Path]) -> bool:
    place = path.resolve()
    return any(place.is_relative_to(home) for home in apart)


def _check_file(place: Path, given: Path, apart: Sequence[Path]) -> None:
    if not place.exists():
        raise SafetyBenchError(f"there is no picture or folder {str(given)!r}")
    if _is_apart(place, apart):
        raise SafetyBenchError(
            f"{str(given)!r} is a mask, or lies in --out; give originals, or choose another --out"
        )


def _stem(origin: str) -> str:
    path = Path(origin)
    return (path.with_suffix("") if path.suffix.lower() in SUFFIXES else path).as_posix()


def _named(paths: Sequence[tuple[Path, str]]) -> Iterator[Source]:
    """Yield sources; where a.jpg would become the a.png that there is, it is a.jpg.png."""
    short = {origin: f"{_stem(origin)}.png" for _, origin in paths}
    counts = Counter(short[origin] for origin in dict.fromkeys(origin for _, origin in paths))
    taken: dict[str, str] = {}
    for path, origin in paths:
        name = short[origin]
        if counts[name] > 1 and name != origin:
            name = f"{origin}.png"
        if name in taken:
            raise SafetyBenchError(
                f"{taken[name]!r} and {str(path)!r} would both be written as {name!r}; protect "
                "them one by one, each with an --out of its own"
            )
        taken[name] = str(path)
        yield Source(path=path, name=name, origin=origin)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
