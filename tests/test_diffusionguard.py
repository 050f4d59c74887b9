"""DiffusionGuard: its masks, its gradient against a plain one, and what it does to a tiny model."""

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Album, Budget
from safetybench.pixels import is_rounded, rounded
from tests.targets import tiny_inpainting_target

_descent: Any = importlib.import_module("safetybench.defenses.images._descent")
_masks: Any = importlib.import_module("safetybench.defenses.images._masks")
NAME = "defenses/images/diffusionguard"


def album(count: int = 3) -> Album:
    images = rounded(torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    masks = torch.ones(count, 1, 16, 16)
    masks[:, :, 3:13, 4:12] = 0
    return Album(images=images, ids=tuple("abcdef"[:count]), masks=masks)


def disc(radius: float, size: int = 40) -> Any:
    rows, columns = np.mgrid[:size, :size] - size / 2
    return rows**2 + columns**2 <= radius**2


def blobs(seed: int, size: tuple[int, int], level: float) -> Any:
    noise = np.random.default_rng(seed).normal(size=size)
    return ndimage.gaussian_filter(noise, 1.5, mode="wrap") > level


# Masks


def test_an_outline_is_the_boundary_in_order() -> None:
    region = np.zeros((5, 6), bool)
    region[1:4, 1:5] = True
    assert _masks.outline(region).tolist() == [
        [1, 1], [1, 2], [1, 3], [1, 4], [2, 4], [3, 4], [3, 3], [3, 2], [3, 1], [2, 1],
    ]  # fmt: skip
    line = np.zeros((3, 5), bool)
    line[1, 1:4] = True
    assert _masks.outline(line).tolist() == [[1, 1], [1, 2], [1, 3], [1, 2]]
    assert _masks.outline(disc(0.5)).tolist() == [[20, 20]]
    assert _masks.outline(np.zeros((3, 3), bool)).shape == (0, 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.tuples(st.integers(1, 24), st.integers(1, 24)))
def test_an_outline_touches_all_of_the_outer_boundary(seed: int, size: tuple[int, int]) -> None:
    labelled: Any = ndimage.label(blobs(seed, size, 0.0), np.ones((3, 3)))
    parts, count = labelled
    for part in range(1, count + 1):
        region = np.pad(parts == part, 1)
        points = _masks.outline(region)
        assert region[points[:, 0], points[:, 1]].all()
        steps = np.abs(np.diff(points, axis=0, append=points[:1])).max(1)
        assert len(points) == 1 or (steps == 1).all()
        # Outside of it is what can be walked to from the corner; holes are not.
        around: Any = ndimage.label(~region)
        outside = around[0] == around[0][0, 0]
        edge = region & ndimage.binary_dilation(outside)
        assert set(map(tuple, points.tolist())) == set(map(tuple, np.argwhere(edge).tolist()))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.sampled_from([-9.0, 0.0, 0.2, 9.0]),  # full, several components, few, empty
    st.floats(0, 3),
)
def test_masks_only_ever_shrink_what_is_kept(
    seed: int, size: tuple[int, int], level: float, strength: float
) -> None:
    kept = blobs(seed, size, level)
    masks = torch.from_numpy(~kept).float()[None, None]
    bank = _masks.mask_bank(masks, ("a",), seed, 3, _masks.ContourShrink(strength=strength))
    assert bank.shape == (3, 1, 1, *size)
    assert bank.dtype == torch.bool
    assert bool((bank[:, 0, 0] | torch.from_numpy(kept)).all())
    assert bool(bank[:, masks.bool()].all())


def test_each_part_shrinks_by_itself() -> None:
    kept = np.zeros((40, 40), bool)
    kept[4:14, 4:14] = kept[24:38, 22:36] = True
    masks = torch.from_numpy(~kept).float()[None, None]
    bank = ~_masks.mask_bank(masks, ("a",), 0, 40, _masks.ContourShrink(strength=0.6))[:, 0, 0]
    shares = [
        bank[:, part, part].float().mean(dim=(1, 2)) for part in (slice(0, 18), slice(18, 40))
    ]
    assert all(float(share.max()) > 2 * float(share.min()) for share in shares)
    assert abs(np.corrcoef(*(share.numpy() for share in shares))[0, 1]) < 0.5


