"""What a suite may say of a classifier, read and checked as far as needs no file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetybench.contracts import SafetyBenchError
from safetybench.registry import suggestion

PREFIX = "classifier:"  # of a hub id
INSIDE = ("mean", "std", "size")  # what is done to images inside
_KEYS = {
    "path": ("member", "shape", "revision", *INSIDE),
    "torchvision": ("weights", "classes", "shape", *INSIDE),
    "module": ("weights",),
    "net": ("classes", "shape"),
}


class ClassifierSpec(NamedTuple):
    """A classifier as a suite names it.

    way: path, torchvision, module or net; value: what stands there; options: all other keys.
    """

    way: str
    value: str
    options: Mapping[str, Any]

    @property
    def shown(self) -> str:
        """What errors call it."""
        return self.value if self.way == "path" else f"{self.way} {Path(self.value).name}"


def parse(spec: Any) -> ClassifierSpec:
    """Read a specification.

    Raises:
        SafetyBenchError: an unknown key or network, or a value of the wrong type.
    """
    told = {"path": str(spec)} if isinstance(spec, str | Path) else dict(spec)
    ways = [way for way in _KEYS if way in told]
    if len(ways) != 1:
        raise SafetyBenchError(
            f"a classifier is one of {', '.join(_KEYS)}, got {', '.join(ways) or 'none of them'}"
        )
    (way,) = ways
    options = {key: value for key, value in told.items() if key != way}
    if way == "net":
        from safetybench.vision import nets

        nets.check({key: value for key, value in told.items() if key not in _KEYS["net"]})
    for key in options:
        if way != "net" and key not in _KEYS[way]:
            near = suggestion(key, _KEYS[way]) or ";"
            raise SafetyBenchError(
                f"a classifier by {way} has no key {key!r}{near} its keys are "
                f"{', '.join(_KEYS[way])}"
            )
    _check_values(options)
    return ClassifierSpec(way, str(told[way]).removeprefix(PREFIX), options)


def _check_values(options: Mapping[str, Any]) -> None:
    rules = {
        "classes": (is_classes, "a number of 2 or more, or so many different names"),
        "shape": (is_shape, "[channels, height, width]"),
        "size": (lambda v: type(v) is int and v > 0, "a number of pixels"),
        "mean": (is_row, "a number for each channel"),
        "std": (lambda v: is_row(v) and min(v) > 0, "a number above 0 for each channel"),
        "member": (lambda v: isinstance(v, Mapping), "a choice, such as {width: 0.5}"),
    }
    for key, (is_right, rule) in rules.items():
        if key in options and not is_right(options[key]):
            raise SafetyBenchError(f"{key} of a classifier is {rule}, got {options[key]!r:.60}")
    mean, std = options.get("mean", ()), options.get("std", ())
    if len(mean) != len(std):
        raise SafetyBenchError("mean and std of a classifier go together, a number a channel each")


def is_classes(value: Any) -> bool:
    """Tell a number of classes or their names."""
    if type(value) is int:
        return value >= 2
    is_row = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    return is_row and len(value) >= 2 and len(set(value)) == len(value)


def is_shape(value: Any) -> bool:
    """Tell (channels, height, width)."""
    is_row = isinstance(value, list | tuple) and len(value) == 3
    return is_row and all(type(side) is int and side > 0 for side in value)


def is_row(value: Any) -> bool:
    """Tell a row of numbers."""
    is_row = isinstance(value, list | tuple) and len(value) > 0
    return is_row and all(type(v) in (int, float) for v in value)


def names_of(classes: Any) -> tuple[str, ...]:
    """Return the names of classes, numbers where only their count is told."""
    if isinstance(classes, int):
        return tuple(map(str, range(classes)))
    return tuple(classes)


def shape_of(shape: Any) -> tuple[int, int, int]:
    """Return (channels, height, width)."""
    channels, height, width = shape
    return (channels, height, width)
