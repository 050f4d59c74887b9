"""T2IShield: both statistics against a plain reference, and a fit that tells its classes apart."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch

from safetybench import registry
from safetybench.contracts import SafetyBenchError
from safetybench.targets.attention import recorded
from tests.targets import tiny_target

NAME = "defenses/triggers/t2i_shield"
shield: Any = importlib.import_module("safetybench.defenses.triggers.t2i_shield")
PROMPTS = ["a red fish", "the blue star on dark", "one green moon"]
SEEDS = [3, 4, 5]


def detector(**options: Any) -> Any:
    return registry.create(NAME, options)


def test_spread_by_hand() -> None:
    # Two maps of 1x2: the mean is (1, 1), each is sqrt(2) away from it.
    maps = torch.tensor([[[0.0, 2.0]], [[2.0, 0.0]]])
    assert shield.spread(maps).item() == pytest.approx(2**0.5)
    assert shield.spread(maps[:1].expand(4, -1, -1)).item() == 0  # assimilated


def test_the_spectrum_is_the_logarithm_of_the_covariance_of_principal_components() -> None:
    from sklearn.decomposition import PCA

    maps = torch.rand(11, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = PCA(n_components=5).fit_transform(maps.flatten(1).numpy())
    values, vectors = np.linalg.eigh(np.cov(parts.T))
    released = vectors @ np.diag(np.log(values)) @ vectors.T
    found = shield.log_spectrum(maps, 5)
    assert np.allclose(released, np.diag(found.numpy()), atol=1e-8)
    assert shield.log_spectrum(maps, 14)[10:].exp().tolist() == pytest.approx([1e-12] * 4)


def test_ftt_is_that_of_maps_taken_step_by_step() -> None:
    target = tiny_target("velocity")
    (found,) = detector().scores(target, PROMPTS[:1], SEEDS[:1])
    ids = target.tokenize(PROMPTS[:1])
    with torch.no_grad(), recorded(target.unet) as kept:
        target.sample_latents(target.embed(ids), target.start_noise(SEEDS[:1]), seeds=SEEDS[:1])
    # Guidance runs the empty prompt first; layers of 8x8, heads, steps.
    passes = torch.stack(
        [
            torch.stack([each[1] for each in layer])
            for layer in kept.layers.values()
            if layer[0].shape[2] == 64
        ]
    )
    assert passes.shape[1] == target.sampler.steps
    maps = passes.mean((0, 1, 2)).T.unflatten(1, (8, 8))[1:5]  # three words and the end
    maps = maps / maps.amax((1, 2), keepdim=True)
    far = [(each - maps.mean(0)).square().sum().sqrt() for each in maps]
    assert found.item() == pytest.approx(-float(sum(far)) / 4, rel=1e-4)


def test_a_score_does_not_depend_on_its_batch() -> None:
    target = tiny_target("teacher")
    together = detector().scores(target, PROMPTS, SEEDS)
    apart = detector(batch=1).scores(target, PROMPTS, SEEDS)
    assert torch.allclose(together, apart, rtol=1e-4)
    assert detector().scores(target, [], []).shape == (0,)


def test_cda_is_fitted_and_higher_for_the_triggered() -> None:
    target = tiny_target("velocity")
    clean = [f"a {word}" for word in ("fish", "star", "moon", "heart")]
    triggered = ["striped striped " + text + " on dark background" for text in clean]
    fitted = detector(statistic="cda", components=2).fit(target, clean, triggered, seed=7)
    assert len(fitted.weights) == 2
    scores = fitted.scores(target, clean + triggered, range(7, 15))
    assert scores[4:].mean() > scores[:4].mean()
    again = eval(repr(fitted), {"T2IShield": type(fitted)})
    assert torch.equal(
        again.scores(target, clean, range(4)), fitted.scores(target, clean, range(4))
    )
    assert detector().fit(target, clean, triggered) == detector()


def test_errors() -> None:
    with pytest.raises(SafetyBenchError) as caught:
        detector(statistic="cda").scores(tiny_target(), PROMPTS, SEEDS)
    assert str(caught.value) == (
        "t2i_shield with statistic='cda' must be fitted on labelled prompts first; "
        "statistic='ftt' needs none"
    )
    with pytest.raises(SafetyBenchError) as caught:
        detector(statistic="fft")
    assert str(caught.value) == f"{NAME}: statistic must be one of ftt, cda, got 'fft'"
    with pytest.raises(SafetyBenchError) as caught:
        detector(side=0)
    assert str(caught.value) == (
        f"{NAME}: side, components and batch must be 1 or more, got 0, 20, 32"
    )
