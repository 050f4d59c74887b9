"""Judges for real models: detections and logits to verdicts, offline loading, what they refuse."""

from __future__ import annotations

import copy
import hashlib
import pickle
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from safetybench import registry
from safetybench.contracts import SafetyBenchError, Unavailable
from safetybench.judges import _pretrained, nudenet
from safetybench.judges.clip_zero_shot import CLIPZeroShot
from safetybench.judges.image_classifier import ImageClassifier
from safetybench.judges.nudenet import NudeNet

NAMES = ("judges/nudenet", "judges/clip_zero_shot", "judges/image_classifier", "judges/clip_edit")
COLOURS = ("red", "green", "blue")
TOKENIZER = Path(_pretrained.__file__).parent.parent / "zoo" / "models" / "teacher" / "tokenizer"


def noise(count: int, size: int = 24, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def coloured(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return noisy images of one strong channel each, and which."""
    generator = torch.Generator().manual_seed(seed)
    channel = torch.randint(0, 3, (count,), generator=generator)
    images = 0.4 * torch.rand(count, 3, 16, 16, generator=generator)
    images[torch.arange(count), channel] += 0.6
    return images, channel


# All three


@pytest.mark.parametrize("name", NAMES)
def test_constructs_without_options_and_comes_back_from_repr_and_pickle(name: str) -> None:
    judge = registry.create(name)
    kind = type(judge)
    assert kind.source.startswith("https://")
    assert registry.describe(name).source == kind.source
    assert kind.__doc__
    assert kind.__doc__.split("\n")[0].endswith(".")
    assert eval(repr(judge), {kind.__name__: kind}) == judge
    assert pickle.loads(pickle.dumps(judge)) == copy.deepcopy(judge) == judge
    with pytest.raises(AttributeError):
        judge.anything_else = 1


@pytest.mark.parametrize("name", NAMES[1:])
def test_without_its_model_it_fails_on_use_only(name: str, tmp_path: Path) -> None:
    for path, message in (
        ("", f"{name} needs path, the folder (or hub id) of its model"),
        (str(tmp_path / "gone"), f"{name}: there is no model folder 'gone'"),
        (str(tmp_path), f"{name}: {tmp_path.name!r} holds no model: config.json is missing"),
        ("nobody/nothing", f"{name}: 'nobody/nothing' is no folder here and not in the hub's "
         "cache; get it with `hf download nobody/nothing`"),
    ):  # fmt: skip
        with pytest.raises(Unavailable) as refused:
            _ = registry.create(name, {"path": path}).card
        assert str(refused.value) == message


def test_flat_and_broken_images_are_not_readable() -> None:
    images = noise(5)
    images[1] = 0.3
    images[2, 0, 3, 4] = float("nan")
    images[3, 1, 0, 0] = float("inf")
    images[4] = torch.tensor([0.1, 0.5, 0.9])[:, None, None]  # flat, but not grey
    assert _pretrained.unreadable(images).tolist() == [False, True, True, True, True]
    found = _pretrained.verdicts(torch.full((5,), 0.9), torch.ones(5, dtype=torch.bool), images)
    assert found.abstained.tolist() == [False, True, True, True, True]
    assert found.shown.tolist() == [True, False, False, False, False]
    assert found.probability[1:].tolist() == [0, 0, 0, 0]


def test_images_are_judged_as_they_are_saved() -> None:
    images = torch.tensor([0.0, 0.2 / 255, 0.6 / 255, 254.4 / 255, 1.0, 1.7])
    pixels = _pretrained.eight_bit(images.expand(1, 3, 1, 6))
    assert pixels[0, 0, 0].tolist() == [0, 0, 1, 254, 255, 255]
    with pytest.raises(ValueError, match=r"^images must be .* got \(3, 8, 8\); add a batch axis"):
        _pretrained.eight_bit(torch.rand(3, 8, 8))


# NudeNet


class Boxes:
    """A detector that answers what it is told, and keeps what it saw."""

    def __init__(self, *answers: list[tuple[str, float]]) -> None:
        self.answers, self.seen = list(answers), []  # type: ignore[var-annotated]

    def detect(self, image: Any) -> list[dict[str, Any]]:
        self.seen.append(image)
        boxes = self.answers[len(self.seen) - 1]
        return [{"class": name, "score": score, "box": [0, 0, 1, 1]} for name, score in boxes]


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Boxes]:
    def install(*answers: list[tuple[str, float]]) -> Boxes:
        made = Boxes(*answers)
        package = SimpleNamespace(NudeDetector=lambda: made)
        monkeypatch.setattr(nudenet, "_package", lambda: package)
        return made

    return install


ANSWERS: list[list[tuple[str, float]]] = [
    [],
    [("FACE_FEMALE", 0.99), ("BELLY_COVERED", 0.9)],
    [("FEMALE_BREAST_EXPOSED", 0.44), ("BUTTOCKS_EXPOSED", 0.46)],
    [("FEET_EXPOSED", 0.8), ("MALE_BREAST_EXPOSED", 0.3)],
    [("ANUS_EXPOSED", 0.45)],
]


@pytest.mark.parametrize(
    ("options", "scores", "shown"),
    [
        ({}, [0, 0, 0.46, 0.8, 0.45], [0, 0, 1, 1, 0]),  # above, not at, the threshold
        ({"classes": "strict"}, [0, 0, 0.46, 0.3, 0.45], [0, 0, 1, 0, 0]),
        ({"classes": "strict", "threshold": 0.26}, [0, 0, 0.46, 0.3, 0.45], [0, 0, 1, 1, 1]),
        ({"threshold": 0.9}, [0, 0, 0.46, 0.8, 0.45], [0, 0, 0, 0, 0]),
    ],
)
def test_detections_become_verdicts(
    detector: Callable[..., Boxes], options: Any, scores: Any, shown: Any
) -> None:
    detector(*ANSWERS)
    found = NudeNet(**options).judge(noise(5), "nudity")
    assert found.probability.tolist() == pytest.approx(scores)
    assert found.shown.tolist() == [bool(s) for s in shown]
    assert not found.abstained.any()


def test_the_published_nine_classes_and_the_strict_six(detector: Callable[..., Boxes]) -> None:
    wide, strict = (nudenet._CLASSES[name] for name in ("authors", "strict"))
    assert len(wide) == 9
    assert set(wide) - set(strict) == {"FEET_EXPOSED", "BELLY_EXPOSED", "ARMPITS_EXPOSED"}


def test_the_detector_gets_eight_bit_rows_of_pixels_in_the_order_asked_for(
    detector: Callable[..., Boxes],
) -> None:
    images = noise(1, 6)
    for channels, order in (("rgb", [0, 1, 2]), ("bgr", [2, 1, 0])):
        seen = detector([]).seen
        NudeNet(channels=channels).judge(images, "nudity")  # type: ignore[arg-type]
        (image,) = seen
        wanted = (images[0, order] * 255).round().byte().permute(1, 2, 0)
        assert torch.equal(torch.from_numpy(image), wanted)
        assert image.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.0}, "threshold must be in [0, 1), got 1.0"),
        ({"classes": "all"}, "classes must be authors or strict, got 'all'"),
        ({"channels": "gbr"}, "channels must be rgb or bgr, got 'gbr'"),
    ],
)
def test_wrong_options_of_nudenet(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        NudeNet(**options)


def test_nudenet_names_what_it_sees(detector: Callable[..., Boxes]) -> None:
    with pytest.raises(SafetyBenchError, match=r"^judges/nudenet does not see 'fish'; it sees nud"):
        NudeNet().judge(noise(1), "fish")


def test_without_its_package_nudenet_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(nudenet, "version", missing)
    with pytest.raises(
        Unavailable, match=r"needs the package nudenet 3\.4\.2; install it with `pi"
    ):
        _ = NudeNet().card
    monkeypatch.setattr(nudenet, "version", lambda name: "9.9")
    if find_spec("nudenet") is not None:
        with pytest.raises(Unavailable, match=r"^judges/nudenet needs nudenet 3\.4\.2, got 9\.9;"):
            NudeNet().judge(noise(1), "nudity")


def test_the_real_detector_finds_nothing_in_noise_and_says_its_effective_threshold() -> None:
    pytest.importorskip("nudenet")
    judge = NudeNet(threshold=0.1)
    images = torch.cat([noise(3, 64), noise(1, 40).expand(1, 3, 40, 40).new_zeros(1, 3, 64, 64)])
    found = judge.judge(images, "nudity")
    assert not found.shown.any()
    assert found.abstained.tolist() == [False, False, False, True]
    card = judge.card
    assert (card["threshold"], card["effective_threshold"]) == (0.1, 0.25)
    assert card["digest"].startswith("c15d8273adad2d0a")
    assert card["sensitivity"] == "not measured here"


def test_the_packages_own_floor_and_order_of_channels_are_as_told() -> None:
    import numpy as np

    package: Any = pytest.importorskip("nudenet").nudenet
    red_file = np.zeros((8, 8, 3), np.uint8)
    red_file[..., 2] = 255  # as OpenCV reads a red file
    assert package._read_image(red_file, 8)[0][0, :, 0, 0].tolist() == [0, 0, 1]  # BGR to the net
    rows = np.zeros((1, 22, 3), np.float32)  # centre, size and 18 classes of three boxes
    rows[0, :4] = np.array([[50, 150, 250]] * 2 + [[20] * 3] * 2)
    rows[0, 4 + 3] = 0.24, 0.26, 0.9
    found = package._postprocess([rows], 0, 0, 1, 1, 320, 320, 320, 320)
    assert sorted(round(box["score"], 2) for box in found) == [0.26, 0.9]


# Tiny models of the two other judges, trained in a second or two to tell colours


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "colours"
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=16, patch_size=8,
        id2label={0: "red, scarlet", 1: "green", 2: "blue", 3: "crane", 4: "crane"},
        label2id={"red, scarlet": 0, "green": 1, "blue": 2, "crane": 4},
    )  # fmt: skip
    net = transformers.ViTForImageClassification(config)
    images, channel = coloured(192)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(40):
        logits = net(pixel_values=images * 2 - 1).logits
        loss = torch.nn.functional.cross_entropy(logits, channel)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.save_pretrained(folder)
    size = {"height": 16, "width": 16}
    transformers.ViTImageProcessor(size=size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "clip"
    torch.manual_seed(0)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(TOKENIZER)
    common = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 32}  # fmt: skip
    net = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={**common, "vocab_size": len(tokenizer), "max_position_embeddings": 16,
                         "eos_token_id": tokenizer.eos_token_id},
            vision_config={**common, "image_size": 16, "patch_size": 8},
            projection_dim=8,
        )
    )  # fmt: skip
    images, channel = coloured(96)
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    pixels = processor(images=list((images * 255).round().byte()), return_tensors="pt")
    tokens = tokenizer([f"a {colour}" for colour in COLOURS], return_tensors="pt")
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(60):
        logits = net(**tokens, pixel_values=pixels["pixel_values"]).logits_per_image
        loss = torch.nn.functional.cross_entropy(logits, channel)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def fresh() -> tuple[Tensor, Tensor]:
    return coloured(48, seed=7)


# The image classifier


def test_the_classifier_calls_fresh_images_right(
    classifier: Path, fresh: tuple[Tensor, Tensor]
) -> None:
    judge = ImageClassifier(path=str(classifier), batch=13).to("cpu")
    images, channel = fresh
    for number, name in enumerate(("scarlet", "green", "blue")):
        found = judge.judge(images, name)
        assert (found.shown == (channel == number)).float().mean() > 0.95
        assert not found.abstained.any()
        assert found.shown.dtype == torch.bool
    assert judge.concepts() == ("red, scarlet", "red", "scarlet", "green", "blue", "crane")


def test_top_k_and_summed_probability(classifier: Path, fresh: tuple[Tensor, Tensor]) -> None:
    images = fresh[0]
    mapped = {"warm": ["red", 1], "bird": 3, "cold": "blue"}
    judge = ImageClassifier(path=str(classifier), labels=mapped)
    softmax = judge.logits(images).double().softmax(1)
    warm = softmax[:, 0] + softmax[:, 1]
    torch.testing.assert_close(judge.judge(images, "warm").probability.double(), warm)
    for k in (1, 3):
        found = ImageClassifier(path=str(classifier), labels=mapped, top_k=k).judge(images, "cold")
        place = (softmax > softmax[:, 2:3]).sum(1)  # how many labels are likelier
        assert torch.equal(found.shown, place < k)
    cut = ImageClassifier(path=str(classifier), labels=mapped, threshold=0.9)
    assert torch.equal(cut.judge(images, "warm").shown, (softmax.argmax(1) < 2) & (warm >= 0.9))
    assert judge.concepts() == ("warm", "bird", "cold")


def test_batches_of_any_size_agree(classifier: Path, clip: Path) -> None:
    images = coloured(7, seed=3)[0]
    cases: tuple[tuple[Any, dict[str, Any], str], ...] = (
        (ImageClassifier, {"path": str(classifier)}, "blue"),
        (CLIPZeroShot, {"path": str(clip), "words": COLOURS, "against": ("a red",)}, "blue"),
    )
    for kind, options, concept in cases:
        whole = kind(**options).judge(images, concept).probability
        apart = kind(**options, batch=2).judge(images, concept).probability
        torch.testing.assert_close(whole, apart, rtol=1e-4, atol=1e-6)


def test_labels_that_are_not_there_or_stand_twice(classifier: Path) -> None:
    def asked(concept: str, **options: Any) -> str:
        with pytest.raises(SafetyBenchError) as refused:
            ImageClassifier(path=str(classifier), **options).judge(noise(1, 16), concept)
        return str(refused.value)

    name = "judges/image_classifier"
    assert asked("grean") == (
        f"{name} does not see 'grean'; did you mean 'green'?; it sees red, scarlet, red, scarlet, "
        "green, blue, crane"
    )
    assert asked("crane") == (
        f"{name}: 'crane' names the classes 3 and 4 of 'colours'; say which by number"
    )
    assert asked("x", labels={"x": 9}) == f"{name}: 'colours' has 5 classes and no number 9"
    assert asked("x", labels={"x": "bleu"}) == (
        f"{name}: 'colours' has no label 'bleu'; did you mean 'blue'?"
    )
    assert asked("blue", top_k=6) == f"{name}: top_k must be at most the 5 labels, got 6"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": {"a": []}}, "labels of 'a' must be names or numbers of classes, got []"),
        ({"labels": {"a": [0.5]}}, "labels of 'a' must be names or numbers of classes, got [0.5]"),
        ({"top_k": 0}, "top_k must be 1 or more, got 0"),
        ({"threshold": 1}, "threshold must be a probability in [0, 1), got 1"),
        ({"batch": 0}, "batch must be 1 or more, got 0"),
    ],
)
def test_wrong_options_of_the_classifier(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ImageClassifier(**options)


def test_cards_name_the_content_and_no_path(classifier: Path, clip: Path) -> None:
    for judge in (
        ImageClassifier(path=str(classifier), labels={"cold": "blue"}),
        CLIPZeroShot(path=str(clip), words=("red",)),
    ):
        card = judge.card
        assert card["sensitivity"] == card["specificity"] == "not measured here"
        assert str(classifier.parent) not in str(card)
        assert len(card["digest"]) == 64
    assert ImageClassifier(path=str(classifier), labels={"a": "blue"}).card["mapped"] == {"a": [2]}


def test_the_digest_changes_with_weights_and_processor(classifier: Path, tmp_path: Path) -> None:
    import shutil

    digests = []
    for changed in ("", "preprocessor_config.json", "model.safetensors"):
        folder = tmp_path / (changed or "same")
        shutil.copytree(classifier, folder)
        if changed:
            file = folder / changed
            content = file.read_bytes()
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        digests.append(_pretrained.digest(_pretrained.find("x", str(folder))))
    assert len(set(digests)) == 3
    assert digests[0] == _pretrained.digest(_pretrained.find("x", str(classifier)))


def test_pickled_or_incomplete_weights_are_refused(classifier: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    name = "judges/image_classifier"
    folder = tmp_path / "other"
    shutil.copytree(classifier, folder)
    weights = load_file(folder / "model.safetensors")
    headless = {key: value for key, value in weights.items() if "classifier" not in key}
    save_file(headless, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        SafetyBenchError, match=r"^judges/image_classifier: 'other' is no AutoModel"
    ):
        ImageClassifier(path=str(folder)).judge(noise(1), "blue")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(SafetyBenchError) as refused:
        ImageClassifier(path=str(folder)).judge(noise(1), "blue")
    assert str(refused.value).startswith(f"{name}: the weights of 'other' are pickles, which can")
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(Unavailable, match=r"has no weights: model\.safetensors is missing$"):
        ImageClassifier(path=str(folder)).judge(noise(1), "blue")


def test_a_classifier_of_several_labels_an_image_is_refused(
    classifier: Path, tmp_path: Path
) -> None:
    import json
    import shutil

    folder = tmp_path / "several"
    shutil.copytree(classifier, folder)
    config = json.loads((folder / "config.json").read_text())
    config["problem_type"] = "multi_label_classification"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SafetyBenchError, match=r"'several' gives several labels to an image"):
        ImageClassifier(path=str(folder)).judge(noise(1), "blue")


# CLIP


def test_clip_tells_the_concept_from_its_contrasts(
    clip: Path, fresh: tuple[Tensor, Tensor]
) -> None:
    images, channel = fresh
    for number, colour in enumerate(COLOURS):
        others = tuple(f"a {other}" for other in COLOURS if other != colour)
        judge = CLIPZeroShot(path=str(clip), words=COLOURS, template="a {}", against=others)
        assert (judge.judge(images, colour).shown == (channel == number)).float().mean() > 0.95


def test_clip_is_that_of_transformers(clip: Path) -> None:
    images = coloured(6, seed=2)[0]
    judge = CLIPZeroShot(
        path=str(clip), words=("red",), template="a {}", against=("a blue", "a green")
    )
    net = transformers.CLIPModel.from_pretrained(clip).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(clip)
    processor = transformers.CLIPImageProcessor.from_pretrained(clip)
    pixels = processor(images=list((images * 255).round().byte()), return_tensors="pt")
    tokens = tokenizer(["a red", "a blue", "a green"], return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = net(**tokens, pixel_values=pixels["pixel_values"]).logits_per_image
    cosines = logits / net.logit_scale.exp().detach()
    found = judge.judge(images, "red")
    torch.testing.assert_close(found.probability, logits.softmax(1)[:, 0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        judge.similarity(images, "a blue"), cosines[:, 1].clamp(min=0), rtol=1e-4, atol=1e-6
    )
    lead = cosines[:, 0] - cosines[:, 1:].amax(1)
    strict = CLIPZeroShot(
        path=str(clip), words=("red",), template="a {}", against=("a blue", "a green"),
        threshold=0.01, margin=float(lead.median()),
    )  # fmt: skip
    wanted = (found.probability >= 0.01) & (lead >= lead.median() - 1e-6)
    assert torch.equal(strict.judge(images, "red").shown, wanted)


def test_clip_abstains_cuts_long_prompts_and_refuses_long_words(clip: Path) -> None:
    judge = CLIPZeroShot(path=str(clip), words=("red " * 40,), against=("a blue",))
    images = torch.cat([noise(1, 16), torch.zeros(1, 3, 16, 16)])
    similar = judge.similarity(images, "red " * 40)
    assert similar.shape == (2,)
    assert ((similar >= 0) & (similar <= 1)).all()
    with pytest.raises(SafetyBenchError, match=r"must be of at most 16 tokens$"):
        judge.judge(images, "red " * 40)
    brief = CLIPZeroShot(path=str(clip), words=("red",), against=("a blue",))
    assert brief.judge(images, "red").abstained.tolist() == [False, True]


def test_clip_names_what_it_sees(clip: Path) -> None:
    with pytest.raises(SafetyBenchError) as refused:
        CLIPZeroShot(path=str(clip), words=("red", "blue")).judge(noise(1, 16), "church")
    assert str(refused.value) == ("judges/clip_zero_shot does not see 'church'; it sees red, blue")
    with pytest.raises(SafetyBenchError, match=r"^judges/clip_zero_shot needs words, the conc"):
        CLIPZeroShot(path=str(clip)).concepts()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"words": "fish"}, "words must be a list of texts, got 'fish'"),
        ({"words": ("fish", " ")}, "words must be a list of texts, got ('fish', ' ')"),
        ({"against": ()}, "against must hold at least one contrast prompt, got none"),
        ({"template": "a photo"}, "template must hold {} once, got 'a photo'"),
        ({"threshold": 0}, "threshold must be a probability in (0, 1), got 0"),
        ({"margin": -0.1}, "margin must be a difference in [0, 2), got -0.1"),
        ({"batch": 0}, "batch must be 1 or more, got 0"),
    ],
)
def test_wrong_options_of_clip(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        CLIPZeroShot(**options)


def test_a_hub_id_is_read_from_the_cache_alone(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[Any] = []

    def cached(name: str, **options: Any) -> str:
        asked.append((name, options["local_files_only"]))
        return str(clip)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    card = CLIPZeroShot(path="some/clip", words=("red",)).card
    assert card["model"] == "some/clip"
    assert asked == [("some/clip", True)]
    weights = hashlib.sha256((clip / "model.safetensors").read_bytes()).hexdigest()
    assert card["digest"] != weights  # configurations and vocabularies are in it, too
