"""Classifiers by specification: every kind is found, checked, digested and loaded, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from safetybench.contracts import SafetyBenchError, TargetFailed, Unavailable
from safetybench.harness import models
from safetybench.targets.classifier import Classifier, Fitted
from safetybench.targets.classifier_loading import (
    check_base,
    check_classifier,
    classifier_digest,
    is_classifier,
    load_classifier,
)
from safetybench.vision import nets

FRESH = {"classes": [str(i) for i in range(10)], "shape": [1, 8, 8], "seed": 3}
PROCESSOR = {"size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
MODULE = """
import torch

CLASSES = ("cat", "dog", "fox")
SHAPE = (3, 4, 4)

def classifier() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return a folder of a dynamic network, as it is kept."""
    told = {"net": "dynamic", "width": 4}
    Classifier(
        net=nets.build(told, classes=3, shape=(1, 8, 8), seed=0),
        name="mine", names=("a", "b", "c"), shape=(1, 8, 8), told=told,
    ).save(tmp_path / "own")  # fmt: skip
    return tmp_path / "own"


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    """Return a folder of a tiny ViT of 8x8 pixels and three classes."""
    import transformers

    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        image_size=8, patch_size=4, id2label={0: "cat", 1: "dog", 2: "fox"},
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return tmp_path / "vit"


@pytest.fixture
def module(tmp_path: Path) -> dict[str, str]:
    """Return an adapter file with its weights."""
    (tmp_path / "net.py").write_text(MODULE)
    weights = {"1.weight": torch.ones(3, 48), "1.bias": torch.arange(3.0)}
    save_file(weights, tmp_path / "net.safetensors")
    return {"module": str(tmp_path / "net.py"), "weights": str(tmp_path / "net.safetensors")}


@pytest.fixture(scope="module")
def squeezed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a torchvision network with its weights."""
    import torchvision

    torch.manual_seed(0)
    net = torchvision.models.squeezenet1_1(num_classes=4)
    file = tmp_path_factory.mktemp("vision") / "net.safetensors"
    save_file(net.state_dict(), file)
    return {"torchvision": "squeezenet1_1", "weights": str(file), "classes": 4, "size": 32}


def images(*shape: int) -> torch.Tensor:
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))


def refused(spec: Any, kind: type[Exception] = SafetyBenchError) -> str:
    with pytest.raises(kind) as told:
        check_classifier(spec, offline=True)
    return str(told.value)


# What is one


def test_a_classifier_is_told_from_other_targets(own: Path, vit: Path, tmp_path: Path) -> None:
    for spec in (
        str(own), str(vit), {"path": str(own)}, {"path": str(own), "member": {}}, {"net": "cnn"},
        {"module": "x.py"}, {"torchvision": "resnet18"}, "classifier:owner/name",
    ):  # fmt: skip
        assert is_classifier(spec), spec
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    for other in (str(tmp_path), "owner/name", "zoo:teacher", {"path": "zoo:teacher"}, 3, {}):
        assert not is_classifier(other), other


def test_the_harness_opens_classifiers(own: Path) -> None:
    models.check(str(own), offline=True)
    digest = models.content_digest(str(own), offline=True)
    assert digest == classifier_digest(str(own), offline=True)
    opened = models.open_target(
        str(own), torch.device("cpu"), torch.float32, offline=True, digest=digest
    )
    assert (opened.name, opened.digest, opened.classes) == ("own", digest, 3)


# Fresh ones


def test_a_fresh_network_follows_from_its_seed() -> None:
    one = load_classifier({"net": "cnn", "width": 4}, fresh=FRESH)
    again = load_classifier({"net": "cnn", "width": 4}, fresh=FRESH)
    other = load_classifier({"net": "cnn", "width": 4}, fresh={**FRESH, "seed": 4})
    asked = images(1, 8, 8)
    assert torch.equal(one.logits(asked), again.logits(asked))
    assert not torch.equal(one.logits(asked), other.logits(asked))
    assert (one.names, one.shape) == (tuple("0123456789"), (1, 8, 8))
    assert one.told == {"net": "cnn", "width": 4}
    told = load_classifier({"net": "mlp", "hidden": 4, "classes": 3, "shape": [3, 4, 4]})
    assert (told.names, told.shape) == (("0", "1", "2"), (3, 4, 4))
    with pytest.raises(SafetyBenchError, match="net cnn needs classes and shape, which the data"):
        load_classifier({"net": "cnn"})


