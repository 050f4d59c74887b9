"""Picture files: read as the 8-bit RGB that an editor gets, written as PNG, and checked again.

Rotation, depth, palette, transparency and colour profile are settled here, once, and told in
notes. Only plain raster formats are read; no reader that runs another program is ever asked.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from safetybench.component import SafetyBenchError
from safetybench.pixels import LEVELS, rounded, rounded_inside
from safetybench.store import write_whole
from safetybench.wording import fraction

PIXELS = 64 * 2**20  # of one picture: 0.8 GB as float32
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif",
    ".jp2", ".ppm", ".pgm",
)  # fmt: skip
MASK_LEVEL = 128  # of 255, from which on a mask is white
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "JPEG2000", "PPM")
_READABLE = "PNG, JPEG, WebP, AVIF, TIFF, BMP, GIF, JPEG 2000 or PPM"
# What Pillow's readers raise on files that end early or hold nonsense.
_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    struct.error, zlib.error,
)  # fmt: skip
_PLAIN = ("1", "L", "P", "RGB", "RGBX", "YCbCr", "HSV", "LA", "La", "PA", "RGBA", "RGBa")
_GRAY = ("1", "L", "LA", "La")
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width
_ORIENTATION, _BITS = 0x0112, 258  # tags of EXIF and of TIFF


class Size(NamedTuple):
    """Height and width in pixels, as the picture is shown."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A picture as 8-bit pixels.

    image: (3, height, width) float32, whole multiples of 1/255 in [0, 1]. alpha: (1, height,
    width) alike, None where everything shows. profile: the ICC profile that tells what its colours
    mean, None for none. notes: what became of the file on the way, for its owner.
    """

    image: Tensor
    alpha: Tensor | None = None
    profile: bytes | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> Size:
        """Return height and width."""
        return Size(*self.image.shape[1:])


class Mask(NamedTuple):
    """area: (1, height, width) float32, 1 where an editor draws anew, else 0; notes: as above."""

    area: Tensor
    notes: tuple[str, ...] = ()


# Reading


def read(path: Path, longest: int | None = None) -> Picture:
    """Return the picture of a file, upright, shrunk so that no side is above `longest`.

    16 bits a channel are rounded to 8, which the note says; animations are refused, because one
    still of them is not what would be shown.

    Raises:
        SafetyBenchError: no such file, empty, broken, no picture, too large, animated, or pixels
            without a known range; names the file and says what to do.
    """
    with _opened(path) as image:
        notes = _file_notes(image)
        deep = _depth(image, path) > 8
        if deep:
            notes.append("had 16 bits a channel, has 8; epsilon counts from the 8-bit picture")
        upright = _upright(image)
        if upright is not image:
            notes.append("was turned upright, as its EXIF says")
        plain, profile = _plain(upright, path, notes)
    plain = _shrunk(plain, longest, notes)
    pixels = np.asarray(plain, dtype=np.uint8)
    whole = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / LEVELS
    alpha = whole[3:] if len(whole) == 4 else None
    if alpha is not None:
        notes.append("is transparent in part: kept, and where nothing shows pixels stay")
    return Picture(image=whole[:3], alpha=alpha, profile=profile, notes=tuple(notes))


def read_size(path: Path, longest: int | None = None) -> Size:
    """Return the size that `read` gives, from the head of the file alone.

    Raises:
        SafetyBenchError: as `read`, for what the head shows.
    """
    with _opened(path) as image:
        width, height = image.size
        if _orientation(image) in _TURNED:
            width, height = height, width
    return _fitted(Size(height, width), longest)


def read_mask(path: Path, size: Size) -> Mask:
    """Return a mask file at the size of its picture: white, from 128 of 255 on, is drawn anew.

    Any mode will do. A mask of another size is stretched to the picture's by nearest neighbour,
    so that it stays black and white; transparency does not count.

    Raises:
        SafetyBenchError: the file cannot be read, see `read`, or is white all over.
    """
    picture = read(path)
    levels = (picture.image * LEVELS).round()
    gray = (0.299 * levels[0] + 0.587 * levels[1] + 0.114 * levels[2]).round()
    area = (gray >= MASK_LEVEL).float()[None]
    notes: list[str] = []
    if picture.size != size:
        notes.append("its mask has another size and was stretched to it")
        rows = _nearest(picture.size.height, size.height)
        area = area[:, rows][:, :, _nearest(picture.size.width, size.width)]
    if bool(area.all()):
        raise SafetyBenchError(
            f"the mask {str(path)!r} is white all over: an editor would draw everything anew, and "
            "nothing would be left to protect; leave black what is to be kept"
        )
    if not bool(area.any()):
        notes.append("its mask is black all over: an editor would keep everything")
    return Mask(area, tuple(notes))


def _nearest(have: int, want: int) -> Tensor:
    """Return for each of `want` places the nearest of `have`, centres on centres."""
    return ((torch.arange(want) + 0.5) * have / want).long().clamp(max=have - 1)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture lazily; whatever a reader raises inside becomes one sentence."""
    shown = repr(str(path))
    try:
        if not path.is_file():
            raise SafetyBenchError(f"there is no picture {shown}")
        if path.stat().st_size == 0:
            raise SafetyBenchError(f"{shown} is empty, 0 bytes; copy it again from where it was")
        Image.init()  # else only five formats are known
        known = [name for name in _FORMATS if name in Image.OPEN]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of is refused here, or harmless
            with Image.open(path, formats=known) as image:
                _check(image, shown)
                yield image
    except UnidentifiedImageError as error:
        raise SafetyBenchError(
            f"{shown} is no picture that can be read; it must be {_READABLE}, so export it as PNG"
        ) from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise SafetyBenchError(_too_large(shown, "more pixels")) from error
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno:
            told = (error.strerror or type(error).__name__).lower()
            raise SafetyBenchError(f"{shown} cannot be read: {told}") from error
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SafetyBenchError(
            f"{shown} is broken: {told}; open it in a viewer and save it as PNG"
        ) from error


