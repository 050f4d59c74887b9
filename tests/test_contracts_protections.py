"""What every image protection keeps to; a new file in defenses/ is tested by being there."""

from __future__ import annotations

import copy
import importlib
import io
import pickle
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Album, Budget, ImageProtection, SafetyBenchError
from tests.targets import tiny_inpainting_target, tiny_target


def protections() -> dict[str, type[ImageProtection]]:
    found = {name: registry.load(name) for name in registry.names("defenses")}
    return {name: kind for name, kind in found.items() if issubclass(kind, ImageProtection)}


KINDS = protections()
NAMES = list(KINDS)
CLIMBING = [name for name, kind in KINDS.items() if not kind.is_control]
# They train a model on the album as a whole, so an image's answer knows the other images.
TRAINED_ON_THE_ALBUM = {"defenses/images/aspl", "defenses/images/simac"}
# At their smallest, where they have something to shrink.
SMALL = {
    "repeats": 1,
    "bank": 4,
    "surrogate_steps": 1,
    "pgd_steps": 2,
    "batch": 1,
    "class_prompt": "",
    "keep": 960,
    "probes": 1,
}
BUDGET = Budget(epsilon=8 / 255, steps=3)


@cache
def surrogate(name: str) -> Any:
    """Return a tiny random target that has what a protection needs."""
    needs = KINDS[name].needs
    for target in (tiny_target("velocity"), tiny_inpainting_target("velocity")):
        if all(isinstance(target, protocol) for protocol in needs):
            return target
    raise AssertionError(f"{name} needs what no tiny target has; add one to tests/targets.py")


@cache
def shrunk(name: str) -> Any:
    known = getattr(registry.load(name), "__dataclass_fields__", {})
    return registry.create(name, {key: value for key, value in SMALL.items() if key in known})


def album(count: int = 3, seed: int = 0, extreme: bool = False) -> Album:
    """Return random 8-bit images; extreme: black and white pixels alone."""
    rng = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 256, (count, 3, 16, 16), generator=rng)
    if extreme:
        levels = 255 * (levels > 127)
    masks = torch.zeros(count, 1, 16, 16)
    masks[:, :, 4:12, 2:9] = 1
    captions = tuple(("a red fish", "", "a pale moon")[k % 3] for k in range(count))
    ids = tuple(f"image-{k}" for k in range(count))
    return Album(images=levels / 255, ids=ids, captions=captions, masks=masks)


def protect(name: str, given: Album, seed: int = 0) -> Tensor:
    budget = Budget(epsilon=BUDGET.epsilon, steps=BUDGET.steps, seed=seed)
    found: Tensor = shrunk(name).protect(surrogate(name), given, budget)
    return found


def reloaded(images: Tensor) -> Tensor:
    """Return images as a PNG file keeps them, in levels."""
    found = []
    for image in images:
        file = io.BytesIO()
        array = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(array).save(file, "PNG")
        file.seek(0)
        found.append(torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1))
    return torch.stack(found).int()


def test_there_are_protections() -> None:
    wanted = "sign_noise photoguard_encoder advdm sds mist ace grid_matched".split()
    assert {f"defenses/images/{name}" for name in wanted} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_is_a_documented_protection_with_a_source(name: str) -> None:
    protection: Any = registry.load(name)
    assert protection.source.startswith("https://")
    assert registry.describe(name).source == protection.source
    for documented in (protection, importlib.import_module(protection.__module__)):
        assert documented.__doc__
        assert documented.__doc__.strip().split("\n")[0].endswith((".", ":"))
    assert protection.sees
    assert isinstance(protection.needs, tuple)
    assert bool(protection.needs) is not protection.is_control
    assert 0 < protection.published.epsilon <= 16 / 255
    assert protection.published.norm == "linf"
    assert (protection.published.steps > 0) is not protection.is_control


