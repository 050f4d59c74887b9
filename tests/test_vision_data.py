"""Data of classifiers: splits that share nothing, draws by seed, folders and their faults."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from safetybench.contracts import SafetyBenchError, Unavailable
from safetybench.suite_classify import SOURCES
from safetybench.vision import data
from safetybench.vision.data import source_of

has_fashion = data.FASHION.is_dir()
THERE = [name for name in SOURCES if name != "fashion-mnist" or has_fashion]


def folder(home: Path, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> Path:
    """Write a folder of two classes, three pictures to train on and two to test."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 2)):
        for name in ("cat", "ant"):
            place = home / split / name
            place.mkdir(parents=True)
            for i in range(count):
                shape = (*size[::-1], 3) if mode == "RGB" else size[::-1]
                pixels = rng.integers(0, 256, shape).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    return home


@pytest.mark.parametrize("name", THERE)
def test_a_source_is_what_it_says(name: str) -> None:
    source = source_of(name)
    found = source.test(40, 3)
    assert source.name == name
    assert found.images.shape == (40, *source.shape)
    assert found.images.dtype == torch.float32
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    levels = found.images * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert found.labels.dtype == torch.int64
    assert set(found.labels.tolist()) <= set(range(len(source.classes)))
    assert len(source.classes) == len(set(source.classes)) == 10
    assert len(source.digest) == 64


@pytest.mark.parametrize("name", THERE)
def test_a_draw_follows_from_its_seed_and_is_nobody_elses(name: str) -> None:
    source = source_of(name)
    one, other = source.test(20, 1), source.test(20, 2)
    assert not torch.equal(one.images, other.images)
    one.images.zero_()
    again = source.test(20, 1)
    assert again.images.any()
    assert torch.equal(source.test(10, 1).images, again.images[:10])
    assert torch.equal(source.test(10, 1).labels, again.labels[:10])


def test_splits_share_no_image_and_zero_is_all() -> None:
    source = source_of("digits")
    train, test = source.train(), source.test()
    assert (len(train.images), len(test.images)) == (1397, 400)
    seen = {image.numpy().tobytes() for image in train.images}
    assert not seen & {image.numpy().tobytes() for image in test.images}
    assert torch.equal(train.labels.bincount() > 100, torch.ones(10, dtype=torch.bool))


def test_the_world_is_drawn_as_its_labels_say() -> None:
    from safetybench.zoo.world import OBJECTS

    source = source_of("world")
    assert source.classes == OBJECTS
    train, test = source.train(64, 5), source.test(64, 5)
    assert not torch.equal(train.images, test.images)
    assert (train.images - train.images.mean(0)).flatten(1).norm(dim=1).min() > 1


def test_more_than_there_is_names_what_there_is() -> None:
    with pytest.raises(SafetyBenchError) as told:
        source_of("digits").test(401)
    assert str(told.value) == (
        "count of test images must be 0 for all or at most 400, all that digits has, got 401"
    )


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(SafetyBenchError) as told:
        source_of("digit")
    assert str(told.value) == (
        "there are no data 'digit'; did you mean 'digits'? data are digits, fashion-mnist, world, "
        "or a folder with train/ and test/"
    )


def test_fashion_is_read_from_its_files_or_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "FASHION", tmp_path)
    with pytest.raises(Unavailable, match="`apt install dataset-fashion-mnist` brings it"):
        source_of("fashion-mnist")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28)).astype(np.uint8)
    for split in ("train", "t10k"):
        head = struct.pack(">4i", 2051, 5, 28, 28)
        with gzip.open(tmp_path / f"{split}-images-idx3-ubyte.gz", "wb") as file:
            file.write(head + pixels.tobytes())
        with gzip.open(tmp_path / f"{split}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">2i", 2049, 5) + bytes([3, 1, 4, 1, 5]))
    source = source_of("fashion-mnist")
    found = source.test(0, 0)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(0))
    assert found.labels.tolist() == torch.tensor([3, 1, 4, 1, 5])[order].tolist()
    assert torch.equal((found.images[:, 0] * 255).byte(), torch.from_numpy(pixels)[order])
    data._fashion.cache_clear()
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(SafetyBenchError, match=r"t10k-labels-idx1-ubyte\.gz of fashion-mnist"):
        source_of("fashion-mnist")


# Folders


def test_a_folder_is_read_with_its_classes_in_order(tmp_path: Path) -> None:
    source = source_of(str(folder(tmp_path / "mine")))
    assert (source.name, source.classes, source.shape) == ("mine", ("ant", "cat"), (3, 4, 6))
    found = source.train(0, 1)
    assert sorted(found.labels.tolist()) == [0, 0, 0, 1, 1, 1]
    with Image.open(tmp_path / "mine/train/cat/1.png") as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    assert any(
        torch.allclose(image, pixels) and label == 1
        for image, label in zip(found.images, found.labels.tolist(), strict=True)
    )


def test_gray_pictures_have_one_channel_and_others_are_resized(tmp_path: Path) -> None:
    home = folder(tmp_path / "mine", "L")
    assert source_of(str(home)).shape == (1, 4, 6)
    wide = np.full((8, 12), 200, dtype=np.uint8)
    Image.fromarray(wide).save(home / "test" / "cat" / "9.png")
    found = source_of(str(home)).test()
    assert found.images.shape == (5, 1, 4, 6)
    assert any(bool((image == 200 / 255).all()) for image in found.images)


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    one = source_of(str(folder(tmp_path / "one"))).digest
    other = folder(tmp_path / "other")
    assert source_of(str(other)).digest == one
    Image.new("RGB", (6, 4)).save(other / "test" / "ant" / "0.png")
    assert source_of(str(other)).digest != one


def test_what_is_wrong_with_a_folder_is_told(tmp_path: Path) -> None:
    def told(home: Path) -> str:
        with pytest.raises(SafetyBenchError) as error:
            source_of(str(home)).test()
        return str(error.value).replace(str(home), "DATA")

    (tmp_path / "a" / "train").mkdir(parents=True)
    assert told(tmp_path / "a") == "'DATA' has no folder test/; data have train/ and test/"
    (tmp_path / "a" / "test").mkdir()
    assert told(tmp_path / "a") == (
        "train/ of 'DATA' must hold a folder for each of 2 classes or more, got 0"
    )
    home = folder(tmp_path / "b")
    (home / "train" / "dog").mkdir()
    assert told(home) == "class 'dog' of 'DATA' is missing in its test/"
    (home / "test" / "dog").mkdir()
    assert told(home) == "test/dog of 'DATA' holds no pictures"
    home = folder(tmp_path / "c")
    (home / "test" / "cat" / "1.png").write_bytes(b"no picture")
    assert "1.png' is no picture that can be read" in told(home)
    home = folder(tmp_path / "d")
    file = home / "test" / "cat" / "1.png"
    file.write_bytes(file.read_bytes()[:-30])
    assert "1.png' is broken" in told(home)
