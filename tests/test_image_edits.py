"""The two editors, which are what protection is to stop."""

import pytest
import torch

from safetybench import registry
from safetybench.contracts import Album, EditsImages, Inpaints
from tests.targets import tiny_inpainting_target, tiny_target

PROMPTS, SEEDS = ["a red fish", "blue star"], [3, 4]


def album(*, with_masks: bool = False) -> Album:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(2, 1, 16, 16)
    masks[..., 4:12, 4:12] = 1
    return Album(images=images, ids=("a", "b"), masks=masks if with_masks else None)


def test_sdedit_is_the_targets_own_edit() -> None:
    target = tiny_target("student")
    edit = registry.create("attacks/images/sdedit", {"strength": 0.4})
    made = edit.edit(target, album(), PROMPTS, SEEDS)
    assert torch.equal(made, target.edit(album().images, PROMPTS, SEEDS, 0.4))
    assert edit.needs == (EditsImages,)
    assert not edit.uses_masks


def test_more_strength_leaves_less_of_the_image() -> None:
    target = tiny_target()
    far = [
        registry.create("attacks/images/sdedit", {"strength": strength})
        .edit(target, album(), PROMPTS, SEEDS)
        .sub(target.decode(target.encode(album().images)))
        .square()
        .mean()
        for strength in (0.1, 0.5, 1.0)
    ]
    assert far[0] < far[1] < far[2]


def test_inpainting_is_the_targets_own() -> None:
    target, given = tiny_inpainting_target(), album(with_masks=True)
    assert given.masks is not None
    edit = registry.create("attacks/images/inpainting", {"guidance": 2.0})
    made = edit.edit(target, given, PROMPTS, SEEDS)
    assert torch.equal(made, target.inpaint(given.images, given.masks, PROMPTS, SEEDS, 2.0))
    assert edit.needs == (Inpaints,)
    assert edit.uses_masks


def test_inpainting_needs_masks() -> None:
    edit = registry.create("attacks/images/inpainting")
    with pytest.raises(ValueError, match=r"^masks must say which area to draw anew, got none$"):
        edit.edit(tiny_inpainting_target(), album(), PROMPTS, SEEDS)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sdedit", {"strength": 0.0}, "strength must be in (0, 1], got 0"),
        ("sdedit", {"strength": 1.2}, "strength must be in (0, 1], got 1.2"),
        ("sdedit", {"guidance": -1.0}, "guidance must be 0 or more, got -1"),
        ("inpainting", {"guidance": -1.0}, "guidance must be 0 or more, got -1"),
    ],
)
def test_wrong_options(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        registry.load(f"attacks/images/{name}")(**options)
    assert str(caught.value) == message
