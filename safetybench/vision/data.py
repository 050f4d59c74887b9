"""Data to classify that need no download: digits, Fashion-MNIST, the embedded world, a folder.

Every source has a training and a test split of fixed size that share no image, and draws from
them by count and seed. Images are 8-bit values as float32 in [0, 1].
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from safetybench.class_contracts import Labelled
from safetybench.component import SafetyBenchError, Unavailable
from safetybench.picture_files import SUFFIXES, Size, read, read_size
from safetybench.pixels import LEVELS
from safetybench.registry import suggestion
from safetybench.suite_classify import SOURCES

Split = Literal["train", "test"]
FASHION = Path("/usr/share/datasets/fashion-mnist")  # of the Debian package
_FASHION_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip
_FILES = {"train": "train", "test": "t10k"}
_DIGITS_TRAIN = 1397  # of 1,797, so that 400 are left to test on
_WORLD = {"train": 20000, "test": 4000}
_WORLD_SEED = {"train": 71, "test": 72}
_SIDE = 32  # the world is drawn at 64 pixels a side and averaged over 2x2
_GRAY = ("1", "L", "LA", "I", "I;16")  # modes of pictures without colour


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Labelled images in two splits that share none.

    classes: names, in the order of the labels; shape: (channels, height, width); digest: SHA-256
    of all that is in it; sizes: images in each split; pick: the images of these rows of a split.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    digest: str
    sizes: Mapping[Split, int]
    pick: Callable[[Split, Tensor], Labelled]

    def train(self, count: int = 0, seed: int = 0) -> Labelled:
        """Return `count` training images in an order drawn by `seed`; 0 for all.

        Raises:
            SafetyBenchError: there are fewer; an image cannot be read.
        """
        return self._draw("train", count, seed)

    def test(self, count: int = 0, seed: int = 0) -> Labelled:
        """Return test images, as `train` does."""
        return self._draw("test", count, seed)

    def _draw(self, split: Split, count: int, seed: int) -> Labelled:
        have = self.sizes[split]
        if not 0 <= count <= have:
            raise SafetyBenchError(
                f"count of {split} images must be 0 for all or at most {have}, all that "
                f"{self.name} has, got {count}"
            )
        found = _drawn(self, split, count or have, seed)
        # Cached, and a caller may write into what it gets.
        return Labelled(found.images.clone(), found.labels.clone())


@lru_cache(maxsize=4)
def _drawn(source: Source, split: Split, count: int, seed: int) -> Labelled:
    order = torch.randperm(source.sizes[split], generator=torch.Generator().manual_seed(seed))
    return source.pick(split, order[:count])


def source_of(name: str) -> Source:
    """Return data by name: digits, fashion-mnist, world, or a folder.

    A folder holds train/ and test/, and each of them one folder per class, of pictures. They have
    one channel if all of them are saved as gray, else three; the size of the first is everyone's.

    Raises:
        Unavailable: the Debian package of Fashion-MNIST is not there.
        SafetyBenchError: no such data; a folder without classes, or with others in its test.

    Example:
        >>> source_of("digits").test(2).images.shape
        torch.Size([2, 1, 8, 8])
    """
    if name == "digits":
        return _digits()
    if name == "fashion-mnist":
        return _fashion(FASHION)
    if name == "world":
        return _world()
    home = Path(name).expanduser()
    if not home.is_dir():
        near = suggestion(name, SOURCES) or ";"
        raise SafetyBenchError(
            f"there are no data {name!r}{near} data are {', '.join(SOURCES)}, or a folder with "
            "train/ and test/"
        )
    listed = _listed(home.resolve(), name)
    return _folder(home.resolve(), name, listed)


# The named ones


class _Pool(NamedTuple):
    """All images of a split: (count, c, h, w) uint8, and (count,) int64."""

    images: Tensor
    labels: Tensor


def _pooled(name: str, classes: Sequence[str], pools: Mapping[Split, _Pool]) -> Source:
    whole = hashlib.sha256(repr((name, tuple(classes))).encode())
    for pool in pools.values():
        whole.update(pool.images.numpy().tobytes() + pool.labels.numpy().tobytes())

    def pick(split: Split, rows: Tensor) -> Labelled:
        pool = pools[split]
        return Labelled(pool.images[rows].float() / LEVELS, pool.labels[rows])

    channels, height, width = pools["test"].images.shape[1:]
    return Source(
        name=name,
        classes=tuple(classes),
        shape=(channels, height, width),
        digest=whole.hexdigest(),
        sizes={split: len(pool.labels) for split, pool in pools.items()},
        pick=pick,
    )


@lru_cache(maxsize=1)
def _digits() -> Source:
    """Return scikit-learn's 1,797 digits of 8x8 pixels, whose 17 levels are spread over 256."""
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    levels = (np.asarray(pixels) * (LEVELS / 16)).round().astype(np.uint8)
    images = torch.from_numpy(levels).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(np.asarray(target).astype(np.int64))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:_DIGITS_TRAIN], order[_DIGITS_TRAIN:]
    pools: dict[Split, _Pool] = {
        "train": _Pool(images[train], labels[train]),
        "test": _Pool(images[test], labels[test]),
    }
    return _pooled("digits", [str(digit) for digit in range(10)], pools)