def _check(image: Image.Image, shown: str) -> None:
    width, height = image.size
    if width * height > PIXELS:
        raise SafetyBenchError(_too_large(shown, f"{width}x{height} pixels"))
    # The second picture of an MPO is a camera's own preview or depth map, no animation.
    frames = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
    if frames > 1:
        raise SafetyBenchError(
            f"{shown} holds {frames} pictures, an animation or pages; save those you want one by "
            "one as PNG"
        )


def _too_large(shown: str, has: str) -> str:
    return (
        f"{shown} has {has}, and {PIXELS} are the most that is read; shrink it, editors take far "
        "smaller ones"
    )


def _file_notes(image: Image.Image) -> list[str]:
    notes = []
    if image.format != "PNG":
        notes.append(f"was {'JPEG' if image.format == 'MPO' else image.format}, is PNG")
    told = ("exif", "xmp", "XML:com.adobe.xmp", "photoshop", "comment", "Raw profile type exif")
    if any(key in image.info for key in told) or getattr(image, "text", None):
        notes.append("metadata, such as time and place of a photo, is not copied")
    return notes


def _depth(image: Image.Image, path: Path) -> int:
    """Return bits a channel; for PNG and TIFF of several channels Pillow hides more than 8."""
    if image.format == "PNG":
        with path.open("rb") as stream:
            return stream.read(25)[24]
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(_BITS, 8)
        return max(bits) if isinstance(bits, tuple) else int(bits)
    return 16 if image.mode.startswith("I") else 8


def _orientation(image: Image.Image) -> int:
    # A picture is no less a picture for EXIF that makes no sense.
    with suppress(*_BROKEN):
        return int(image.getexif().get(_ORIENTATION, 1))
    return 1


def _upright(image: Image.Image) -> Image.Image:
    if _orientation(image) in range(2, 9):
        with suppress(*_BROKEN):
            return ImageOps.exif_transpose(image)
    return image


