"""Find, check, digest and load image classifiers.

A specification is a mapping or a text. `zoo:classify-standard`, a folder with classifier.json, or
a folder of a transformers image classifier are known as they are; `classifier:OWNER/NAME` is a hub
id. `{path: ANY OF THESE, member: {width: 0.5}}` is a sub-network of a dynamic one, and `{path: ...,
shape: [3, 32, 32]}` has images of another size resized inside. `{torchvision: resnet18, weights:
X.safetensors, classes: 10, size: 224, mean: [...], std: [...]}`, `{module: FILE.py, weights: ...}`
whose file defines CLASSES, SHAPE and classifier(), and `{net: cnn, width: 16}` say how a network
is made; without weights it is fresh. Safetensors only, and no code but that of a module.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetybench.contracts import SafetyBenchError
from safetybench.targets.classifier_files import (
    CARD,
    FILE,
    WEIGHTS,
    check_header,
    compare,
    file_of,
    find,
    is_transformers,
    read_card,
)
from safetybench.targets.classifier_making import (
    check_torchvision,
    check_transformers,
    make,
    module_facts,
    own,
)
from safetybench.targets.classifier_spec import PREFIX, ClassifierSpec, parse
from safetybench.targets.finding import ZOO

if TYPE_CHECKING:
    import torch

    from safetybench.targets.classifier import Classifier
    from safetybench.vision.data import Source


def is_classifier(spec: Any) -> bool:
    """Tell whether a specification is of an image classifier; reads no weights."""
    if isinstance(spec, Mapping):
        return bool({"torchvision", "module", "net"} & set(spec)) or (
            "path" in spec and ("member" in spec or is_classifier(spec["path"]))
        )
    if not isinstance(spec, str | Path):
        return False
    told = str(spec)
    if told.startswith("zoo:"):
        return read_card(ZOO / told.removeprefix("zoo:")).get("kind") == "classifier"
    folder = Path(told).expanduser()
    if told.startswith(PREFIX) or (folder / FILE).is_file():
        return True
    try:
        return is_transformers(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def check_classifier(spec: Any, *, offline: bool) -> None:
    """Refuse a classifier that cannot be loaded, as far as can be told without its weights.

    Raises:
        SafetyBenchError: it is not there, is a pickle, is no image classifier, lacks a file, or
            its weights are of another network.
    """
    told = parse(spec)
    if told.way == "module":
        module_facts(file_of(told.value, "module"))
    if told.way in ("module", "torchvision") and told.options.get("weights"):
        check_header(file_of(told.options["weights"], "weights"))
    if told.way == "torchvision":
        check_torchvision(told)
    if told.way != "path":
        return
    found = find(told, offline=offline)
    if found is None:
        return
    if (found / FILE).is_file():
        made = own(found, told, is_meta=True)
        compare(made.net.state_dict(), found / WEIGHTS, told.shown)
        return
    check_transformers(found, told)


def check_base(spec: Any, *, offline: bool) -> None:
    """Refuse what `check_classifier` does, and a network that could not be kept once trained."""
    check_classifier(spec, offline=offline)
    if parse(spec).way == "module":
        raise SafetyBenchError(
            "a network from a module cannot be trained in a run, as nothing but its file makes it "
            "again; start from net, torchvision or a folder"
        )


def classifier_digest(spec: Any, *, offline: bool) -> str:
    """Return a SHA-256 over all that a classifier's answers depend on."""
    told = parse(spec)
    options = {k: v for k, v in told.options.items() if k not in ("weights", "revision")}
    name = "" if told.way in ("path", "module") else told.value
    shown = json.dumps([told.way, name, options], sort_keys=True, default=list)
    whole = hashlib.sha256(shown.encode())
    for file in _files(told, offline):
        whole.update(f"\0{file.name}\0".encode())
        with file.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def _files(told: ClassifierSpec, offline: bool) -> list[Path]:
    if told.way == "path":
        found = find(told, offline=offline, may_fetch=True)
        assert found is not None
        if (found / FILE).is_file():
            return [found / FILE, found / WEIGHTS]
        kinds = (".json", ".safetensors")
        return [f for f in sorted(found.iterdir()) if f.suffix in kinds and f.name != CARD]
    weights = told.options.get("weights")
    code = [file_of(told.value, "module")] if told.way == "module" else []
    return [*code, *([file_of(weights, "weights")] if weights else [])]


def load_classifier(
    spec: Any,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    offline: bool = False,
    fresh: Mapping[str, Any] | None = None,
    digest: str | None = None,
) -> Classifier:
    """Load a classifier, frozen and asked once whether its answers are logits.

    fresh: classes (a number or names), shape and seed of a network that is made anew and whose
    specification does not say them.

    Raises:
        SafetyBenchError: see `check_classifier` and `classifier.probe`; weights that do not fit.
    """
    import torch

    from safetybench.targets.classifier import Classifier, probe

    check_classifier(spec, offline=offline)
    told = parse(spec)
    found = find(told, offline=offline, may_fetch=True) if told.way == "path" else None
    seed = int((fresh or {}).get("seed", 0))
    with torch.random.fork_rng(devices=[]):  # of a fresh network's weights
        torch.manual_seed(seed)
        made = make(told, found, fresh or {}, seed)
    card = read_card(found) if found is not None else {}
    is_local = found is not None and Path(told.value).expanduser().exists()
    name = found.resolve().name if found is not None and is_local else told.shown
    return probe(
        Classifier(
            net=made.net.to(device, dtype or torch.float32),
            name=str(card.get("name", name)),
            names=made.names,
            shape=made.shape,
            told=made.told,
            data=made.data,
            card=card,
            digest=digest or "",
        )
    )


def check_fits(target: Any, source: Source) -> None:
    """Refuse a classifier that cannot read these data, see `classifier.check_fits`."""
    from safetybench.targets.classifier import check_fits as check

    check(target, source)
