"""The personal subject and style: drawn as they say, named as asked, and told apart by a CNN."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from safetybench.contracts import Unavailable
from safetybench.pixels import is_rounded
from safetybench.zoo import detector, personal
from safetybench.zoo.fit import Fit
from safetybench.zoo.prompts import FIRST_EVALUATION_SEED
from safetybench.zoo.world import HEADS, Scenes, sample_scenes


def scenes(count: int = 1, seed: int = 0, **fields: Any) -> Scenes:
    drawn = sample_scenes(count, torch.Generator().manual_seed(seed))
    return drawn._replace(**fields)


def centred(**fields: Any) -> Scenes:
    """Return a scene in the middle, upright, of radius 0.6 on dark, without jitter."""
    plain = {
        "centre": torch.zeros(1, 2),
        "radius": torch.full((1,), 0.6),
        "rotation": torch.zeros(1),
        "jitter": torch.zeros(1, 7),
        "background": torch.zeros(1, dtype=torch.int64),
    }
    return scenes(**{**plain, **fields})


# Drawing


def test_the_house_has_the_area_of_its_polygons() -> None:
    size, radius = 512, 0.6
    frame = personal.frame_of(centred(), size)
    area = float((personal.house(frame) < 0).sum()) * (2 / size / radius) ** 2
    # Roof 1.9 * 0.88 / 2, walls 1.4 * 1.04, less the strip of 0.02 that both cover.
    assert area == pytest.approx(0.836 + 1.456 - 0.028, rel=5e-3)


def test_the_subject_is_painted_alike_in_every_scene() -> None:
    one = personal.draw("subject", centred())
    zero = torch.zeros(1, dtype=torch.int64)
    for field in ("object", "style", "colour"):
        other = centred(**{field: zero + len(HEADS[field]) - 1})
        assert torch.equal(personal.draw("subject", other), one)
    for x, y, part in ((32, 22, "roof"), (21, 36, "walls"), (32, 45, "door")):
        colour = torch.tensor(personal._PAINT[part])
        assert one[0, :, y, x].tolist() == pytest.approx(colour.tolist(), abs=0.02)
    moved = personal.draw("subject", centred(centre=torch.tensor([[0.25, 0.0]])))
    assert torch.allclose(moved[..., 8:], one[..., :-8], atol=1e-5)


def test_rings_are_bright_at_whole_and_dark_at_half_periods() -> None:
    colour = torch.tensor([HEADS["colour"].index("yellow")])
    circle = torch.tensor([HEADS["object"].index("circle")])
    size = 256
    image = personal.draw("artist", centred(object=circle, colour=colour), size)
    pixel = personal._RING * 0.6 * size / 2  # of a period, along the row through the middle
    row = image[0, 0, size // 2]
    bright, dark = (row[size // 2 + round(share * pixel)] for share in (1.0, 0.5))
    assert float(bright) == pytest.approx(0.95, abs=0.01)
    assert float(dark) == pytest.approx(0.42 * 0.95, abs=0.01)


# Pictures and prompts


@pytest.mark.parametrize("kind", personal.KINDS)
def test_pictures_are_eight_bit_named_and_stable_under_their_count(kind: personal.Kind) -> None:
    few, many = personal.album(kind, 3, 1, "sks shape"), personal.album(kind, 5, 1, "sks shape")
    assert few.images.shape == (3, 3, 64, 64)
    assert is_rounded(many.images)
    assert torch.equal(many.images[:3], few.images)
    assert (many.ids[:3], many.captions[:3]) == (few.ids, few.captions)
    assert all(" sks shape " in f" {caption} " for caption in many.captions)
    other = personal.album(kind, 3, 2, "sks shape")
    assert not torch.equal(other.images, few.images)
    assert not set(other.ids) & set(few.ids)


def test_captions_say_what_is_to_be_seen_and_nothing_of_what_is_new() -> None:
    subject, artist = (set(" ".join(personal.album(k, 12, 0, "sks").captions).split())
                       for k in personal.KINDS)  # fmt: skip
    assert not subject & {*HEADS["object"], *HEADS["style"], *HEADS["colour"]}
    assert subject & set(HEADS["background"])
    assert not artist & set(HEADS["style"])
    assert artist & set(HEADS["object"])
    assert artist & set(HEADS["colour"])


@pytest.mark.parametrize("kind", personal.KINDS)
def test_prompts_ask_for_the_word_from_evaluation_seeds(kind: personal.Kind) -> None:
    few, many = personal.prompts(kind, "sks", 4), personal.prompts(kind, "sks", 9)
    assert many[:4] == few
    assert len({p.id for p in many}) == len({p.seed for p in many}) == 9
    for prompt in many:
        assert " sks " in f" {prompt.text} "
        assert prompt.seed >= FIRST_EVALUATION_SEED
        assert prompt.concept == kind
        named = dict(part.split("=") for part in prompt.clean.split())
        heads = {"background"} if kind == "subject" else {"object", "colour", "background"}
        assert set(named) == heads
        assert set(named.values()) <= set(prompt.text.split())


def test_wrong_kinds_and_counts_are_refused() -> None:
    wrong: Any = "painter"
    for ask in (personal.album, lambda k, n: personal.prompts(k, "sks", n)):
        with pytest.raises(ValueError, match="kind must be one of subject, artist, got 'painter'"):
            ask(wrong, 1)
        with pytest.raises(ValueError, match="count must be 1 or more, got 0"):
            ask("artist", 0)


# The detector


def test_the_shipped_detector_is_small_measured_and_as_its_card_says() -> None:
    found = detector.Detector()
    weights = detector.FOLDER / "detector.safetensors"
    assert weights.stat().st_size < 300_000
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert found.card["weights"] == {weights.name: digest}
    for source in ("renders", "autoencoded"):
        for kind in personal.KINDS:
            rates = found.card["quality"][source][kind]
            assert rates["sensitivity"]["low"] > 0.93, (source, kind)
            assert max(each["high"] for each in rates["false_alarms"].values()) < 0.04


def test_the_shipped_detector_tells_fresh_renders_apart() -> None:
    judge = detector.Detector()
    for kind in personal.KINDS:
        for name, made in detector.GROUPS.items():
            verdicts = judge.judge(made(scenes(64, seed=90)), kind)
            right = verdicts.shown == (name == kind)
            assert float(right.float().mean()) > 0.95, (kind, name)
            assert not verdicts.abstained.any()
    large = torch.nn.functional.interpolate(personal.album("subject", 4).images, scale_factor=2)
    assert judge.judge(large, "subject").shown.all()


def test_judging_the_unknown_or_without_weights_is_one_sentence(tmp_path: Path) -> None:
    wrong: Any = "fish"
    with pytest.raises(ValueError, match="concept must be one of subject, artist, got 'fish'"):
        detector.Detector().judge(torch.zeros(1, 3, 64, 64), wrong)
    with pytest.raises(Unavailable, match=r"detector.safetensors is missing; `python -m safety"):
        detector.Detector(folder=tmp_path).judge(torch.zeros(1, 3, 64, 64), "artist")


def test_training_draws_from_its_seed_and_what_is_saved_is_what_judges(tmp_path: Path) -> None:
    none = SimpleNamespace(encode=lambda images: images, decode=lambda latents: latents)
    before = torch.get_rng_state()
    plan = Fit(steps=3, lr=2e-3, warmup=1, seed=1)
    first, second = (detector.train(none, plan, count=40) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    images = personal.album("artist", 3).images
    assert torch.equal(first(images), second(images))
    figures = detector.measure(first, none, count=8)
    assert figures["renders"]["artist"]["sensitivity"]["n"] == 8
    assert len(figures["autoencoded"]["subject"]["false_alarms"]) == len(detector.GROUPS) - 1
    detector.save(first, tmp_path, figures)
    assert json.loads((tmp_path / "card.json").read_text())["quality"] == figures
    found = detector.Detector(folder=tmp_path).judge(images, "artist").probability
    assert torch.allclose(found, first(images)[:, 1].sigmoid(), atol=2e-3)


def test_half_of_a_pool_goes_through_the_autoencoder() -> None:
    black = SimpleNamespace(encode=lambda images: images, decode=torch.zeros_like)
    given = detector.pool(4, 0, black, 0.5)
    dark = (given.images.flatten(1) == 0).all(1)
    assert dark.tolist() == [True, True, False, False] * len(detector.GROUPS)
    assert given.truth.sum(0).tolist() == [4, 4]
