"""Picture files: every kind is read as the pixels an editor gets, or refused in one sentence."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageCms

from safetybench.contracts import SafetyBenchError
from safetybench.picture_files import (
    Picture,
    Size,
    check_ball,
    read,
    read_mask,
    read_size,
    write_png,
)
from safetybench.pixels import is_rounded, rounded_inside
from safetybench.targets.sides import mirrored, side_multiple
from tests.targets import tiny_target

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (7, 5, 3), dtype=np.uint8)  # 5 wide, 7 high


def tensor(pixels: Any) -> torch.Tensor:
    whole = torch.from_numpy(np.asarray(pixels).copy()).float() / 255
    return whole.permute(2, 0, 1) if whole.ndim == 3 else whole.expand(3, -1, -1)


def saved(folder: Path, image: Image.Image, name: str = "a.png", **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """Write a PNG by hand: Pillow writes no 16-bit colour, and no wrong sizes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        sum_ = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", sum_)

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


# What is read


def test_a_plain_png_is_its_pixels_and_needs_no_note(tmp_path: Path) -> None:
    file = saved(tmp_path, Image.fromarray(PIXELS))
    picture = read(file)
    assert torch.equal(picture.image, tensor(PIXELS))
    assert picture.image.dtype == torch.float32
    assert (picture.size, str(picture.size)) == (Size(7, 5), "5x7")
    assert (picture.alpha, picture.profile, picture.notes) == (None, None, ())
    assert read_size(file) == picture.size


def test_gray_and_black_and_white_become_three_equal_channels(tmp_path: Path) -> None:
    gray = Image.fromarray(PIXELS[..., 0])
    for mode in ("L", "1"):
        picture = read(saved(tmp_path, gray.convert(mode)))
        assert torch.equal(picture.image, tensor(gray.convert(mode).convert("L")))
        assert picture.notes == ("was grayscale, is colour: what protects it is coloured",)


def test_transparency_is_set_apart(tmp_path: Path) -> None:
    alpha = RNG.integers(0, 256, (7, 5, 1), dtype=np.uint8)
    picture = read(saved(tmp_path, Image.fromarray(np.concatenate([PIXELS, alpha], 2))))
    assert torch.equal(picture.image, tensor(PIXELS))
    assert picture.alpha is not None
    assert torch.equal(picture.alpha, tensor(alpha))
    assert "is transparent in part" in picture.notes[0]
    both = read(saved(tmp_path, Image.fromarray(PIXELS[..., 0]).convert("LA")))
    assert both.alpha is not None
    assert len(both.notes) == 2


def test_a_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    indices = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8)).convert("P")
    indices.putpalette([255, 0, 0, 0, 0, 255])
    plain = read(saved(tmp_path, indices))
    assert plain.image[:, 0].T.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert plain.alpha is None
    holed = read(saved(tmp_path, indices, "b.png", transparency=1))
    assert holed.alpha is not None
    assert holed.alpha.tolist() == [[[1, 0], [0, 1]]]


def test_sixteen_bits_of_gray_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    deep = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    for name in ("a.png", "a.tiff"):
        picture = read(saved(tmp_path, Image.fromarray(deep), name))
        assert (picture.image[0, 0] * 255).round().tolist() == [0, 0, 1, 1, 128, 255]
        assert any("had 16 bits a channel" in each for each in picture.notes)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4)])