def test_loading_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    load_classifier({"torchvision": "squeezenet1_1", "size": 32}, fresh={"classes": 4})
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"net": "cn"}, "there is no network 'cn'; did you mean 'cnn'?"),
        ({"path": "x", "net": "cnn"}, "a classifier is one of path, torchvision, module, net, got"),
        ({"path": "x", "siz": 8}, "has no key 'siz'; did you mean 'size'?"),
        ({"path": "x", "size": 0}, "size of a classifier is a number of pixels, got 0"),
        ({"path": "x", "mean": [0.5]}, "mean and std of a classifier go together"),
        ({"path": "x", "mean": [0.5], "std": [0]}, "std of a classifier is a number above 0"),
        ({"net": "cnn", "classes": 1}, "classes of a classifier is a number of 2 or more"),
        ({"net": "cnn", "classes": ["a", "a"]}, "classes of a classifier is a number of 2 or"),
        ({"net": "cnn", "shape": [8, 8]}, "shape of a classifier is [channels, height, width]"),
        ({"path": "x", "member": 3}, "member of a classifier is a choice, such as {width: 0.5}"),
        ({"torchvision": "resnet81"}, "torchvision has no classifier 'resnet81'; did you mean"),
        ({"torchvision": "resnet18", "weights": "x.pth"}, "weights of a classifier is a .safet"),
        ({"torchvision": "resnet18", "weights": "x.safetensors"}, "there is no file 'x.safeten"),
        ({"module": "x.txt"}, "module of a classifier is a .py file, got x.txt"),
    ],
)
def test_a_bad_specification_is_told(spec: dict[str, Any], message: str) -> None:
    assert message in refused(spec)


# Our own folders


def test_a_member_of_a_dynamic_network_stands_alone(own: Path) -> None:
    whole = load_classifier(str(own))
    small = load_classifier({"path": str(own), "member": {"width": 0.5, "depth": 0}})
    assert small.parameters < whole.parameters / 2
    assert small.logits(images(1, 8, 8)).shape == (2, 3)
    digests = {
        classifier_digest(spec, offline=True)
        for spec in (str(own), {"path": str(own), "member": {"width": 0.5, "depth": 0}})
    }
    assert len(digests) == 2


def test_a_digest_is_of_what_answers_depend_on(own: Path) -> None:
    first = classifier_digest(str(own), offline=True)
    (own / "card.json").write_text("{}")
    assert classifier_digest(str(own), offline=True) == first
    weights = load_file(own / "model.safetensors")
    save_file({key: value + 1 for key, value in weights.items()}, own / "model.safetensors")
    assert classifier_digest(str(own), offline=True) != first


def test_weights_of_another_network_name_the_first_key(own: Path) -> None:
    file = own / "model.safetensors"
    weights = load_file(file)
    key = next(iter(weights))
    save_file({k: v for k, v in weights.items() if k != key}, file)
    lacking = refused(str(own), TargetFailed)
    assert lacking == f"the weights of {str(own)!r} are of another network: they lack {key}"
    save_file({**weights, "more": torch.ones(1)}, file)
    assert refused(str(own)).endswith("are of another network: they have more")
    save_file({**weights, key: torch.ones(1)}, file)
    assert f"{key} is (1,), and (" in refused(str(own))
    file.write_bytes(file.read_bytes()[:-8])
    assert refused(str(own)) == "model.safetensors is corrupted or cut short; fetch it again"
    file.unlink()
    assert refused(str(own)).startswith("cannot read model.safetensors: ")


def test_a_folder_that_is_none_is_told(own: Path, tmp_path: Path) -> None:
    assert refused("./none", Unavailable) == "there is no classifier './none'"
    assert refused({"path": "zoo:none", "member": {}}).startswith("the zoo has no classifier")
    (tmp_path / "empty").mkdir()
    assert "it has no classifier.json and no config.json" in refused(str(tmp_path / "empty"))
    assert "is a file; a classifier is a folder" in refused(str(own / "card.json"))
    told = {"path": str(own), "size": 8}
    assert refused(told) == f"{str(own)!r} says its size itself, in classifier.json"
    (own / "classifier.json").write_text('{"net": {"net": "cnn"}, "classes": 3}')
    assert "must say net, classes and shape" in refused(str(own))


def test_a_hub_id_is_not_fetched_offline() -> None:
    check_classifier("classifier:owner/none", offline=False)  # fetched when it is loaded
    with pytest.raises(Unavailable, match="is not in the cache, and offline nothing is fetched"):
        load_classifier("classifier:owner/none", offline=True)


# Transformers


def test_a_transformers_classifier_takes_plain_pixels(vit: Path, tmp_path: Path) -> None:
    import transformers

    target = load_classifier(str(vit))
    assert (target.names, target.shape) == (("cat", "dog", "fox"), (3, 8, 8))
    assert not target.is_random
    plain = transformers.ViTForImageClassification.from_pretrained(vit).eval()
    asked = images(3, 8, 8)
    with torch.no_grad():
        wanted = plain(pixel_values=(asked - 0.5) / 0.25).logits
    assert torch.allclose(target.logits(asked), wanted, atol=1e-5)
    target.save(tmp_path / "kept")
    again = load_classifier(str(tmp_path / "kept"))
    assert torch.allclose(again.logits(asked), wanted, atol=1e-5)
    assert again.names == target.names
    wide = load_classifier({"path": str(vit), "shape": [3, 16, 16]})
    assert wide.logits(images(3, 16, 16)).shape == (2, 3)