@pytest.mark.parametrize("name", NAMES)
def test_default_construction_repr_and_pickle(name: str) -> None:
    protection: Any = registry.create(name)
    assert eval(repr(protection), {type(protection).__name__: type(protection)}) == protection
    assert pickle.loads(pickle.dumps(protection)) == protection
    assert copy.deepcopy(protection) == protection
    with pytest.raises(AttributeError):
        protection.anything_else = 1


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_refused(name: str) -> None:
    with pytest.raises(SafetyBenchError, match="has no option 'anything_else'"):
        registry.create(name, {"anything_else": 1})


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_images_and_another_seed_others(name: str) -> None:
    given = album()
    first = protect(name, given, 1)
    assert torch.equal(protect(name, given, 1), first)
    # All draw something: a start, times, noises, masks or signs.
    assert not torch.equal(protect(name, given, 2), first)


@pytest.mark.parametrize("name", NAMES)
def test_global_random_state_is_neither_read_nor_moved(name: str) -> None:
    given = album()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = protect(name, given)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(protect(name, given), first)


@pytest.mark.parametrize("name", NAMES)
def test_images_and_surrogate_stay_as_they_were(name: str) -> None:
    given, target = album(), surrogate(name)
    networks = (target.unet, target.vae, target.text_encoder)
    before = given.images.clone(), [copy.deepcopy(n.state_dict()) for n in networks]
    found = protect(name, given)
    assert not found.requires_grad
    assert not torch.equal(found, given.images)
    assert torch.equal(given.images, before[0])
    for network, weights in zip(networks, before[1], strict=True):
        now = network.state_dict()
        assert now.keys() == weights.keys()
        assert all(torch.equal(now[key], value) for key, value in weights.items())
        assert not any(weight.requires_grad for weight in network.parameters())


@pytest.mark.parametrize("name", [n for n in NAMES if n not in TRAINED_ON_THE_ALBUM])
def test_an_image_does_not_know_its_batch(name: str) -> None:
    given = album()
    together = protect(name, given)
    alone = torch.cat([protect(name, given.only(k, k + 1)) for k in range(len(given))])
    apart = ((together - alone) * 255).round().abs()
    # Batched convolutions round differently, and a gradient close to 0 may change its sign, by
    # which a pixel takes another way: few may, and on the way they stay in the ball.
    assert float((apart > 0).float().mean()) < 5e-3


@pytest.mark.parametrize("name", CLIMBING)
def test_steps_and_losses_are_reported(name: str) -> None:
    told: list[tuple[int, float]] = []

    def report(step: int, loss: float) -> None:
        told.append((step, loss))

    shrunk(name).protect(surrogate(name), album(), BUDGET, report)
    assert [step for step, _ in told] == list(range(1, BUDGET.steps + 1))
    assert all(isinstance(loss, float) and loss == loss for _, loss in told)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8)
@given(
    levels=st.integers(1, 32) | st.floats(1, 32),
    seed=st.integers(0, 2**31),
    extreme=st.booleans(),
)
def test_files_are_eight_bit_and_inside_the_ball(
    name: str, levels: float, seed: int, extreme: bool
) -> None:
    clean = album(1, seed, extreme)
    budget = Budget(epsilon=levels / 255, steps=1, seed=seed)
    found = shrunk(name).protect(surrogate(name), clean, budget)
    assert found.dtype == torch.float32
    assert found.shape == clean.images.shape
    saved = reloaded(found)
    assert float((found * 255 - saved).abs().max()) < 1e-3
    moved = (saved - (clean.images * 255).round().int()).abs()
    assert int(moved.max()) <= levels + 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(steps=1), "needs epsilon above 0 in norm linf, got 0 in linf"),
        (Budget(steps=1, epsilon=0.1, norm="l2"), "epsilon above 0 in norm linf, got 0.1 in l2"),
        (Budget(steps=1, epsilon=0.5 / 255), "epsilon must be at least 1/255, .* got 0.5/255"),
    ],
)
def test_a_ball_that_is_none_is_refused(name: str, budget: Budget, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shrunk(name).protect(surrogate(name), album(), budget)


@pytest.mark.parametrize("name", NAMES)
def test_images_that_are_not_eight_bit_are_refused(name: str) -> None:
    given = album()
    with pytest.raises(ValueError, match="images must be whole multiples of 1/255"):
        protect(name, given.with_images(given.images * 0.77))
