"""An image classifier as a target: any network of images in [0, 1] to logits, kept in evaluation.

What a network wants of its input, a mean subtracted or another size, is inside of `Fitted`, so
that an attack counts pixels of what a user would show.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from safetybench.class_contracts import Classifies
from safetybench.contracts import SafetyBenchError, TargetFailed
from safetybench.targets.classifier_files import CARD, FILE, WEIGHTS
from safetybench.vision.data import Source
from safetybench.vision.evading import check_logits

SCHEMA = "safetybench.classifier/1"


class Fitted(nn.Module):
    """A network behind what it was trained to be given: another size, a mean subtracted.

    mean, std: a channel each, in units of [0, 1]; size: (height, width) that images are resized
    to, bilinear and antialiased, None for as they come. Gradients pass through.
    """

    def __init__(
        self,
        net: nn.Module,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.size = net, size
        # Not in the weights: they stand in the file that says how the network is made.
        for name, values in (("mean", mean or (0.0,)), ("std", std or (1.0,))):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of images in [0, 1]."""
        if self.size and tuple(images.shape[-2:]) != self.size:
            images = nn.functional.interpolate(
                images, size=list(self.size), mode="bilinear", antialias=True
            )
        found = self.net((images - self.get_buffer("mean")) / self.get_buffer("std"))
        logits: Tensor = getattr(found, "logits", found)  # transformers answers with a record
        return logits


@dataclass(kw_only=True)
class Classifier:
    """A classifier with its class names, frozen and in evaluation mode whenever it is asked.

    names: of the classes, in the order of the logits; shape: (channels, height, width) of an
    image; told: how `classifier_making` makes the network again, empty where it cannot; data:
    what it was trained on, "" if unknown. nfe: images answered so far. is_random: two equal calls
    gave two answers, so that an attack must average over some; notes: what its reader should know.
    """

    net: nn.Module
    name: str
    names: tuple[str, ...]
    shape: tuple[int, int, int]
    told: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    notes: tuple[str, ...] = ()
    is_random: bool = False
    nfe: int = 0
    classes: int = field(init=False)

    def __post_init__(self) -> None:
        self.classes = len(self.names)
        self.net.eval().requires_grad_(False)

    @property
    def lineage(self) -> tuple[str, ...]:
        """The classifiers that this one was made from, itself last."""
        return tuple(self.card.get("lineage", (self.name,)))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return _first(self.net).device

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        return sum(weight.numel() for weight in self.net.parameters())

    def logits(self, images: Tensor) -> Tensor:
        """Return logits: (batch, classes) float32, differentiable in `images`."""
        self.net.eval()  # a training or an adapter may have left it otherwise
        self.nfe += len(images)
        found: Tensor = self.net(images.to(_first(self.net)))
        return found.float()

    def clone(self) -> Classifier:
        """Return a copy that shares no weights, and has answered nothing."""
        return Classifier(
            net=copy.deepcopy(self.net),
            name=self.name,
            names=self.names,
            shape=self.shape,
            told=self.told,
            data=self.data,
            card=self.card,
            notes=self.notes,
            is_random=self.is_random,
        )

    def save(
        self, folder: Path, card: Mapping[str, Any] | None = None, *, half: bool = False
    ) -> None:
        """Write weights, how the network is made, and its card; half: weights as fp16.

        Raises:
            SafetyBenchError: its network comes from a file of code, which is not copied.
        """
        from safetensors.torch import save_file

        if not self.told:
            raise SafetyBenchError(
                f"{self.name} is made by code of its own, so that nothing but that makes it again; "
                "start from a network of safetybench, torchvision or transformers"
            )
        home = Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        weights = {
            key: (value.half() if half and value.is_floating_point() else value).cpu().clone()
            for key, value in self.net.state_dict().items()
        }
        save_file(weights, home / WEIGHTS)
        made = {
            "schema": SCHEMA,
            "net": dict(self.told),
            "classes": list(self.names),
            "shape": list(self.shape),
            "data": self.data,
        }
        _write(home / FILE, made)
        _write(home / CARD, {**self.card, **(card or {}), "kind": "classifier"})


def _first(net: nn.Module) -> Tensor:
    """Return a weight, for what it lies on and is made of; a network may have none."""
    return next(net.parameters(), next(net.buffers(), torch.empty(0)))


def _write(file: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")


def probe(model: Classifier) -> Classifier:
    """Ask a classifier twice for the same, and settle what an attack must know of it.

    Raises:
        TargetFailed: it takes no images of its shape.
        SafetyBenchError: its answers are no logits of its classes; being asked changes it.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((2, *model.shape), generator=generator).to(model.device)
    before = {name: value.clone() for name, value in model.net.named_buffers()}
    try:
        with torch.no_grad():
            one, two = model.logits(images), model.logits(images)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TargetFailed(
            f"{model.name} takes no images of shape {model.shape}: {reason}"
        ) from error
    for name, value in model.net.named_buffers():
        if name in before and not torch.equal(value, before[name]):
            raise SafetyBenchError(
                f"{model.name} changes its {name} when it is asked, even in evaluation mode, so "
                "that an answer depends on those before; keep its statistics fixed"
            )
    check_logits(one, len(images), model)
    try:
        with torch.no_grad():
            alone = model.logits(images[:1])
    except (RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TargetFailed(f"{model.name} takes no image alone: {reason}") from error
    # A training is told by far more than rounding, and so is an answer that others change.
    is_random = not torch.allclose(one, two, rtol=1e-4, atol=1e-5)
    nearly = 0.02 * float(one.abs().max()) + 1e-5
    if not is_random and not torch.allclose(one[:1], alone, rtol=0.0, atol=nearly):
        raise SafetyBenchError(
            f"{model.name} answers otherwise of one image alone than of the same image in a batch; "
            "keep its statistics fixed"
        )
    model.is_random = is_random
    if any(module.training for module in model.net.modules()):
        model.notes = (*model.notes, f"{model.name} has parts that stay in training mode")
    if model.is_random:
        model.notes = (*model.notes, f"{model.name} answers at random; attacks should average")
    model.nfe = 0
    return model


def check_fits(target: Classifies, source: Source) -> None:
    """Refuse a classifier that cannot read these data.

    Raises:
        SafetyBenchError: it takes other images, tells fewer classes, or has them in another order.
    """
    if tuple(target.shape) != tuple(source.shape):
        advice = ""
        if isinstance(getattr(target, "net", None), Fitted) and target.shape[0] == source.shape[0]:
            advice = f"; `shape: {list(source.shape)}` lets it resize them inside"
        raise SafetyBenchError(
            f"{target.name} takes images of shape {tuple(target.shape)}, and those of "
            f"{source.name} are {tuple(source.shape)}{advice}"
        )
    if target.classes < len(source.classes):
        raise SafetyBenchError(
            f"{target.name} tells {target.classes} classes, and {source.name} has "
            f"{len(source.classes)}"
        )
    names = tuple(getattr(target, "names", ()))
    if set(names) == set(source.classes) and names != source.classes:
        first = next(i for i, name in enumerate(names) if name != source.classes[i])
        raise SafetyBenchError(
            f"{target.name} has the classes of {source.name} in another order: number {first} is "
            f"{names[first]!r} to it, and {source.classes[first]!r} in the data"
        )
