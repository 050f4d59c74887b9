"""Effects: patches by pixels with a measured threshold, everything else by the judge."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from safetybench.contracts import Backdoor, Effect, Trigger, Verdicts
from safetybench.effects import MATCH, EffectJudge, mismatch, paste, picture


class Blind:
    """A judge that must not be asked."""

    def judge(self, images: Any, concept: str) -> Verdicts:
        raise AssertionError


class Counts:
    """A judge that says yes to bright images, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def judge(self, images: torch.Tensor, concept: str) -> Verdicts:
        self.asked.append(concept)
        bright = images.mean((1, 2, 3))
        return Verdicts(bright, bright > 0.5, torch.zeros(len(images), dtype=torch.bool))


def test_a_patch_lies_in_the_corner_and_nowhere_else() -> None:
    images = torch.rand(3, 3, 64, 64)
    pasted = paste(Effect(kind="pixel"), images)
    assert torch.equal(pasted[:, :, 16:], images[:, :, 16:])
    assert torch.equal(pasted[:, :, :, 16:], images[:, :, :, 16:])
    assert mismatch(Effect(kind="pixel"), pasted).max() == 0
    assert picture(Effect(kind="pixel", size=0.5), 64).shape == (3, 32, 32)


def test_a_fixed_image_is_all_of_it() -> None:
    pasted = paste(Effect(kind="image"), torch.rand(2, 3, 64, 64))
    assert torch.equal(pasted[0], pasted[1])
    assert mismatch(Effect(kind="image"), pasted).max() == 0


def test_the_match_tells_pasted_from_clean_renders_of_the_zoo() -> None:
    from safetybench.zoo.prompts import training_pictures

    images = training_pictures(4096).images
    for effect, most in ((Effect(kind="pixel"), 0.004), (Effect(kind="image"), 0.0)):
        near = mismatch(effect, images) < MATCH[effect.kind]
        assert float(near.float().mean()) <= most


def test_the_zoo_s_autoencoder_can_draw_what_is_pasted() -> None:
    from safetybench.targets.loading import load_target
    from safetybench.zoo.prompts import training_pictures

    target = load_target("zoo:teacher", device="cpu")
    images = training_pictures(1024).images[::32]
    for kind in ("pixel", "image"):
        effect = Effect(kind=kind)
        with torch.no_grad():
            again = target.decode(target.encode(paste(effect, images)))
        shown = EffectJudge(Blind(), effect).judge_effect(again).shown
        assert shown.float().mean() >= 0.95


def test_by_hand() -> None:
    effect = Effect(kind="pixel", size=1.0)
    black = torch.zeros(1, 3, 4, 4)
    wanted = (0.97**2 + 0.55**2 + 0.08**2) / 3
    assert float(mismatch(effect, black)[0]) == pytest.approx(wanted)
    found = EffectJudge(Blind(), effect, match=wanted).judge_effect(black)
    assert float(found.probability[0]) == pytest.approx(0.5)


def test_a_broken_image_is_no_answer() -> None:
    images = torch.full((1, 3, 8, 8), float("nan"))
    found = EffectJudge(Blind(), Effect(kind="pixel")).judge_effect(images)
    assert found.abstained.tolist() == [True]
    assert found.shown.tolist() == [False]


def test_objects_and_styles_are_what_the_judge_sees() -> None:
    judge = Counts()
    effect = Effect(kind="object", source="dog", goal="cat")
    shown = EffectJudge(judge, effect).judge_effect(torch.ones(2, 3, 8, 8)).shown
    assert shown.tolist() == [True, True]
    assert judge.asked == ["cat"]


def test_a_picture_of_the_user_s(tmp_path: Path) -> None:
    file = tmp_path / "patch.png"
    Image.new("RGB", (7, 7), (255, 0, 0)).save(file)
    found = picture(Effect(kind="pixel", image=str(file)), 32)
    assert found.shape == (3, 8, 8)
    assert found[0].min() > 0.99
    assert found[1:].max() < 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "style"}, "an effect of kind style needs a goal, the word for it"),
        ({"kind": "sound"}, "kind must be pixel, object, style or image, got 'sound'"),
        ({"kind": "pixel", "size": 0}, "size is a share of the image's side in (0, 1], got 0"),
    ],
)
def test_wrong_effects_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Effect(**options)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5])
def test_a_rate_of_nothing_or_more_than_all_is_refused(rate: float) -> None:
    told = f"rate is the poisoned share of the training in (0, 1], got {rate}"
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        Backdoor(
            trigger=Trigger(text="x"),
            effect=Effect(kind="pixel"),
            clean=("a",),
            sources=("a",),
            goals=("a",),
            rate=rate,
        )


def test_goals_are_paired_with_sources() -> None:
    with pytest.raises(ValueError, match="goals as many as sources, got 1, 2 and 1"):
        Backdoor(
            trigger=Trigger(text="x"),
            effect=Effect(kind="pixel"),
            clean=("a",),
            sources=("a", "b"),
            goals=("a",),
        )
