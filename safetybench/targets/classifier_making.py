"""Make the networks of classifiers: our own, those of torchvision and transformers, a module's."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetybench.contracts import SafetyBenchError, TargetFailed
from safetybench.registry import suggestion
from safetybench.targets.classifier_files import (
    FILE,
    WEIGHTS,
    check_header,
    compare,
    file_of,
    fill,
    is_transformers,
    misfit,
    read_json,
)
from safetybench.targets.classifier_spec import (
    INSIDE,
    ClassifierSpec,
    is_classes,
    is_row,
    is_shape,
    names_of,
    shape_of,
)
from safetybench.targets.quiet import quiet

if TYPE_CHECKING:
    from torch import nn

_BROKEN = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError)


class Made(NamedTuple):
    """A network with what it is made of; the fields are those of `Classifier`."""

    net: nn.Module
    names: tuple[str, ...]
    shape: tuple[int, int, int]
    told: Mapping[str, Any]
    data: str = ""


def make(told: ClassifierSpec, found: Path | None, fresh: Mapping[str, Any], seed: int) -> Made:
    """Return the network of a specification; found: its folder, where it is by path."""
    if found is not None and (found / FILE).is_file():
        return own(found, told)
    if found is not None:
        return _transformers(found, told)
    if told.way == "module":
        return _module(told)
    given = {key: told.options.get(key, fresh.get(key)) for key in ("classes", "shape")}
    if given["classes"] is None or (told.way == "net" and given["shape"] is None):
        raise SafetyBenchError(
            f"{told.shown} needs classes and shape, which the data of a suite say"
        )
    names = names_of(given["classes"])
    options = {k: v for k, v in told.options.items() if k not in ("classes", "shape", "weights")}
    net_told = {told.way: told.value, **options}
    size = options.get("size", 224)
    shape = given["shape"] or (3, size, size)
    net = rebuild(net_told, names, shape, seed)
    if told.options.get("weights"):
        file = file_of(told.options["weights"], "weights")
        fill(net.get_submodule("net"), file, told.shown)
    return Made(net, names, shape_of(shape), net_told)


def rebuild(
    told: Mapping[str, Any], names: tuple[str, ...], shape: Any, seed: int = 0
) -> nn.Module:
    """Return a network with fresh weights, as classifier.json tells it."""
    from safetybench.targets.classifier import Fitted
    from safetybench.vision import nets

    if "net" in told:
        return nets.build(told, classes=len(names), shape=shape_of(shape), seed=seed)
    net: nn.Module
    if "torchvision" in told:
        import torchvision

        more = (
            {"init_weights": True} if told["torchvision"] in ("googlenet", "inception_v3") else {}
        )
        net = torchvision.models.get_model(
            told["torchvision"], weights=None, num_classes=len(names), **more
        )
    elif "transformers" in told:
        import transformers

        rest = dict(told["transformers"])
        config = transformers.AutoConfig.for_model(rest.pop("model_type"), **rest)
        net = transformers.AutoModelForImageClassification.from_config(config)
    else:
        raise SafetyBenchError(f"there is no network {dict(told)!r:.60}")
    size = told.get("size", 224)
    sides = (size, size) if isinstance(size, int) else tuple(size)
    return Fitted(net, told.get("mean", ()), told.get("std", ()), sides)


def own(folder: Path, told: ClassifierSpec, *, is_meta: bool = False) -> Made:
    """Return a classifier of our own folder; is_meta: its shapes alone, and no weights."""
    import torch

    from safetybench.vision import nets

    content = read_json(folder / FILE, told.shown)
    net_told, classes, shape = (content.get(key) for key in ("net", "classes", "shape"))
    if not (isinstance(net_told, dict) and is_classes(classes) and is_shape(shape)):
        raise SafetyBenchError(
            f"{FILE} of {told.shown!r} must say net, classes and shape, as Classifier.save does"
        )
    names = names_of(classes)
    refused = [key for key in (*INSIDE, "shape") if key in told.options]
    if refused:
        raise SafetyBenchError(f"{told.shown!r} says its {refused[0]} itself, in {FILE}")
    try:
        with torch.device("meta" if is_meta else "cpu"):
            net = rebuild(net_told, names, shape)
    except _BROKEN as error:
        raise TargetFailed(f"the network of {told.shown!r} cannot be made: {error}") from error
    if not is_meta:
        fill(net, folder / WEIGHTS, told.shown)
    if "member" in told.options and not is_meta:
        net, net_told = nets.member(net, told.options["member"]), {}
    return Made(net, names, shape_of(shape), net_told, str(content.get("data", "")))


def check_torchvision(told: ClassifierSpec) -> None:
    """Refuse an architecture that there is none of, and weights of another."""
    import torch
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if told.value not in known:
        raise SafetyBenchError(
            f"torchvision has no classifier {told.value!r}{suggestion(told.value, known)}"
        )
    weights, classes = told.options.get("weights"), told.options.get("classes")
    if weights and classes is None:
        raise SafetyBenchError(f"{told.shown} needs classes, how many its weights tell")
    if weights and classes is not None:
        shape = told.options.get("shape", (3, 224, 224))
        with torch.device("meta"):
            net = rebuild({"torchvision": told.value}, names_of(classes), shape)
        compare(net.get_submodule("net").state_dict(), file_of(weights, "weights"), told.shown)


def check_transformers(folder: Path, told: ClassifierSpec) -> None:
    """Refuse a transformers folder that is no image classifier, or lacks a file."""
    config = read_json(folder / "config.json", told.shown)
    if not is_transformers(config):
        kind = (config.get("architectures") or ["model of an unknown class"])[0]
        raise SafetyBenchError(f"{told.shown!r} is no image classifier, it is a {kind}")
    if config.get("problem_type") == "multi_label_classification":
        raise SafetyBenchError(
            f"{told.shown!r} gives several labels to an image; take a single-label classifier"
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise SafetyBenchError(
            f"{told.shown!r} has no .safetensors file; pickles are not loaded, as they run code"
        )
    for file in files:
        check_header(file)
    _inside(folder, told)


def _inside(folder: Path, told: ClassifierSpec) -> dict[str, Any]:
    """Return mean, std and size of what a transformers classifier takes, in units of [0, 1]."""
    options = {key: told.options[key] for key in INSIDE if key in told.options}
    if set(options) == set(INSIDE):
        return options
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        raise SafetyBenchError(
            f"{told.shown!r} has no preprocessor_config.json, so that it is not known what its "
            "images must be; say mean, std and size"
        )
    config = read_json(file, told.shown)
    if config.get("rescale_offset"):
        raise SafetyBenchError(
            f"{told.shown!r} moves pixels by rescale_offset; say mean, std and size instead"
        )
    is_cropped = config.get("do_center_crop") and config.get("crop_size")
    size = config["crop_size"] if is_cropped else config.get("size")
    if isinstance(size, Mapping):
        size = [
            size.get("height", size.get("shortest_edge")),
            size.get("width", size.get("shortest_edge")),
        ]
    sides = [size, size] if isinstance(size, int) else size
    if not (
        isinstance(sides, list | tuple) and len(sides) == 2 and all(type(s) is int for s in sides)
    ):
        raise SafetyBenchError(f"preprocessor_config.json of {told.shown!r} says no size; say size")
    is_normal = config.get("do_normalize", True)
    # Pixels come as [0, 1], and not as bytes times a factor.
    factor = 255 * config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 255
    mean = config.get("image_mean") if is_normal else [0.0]
    std = config.get("image_std") if is_normal else [1.0]
    if not is_row(mean) or not is_row(std) or mean is None or std is None:
        raise SafetyBenchError(
            f"preprocessor_config.json of {told.shown!r} says no image_mean and image_std; say "
            "mean and std"
        )
    scaled = {"mean": [m / factor for m in mean], "std": [s / factor for s in std]}
    return {**scaled, "size": sides, **options}


def _transformers(folder: Path, told: ClassifierSpec) -> Made:
    import transformers

    from safetybench.targets.classifier import Fitted

    try:
        with quiet():
            net, info = transformers.AutoModelForImageClassification.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True,
                local_files_only=True, trust_remote_code=False,
            )  # fmt: skip
    except _BROKEN as error:
        text = str(error).replace(str(folder), told.shown).splitlines() or [type(error).__name__]
        raise TargetFailed(f"could not load the classifier {told.shown!r}: {text[0]}") from error
    for kind in ("missing", "unexpected"):
        if info[f"{kind}_keys"]:
            raise TargetFailed(misfit(told.shown, kind, sorted(info[f"{kind}_keys"])[0]))
    inside, config = _inside(folder, told), net.config
    size = inside["size"]
    sides = (size, size) if isinstance(size, int) else tuple(size)
    names = tuple(str(config.id2label[i]) for i in range(config.num_labels))
    shape = told.options.get("shape", (getattr(config, "num_channels", 3), *sides))
    return Made(
        Fitted(net, inside["mean"], inside["std"], sides),
        names,
        shape_of(shape),
        {"transformers": config.to_diff_dict(), **inside},
    )


class _Facts(NamedTuple):
    names: tuple[str, ...]
    shape: tuple[int, int, int]


def module_facts(file: Path) -> _Facts:
    """Return what an adapter file says, without running it."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        raise SafetyBenchError(f"{file.name} cannot be read: {error}") from error
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            places = node.targets if isinstance(node, ast.Assign) else [node.target]
            for place in places:
                if isinstance(place, ast.Name):
                    found[place.id] = node.value
    for name in ("classifier", "SHAPE", "CLASSES"):
        if name not in found:
            raise SafetyBenchError(
                f"{file.name} must define classifier(), SHAPE and CLASSES; it has no {name}"
            )
    try:
        shape, classes = (ast.literal_eval(found[name]) for name in ("SHAPE", "CLASSES"))
    except ValueError:
        shape, classes = None, None
    if not is_shape(shape) or not is_classes(classes):
        raise SafetyBenchError(
            f"{file.name} must say SHAPE as (channels, height, width) and CLASSES as a number or "
            "different names, written out"
        )
    return _Facts(names_of(classes), shape_of(shape))


def _module(told: ClassifierSpec) -> Made:
    """Run the adapter file that a suite names, and return what its classifier() makes."""
    from torch import nn

    file = file_of(told.value, "module")
    facts = module_facts(file)
    spec = importlib.util.spec_from_file_location(f"classifier_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        net = module.classifier()
    except _BROKEN as error:
        raise TargetFailed(f"{file.name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(net, nn.Module):
        raise SafetyBenchError(
            f"classifier() of {file.name} must return a torch.nn.Module, got {type(net).__name__}"
        )
    if told.options.get("weights"):
        fill(net, file_of(told.options["weights"], "weights"), told.shown)
    return Made(net, facts.names, facts.shape, {})