def _plain(image: Image.Image, path: Path, notes: list[str]) -> tuple[Image.Image, bytes | None]:
    """Return the picture in mode RGB or RGBA, and the colour profile that goes with it."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):
        image, profile = _from_16_bits(image, path), None  # the profile was one of gray
    if image.mode == "CMYK":
        notes.append("had printing colours (CMYK), has those of a screen (RGB)")
        return _from_cmyk(image, profile), None
    if image.mode not in _PLAIN:
        raise SafetyBenchError(_no_range(path, image.mode))
    if image.mode in _GRAY:
        notes.append("was grayscale, is colour: what protects it is coloured")
        profile = None
    plain = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return plain, profile if isinstance(profile, bytes) else None


def _from_16_bits(image: Image.Image, path: Path) -> Image.Image:
    """Return an 8-bit gray picture; Pillow's own conversion would clip at 255."""
    if image.mode == "I" and image.format not in ("PNG", "PPM", "JPEG2000", None):
        raise SafetyBenchError(_no_range(path, "32-bit integer"))
    levels: NDArray[Any] = np.asarray(image).astype(np.float64) / (65535 / LEVELS)
    return Image.fromarray(levels.round().clip(0, LEVELS).astype(np.uint8))


def _no_range(path: Path, mode: str) -> str:
    return (
        f"{str(path)!r} has pixels of mode {mode}, whose range is not known; export it as a PNG "
        "of 8 or 16 bits"
    )


def _from_cmyk(image: Image.Image, profile: Any) -> Image.Image:
    if isinstance(profile, bytes):
        with suppress(ImageCms.PyCMSError, *_BROKEN):
            given = ImageCms.ImageCmsProfile(BytesIO(profile))
            screen = ImageCms.createProfile("sRGB")
            done = ImageCms.profileToProfile(image, given, screen, outputMode="RGB")
            if done is not None:
                return done
    return image.convert("RGB")


def _fitted(size: Size, longest: int | None) -> Size:
    if longest is None or max(size) <= longest:
        return size
    scale = longest / max(size)
    return Size(*(max(1, round(side * scale)) for side in size))


def _shrunk(image: Image.Image, longest: int | None, notes: list[str]) -> Image.Image:
    old = Size(image.height, image.width)
    new = _fitted(old, longest)
    if new == old:
        return image
    notes.append(f"was shrunk to at most {longest} pixels a side")
    return image.resize((new.width, new.height), Image.Resampling.LANCZOS)


# Writing


def write_png(
    file: Path, image: Tensor, alpha: Tensor | None = None, profile: bytes | None = None
) -> None:
    """Write an image as PNG, whole or not at all, without any metadata but the colour profile.

    image: (3, height, width) in [0, 1], rounded to the nearest of 255 levels; alpha: (1, height,
    width) alike.

    Raises:
        SafetyBenchError: the disk is full or the folder cannot be written.
        ValueError: an image of another shape.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image must be (3, height, width), got {tuple(image.shape)}")
    whole = image if alpha is None else torch.cat([image, alpha.to(image)])
    levels = (rounded(whole.detach().float().cpu()) * LEVELS).round().byte()
    buffer = BytesIO()
    picture = Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
    picture.save(buffer, format="PNG", icc_profile=profile)
    write_whole(file, buffer.getvalue(), sync=False)


def check_ball(file: Path, picture: Picture, epsilon: float) -> int:
    """Read a protected file again; return how many levels of 255 it is away at most (Linf).

    picture: what was protected; epsilon: the radius in [0, 1].

    Raises:
        SafetyBenchError: it lies outside the ball, or size or transparency are not the picture's.
    """
    again = read(file)
    if again.size != picture.size:
        raise SafetyBenchError(f"{file.name} has {again.size} pixels, its picture {picture.size}")
    apart = int(((again.image - picture.image).abs().max() * LEVELS).round())
    if not torch.equal(rounded_inside(again.image, picture.image, epsilon), again.image):
        raise SafetyBenchError(
            f"{file.name} is {apart} levels away from its picture, and epsilon is "
            f"{fraction(epsilon)}"
        )
    if not _is_same(again.alpha, picture.alpha):
        raise SafetyBenchError(f"{file.name} has not the transparency of its picture")
    return apart


def _is_same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)
