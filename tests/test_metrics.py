"""Distances between sets of features whose truth is known in closed form."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from safetybench.contracts import SafetyBenchError, Unavailable
from safetybench.metrics.distances import (
    _inception,
    decode_features,
    encode_features,
    fid_inception,
    frechet,
    frechet_distance,
    kernel_distance,
)

Floats = NDArray[np.float64]


def normal(seed: int, count: int = 200, width: int = 4, scale: float = 1.0) -> Floats:
    return scale * np.random.default_rng(seed).standard_normal((count, width))


def whitened(points: Floats) -> Floats:
    """Return points with mean 0 and covariance 1 exactly, so that a closed form is exact."""
    centred = points - points.mean(0)
    root = np.linalg.cholesky(np.linalg.inv(np.cov(centred.T)))
    return np.asarray(centred @ root)


# Frechet distance


def test_frechet_of_normal_distributions_is_the_closed_form() -> None:
    x, y = whitened(normal(1)), whitened(normal(2))
    a, b = np.diag([1.0, 2.0, 3.0, 4.0]), np.diag([2.0, 2.0, 1.0, 0.5])
    shift = np.array([1.0, -2.0, 0.0, 0.5])
    wanted = float(shift @ shift + np.square(np.diag(a) - np.diag(b)).sum())
    assert frechet_distance(x @ a, y @ b + shift) == pytest.approx(wanted)


def test_frechet_of_covariances_that_do_not_commute_is_scipys() -> None:
    from scipy import linalg

    x, y = normal(3) @ normal(4, 4), normal(5, 150) @ normal(6, 4) + 1
    s, t = np.cov(x.T), np.cov(y.T)
    root = np.real(linalg.sqrtm(s @ t))
    wanted = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(s + t - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(float(wanted), rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(float(wanted), rel=1e-9)


@pytest.mark.parametrize("count", [3, 16, 60])
def test_a_set_is_at_no_distance_from_itself_however_small(count: int) -> None:
    x = normal(1, count, 16)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x[::-1].copy()) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 2) == pytest.approx(4 * 16)  # means alone, 2 in each of 16
    found = frechet(x, x, seed=0)
    assert found[1:4] == pytest.approx((0, 0, 0), abs=1e-9)


def test_a_rotation_of_both_changes_nothing() -> None:
    x, y = normal(1, width=6), normal(2, width=6) * 2 + 1
    turn, _ = np.linalg.qr(normal(3, 6, 6))
    assert frechet_distance(x @ turn, y @ turn) == pytest.approx(frechet_distance(x, y))
    one, other = kernel_distance(x @ turn, y @ turn), kernel_distance(x, y)
    assert one[1:] == pytest.approx(other[1:])


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_interval_covers_the_distance_of_the_distributions(paired: bool, shift: float) -> None:
    """Prompts differ, and both sides are drawn of the same ones where they are paired."""
    hits, truth = 0, 4 * shift**2
    for i in range(20):
        prompts = normal(1000 + i, 120)
        sides = [prompts if paired else normal(2000 + 2 * i + j, 120) for j in (0, 1)]
        x, y = (side + normal(3 * i + j, 120, scale=0.7) for j, side in enumerate(sides))
        found = frechet(x, y + shift, seed=i, paired=paired, draws=100)
        hits += found.low <= truth <= found.high
        assert (found.name, found.n) == ("fid-judge", 120)
        assert 0 <= found.low <= found.high
    # At no distance the truth is on the edge of what can be, and 0 must be inside.
    assert hits >= 17


def test_pairing_narrows_the_interval_of_sets_of_the_same_prompts() -> None:
    prompts = normal(0, 100, scale=3)
    x, y = (prompts + normal(seed, 100, scale=0.2) for seed in (1, 2))
    paired, apart = (frechet(x, y + 1, seed=0, paired=p) for p in (True, False))
    assert paired.value == apart.value
    assert paired.high - paired.low < 0.7 * (apart.high - apart.low)
    assert frechet(x, y, seed=3) == frechet(x, y, seed=3)
    assert frechet(x, y, seed=3) != frechet(x, y, seed=4)


# Kernel distance


def test_paired_kernel_distance_is_the_zoos() -> None:
    from safetybench.zoo.diversity import kid

    x, y = normal(1), normal(2) + 0.3
    found = kernel_distance(x, y)
    assert (found.name, found.n) == ("kid-judge", 200)
    assert found[1:4] == tuple(kid(torch.from_numpy(x)[None], torch.from_numpy(y)[None]))


def test_unpaired_kernel_distance_is_that_of_torchmetrics() -> None:
    from torchmetrics.image.kid import poly_mmd

    x, y = normal(1, 40) + 0.4, normal(2, 40)
    y /= np.sqrt(np.square(y).mean())  # then nothing is scaled
    wanted = poly_mmd(torch.from_numpy(x), torch.from_numpy(y), degree=3, gamma=None, coef=1.0)
    assert kernel_distance(x, y, paired=False).value == pytest.approx(float(wanted), rel=1e-9)


def test_a_hand_computed_unpaired_distance() -> None:
    x, y = np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [-1.0], [1.0]])  # RMS of y is 1
    own_x = (1 + 1 + 27) / 3  # pairs (0, 1), (0, 2), (1, 2): (ab + 1)^3
    own_y = (0 + 8 + 0) / 3
    cross = ((1 + 8 + 27) * 2 + (1 + 0 - 1)) / 9
    found = kernel_distance(x, y, paired=False)
    assert found.value == pytest.approx(own_x + own_y - 2 * cross)


@pytest.mark.parametrize("paired", [True, False])
def test_kernel_distance_of_one_distribution_is_0_on_average_and_grows(paired: bool) -> None:
    found = []
    for i in range(30):
        prompts = normal(500 + i, 60, scale=2)
        own = [prompts if paired else normal(700 + 2 * i + j, 60, scale=2) for j in (0, 1)]
        x, y = (side + normal(2 * i + j, 60) for j, side in enumerate(own))
        found.append(kernel_distance(x, y, paired=paired))
    values = np.array([f.value for f in found])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(30)
    assert sum(f.low <= 0 <= f.high for f in found) >= 26
    x, y = normal(1), normal(2)
    near, far = (kernel_distance(x + shift, y, paired=paired) for shift in (0.4, 0.8))
    assert 0 < near.low < near.high < far.low


def test_the_jackknife_is_the_spread_of_the_unpaired_estimate() -> None:
    """Also where the sets are far apart, so that the scale's own spread counts."""
    found = [kernel_distance(normal(2 * i, 80) + 1, normal(2 * i + 1, 80), paired=False)
             for i in range(150)]  # fmt: skip
    spread = np.std([f.value for f in found])
    errors = np.mean([(f.high - f.low) / 3.92 for f in found])
    assert 0.75 < errors / spread < 1.33


