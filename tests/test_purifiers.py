"""What each purifier does to pixels, against plain loops and closed forms."""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Album, Budget
from safetybench.draws import Streams
from safetybench.metrics.similarity import psnr
from safetybench.pixels import rounded
from safetybench.targets.loading import load_target
from safetybench.zoo.world import render, sample_scenes
from tests.targets import tiny_target

HOME = "safetybench.attacks.images.purifiers"
filters = importlib.import_module(f"{HOME}._filters")
redraw = importlib.import_module(f"{HOME}._redraw")
Grid = importlib.import_module(f"{HOME}.gridpure").Grid


def purifier(name: str, **options: Any) -> Any:
    return registry.create(f"attacks/images/purifiers/{name}", options)


def album(images: Tensor) -> Album:
    return Album(images=images, ids=tuple(f"picture-{i}" for i in range(len(images))))


def noise_like(*shape: int) -> Tensor:
    return rounded(torch.rand(shape, generator=torch.Generator().manual_seed(0)))


class Shifts:
    """An editor that adds a constant, on an autoencoder of 4 pixels a latent; keeps its calls."""

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift
        self.calls: list[tuple[Tensor, Sequence[str], Sequence[int], float, float | None]] = []

    def encode(self, images: Tensor) -> Tensor:
        return images[:, :, ::4, ::4]

    def decode(self, latents: Tensor) -> Tensor:
        raise AssertionError("an editor decodes by itself")

    def edit(
        self,
        images: Tensor,
        prompts: Sequence[str],
        seeds: Sequence[int],
        strength: float,
        guidance: float | None = None,
    ) -> Tensor:
        self.calls.append((images, prompts, seeds, strength, guidance))
        return images + self.shift


# Without a model


