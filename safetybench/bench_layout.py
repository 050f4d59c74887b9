"""A folder of images, masks and prompts as inpainting benchmarks have it, made a table of edits.

`python -m safetybench.bench_layout FOLDER --out OUT` copies and checks, and writes OUT/edits.csv
for `images.table` of a suite. Masks are turned: there white is what is to be protected, and here
what an editor draws anew. The folder is made for InpaintGuardBench (Choi et al. 2025), whose
authors publish no layout; whoever has a copy sorts it so:

    images/NAME.png                square, at least as large as --size; other formats too
    masks/NAME_KEY.png             white: to be protected; KEY says which, "seen" or any other
    prompts.csv                    prompt; where wanted image (NAME, none: for all) and caption
    prompts.txt, prompts/NAME.txt  or one prompt a line: for all images, for one

A folder masks/NAME/ with KEY.png will do too. The protection is made for the mask "seen" (another
by --seen); an editor takes that and each other one, the unseen masks.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from safetybench.component import SafetyBenchError
from safetybench.edit_tasks import OPTIONAL, REQUIRED
from safetybench.judges._contrasts import MARK, joined

if TYPE_CHECKING:
    from torch import Tensor

TABLE = "edits.csv"
SEEN, SIZE = "seen", 512
_SIDE = 8  # pixels of a latent: what the sides of an image must be multiples of
_MOST_FAULTS = 8


class Asked(NamedTuple):
    """A prompt, and what its image shows before, "" where nobody says."""

    prompt: str
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An image with its masks, by their keys, the seen one first, and its prompts."""

    name: str
    image: Path
    masks: dict[str, Path]
    asked: tuple[Asked, ...]


def read_layout(folder: Path, *, seen: str = SEEN, size: int = SIZE) -> list[Entry]:
    """Return the entries of a folder by name; every file is opened, none is decoded in whole.

    Raises:
        SafetyBenchError: what is missing or does not fit, each with its file.
    """
    if size < _SIDE or size % _SIDE:
        raise SafetyBenchError(f"size must be a multiple of {_SIDE}, got {size}")
    for name in ("images", "masks"):
        if not (folder / name).is_dir():
            raise SafetyBenchError(
                f"{folder.name!r} has no folder {name}; it must have images/NAME.png, "
                "masks/NAME_KEY.png and prompts.csv, prompts.txt or prompts/NAME.txt"
            )
    faults: list[str] = []
    images = _images(folder / "images", size, faults)
    if not images and not faults:
        faults.append("images/: no picture")
    masks = _masks(folder / "masks", images, seen, faults)
    asked = _asked(folder, images, faults)
    for name in images:
        faults += _prompt_faults(name, asked.get(name, ()))
    _raise(faults)
    return [
        Entry(name=name, image=image, masks=masks[name], asked=tuple(asked[name]))
        for name, image in images.items()
    ]


def write_table(entries: Sequence[Entry], out: Path, *, size: int = SIZE) -> Path:
    """Write images, turned masks and the table below `out`, a new folder; return the table.

    A row for each image, unseen mask and prompt, with both masks in it; for each image and prompt
    where there is no other mask. First come rows of as many images as there are, so that the
    first rows are a sample of all.

    Raises:
        SafetyBenchError: `out` is not empty; a picture is broken, or a mask of one colour.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SafetyBenchError(f"--out {str(out)!r} is there already; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent) as place:  # whole or not at all
        made, faults = Path(place) / out.name, list[str]()
        rows = [list(_rows(i, entry, made, size, faults)) for i, entry in enumerate(entries)]
        _raise(faults)
        with (made / TABLE).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, [*REQUIRED, *OPTIONAL])
            writer.writeheader()
            for turn in zip_longest(*rows):
                writer.writerows(row for row in turn if row is not None)
        made.replace(out)  # also where it is an empty folder
    return out / TABLE


def main(arguments: Sequence[str] | None = None) -> int:
    """Read a folder, write a table, say what to do with it; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m safetybench.bench_layout",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--seen", default=SEEN, metavar="KEY", help="mask to protect for")
    parser.add_argument("--size", type=int, default=SIZE, help="pixels a side, 512")
    told = parser.parse_args(arguments)
    try:
        entries = read_layout(told.folder.expanduser(), seen=told.seen, size=told.size)
        table = write_table(entries, told.out.expanduser(), size=told.size)
    except SafetyBenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(entries)} images; next: safetybench run protection-sd --prompts {table}")
    return 0