@pytest.mark.parametrize("paired", [True, False])
def test_order_and_scale_of_features_do_not_matter(paired: bool) -> None:
    x, y = normal(1, 30), normal(2, 30) + 0.5
    order = np.random.default_rng(0).permutation(30)
    for other in ((x[order], y[order]), (7 * x, 7 * y)):
        wanted = kernel_distance(x, y, paired=paired)
        assert kernel_distance(*other, paired=paired)[1:] == pytest.approx(wanted[1:])


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (normal(1, 9), normal(2, 9, 5), "features must be (images, width), the same width, got "),
        (normal(1, 9)[0], normal(2, 9), "features must be (images, width), the same width, got "),
        (normal(1, 2), normal(2, 2), "features must be of at least 3 images, got (2, 4) and (2,"),
        (normal(1, 9) * np.inf, normal(2, 9), "features must be finite"),
    ],
)
def test_wrong_features_are_refused(distance: Any, x: Any, y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        distance(x, y)


def test_paired_sets_must_be_equally_long() -> None:
    for distance in (kernel_distance, lambda a, b: frechet(a, b, seed=0)):
        with pytest.raises(ValueError, match=r"^paired features must be of the same prompts, got"):
            distance(normal(1, 9), normal(2, 8))
    with pytest.raises(ValueError, match=r"^draws must be at least 100, got 9$"):
        frechet(normal(1), normal(2), seed=0, draws=9)


# Features in the log


def test_features_go_through_text() -> None:
    features = 10 * torch.randn(128, generator=torch.Generator().manual_seed(0))
    text = encode_features(features)
    assert len(text) == 344
    assert text.isascii()
    found = decode_features(text)
    assert found.shape == (128,)
    np.testing.assert_allclose(found, features.double().numpy(), rtol=2**-11)
    assert encode_features(torch.from_numpy(found)) == text
    assert decode_features(encode_features(torch.tensor([0.0, -1.5]))).tolist() == [0, -1.5]


def test_distances_of_features_from_the_log_are_those_of_the_features() -> None:
    x, y = normal(1, 60, 16), normal(2, 60, 16) + 0.3
    kept = [
        np.stack([decode_features(encode_features(torch.from_numpy(row))) for row in side])
        for side in (x, y)
    ]
    assert frechet_distance(*kept) == pytest.approx(frechet_distance(x, y), rel=1e-3)
    assert kernel_distance(*kept).value == pytest.approx(kernel_distance(x, y).value, rel=1e-2)


def test_what_is_no_row_of_features_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^features must be \(width,\), got \(1, 4\)$"):
        encode_features(torch.zeros(1, 4))
    for bad in (70_000.0, float("nan")):
        with pytest.raises(ValueError, match=r"^features must be finite and below 65504 in size$"):
            encode_features(torch.tensor([bad]))
    for text in ("no base64!", "AAAA", "é"):
        with pytest.raises(ValueError, match=r"^features must be 16-bit floats in base64, got '"):
            decode_features(text)


# FID


def test_fid_is_there_only_with_its_package_and_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.rand(2, 3, 8, 8)
    monkeypatch.setattr(_inception, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"install it with `pip install torch-fidelity`$"):
        fid_inception(images, images)
    monkeypatch.setattr(_inception, "find_spec", lambda name: "there")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(Unavailable, match=r"^FID needs Inception's weights, weights-inception-20"):
        fid_inception(images, images)
    other = tmp_path / "other.pth"
    other.write_bytes(b"not these")
    with pytest.raises(SafetyBenchError, match=r"^other\.pth does not hold the published weights"):
        fid_inception(images, images, weights=other)