def test_no_move_keeps_all_and_more_keeps_less() -> None:
    rng = np.random.default_rng(0)
    assert (_masks.shrunk(disc(15), _masks.ContourShrink(strength=0), rng) == disc(15)).all()
    kept = [
        np.mean(
            [
                _masks.shrunk(disc(15), _masks.ContourShrink(strength=s), rng).sum()
                for _ in range(40)
            ]
        )
        for s in (0.1, 0.5, 2.0)
    ]
    assert disc(15).sum() > kept[0] > kept[1] > kept[2]


def test_masks_depend_on_seed_and_id_alone() -> None:
    masks, shrink = album().masks, _masks.ContourShrink()
    assert masks is not None
    bank = _masks.mask_bank(masks, ("a", "b", "c"), 1, 4, shrink)
    assert torch.equal(bank[:2, 1:2], _masks.mask_bank(masks[1:2], ("b",), 1, 2, shrink))
    assert not torch.equal(bank, _masks.mask_bank(masks, ("a", "b", "c"), 2, 4, shrink))
    assert not torch.equal(bank[:, 0], bank[:, 1])


# The gradient


def plain(target: Any, images: Tensor, masks: Tensor, noise: Tensor, time: int) -> Tensor:
    """Return gradients as the authors' code takes them: one image at a time, weights unfrozen."""
    gradients = []
    target.unet.requires_grad_(True)
    for image, mask, start in zip(images, masks, noise, strict=True):
        pixels = (2 * image[None] - 1).requires_grad_(True)
        latents = target.vae.encode(pixels * (1 - mask)).latent_dist.mean * 0.5
        small = mask[None, :, ::2, ::2]
        text = target.embed(target.tokenize([""]))
        seen = torch.cat([start[None], small, latents], 1)
        said = target.unet(seen, torch.tensor(time), encoder_hidden_states=text).sample
        said.norm().backward()
        assert pixels.grad is not None
        gradients.append(2 * pixels.grad[0] * (1 - mask))  # of pixels in [0, 1]
    target.unet.requires_grad_(False)
    return torch.stack([g.detach() for g in gradients])


def test_one_lean_pass_gives_the_plain_gradients_of_each_image() -> None:
    target, given_album, time = tiny_inpainting_target(), album(), 751
    masks = given_album.masks
    assert masks is not None
    noise = target.start_noise([1, 2, 3])

    def length(images: Tensor) -> Tensor:
        seen = target.given(images, masks)
        said = seen.predict(noise, torch.tensor([time] * 3), target.null_text.expand(3, -1, -1))
        lengths: Tensor = said.flatten(1).norm(dim=1)
        return lengths

    lean = _descent.gradient_of(length, given_album.images)[0]
    whole = plain(tiny_inpainting_target(), given_album.images, masks, noise, time)
    assert float((lean - whole).norm() / whole.norm()) < 1e-5
    assert float((lean.sign() == whole.sign()).float().mean()) >= 0.999


# The protection


def first_norm(
    target: Any, images: Tensor, masks: Tensor, time: int, kind: str = "epsilon"
) -> float:
    """Return the mean norm of the first prediction, over noises that no protection drew."""
    with torch.no_grad():
        seen = target.given(images, masks)
        text = target.null_text.expand(len(images), -1, -1)
        norms = []
        for i in range(16):
            noise = target.start_noise([1000 + 10 * i + k for k in range(len(images))])
            times = torch.full((len(images),), time)
            said = target.process.convert(
                seen.predict(noise, times, text), target.prediction, kind, noise, times
            )
            norms.append(float(said.flatten(1).norm(dim=1).mean()))
    return sum(norms) / len(norms)


@pytest.mark.parametrize(
    ("variant", "kind", "time"), [("teacher", "epsilon", 751), ("velocity", "sample", 999)]
)
def test_the_first_prediction_grows_beyond_what_noise_does(
    variant: Any, kind: str, time: int
) -> None:
    target, clean = tiny_inpainting_target(variant), album()
    with torch.no_grad():  # an untrained one hardly looks at the image that it is given
        target.unet.conv_in.weight[:, 4:] *= 4
    assert target.sampler_times[0] == time
    assert clean.masks is not None
    budget = Budget(steps=24, epsilon=16 / 255)
    guard = registry.create(NAME, {"rate": 1 / 8, "strength": 0.2})
    noise = registry.create("defenses/images/sign_noise")
    unseen = clean.masks.roll(2, 2)
    for masks in (clean.masks, unseen):
        before, floor, after = (
            first_norm(target, images, masks, time, kind)
            for images in (
                clean.images,
                noise.protect(None, clean, budget),
                guard.protect(target, clean, budget),
            )
        )
        assert after - before > 1.5 * abs(floor - before)