def test_sixteen_bits_of_colour_are_told(tmp_path: Path, colour: int, channels: int) -> None:
    values = [0, 0x8040, 0xFFFF, 0x1234][:channels]
    rows = b"\0" + struct.pack(f">{channels}H", *values) * 2
    (tmp_path / "a.png").write_bytes(png(2, 1, 16, colour, rows))
    picture = read(tmp_path / "a.png")
    levels = (picture.image[:, 0, 0] * 255).round()
    assert (levels - torch.tensor(values[:3]) / 257).abs().max() < 1
    assert is_rounded(picture.image)
    assert picture.notes[0].startswith("had 16 bits a channel")
    assert (picture.alpha is not None) == (channels == 4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_exif_turns_a_picture_upright(tmp_path: Path, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = np.zeros((16, 32, 3), dtype=np.uint8)
    shown[:8, :16] = 255  # upright, the top left is white
    turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 1, 7: 3, 8: 3}
    stored = shown[:, ::-1] if orientation in (2, 4, 5, 7) else shown
    stored = np.rot90(stored, turns[orientation])
    file = saved(tmp_path, Image.fromarray(stored.copy()), f"a.{kind}", exif=exif, quality=95)
    picture = read(file)
    assert picture.size == read_size(file) == Size(16, 32)
    assert (picture.image - tensor(shown)).abs().max() < 0.2
    assert ("was turned upright, as its EXIF says" in picture.notes) == (orientation > 1)
    assert "metadata, such as time and place of a photo, is not copied" in picture.notes


def test_exif_of_nonsense_is_no_reason_to_refuse(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    assert read(saved(tmp_path, Image.fromarray(PIXELS), exif=exif)).size == (7, 5)
    data = saved(tmp_path, Image.fromarray(PIXELS), "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert read(data).size == read_size(data) == (7, 5)


def test_printing_colours_become_those_of_a_screen(tmp_path: Path) -> None:
    inks = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    picture = read(saved(tmp_path, inks, "a.jpg", quality=100))
    assert (picture.image[:, 0, 0] - torch.tensor([1.0, 0, 0])).abs().max() < 0.05
    assert "had printing colours (CMYK), has those of a screen (RGB)" in picture.notes
    odd = saved(tmp_path, inks, "b.jpg", quality=100, icc_profile=b"no profile")
    assert (read(odd).image - picture.image).abs().max() < 0.05


def test_the_colour_profile_goes_along_and_nothing_else(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"  # GPS: north
    exif[0x010E] = "the house of Ann"
    source = saved(tmp_path, Image.fromarray(PIXELS), "a.jpg", exif=exif, icc_profile=profile)
    picture = read(source)
    assert picture.profile == profile
    write_png(tmp_path / "b.png", picture.image, profile=picture.profile)
    with Image.open(tmp_path / "b.png") as written:
        assert written.info["icc_profile"] == profile
        assert set(written.info) == {"icc_profile"}
        assert dict(written.getexif()) == {}
    assert b"Ann" not in (tmp_path / "b.png").read_bytes()
    assert read(saved(tmp_path, Image.new("L", (4, 4)), icc_profile=profile)).profile is None


def test_the_first_picture_of_a_camera_s_pair_is_the_picture(tmp_path: Path) -> None:
    own = Image.fromarray(PIXELS)
    file = saved(
        tmp_path, own, "a.jpg", format="MPO", save_all=True, append_images=[own.resize((2, 2))]
    )
    picture = read(file)
    assert picture.size == (7, 5)
    assert picture.notes[0] == "was JPEG, is PNG"


def test_a_large_picture_is_shrunk_on_demand(tmp_path: Path) -> None:
    file = saved(tmp_path, Image.new("RGBA", (40, 20), (9, 99, 199, 255)))
    picture = read(file, longest=10)
    assert picture.size == read_size(file, longest=10) == Size(5, 10)
    assert "was shrunk to at most 10 pixels a side" in picture.notes
    assert is_rounded(picture.image)
    assert picture.alpha is not None
    assert picture.alpha.shape == (1, 5, 10)
    assert read(file, longest=40).size == (20, 40)
    assert read(saved(tmp_path, Image.new("RGB", (100, 1))), longest=10).size == (1, 10)


@pytest.mark.parametrize("kind", ["gif", "bmp", "webp", "tiff", "ppm", "jp2"])
def test_other_formats_are_told(tmp_path: Path, kind: str) -> None:
    options = {"lossless": True} if kind == "webp" else {}
    flat = np.full((8, 8, 3), 51, dtype=np.uint8)
    picture = read(saved(tmp_path, Image.fromarray(flat), f"a.{kind}", **options))
    assert torch.equal(picture.image, tensor(flat))
    assert picture.notes[0].endswith(", is PNG")


# What is refused


def bad_files(folder: Path) -> dict[str, str]:
    """Write files that cannot be used; return what is said of each."""
    own, other = Image.fromarray(PIXELS), Image.new("RGB", (5, 7))
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no picture")
    (folder / "a.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (folder / "folder.png").mkdir()
    buffer = BytesIO()
    Image.effect_noise((64, 64), 99).convert("RGB").save(buffer, "JPEG")
    (folder / "short.jpg").write_bytes(buffer.getvalue()[:-400])
    (folder / "short.png").write_bytes(png(8, 8, 8, 2, b"\0" * 30))
    (folder / "huge.png").write_bytes(png(60000, 60000, 8, 2, b""))
    (folder / "wide.png").write_bytes(png(9000, 9000, 8, 2, b""))
    for name in ("moving.gif", "moving.png", "moving.webp", "pages.tiff"):
        saved(folder, own, name, save_all=True, append_images=[other])
    saved(folder, Image.new("F", (4, 4)), "range.tiff")
    saved(folder, Image.new("I", (4, 4)), "long.tiff")
    frames = r" holds 2 pictures, an animation or pages; save those you want one by one as PNG"
    no = r" is no picture that can be read; it must be PNG, .* or PPM, so export it as PNG"
    large = r", and 67108864 are the most that is read; shrink it, editors take far smaller ones"
    known = r", whose range is not known; export it as a PNG of 8 or 16 bits"
    return {
        "gone.png": r"there is no picture {}",
        "folder.png": r"there is no picture {}",
        "empty.png": r"{} is empty, 0 bytes; copy it again from where it was",
        "text.png": r"{}" + no,
        "a.svg": r"{}" + no,
        "script.eps": r"{}" + no,
        "short.jpg": r"{} is broken: .*truncated.*; open it in a viewer and save it as PNG",
        "short.png": r"{} is broken: .*; open it in a viewer and save it as PNG",
        "huge.png": r"{} has more pixels" + large,
        "wide.png": r"{} has 9000x9000 pixels" + large,
        "moving.gif": r"{}" + frames,
        "moving.png": r"{}" + frames,
        "moving.webp": r"{}" + frames,
        "pages.tiff": r"{}" + frames,
        "range.tiff": r"{} has pixels of mode F" + known,
        "long.tiff": r"{} has pixels of mode 32-bit integer" + known,
    }


def test_what_cannot_be_read_gets_one_sentence_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    for name, sentence in bad_files(tmp_path).items():
        with pytest.raises(SafetyBenchError) as caught:
            read(Path(name))
        assert re.fullmatch(sentence.format(re.escape(repr(name))), str(caught.value)), caught.value


def test_no_damage_is_an_internal_error(tmp_path: Path) -> None:
    file = tmp_path / "a"
    noise = Image.effect_noise((24, 24), 99)
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM"):
        buffer = BytesIO()
        noise.convert("L" if kind == "GIF" else "RGB").save(buffer, kind)
        whole = buffer.getvalue()
        rng = np.random.default_rng(1)
        for _ in range(30):
            harmed = bytearray(whole[: rng.integers(1, len(whole) + 1)])
            for place in rng.integers(0, len(harmed), 3):
                harmed[place] = rng.integers(0, 256)
            file.write_bytes(bytes(harmed))
            try:
                assert is_rounded(read(file).image)
            except SafetyBenchError as error:
                assert len(str(error).splitlines()) == 1  # noqa: PT017 - either is right


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(tmp_path, Image.fromarray(PIXELS))

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("PIL.Image.open", refuse)
    with pytest.raises(SafetyBenchError, match=r"a\.png' cannot be read: permission denied$"):
        read(file)


# Masks


def test_a_mask_is_white_from_128_on_whatever_its_mode(tmp_path: Path) -> None:
    levels = np.array([[0, 127, 128, 255]], dtype=np.uint8)
    wanted = [[[0, 0, 1, 1]]]
    gray = Image.fromarray(levels)
    for image, name in (
        (gray, "a.png"),
        (gray.convert("RGB"), "b.png"),
        (gray.convert("RGBA"), "c.png"),
        (gray.convert("P"), "d.png"),
        (Image.fromarray(levels.astype(np.uint16) * 257), "e.png"),
        (Image.fromarray((levels > 127).astype(np.uint8) * 255).convert("1"), "f.png"),
    ):
        mask = read_mask(saved(tmp_path, image, name), Size(1, 4))
        assert mask.area.tolist() == wanted
        assert mask.notes == ()


def test_a_mask_of_another_size_is_stretched_and_stays_black_and_white(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2), dtype=np.uint8)
    pixels[0, 1] = 255
    mask = read_mask(saved(tmp_path, Image.fromarray(pixels)), Size(4, 6))
    assert mask.area[0].tolist() == [[0, 0, 0, 1, 1, 1]] * 2 + [[0] * 6] * 2
    assert mask.notes == ("its mask has another size and was stretched to it",)
    fine = saved(tmp_path, Image.fromarray(np.kron(pixels, np.ones((9, 9), np.uint8))))
    assert read_mask(fine, Size(2, 2)).area[0].tolist() == [[0, 1], [0, 0]]


def test_a_white_mask_is_an_error_and_a_black_one_a_note(tmp_path: Path) -> None:
    white = saved(tmp_path, Image.new("L", (4, 4), 200))
    with pytest.raises(SafetyBenchError, match=r"a\.png' is white all over: .* nothing would be"):
        read_mask(white, Size(4, 4))
    black = read_mask(saved(tmp_path, Image.new("L", (4, 4))), Size(4, 4))
    assert black.notes == ("its mask is black all over: an editor would keep everything",)


# Written and checked


@given(
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9).map(lambda s: (*s, 4))),
    st.booleans(),
    st.integers(1, 60),
    st.integers(0, 2**31),
)
def test_what_is_written_comes_back_and_lies_in_its_ball(
    tmp_path_factory: pytest.TempPathFactory,
    pixels: Any,
    is_open: bool,
    levels: int,
    seed: int,
) -> None:
    file = tmp_path_factory.mktemp("p") / "a.png"
    whole = tensor(pixels)
    alpha = whole[3:] if is_open else None
    picture = Picture(image=whole[:3], alpha=alpha)
    write_png(file, picture.image, alpha)
    assert check_ball(file, picture, 1 / 255) == 0
    noise = torch.randn(picture.image.shape, generator=torch.Generator().manual_seed(seed))
    inside = rounded_inside(picture.image + noise, picture.image, levels / 255)
    write_png(file, inside, alpha)
    apart = check_ball(file, picture, levels / 255)
    assert apart == int(((inside - picture.image).abs().max() * 255).round()) <= levels
    assert torch.equal(read(file).image, inside)


def test_a_file_outside_its_ball_is_found(tmp_path: Path) -> None:
    picture = Picture(image=torch.full((3, 4, 4), 100 / 255))
    moved = picture.image.clone()
    moved[0, 0, 0] = 109 / 255
    write_png(tmp_path / "a.png", moved)
    assert check_ball(tmp_path / "a.png", picture, 9 / 255) == 9
    with pytest.raises(SafetyBenchError) as caught:
        check_ball(tmp_path / "a.png", picture, 8.9 / 255)
    assert str(caught.value) == ("a.png is 9 levels away from its picture, and epsilon is 8.9/255")
    small = Picture(image=picture.image[:, 1:])
    with pytest.raises(SafetyBenchError, match=r"^a\.png has 4x4 pixels, its picture 4x3$"):
        check_ball(tmp_path / "a.png", small, 1)
    veiled = Picture(image=moved, alpha=torch.ones(1, 4, 4))
    with pytest.raises(SafetyBenchError, match=r"^a\.png has not the transparency of its picture$"):
        check_ball(tmp_path / "a.png", veiled, 0.5)


def test_levels_are_rounded_and_not_cut(tmp_path: Path) -> None:
    image = torch.tensor([9.4, 9.6, 300]).reshape(3, 1, 1) / 255
    write_png(tmp_path / "a.png", image)
    assert (read(tmp_path / "a.png").image.flatten() * 255).round().tolist() == [9, 10, 255]


def test_writing_is_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^image must be \(3, height, width\), got \(1, 4, 4\)$"):
        write_png(tmp_path / "a.png", torch.zeros(1, 4, 4))
    with pytest.raises(SafetyBenchError, match=r"^cannot write a\.png: no such file or directory"):
        write_png(tmp_path / "gone" / "a.png", torch.zeros(3, 4, 4))
    assert list(tmp_path.iterdir()) == []


# Sides


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 33))
def test_a_mirrored_image_is_itself_and_goes_on(height: int, width: int, multiple: int) -> None:
    image = torch.arange(height * width).reshape(1, height, width).float()
    padded = mirrored(image, multiple)
    assert all(side % multiple == 0 for side in padded.shape[1:])
    assert padded.shape[1] - height < multiple
    assert torch.equal(padded[:, :height, :width], image)
    more = padded.shape[2] - width
    if 0 < more < width:
        expected = torch.nn.functional.pad(image, (0, more), mode="reflect")
        assert torch.equal(padded[:, :height], expected)


def test_the_multiple_of_a_target_is_what_its_networks_can_halve() -> None:
    target = tiny_target()
    assert side_multiple(target) == 4
    images = torch.rand(1, 3, 20, 12)
    assert target.edit(images, ["a red fish"], [0], 0.5).shape == images.shape
    assert side_multiple(object()) == 1


def test_doctests() -> None:
    import doctest

    from safetybench.targets import sides

    assert doctest.testmod(sides, extraglobs={"torch": torch}).failed == 0
