"""How the zoo's inpainting models are made, without training one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from safetybench.distill.recipes.dmd2 import Dmd2
from safetybench.targets.inpainting import Inpainting
from safetybench.targets.loading import load_target
from safetybench.zoo import inpainting as made
from safetybench.zoo.world import render, sample_scenes
from tests.targets import tiny_target


@pytest.fixture(scope="module")
def teacher() -> Any:
    return load_target("zoo:teacher", device="cpu")


def test_masks_are_of_four_kinds() -> None:
    masks = made.draw_masks(2000, torch.Generator().manual_seed(0))
    assert masks.shape == (2000, 1, 64, 64)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    shares = masks.mean((1, 2, 3))
    assert abs(float((shares == 1).float().mean()) - 0.25) < 0.05
    assert float(shares.min()) > 0
    assert 0.2 < float(shares[shares < 1].mean()) < 0.6


def test_it_starts_as_the_teacher_that_looks_at_no_image() -> None:
    teacher = tiny_target("velocity")
    target = made.new_inpainting(teacher)
    assert target.unet.config.in_channels == 9
    images, masks = torch.rand(2, 3, 16, 16), torch.zeros(2, 1, 16, 16)
    drawn = target.inpaint(images, masks, ["a fish", "star"], [1, 2])
    own = teacher.generate(["a fish", "star"], [1, 2])
    torch.testing.assert_close(drawn, own, rtol=0, atol=1e-5)


def test_boxes_hold_the_object() -> None:
    scenes = sample_scenes(64, torch.Generator().manual_seed(3))
    plain = scenes._replace(style=torch.zeros_like(scenes.style))  # a glow goes beyond
    masks, images = made.object_masks(plain), render(plain)
    moved = plain._replace(colour=(plain.colour + 3) % 8)
    changed = (render(moved) - images).abs().amax(1, keepdim=True) > 0.02
    assert not bool((changed & (masks == 0)).any())
    assert 0.3 < float(masks.mean()) < 0.9


def test_training_changes_weights_and_resumes_exactly(teacher: Any, tmp_path: Path) -> None:
    plan = replace(made.PLAN, steps=2, warmup=1, save_every=1)
    whole = made.train_inpainting(teacher, plan=plan, scenes=8)
    before = made.new_inpainting(teacher)
    assert not torch.equal(whole.unet.conv_in.weight, before.unet.conv_in.weight)
    assert not any(weight.requires_grad for weight in whole.unet.parameters())

    class Killed(Exception):
        pass

    def kill(step: int, loss: float) -> None:
        raise Killed

    file = tmp_path / "training"
    with pytest.raises(Killed):  # after the first step, before its checkpoint
        made.train_inpainting(teacher, file, kill, plan, 8)
    again = made.train_inpainting(teacher, file, plan=plan, scenes=8)
    assert torch.equal(whole.unet.conv_in.weight, again.unet.conv_in.weight)
    assert not file.exists()


def test_a_student_is_one_step_that_looks_at_its_image(teacher: Any) -> None:
    target = made.new_inpainting(teacher)
    with torch.no_grad():
        target.unet.conv_in.weight[:, 8:] += 0.1
    recipe = Dmd2(batch=4, pairs=4, warmup=1, fake_steps=1)
    student = made.train_inpainting_student(target, recipe=recipe, steps=1, rows=8)
    assert isinstance(student, Inpainting)
    assert (student.sampler.steps, student.sampler.timesteps) == (1, (699,))
    assert target._seen is None
    images = render(sample_scenes(2, torch.Generator().manual_seed(0)))
    masks = made.draw_masks(2, torch.Generator().manual_seed(1))
    ask = (masks, ["a fish", "a star"], [1, 2])
    there, flipped = (student.inpaint(each, *ask) for each in (images, images.flip(0)))
    assert (there - flipped).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"^gan must be 0 for an inpainting student, got 0.005$"):
        made.train_inpainting_student(target, recipe=Dmd2(gan=5e-3))


@pytest.mark.parametrize("area", ["object", "around"])
def test_measures_are_shares_of_images(teacher: Any, area: Any) -> None:
    from safetybench.judges.zoo import Zoo

    student = made.new_inpainting(teacher).with_sampler(
        replace(teacher.sampler, steps=1, guidance=1.0, timesteps=(699,))
    )
    assert isinstance(student, Inpainting)
    figures = made.measure_inpainting(student, Zoo(), count=8, area=area)
    assert figures["count"] == 8
    for name in ("object", "style", "colour", "background", "old", "rejected"):
        share = figures[name]
        assert 0 <= share["low"] <= share["rate"] <= share["high"] <= 1
    assert figures["kept_psnr"] > 5