def test_jpeg_is_what_pillow_writes_at_that_quality() -> None:
    image = noise_like(1, 3, 20, 12)
    found = purifier("jpeg", quality=30).purify(None, album(image))
    pixels = Image.fromarray((image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    pixels.save(file := io.BytesIO(), "JPEG", quality=30)
    expected = np.array(Image.open(file)).transpose(2, 0, 1)
    assert ((found[0] * 255).round().int().numpy() == expected).all()
    better = purifier("jpeg", quality=95).purify(None, album(image))
    assert psnr(better, image) > psnr(found, image)


def test_gaussian_noise_is_of_its_sigma() -> None:
    grey = torch.full((2, 3, 64, 64), 128 / 255)
    found = purifier("gaussian_noise", sigma=0.1).purify(None, album(grey)) - grey
    assert found.std().item() == pytest.approx(0.1, rel=0.02)
    assert abs(found.mean().item()) < 0.003


def test_blur_spreads_a_point_by_the_normal_density() -> None:
    point = torch.zeros(1, 3, 31, 31)
    point[:, :, 15, 15] = 1
    found = purifier("blur", sigma=1.5).purify(None, album(point))
    for y, x in ((0, 0), (1, 0), (2, 3)):
        density = math.exp(-(y * y + x * x) / (2 * 1.5**2)) / (2 * math.pi * 1.5**2)
        assert found[0, 0, 15 + y, 15 + x].item() == pytest.approx(density, abs=1 / 255)
    flat = torch.full((1, 3, 3, 5), 40 / 255)  # narrower than the kernel
    torch.testing.assert_close(purifier("blur").purify(None, album(flat)), flat)


def test_crop_resize_cuts_the_frame_off_and_down_up_levels_a_chessboard() -> None:
    framed = torch.ones(1, 3, 20, 30)
    framed[:, :, 2:-2, 3:-3] = 0.2
    found = purifier("crop_resize", share=0.2).purify(None, album(framed))
    torch.testing.assert_close(found, torch.full_like(framed, 0.2))
    board = ((torch.arange(16)[:, None] + torch.arange(16)) % 2).float().expand(1, 3, 16, 16)
    levelled = purifier("crop_resize", share=0.0, down_up=0.5).purify(None, album(board))
    assert (levelled - 0.5).abs().max() < 0.1


def test_bilateral_is_what_plain_loops_find() -> None:
    images = 255 * noise_like(1, 3, 6, 7) / 8
    pixels = images[0].double().numpy()
    padded = np.pad(pixels, ((0, 0), (2, 2), (2, 2)), mode="reflect")
    expected = np.zeros_like(pixels)
    for i in range(6):
        for j in range(7):
            total, weights = np.zeros(3), 0.0
            for y in range(-2, 3):
                for x in range(-2, 3):
                    other = padded[:, i + 2 + y, j + 2 + x]
                    if math.hypot(x, y) > 2:
                        continue
                    apart = np.abs(other - pixels[:, i, j]).sum()
                    weight = math.exp(-(apart**2) / (2 * 8**2) - (x * x + y * y) / (2 * 3**2))
                    total, weights = total + weight * other, weights + weight
            expected[:, i, j] = total / weights
    torch.testing.assert_close(
        filters.bilateral(images, 5, 8, 3)[0].double().numpy(), expected, atol=1e-3, rtol=0
    )


def test_guided_filter_is_what_plain_loops_find() -> None:
    guide, given = 255 * noise_like(2, 3, 5, 6).split(1)[0], 255 * noise_like(1, 3, 5, 6).flip(3)
    radius, eps = 1, 16.0

    def windows(images: Tensor) -> Any:
        padded = np.pad(images[0].double().numpy(), ((0, 0), (1, 1), (1, 1)), mode="symmetric")
        return [[padded[:, i : i + 3, j : j + 3].reshape(3, 9) for j in range(6)] for i in range(5)]

    slopes, offsets = np.zeros((9, 5, 6)), np.zeros((3, 5, 6))
    for i in range(5):
        for j in range(6):
            colours, values = windows(guide)[i][j], windows(given)[i][j]
            spread = np.cov(colours, bias=True) + eps * np.eye(3)
            shared = (colours @ values.T) / 9 - np.outer(colours.mean(1), values.mean(1))
            slope = np.linalg.solve(spread, shared)
            slopes[:, i, j] = slope.ravel()
            offsets[:, i, j] = values.mean(1) - slope.T @ colours.mean(1)
    expected = np.zeros((3, 5, 6))
    mean = [windows(torch.from_numpy(part)[None]) for part in np.split(slopes, 3)]
    shift = windows(torch.from_numpy(offsets)[None])
    for i in range(5):
        for j in range(6):
            rows = np.stack([part[i][j].mean(1) for part in mean])  # of the guide's channels
            expected[:, i, j] = guide[0, :, i, j].double().numpy() @ rows + shift[i][j].mean(1)
    found = filters.GuidedFilter(guide, radius, eps)(given)[0].double().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_adverse_cleaner_smooths_faint_noise_and_keeps_an_edge() -> None:
    clean = torch.full((1, 3, 24, 24), 60 / 255)
    clean[:, :, :, 12:] = 180 / 255
    signs = noise_like(1, 3, 24, 24).sub(0.5).sign()
    noisy = rounded(clean + signs * 4 / 255)
    found = purifier("adverse_cleaner").purify(None, album(noisy))
    assert psnr(found, clean) > psnr(noisy, clean) + 8
    assert (found[..., 13] - found[..., 10]).min() > 110 / 255


# With a model


def test_diffpure_is_an_edit_with_no_text_and_no_guidance() -> None:
    target, given = tiny_target("velocity"), album(noise_like(2, 3, 16, 16))
    found = purifier("diffpure", strength=0.6).purify(target, given, seed=3)
    seeds = Streams(3, ["picture-0/diffpure", "picture-1/diffpure"]).integers(0, 2**31).tolist()
    expected = target.edit(given.images, ["", ""], seeds, 0.6, guidance=1.0)
    torch.testing.assert_close(found, rounded(expected))


def test_diffpure_mirrors_odd_sizes_on_and_cuts_them_back() -> None:
    target, images = Shifts(), noise_like(1, 3, 13, 8)
    assert torch.equal(purifier("diffpure").purify(target, album(images)), images)
    seen, prompts, seeds, strength, guidance = target.calls[0]
    assert seen.shape == (1, 3, 16, 8)
    assert torch.equal(seen[:, :, 13:], images[:, :, [11, 10, 9]])
    assert (list(prompts), len(seeds), strength, guidance) == ([""], 1, 0.1, 1.0)


def test_a_model_that_takes_its_scale_as_an_input_keeps_its_own() -> None:
    target = Shifts()
    target.takes_guidance = True  # type: ignore[attr-defined]
    redraw.redrawn(target, noise_like(70, 3, 8, 8), range(70), 0.2)
    assert [len(call[0]) for call in target.calls] == [64, 6]
    assert target.calls[1][4] is None
    assert list(target.calls[1][2]) == list(range(64, 70))


def test_a_student_purifies_by_one_pass_an_image() -> None:
    target, given = tiny_target("student"), album(noise_like(3, 3, 16, 16))
    before = target.nfe
    found = purifier("student_purifier", strength=0.25).purify(target, given, seed=1)
    assert target.nfe - before == 3
    with torch.inference_mode():
        names = [f"picture-{i}/student_purifier" for i in range(3)]
        latents, times = target.encode(given.images), torch.full((3,), 249)
        noisy = target.process.add(latents, Streams(1, names).normal((4, 8, 8)), times)
        clean = target.x0(noisy, times, target.null_text.expand(3, -1, -1))
        expected = rounded(target.decode(clean))
    torch.testing.assert_close(found, expected.clone())


def test_a_zoo_student_removes_sign_noise_in_one_pass() -> None:
    """What noise is left is what is apart from the clean image's answer to the same purifier."""
    target = load_target("zoo:dmd2-1")
    clean = album(rounded(render(sample_scenes(8, torch.Generator().manual_seed(5)))))
    protection = registry.create("defenses/images/sign_noise")
    noisy = clean.with_images(protection.protect(None, clean, Budget(epsilon=16 / 255)))
    assert psnr(noisy.images, clean.images).mean() < 25
    student, before = purifier("student_purifier", strength=0.1), target.nfe
    found = student.purify(target, noisy)
    assert target.nfe - before == 8
    assert psnr(found, student.purify(target, clean)).mean() > 37
    assert psnr(found, clean.images).mean() > psnr(noisy.images, clean.images).mean() + 1


@pytest.mark.parametrize(("size", "tile", "count"), [((512, 512), 256, 10), ((64, 64), 64, 1),
    ((64, 64), 32, 10), ((64, 64), 256, 1), ((64, 24), 32, 3), ((40, 72), 32, 9)])  # fmt: skip
def test_tiles_cover_an_image_and_their_average_is_it(
    size: tuple[int, int], tile: int, count: int
) -> None:
    images = noise_like(2, 3, *size)
    grid = Grid(*size, tile)
    tiles = grid.cut(images)
    assert tiles.shape == (count, 2, 3, min(size[0], tile), min(size[1], tile))
    torch.testing.assert_close(grid.average(tiles), images)


def test_the_last_tile_is_of_the_corners() -> None:
    images = noise_like(1, 3, 16, 16)
    corners = Grid(16, 16, 8).cut(images)[-1]
    ends = [0, 1, 2, 3, 12, 13, 14, 15]
    assert torch.equal(corners, images[:, :, ends][:, :, :, ends])
    lifted = torch.zeros(10, 1, 3, 8, 8)
    lifted[-1] = 1
    found = Grid(16, 16, 8).average(lifted)
    assert found[0, 0, 0, 0] == 0.5  # the corner's own tile, and the corners'
    assert found[0, 0, 7, 7] == 0


def test_gridpure_mixes_in_what_was_and_repeats() -> None:
    given = album(torch.full((2, 3, 24, 24), 100 / 255))
    target = Shifts(shift=10 / 255)
    grid = purifier("gridpure", tile=16, rounds=3, keep=0.25, requantise=False)
    found = grid.purify(target, given)
    assert (found * 255).unique().tolist() == [122.0]  # 100 + 3 * 7.5, rounded to even
    tiles, _, seeds, strength, _ = target.calls[0]
    assert tiles.shape == (10, 3, 16, 16)  # four and the corners', of two images at once
    assert len(target.calls) == 3
    assert len({*seeds, *target.calls[1][2]}) == 20
    assert strength == 0.01
    rough = purifier("gridpure", tile=16, rounds=3, keep=0.25).purify(Shifts(10 / 255), given)
    assert (rough * 255).round().unique().tolist() == [124.0]  # 108, 116, 124


def test_gridpure_refuses_tiles_that_the_model_cannot_take() -> None:
    message = r"^tile must be a whole multiple of 8, as this model needs, got 12$"
    with pytest.raises(ValueError, match=message):
        purifier("gridpure", tile=12).purify(Shifts(), album(noise_like(1, 3, 16, 16)))