# Reading


def _images(folder: Path, size: int, faults: list[str]) -> dict[str, Path]:
    from safetybench.picture_files import read_size

    found: dict[str, Path] = {}
    for file in _pictures(folder):
        if file.stem in found:
            faults.append(f"images/{file.name}: {found[file.stem].name} has its name too")
            continue
        found[file.stem] = file
        try:
            told = read_size(file)
        except SafetyBenchError as error:
            faults.append(f"images/{file.name}: {_plain(error, file)}")
            continue
        if told.height != told.width or told.height < size:
            faults.append(
                f"images/{file.name}: must be square and of {size} pixels a side or more, got "
                f"{told}; crop it, or name a smaller --size"
            )
    return found


def _masks(
    folder: Path, images: dict[str, Path], seen: str, faults: list[str]
) -> dict[str, dict[str, Path]]:
    found: dict[str, dict[str, Path]] = {name: {} for name in images}
    for file in (*_pictures(folder), *(f for d in _folders(folder) for f in _pictures(d))):
        shown = file.relative_to(folder.parent)
        if file.parent == folder:
            owner, key = _owner(file.stem, images)
        else:
            owner, key = (file.parent.name, file.stem)
            owner = owner if owner in images else ""
        if not owner or not key:
            faults.append(f"{shown}: belongs to no image; a mask of NAME.png is NAME_KEY.png")
        elif key in found[owner]:
            faults.append(f"{shown}: {found[owner][key].name} is this mask of {owner} too")
        else:
            found[owner][key] = file
    for name, masks in found.items():
        if not masks:
            faults.append(f"images/{images[name].name}: has no mask; put masks/{name}_{seen}.png")
        elif seen not in masks:
            faults.append(
                f"images/{images[name].name}: has no mask {seen!r} to be protected for, but "
                f"{', '.join(masks)}; say which by --seen KEY"
            )
    return {
        name: {key: masks[key] for key in sorted(masks, key=lambda k: (k != seen, k))}
        for name, masks in found.items()
    }


def _owner(stem: str, images: dict[str, Path]) -> tuple[str, str]:
    """Return the image whose name a mask's begins with, the longest, and what follows."""
    owners = [name for name in images if stem.startswith((f"{name}_", f"{name}-"))]
    owner = max(owners, key=len, default="")
    return owner, stem[len(owner) + 1 :] if owner else ""


def _asked(folder: Path, images: dict[str, Path], faults: list[str]) -> dict[str, list[Asked]]:
    table, plain, each = folder / "prompts.csv", folder / "prompts.txt", folder / "prompts"
    there = [place.name for place in (table, plain, each) if place.exists()]
    if len(there) != 1:
        raise SafetyBenchError(
            f"{folder.name!r} must have one of prompts.csv, prompts.txt and prompts/NAME.txt, got "
            f"{' and '.join(there) or 'none'}"
        )
    if table.exists():
        return _of_table(table, images, faults)
    if plain.exists():
        asked = [Asked(line) for line in _lines(plain, faults)]
        return {name: asked for name in images}
    found: dict[str, list[Asked]] = {}
    for file in sorted(each.glob("*.txt")):
        if file.stem not in images:
            faults.append(f"prompts/{file.name}: there is no image {file.stem}")
        found[file.stem] = [Asked(line) for line in _lines(file, faults)]
    return found


def _of_table(file: Path, images: dict[str, Path], faults: list[str]) -> dict[str, list[Asked]]:
    found: dict[str, list[Asked]] = {name: [] for name in images}
    by_file = {path.name: name for name, path in images.items()}
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SafetyBenchError(f"{file.name} cannot be read as CSV in UTF-8: {error}") from error
    if "prompt" not in (reader.fieldnames or ()):
        raise SafetyBenchError(f"{file.name} needs the column prompt, got {reader.fieldnames}")
    for line, row in rows:
        told = {key: (row.get(key) or "").strip() for key in ("image", "prompt", "caption")}
        name = by_file.get(told["image"], told["image"])
        if not told["prompt"]:
            faults.append(f"{file.name} line {line}: no prompt")
        elif name and name not in images:
            faults.append(f"{file.name} line {line}: there is no image {told['image']}")
        else:
            for owner in (name,) if name else images:
                found[owner].append(Asked(told["prompt"], told["caption"]))
    return found


