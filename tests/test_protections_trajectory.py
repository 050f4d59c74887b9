"""Protections whose gradient goes through a whole edit, on tiny editors."""

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Album, Budget
from safetybench.pixels import is_rounded, rounded
from safetybench.targets.spec import Sampler
from tests.targets import Variant, tiny_inpainting_target, tiny_target

gradient_of: Any = importlib.import_module("safetybench.defenses.images._descent").gradient_of
Editor: Any = importlib.import_module("safetybench.defenses.images._trajectory").Editor
PHOTOGUARD = "defenses/images/photoguard_diffusion"
END_TO_END = "defenses/images/end_to_end"
SEEDS = [11, 22, 33]


def album(*, with_masks: bool = False) -> Album:
    images = rounded(torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    masks = torch.ones(3, 1, 16, 16)
    masks[:, :, 3:13, 4:12] = 0
    captions = ("a red fish", "", "blue star")
    masks_or_none = masks if with_masks else None
    return Album(images=images, ids=("a", "b", "c"), captions=captions, masks=masks_or_none)


def answer(target: Any, images: Tensor, given: Album) -> Tensor:
    """Return edits at noises that no protection drew."""
    prompts = list(given.captions)
    if given.masks is not None:
        made: Tensor = target.inpaint(images, given.masks, prompts, SEEDS)
        return made
    made = target.edit(images, prompts, SEEDS, 0.7)
    return made


def targets(kind: str, variant: Variant) -> tuple[Any, Album]:
    if kind == "inpaint":
        target = tiny_inpainting_target(variant)
        with torch.no_grad():  # an untrained one hardly looks at the image that it is given
            target.unet.conv_in.weight[:, 4:] *= 16
        return target, album(with_masks=True)
    return tiny_target(variant), album()


CASES = [
    pytest.param(kind, variant, id=f"{kind}-{variant}")
    for kind in ("sdedit", "inpaint")
    for variant in ("student", "teacher")
]


@pytest.mark.parametrize(("kind", "variant"), CASES)
def test_gradients_of_a_batch_are_those_of_each_image_and_noise(
    kind: str, variant: Variant
) -> None:
    target, clean = targets(kind, variant)
    seeds = torch.tensor([[1, 2, 3], [4, 5, 6]])

    def gradient(part: Album, numbers: Tensor) -> Tensor:
        editor = Editor.of(target, part, "auto", 0.7, None)

        def size(images: Tensor) -> Tensor:
            lengths: Tensor = editor.latents(images, numbers).flatten(1).norm(dim=1)
            return lengths.reshape(numbers.shape).mean(0)

        found: Tensor = gradient_of(size, part.images)[0]
        return found

    whole = gradient(clean, seeds)
    single = torch.cat([
        sum(gradient(clean.only(i, i + 1), seeds[k : k + 1, i : i + 1]) / 2 for k in (0, 1))
        + torch.zeros(1, 3, 16, 16)
        for i in range(3)
    ])  # fmt: skip
    assert float((whole - single).norm() / single.norm()) < 1e-5
    assert float(whole.abs().sum()) > 0


@pytest.mark.parametrize("kind", ["sdedit", "inpaint"])
def test_an_editor_answers_as_the_target_edits(kind: str) -> None:
    target, clean = targets(kind, "teacher")
    editor = Editor.of(target, clean, "auto", 0.7, None)
    with torch.no_grad():
        made = editor.images(clean.images, torch.tensor([SEEDS]))
    torch.testing.assert_close(made, answer(target, clean.images, clean), rtol=0, atol=1e-5)


def to_gray(target: Any, images: Tensor, given: Album) -> float:
    return float((answer(target, images, given) - 0.5).flatten(1).norm(dim=1).mean())


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        ("sdedit", PHOTOGUARD, {"repeats": 2}),
        ("inpaint", PHOTOGUARD, {"repeats": 2}),
        ("sdedit", END_TO_END, {"objective": "gray", "space": "pixels"}),
    ],
)
def test_edits_move_to_gray_more_than_by_noise(
    kind: str, name: str, options: dict[str, Any]
) -> None:
    target, clean = targets(kind, "student")
    budget = Budget(steps=12, epsilon=16 / 255)
    made = registry.create(name, {"rate": 0.25, **options}).protect(target, clean, budget)
    noise = registry.create("defenses/images/sign_noise").protect(None, clean, budget)
    before, floor, after = (to_gray(target, x, clean) for x in (clean.images, noise, made))
    assert before - after > 2 * abs(before - floor)


