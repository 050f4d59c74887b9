"""Small networks that read images in [0, 1], and one that holds many sub-networks in its weights.

No layer keeps statistics of a batch, so that an attack inside a training sees the network that is
trained, and a sub-network cut out of a shared one answers as it did there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from safetybench.component import SafetyBenchError
from safetybench.registry import suggestion

# The options of each network, with their defaults; whole numbers unless there is a point.
_OPTIONS: dict[str, dict[str, Any]] = {
    "cnn": {"width": 16, "hidden": 0},
    "mlp": {"hidden": 128, "layers": 1},
    "residual": {"width": 16, "depth": 1, "inner": 8},
    "dynamic": {
        "width": 16,
        "widths": (0.5, 0.75, 1.0),
        "depths": (0, 1, 2),
        "expands": (0.25, 0.5, 1.0),
    },
}
_LEAST = {"width": 1, "hidden": 1, "layers": 0, "depth": 0, "inner": 1}
_SMALLEST = 8  # the side that a network halves images down to, and it halves them twice at least


def check(told: Mapping[str, Any]) -> None:
    """Refuse a network or an option that there is none of.

    Raises:
        SafetyBenchError: with the nearest name, or with what the option must be.
    """
    name = told.get("net")
    if name not in _OPTIONS:
        near = suggestion(str(name), _OPTIONS) or ";"
        raise SafetyBenchError(
            f"there is no network {name!r}{near} the networks are {', '.join(_OPTIONS)}"
        )
    known = _OPTIONS[name]
    for key, value in told.items():
        if key == "net":
            continue
        if key not in known:
            near = suggestion(key, known) or ";"
            raise SafetyBenchError(
                f"network {name!r} has no option {key!r}{near} it takes {', '.join(known)}"
            )
        _check_value(name, key, value)


def _check_value(name: str, key: str, value: Any) -> None:
    if key in ("widths", "depths", "expands"):
        whole = key == "depths"
        found: list[Any] = list(value) if isinstance(value, list | tuple) else []
        if not found or not all(isinstance(v, int if whole else (int, float)) for v in found):
            kind = "whole numbers" if whole else "numbers"
            raise SafetyBenchError(f"{key} must be a row of {kind}, got {value!r}")
        if found != sorted(set(found)) or found[0] < 0 or (not whole and not found[0]):
            first = "at 0 or above" if whole else "above 0"
            raise SafetyBenchError(f"{key} must grow and start {first}, got {value!r}")
        return
    least = 0 if (name, key) == ("cnn", "hidden") else _LEAST[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SafetyBenchError(f"{key} must be a whole number of {least} or more, got {value!r}")


def build(
    told: Mapping[str, Any], *, classes: int, shape: tuple[int, int, int], seed: int
) -> nn.Module:
    """Return a fresh network of images, (batch, *shape) in [0, 1], to logits, (batch, classes).

    told: its name under "net", and options. "cnn": two convolutions or more, the first
    of `width` channels, and a hidden layer if `hidden` is above 0 (28,938 weights of 28x28 grey
    images; 454,922 with a width of 32 and 128 hidden). "mlp": `layers` of `hidden` units.
    "residual": a stem of `width` channels, then twice `depth` blocks with `inner` channels inside,
    at the second time of an image half the size with twice the channels. "dynamic": all residual
    networks whose width is one of `widths` times `width`, whose depth is one of `depths` and whose
    inner channels are one of `expands` times their width, with shared weights. The same seed gives
    the same weights.

    Raises:
        SafetyBenchError: as `check`.
    """
    check(told)
    options = {**_OPTIONS[told["net"]], **{k: v for k, v in told.items() if k != "net"}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _MAKERS[told["net"]](classes, shape, **options)


class Centred(nn.Module):
    """Moves [0, 1] to [-1, 1], so that networks take plain pixels."""

    def forward(self, images: Tensor) -> Tensor:
        """Return images in [-1, 1]."""
        return 2 * images - 1


def _cnn(classes: int, shape: tuple[int, int, int], width: int, hidden: int) -> nn.Module:
    channels, height, breadth = shape
    layers: list[nn.Module] = [Centred()]
    level = 0
    while level < 2 or min(height, breadth) > _SMALLEST:
        wide = width * min(2**level, 4)
        # Strides in place of pooling: a quarter of the time, which attacks in training multiply.
        layers += [nn.Conv2d(channels, wide, 5, stride=2, padding=2), nn.ReLU()]
        channels, height, breadth, level = wide, (height + 1) // 2, (breadth + 1) // 2, level + 1
    layers.append(nn.Flatten())
    features = channels * height * breadth
    if hidden:
        layers += [nn.Linear(features, hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden or features, classes))


def _mlp(classes: int, shape: tuple[int, int, int], hidden: int, layers: int) -> nn.Module:
    found: list[nn.Module] = [Centred(), nn.Flatten()]
    width = math.prod(shape)
    for _ in range(layers):
        found += [nn.Linear(width, hidden), nn.ReLU()]
        width = hidden
    return nn.Sequential(*found, nn.Linear(width, classes))


class Block(nn.Module):
    """Adds two convolutions to what it is given; starts as the identity."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.into = nn.Conv2d(width, inner, 3, padding=1)
        self.back = nn.Conv2d(inner, width, 3, padding=1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the first convolution anew and zero the second."""
        self.into.reset_parameters()
        nn.init.zeros_(self.back.weight)
        nn.init.zeros_(self.back.bias) if self.back.bias is not None else None

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape."""
        passed: Tensor = features + self.back(torch.relu(self.into(features)))
        return torch.relu(passed)


class Residual(nn.Sequential):
    """The plain network whose weights are the first ones, along every axis, of a wider one's."""

    def __init__(
        self, classes: int, shape: tuple[int, int, int], width: int, depth: int, inner: int
    ) -> None:
        super().__init__()
        height, breadth = ((side + 1) // 2 for side in shape[1:])
        while min(height, breadth) > 2 * _SMALLEST:
            height, breadth = height // 2, breadth // 2
        pooled = nn.AdaptiveAvgPool2d((height, breadth))
        self.add_module("centred", Centred())
        self.add_module("stem", nn.Conv2d(shape[0], width, 5, stride=2, padding=2))
        self.add_module("pool", nn.Sequential(nn.ReLU(), pooled))
        for place in range(depth):
            self.add_module(f"fine{place}", Block(width, inner))
        self.add_module("down", nn.Conv2d(width, 2 * width, 3, stride=2, padding=1))
        self.add_module("rectified", nn.ReLU())
        for place in range(depth):
            self.add_module(f"coarse{place}", Block(2 * width, 2 * inner))
        # Channels come before places when flattened: a narrower net reads the first columns.
        self.add_module("flat", nn.Flatten())
        features = 2 * width * ((height + 1) // 2) * ((breadth + 1) // 2)
        self.add_module("head", nn.Linear(features, classes))


class Choice(NamedTuple):
    """A sub-network: its width and the expansion of its blocks as factors, its blocks a stage."""

    width: float
    depth: int
    expand: float


class Dynamic(nn.Module):
    """A residual network with weights that all smaller ones of it share; see `build`.

    Called as it is, it is its largest sub-network.
    """

    def __init__(
        self,
        classes: int,
        shape: tuple[int, int, int],
        width: int,
        widths: tuple[float, ...],
        depths: tuple[int, ...],
        expands: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.classes, self.shape, self.width = classes, shape, width
        self.offers: dict[str, tuple[Any, ...]] = {
            "width": tuple(widths),
            "depth": tuple(depths),
            "expand": tuple(expands),
        }
        self.shared = self._plain(self.largest)

    @property
    def largest(self) -> Choice:
        """Every option at its most."""
        return Choice(*(values[-1] for values in self.offers.values()))

    @property
    def smallest(self) -> Choice:
        """Every option at its least."""
        return Choice(*(values[0] for values in self.offers.values()))

    def sizes(self, choice: Choice) -> dict[str, int]:
        """Return the options with which `build` makes the plain network of a choice."""
        width = max(1, round(choice.width * self.width))
        inner = max(1, round(choice.expand * width))
        return {"width": width, "depth": choice.depth, "inner": inner}

    def _plain(self, choice: Choice) -> Residual:
        return Residual(self.classes, self.shape, **self.sizes(choice))

    def _cut(self, plain: nn.Module) -> dict[str, Tensor]:
        weights = dict(self.shared.named_parameters())
        return {
            name: weights[name][tuple(slice(size) for size in small.shape)].contiguous()
            for name, small in plain.named_parameters()
        }

    def at(self, choice: Choice) -> Callable[[Tensor], Tensor]:
        """Return the sub-network of a choice as a function; its gradients reach shared weights."""
        with torch.device("meta"):
            plain = self._plain(choice)

        def run(images: Tensor) -> Tensor:
            found: Tensor = torch.func.functional_call(plain, self._cut(plain), (images,))
            return found

        return run

    def forward(self, images: Tensor) -> Tensor:
        """Return the largest sub-network's logits."""
        found: Tensor = self.shared(images)
        return found

    def member(self, choice: Choice) -> Residual:
        """Return a plain network with a copy of the weights of a choice."""
        with torch.device("meta"):
            plain = self._plain(choice)
        weights = {name: cut.detach().clone() for name, cut in self._cut(plain).items()}
        plain.load_state_dict(weights, assign=True)
        return plain.requires_grad_(True).train(self.training)


def choices(net: nn.Module) -> list[Choice]:
    """Return every sub-network that a dynamic network holds, smallest first.

    Raises:
        SafetyBenchError: the network holds no others.
    """
    offers = _dynamic(net).offers
    return [Choice(*found) for found in product(*offers.values())]


def member(net: nn.Module, choice: Mapping[str, Any] | Choice) -> nn.Module:
    """Return a sub-network of a dynamic network, standing alone, with a copy of its weights.

    choice: "width", "depth" and "expand", each one of what the network offers; what is left out
    is at its most.

    Raises:
        SafetyBenchError: the network holds no others, or not this one.
    """
    whole = _dynamic(net)
    asked = choice._asdict() if isinstance(choice, Choice) else dict(choice)
    for key, value in asked.items():
        if key not in whole.offers:
            near = suggestion(key, whole.offers) or ";"
            raise SafetyBenchError(
                f"a sub-network has no {key!r}{near} it takes {', '.join(whole.offers)}"
            )
        if value not in whole.offers[key]:
            offered = ", ".join(map(str, whole.offers[key]))
            raise SafetyBenchError(f"{key} must be one of {offered}, got {value!r}")
    return whole.member(whole.largest._replace(**asked))


def _dynamic(net: nn.Module) -> Dynamic:
    if not isinstance(net, Dynamic):
        raise SafetyBenchError(
            f'only a network built as "dynamic" holds sub-networks, got {type(net).__name__}'
        )
    return net


_MAKERS: dict[str, Callable[..., nn.Module]] = {
    "cnn": _cnn, "mlp": _mlp, "residual": Residual, "dynamic": Dynamic,
}  # fmt: skip

__all__ = ["Choice", "Dynamic", "Residual", "build", "check", "choices", "member"]