def _prompt_faults(name: str, asked: Sequence[Asked]) -> Iterator[str]:
    prompts = [each.prompt for each in asked]
    if not prompts:
        yield f"{name}: has no prompt"
    elif len({*prompts, *(each.caption for each in asked if each.caption)}) < 2:
        yield (
            f"{name}: has one prompt and no caption, so that a judge has nothing to tell an edit "
            "from; add the column caption or more prompts"
        )
    for prompt in dict.fromkeys(p for p in prompts if prompts.count(p) > 1):
        yield f"{name}: the prompt {prompt!r} stands twice"
    for text in (text for each in asked for text in each if MARK.strip() in text):
        yield f"{name}: {text!r} must not hold {MARK.strip()!r}"


def _lines(file: Path, faults: list[str]) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        faults.append(f"{file.name}: is not UTF-8; save it again")
        return []
    return [line for raw in text.splitlines() if (line := raw.strip())]


def _pictures(folder: Path) -> list[Path]:
    from safetybench.picture_files import SUFFIXES

    files = (f for f in folder.iterdir() if f.is_file() and not f.name.startswith("."))
    return sorted(f for f in files if f.suffix.lower() in SUFFIXES)


def _folders(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _plain(error: Exception, file: Path) -> str:
    return str(error).replace(str(file), file.name)


def _raise(faults: Sequence[str]) -> None:
    if faults:
        more = len(faults) - _MOST_FAULTS
        told = [*faults[:_MOST_FAULTS], *([f"and {more} more"] if more > 0 else [])]
        raise SafetyBenchError("\n".join(told))


# Writing


def _rows(
    number: int, entry: Entry, out: Path, size: int, faults: list[str]
) -> Iterator[dict[str, str]]:
    from safetybench.picture_files import read, write_png
    from safetybench.store import slug

    stem = f"{number:03d}-{slug(entry.name)}"
    image, masks = f"images/{stem}.png", []
    (out / "images").mkdir(parents=True, exist_ok=True)
    (out / "masks").mkdir(exist_ok=True)
    try:
        write_png(out / image, read(entry.image, longest=size).image)
        for key, file in entry.masks.items():
            masks.append(f"masks/{stem}-{slug(key)}.png")
            write_png(out / masks[-1], _turned(file, size).expand(3, -1, -1))
    except SafetyBenchError as error:
        faults.append(str(error))
        return
    seen, *unseen = masks
    prompts = [each.prompt for each in entry.asked]
    for i, j in _turns(number, len(prompts), max(len(unseen), 1)):
        prompt, caption = entry.asked[i]
        others = [caption] * bool(caption) + [p for p in prompts if p != prompt]
        yield {
            "id": f"{stem}-p{i:02d}-m{j:02d}",
            "image": image,
            "prompt": prompt,
            "concept": joined(prompt, others),
            "caption": caption,
            "mask": seen,
            "unseen_mask": unseen[j] if unseen else "",
        }


def _turns(number: int, prompts: int, masks: int) -> Iterator[tuple[int, int]]:
    """Yield all pairs of a prompt and a mask, so that images begin with different ones."""
    for shift in range(masks):
        for i in range(prompts):
            yield (number + i) % prompts, (number + i + shift) % masks


def _turned(file: Path, size: int) -> Tensor:
    """Return a mask the other way round, (1, size, size): 1 where it is black."""
    import torch

    from safetybench.picture_files import read

    white = (read(file).image.mean(0, keepdim=True) >= 0.5).float()
    if not bool(white.any()) or bool(white.all()):
        colour, other = ("white", "edit") if bool(white.all()) else ("black", "protect")
        raise SafetyBenchError(
            f"masks/{file.name}: is {colour} all over, which leaves nothing to {other}; white is "
            "what is to be protected"
        )
    stretched = torch.nn.functional.interpolate(white[None], (size, size), mode="nearest-exact")
    return 1 - stretched[0]


if __name__ == "__main__":
    sys.exit(main())