def test_it_stays_in_the_ball_and_touches_what_is_kept_alone() -> None:
    clean, losses = album(), list[float]()
    assert clean.masks is not None
    guard = registry.create(NAME, {"augment": "none"})
    budget = Budget(steps=4, epsilon=8 / 255)
    target = tiny_inpainting_target()
    made = guard.protect(target, clean, budget, lambda step, loss: losses.append(loss))
    moves = (made - clean.images).abs()
    assert is_rounded(made)
    assert float(moves.max()) <= 8 / 255 + 1e-6
    assert bool((moves * clean.masks == 0).all())
    assert float((moves > 0).float().mean()) > 0.15  # of all, and 0.31 are kept
    assert len(losses) == 4
    assert target.nfe == 3 * 4


def test_same_seed_same_answer_in_any_batch() -> None:
    guard, budget = registry.create(NAME), Budget(steps=3, epsilon=8 / 255, seed=5)
    target = tiny_inpainting_target()
    made = guard.protect(target, album(), budget)
    assert torch.equal(made, guard.protect(target, album(), budget))
    alone = guard.protect(target, album().only(1, 2), budget)
    assert float((alone == made[1:2]).float().mean()) > 0.99  # rounding may turn a tiny gradient
    other = guard.protect(target, album(), Budget(steps=3, epsilon=8 / 255, seed=6))
    assert not torch.equal(made, other)


def test_where_all_is_drawn_anew_there_is_nothing_to_protect() -> None:
    clean = album()
    assert clean.masks is not None
    whole = Album(images=clean.images, ids=clean.ids, masks=torch.ones_like(clean.masks))
    budget = Budget(steps=2, epsilon=8 / 255)
    made = registry.create(NAME).protect(tiny_inpainting_target(), whole, budget)
    assert torch.equal(made, clean.images)


def test_time_and_objective_are_the_surrogates_or_the_users() -> None:
    target, budget = tiny_inpainting_target("velocity"), Budget(steps=2, epsilon=8 / 255)
    auto = registry.create(NAME).protect(target, album(), budget)
    told = registry.create(NAME, {"objective": "x0", "t": 999}).protect(target, album(), budget)
    assert torch.equal(auto, told)
    earlier = registry.create(NAME, {"objective": "noise", "t": 751})
    assert not torch.equal(auto, earlier.protect(target, album(), budget))
    with pytest.raises(ValueError, match="must be x0 or auto") as caught:
        registry.create(NAME, {"objective": "noise"}).protect(target, album(), budget)
    assert str(caught.value) == (
        "objective must be x0 or auto at time 999 of velocity: its input is all noise there, and "
        "so is its noise prediction, whatever the image"
    )
    with pytest.raises(ValueError, match=r"^t must be below 1000, got 1000$"):
        registry.create(NAME, {"t": 1000}).protect(target, album(), budget)


def test_it_needs_masks() -> None:
    bare = Album(images=album().images, ids=album().ids)
    with pytest.raises(ValueError, match=r"^masks must say which area an editor may draw anew"):
        registry.create(NAME).protect(tiny_inpainting_target(), bare, Budget(epsilon=0.1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "v"}, "objective must be auto, noise or x0, got 'v'"),
        ({"augment": "global"}, "augment must be contour_shrink or none, got 'global'"),
        ({"t": -1}, "t must be sampler or a time of the process, got -1"),
        ({"t": "first"}, "t must be sampler or a time of the process, got 'first'"),
        ({"rate": 0.0}, "rate must be in (0, 1] and bank 1 or more, got 0 and 64"),
        ({"bank": 0}, "rate must be in (0, 1] and bank 1 or more, got 0.0625 and 0"),
        (
            {"rounds": 1},
            "strength, smoothness and radius_scale must be 0 or more and rounds 2 or more, got "
            "1.1, 0.1, 2.22, 1",
        ),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        registry.load(NAME)(**options)
    assert str(caught.value) == message