@pytest.mark.parametrize(
    ("changes", "mean", "size"),
    [
        ({"do_center_crop": True, "crop_size": {"height": 8, "width": 8}, "size": 10}, 0.5, 8),
        ({"size": {"shortest_edge": 8}}, 0.5, 8),
        ({"do_normalize": False}, 0.0, 8),
        ({"rescale_factor": 2 / 255}, 0.25, 8),
    ],
)
def test_what_images_must_be_is_read(
    vit: Path, changes: dict[str, Any], mean: float, size: int
) -> None:
    (vit / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **changes}))
    net = load_classifier(str(vit)).net
    assert isinstance(net, Fitted)
    assert net.size == (size, size)
    assert net.get_buffer("mean").flatten()[0].item() == pytest.approx(mean)


def test_what_cannot_be_taken_from_transformers_is_told(vit: Path) -> None:
    file = vit / "preprocessor_config.json"
    file.write_text(json.dumps({**PROCESSOR, "rescale_offset": True}))
    assert "moves pixels by rescale_offset" in refused(str(vit))
    file.write_text("{}")
    assert "says no size; say size" in refused(str(vit))
    file.unlink()
    assert "has no preprocessor_config.json" in refused(str(vit))
    told = {"path": str(vit), "mean": [0.5] * 3, "std": [0.5] * 3, "size": 8}
    assert load_classifier(told).shape == (3, 8, 8)
    weights = load_file(vit / "model.safetensors")
    dropped = {k: v for k, v in weights.items() if k != "classifier.bias"}
    save_file(dropped, vit / "model.safetensors", {"format": "pt"})
    with pytest.raises(TargetFailed, match=r"they lack classifier\.bias"):
        load_classifier(told)
    (vit / "model.safetensors").rename(vit / "pytorch_model.bin")
    assert "pickles are not loaded" in refused(told)
    config = json.loads((vit / "config.json").read_text())
    (vit / "config.json").write_text(
        json.dumps({**config, "problem_type": "multi_label_classification"})
    )
    assert "gives several labels to an image" in refused(told)
    (vit / "config.json").write_text('{"architectures": ["BertModel"]}')
    assert "is no image classifier, it is a BertModel" in refused(told)


# Torchvision and modules


def test_a_torchvision_classifier(squeezed: dict[str, Any], tmp_path: Path) -> None:
    import torchvision

    spec = {**squeezed, "mean": [0.5] * 3, "std": [0.25] * 3}
    target = load_classifier(spec)
    assert (target.name, target.shape, target.classes) == (
        "torchvision squeezenet1_1", (3, 32, 32), 4,
    )  # fmt: skip
    plain = torchvision.models.squeezenet1_1(num_classes=4).eval()
    plain.load_state_dict(load_file(squeezed["weights"]))
    asked = images(3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(target.logits(asked), plain((asked - 0.5) / 0.25), atol=1e-5)
    target.save(tmp_path / "kept", half=True)
    again = load_classifier(str(tmp_path / "kept"))
    assert torch.allclose(again.logits(asked), target.logits(asked), atol=0.05)
    assert classifier_digest(spec, offline=True) != classifier_digest(squeezed, offline=True)
    assert "are of another network: classifier.1" in refused({**squeezed, "classes": 5})
    short = {key: value for key, value in squeezed.items() if key != "classes"}
    assert refused(short) == "torchvision squeezenet1_1 needs classes, how many its weights tell"


def test_a_module_is_run_when_it_is_loaded(module: dict[str, str], tmp_path: Path) -> None:
    target = load_classifier(module)
    assert (target.name, target.names) == ("module net.py", ("cat", "dog", "fox"))
    asked = images(3, 4, 4)
    wanted = asked.flatten(1).sum(1, keepdim=True) + torch.arange(3.0)
    assert torch.allclose(target.logits(asked), wanted, atol=1e-4)
    with pytest.raises(SafetyBenchError, match="cannot be trained in a run"):
        check_base(module, offline=True)
    first = classifier_digest(module, offline=True)
    (tmp_path / "net.py").write_text(MODULE + "\nimport sys\nsys.exit()\n")
    check_classifier(module, offline=True)
    assert classifier_digest(module, offline=True) != first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CLASSES = 3", "net.py must define classifier(), SHAPE and CLASSES; it has no classifier"),
        (MODULE.replace("(3, 4, 4)", "(3, 4)"), "net.py must say SHAPE as (channels, height, wid"),
        (MODULE.replace('("cat", "dog", "fox")', "list(range(3))"), "written out"),
        ("def", "net.py cannot be read: "),
    ],
)
def test_a_module_that_says_too_little_is_told(
    module: dict[str, str], tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "net.py").write_text(text)
    assert message in refused(module)


def test_a_module_that_fails_is_told(module: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODULE.replace("return torch", "return torch.none"))
    with pytest.raises(TargetFailed, match=r"net\.py failed: AttributeError: "):
        load_classifier(module)
    (tmp_path / "net.py").write_text(MODULE.replace("return torch", "return str or torch"))
    with pytest.raises(SafetyBenchError, match=r"must return a torch\.nn\.Module, got type"):
        load_classifier(module)
    (tmp_path / "net.py").write_text(MODULE.replace("48, 3", "48, 4"))
    with pytest.raises(TargetFailed, match=r"1\.bias is \(3,\), and \(4,\) is wanted"):
        load_classifier(module)