def test_photoguard_works_through_guided_steps() -> None:
    target, clean = targets("sdedit", "teacher")
    guard = registry.create(PHOTOGUARD, {"repeats": 1, "rate": 0.25})
    made = guard.protect(target, clean, Budget(steps=8, epsilon=16 / 255))
    assert to_gray(target, clean.images, clean) > to_gray(target, made, clean)


@pytest.mark.parametrize("space", ["latents", "pixels"])
@pytest.mark.parametrize("kind", ["sdedit", "inpaint"])
def test_edits_move_away_more_than_by_noise(kind: str, space: str) -> None:
    target, clean = targets(kind, "student")
    budget = Budget(steps=8, epsilon=16 / 255)
    made = registry.create(END_TO_END, {"space": space}).protect(target, clean, budget)
    noise = registry.create("defenses/images/sign_noise").protect(None, clean, budget)
    goal = answer(target, clean.images, clean)
    floor, after = (
        float((answer(target, images, clean) - goal).square().mean()) for images in (noise, made)
    )
    assert after > 3 * floor


@pytest.mark.parametrize(
    ("name", "options"),
    [(PHOTOGUARD, {"repeats": 2}), (END_TO_END, {}), (END_TO_END, {"objective": "gray"})],
)
def test_inside_the_ball_and_the_same_in_any_batch(name: str, options: dict[str, Any]) -> None:
    target, clean, losses = tiny_target("student"), album(), list[float]()
    budget, guard = Budget(steps=3, epsilon=8 / 255, seed=4), registry.create(name, options)
    made = guard.protect(target, clean, budget, lambda step, loss: losses.append(loss))
    assert is_rounded(made)
    assert float((made - clean.images).abs().max()) <= 8 / 255 + 1e-6
    assert len(losses) == 3
    assert torch.equal(made, guard.protect(target, clean, budget))
    alone = guard.protect(target, clean.only(1, 2), budget)
    assert float((alone == made[1:2]).float().mean()) > 0.99  # rounding may turn a tiny gradient
    other = guard.protect(target, clean, Budget(steps=3, epsilon=8 / 255, seed=5))
    assert not torch.equal(made, other)


def test_the_sampler_is_cut_and_every_pass_counts() -> None:
    long = tiny_target().with_sampler(Sampler(steps=20, guidance=7.5))
    budget = Budget(steps=1, epsilon=8 / 255)
    spent = []
    for steps in (4, 0):
        options = {"sampler_steps": steps, "repeats": 2, "strength": 1.0}
        before = long.nfe
        registry.create(PHOTOGUARD, options).protect(long, album(), budget)
        spent.append(long.nfe - before)
    assert spent == [4 * 2 * 2 * 3, 20 * 2 * 2 * 3]  # steps, passes, repeats, images


def test_inpainting_can_be_asked_for_or_left() -> None:
    target, clean = targets("inpaint", "student")
    assert Editor.of(target, clean, "auto", 0.7, None).masks is clean.masks
    assert Editor.of(target, clean, "sdedit", 0.7, None).masks is None
    assert Editor.of(tiny_target(), clean, "auto", 0.7, None).masks is None
    for refused, given, lacks in (
        (tiny_target(), clean, "teacher, which cannot"),
        (target, album(), "no masks"),
    ):
        with pytest.raises(ValueError, match="through") as caught:
            Editor.of(refused, given, "inpaint", 0.7, None)
        assert str(caught.value) == (
            f"through inpaint needs a model that inpaints and masks, got {lacks}"
        )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (PHOTOGUARD, {"through": "x"}, "through must be one of auto, sdedit, inpaint, got 'x'"),
        (PHOTOGUARD, {"strength": 0.0}, "strength and rate must be in (0, 1], got 0 and 0.125"),
        (END_TO_END, {"rate": 2.0}, "strength and rate must be in (0, 1], got 0.7 and 2"),
        (PHOTOGUARD, {"repeats": 0}, "repeats must be 1 or more and guidance 0 or more, got 0 and"),
        (END_TO_END, {"guidance": -1.0}, "repeats must be 1 or more and guidance 0 or more, got 1"),
        (PHOTOGUARD, {"level": 2.0}, "sampler_steps must be 0 or more and level in [0, 1], got 4"),
        (
            END_TO_END,
            {"objective": "far"},
            "objective must be away or gray and space latents or pixels, got 'far' and 'latents'",
        ),
    ],
)
def test_wrong_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        registry.load(name)(**options)
    assert str(caught.value).startswith(message)