@lru_cache(maxsize=1)
def _fashion(home: Path) -> Source:
    pools: dict[Split, _Pool] = {}
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        images = _idx(home / f"{_FILES[split]}-images-idx3-ubyte.gz", 16)
        labels = _idx(home / f"{_FILES[split]}-labels-idx1-ubyte.gz", 8)
        if len(images) != len(labels) * 28 * 28:
            raise SafetyBenchError(f"the {split} files of fashion-mnist do not belong together")
        pools[split] = _Pool(images.reshape(-1, 1, 28, 28), labels.long())
    return _pooled("fashion-mnist", _FASHION_CLASSES, pools)


def _idx(file: Path, header: int) -> Tensor:
    """Return the bytes of an IDX file after its header."""
    try:
        with gzip.open(file) as stream:
            return torch.from_numpy(np.frombuffer(stream.read(), np.uint8, offset=header).copy())
    except FileNotFoundError as error:
        raise Unavailable(
            "fashion-mnist is not there; `apt install dataset-fashion-mnist` brings it"
        ) from error
    except (OSError, EOFError, ValueError) as error:
        raise SafetyBenchError(f"{file.name} of fashion-mnist cannot be read: {error}") from error


@lru_cache(maxsize=1)
def _world() -> Source:
    """Return scenes of the embedded world, to be told by their object, drawn when asked for."""
    from safetybench.zoo import world

    scenes = {
        split: world.sample_scenes(count, torch.Generator().manual_seed(_WORLD_SEED[split]))
        for split, count in _WORLD.items()
    }

    def pick(split: Split, rows: Tensor) -> Labelled:
        chosen = world.Scenes(*(field[rows] for field in scenes[split]))
        parts = zip(*(field.split(512) for field in chosen), strict=True)
        drawn = torch.cat([world.render(world.Scenes(*part)) for part in parts])
        small = torch.nn.functional.avg_pool2d(drawn, world.SIZE // _SIDE)
        return Labelled((small * LEVELS).round() / LEVELS, chosen.object.clone())

    # What is drawn follows from the code; pixels may differ in the last bit between machines.
    code = Path(world.__file__).read_bytes() + repr((_WORLD, _WORLD_SEED, _SIDE)).encode()
    return Source(
        name="world",
        classes=world.OBJECTS,
        shape=(3, _SIDE, _SIDE),
        digest=hashlib.sha256(code).hexdigest(),
        sizes={"train": _WORLD["train"], "test": _WORLD["test"]},
        pick=pick,
    )


# A folder


class _Listed(NamedTuple):
    """Classes of a folder and its files, each with its class, size and time of change."""

    classes: tuple[str, ...]
    files: tuple[tuple[Split, int, Path, int, int], ...]


def _listed(home: Path, shown: str) -> _Listed:
    found: dict[Split, dict[str, list[Path]]] = {}
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        place = home / split
        if not place.is_dir():
            raise SafetyBenchError(f"{shown!r} has no folder {split}/; data have train/ and test/")
        found[split] = {each.name: _pictures(each) for each in _visible(place) if each.is_dir()}
    classes = tuple(sorted(found["train"]))
    if len(classes) < 2:
        raise SafetyBenchError(
            f"train/ of {shown!r} must hold a folder for each of 2 classes or more, got "
            f"{len(classes)}"
        )
    pairs: tuple[tuple[Split, Split], ...] = (("test", "train"), ("train", "test"))
    for split, other in pairs:
        for name in found[other]:
            if name not in found[split]:
                raise SafetyBenchError(f"class {name!r} of {shown!r} is missing in its {split}/")
            if not found[split][name]:
                raise SafetyBenchError(f"{split}/{name} of {shown!r} holds no pictures")
    files = []
    for split in splits:
        for label, name in enumerate(classes):
            for file in found[split][name]:
                stat = file.stat()
                files.append((split, label, file, stat.st_size, stat.st_mtime_ns))
    return _Listed(classes, tuple(files))


def _visible(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if not each.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    return [each for each in _visible(folder) if each.suffix.lower() in SUFFIXES]


@lru_cache(maxsize=4)
def _folder(home: Path, shown: str, listed: _Listed) -> Source:
    whole = hashlib.sha256(repr(listed.classes).encode())
    modes = set()
    for split, _, file, _, _ in listed.files:
        read_size(file)  # names the file if it is no picture
        with Image.open(file) as image:
            modes.add(image.mode)
        whole.update(f"\0{split}/{file.parent.name}/{file.name}\0".encode(errors="replace"))
        with file.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    channels: int = 1 if modes <= set(_GRAY) else 3
    size = read_size(listed.files[0][2])
    by_split: dict[Split, list[tuple[Path, int]]] = {"train": [], "test": []}
    for split, label, file, _, _ in listed.files:
        by_split[split].append((file, label))

    def pick(split: Split, rows: Tensor) -> Labelled:
        chosen = [by_split[split][row] for row in rows.tolist()]
        images = torch.stack([_picture(file, channels, size) for file, _ in chosen])
        return Labelled(images, torch.tensor([label for _, label in chosen]))

    return Source(
        name=os.path.basename(home) or shown,
        classes=listed.classes,
        shape=(channels, size.height, size.width),
        digest=whole.hexdigest(),
        sizes={split: len(files) for split, files in by_split.items()},
        pick=pick,
    )


def _picture(file: Path, channels: int, size: Size) -> Tensor:
    image = read(file).image[:channels]
    if tuple(image.shape[1:]) == size:
        return image
    resized = torch.nn.functional.interpolate(
        image[None], size=list(size), mode="bilinear", antialias=True
    )[0]
    return (resized.clamp(0, 1) * LEVELS).round() / LEVELS
