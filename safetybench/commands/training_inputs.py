"""What a command that trains is given: options as text, a file of prompts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from safetybench import registry
from safetybench.contracts import SafetyBenchError
from safetybench.prompt_file import read_prompt_file

_NO = object()  # what a value is when it does not fit a type


# Options


def read_options(name: str, given: Sequence[str]) -> dict[str, Any]:
    """Return the options of a component from `KEY=VALUE` texts, each of the type of its field.

    Raises:
        SafetyBenchError: no such option, given twice, or a value of another type.
    """
    component = registry.load(name)
    hints = get_type_hints(component)
    known = _fields(component)
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise SafetyBenchError(f"--option must be KEY=VALUE, got {text!r}")
        if key not in known:
            near = registry.suggestion(key, known) or ";"
            raise SafetyBenchError(
                f"{name} has no option {key!r}{near} it takes {', '.join(known) or 'none'}"
            )
        if key in found:
            raise SafetyBenchError(f"the option {key!r} is given twice; give it once")
        found[key] = _read(name, key, value, hints.get(key, Any))
    return found


def _fields(component: type) -> list[str]:
    return [each.name for each in dataclasses.fields(component) if each.init]


def _read(name: str, key: str, text: str, kind: Any) -> Any:
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise SafetyBenchError(f"--option {key}={text!r} is no YAML value: {reason}") from error
    fitting = _fit(value, kind, text)
    if fitting is _NO:
        raise SafetyBenchError(f"{name}: {key} must be {_said(kind)}, got {text!r}")
    return fitting


def _fit(value: Any, kind: Any, text: str) -> Any:
    """Return a YAML value as one of a type, or _NO; text: as it was written."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return next((v for v in (_fit(value, k, text) for k in inside) if v is not _NO), _NO)
    if origin is Literal:
        return next((v for v in inside if v == value or v == text.strip()), _NO)
    if origin is tuple:
        return _fit_tuple(value, inside)
    if kind is float:
        return _fit_float(value)
    if kind is str:  # `no` and `1` are text where text is wanted
        return value if isinstance(value, str) else text.strip()
    if kind in (int, bool, type(None)):
        return value if type(value) is kind else _NO
    return value


def _fit_tuple(value: Any, inside: tuple[Any, ...]) -> Any:
    if not isinstance(value, list):
        return _NO
    kinds = inside[:1] * len(value) if inside[-1:] == (...,) else inside
    if len(kinds) != len(value):
        return _NO
    fitted = tuple(_fit(v, k, str(v)) for v, k in zip(value, kinds, strict=True))
    return _NO if _NO in fitted else fitted


def _fit_float(value: Any) -> Any:
    # PyYAML takes 1e-5 for text: YAML 1.1 wants 1.0e-5.
    try:
        number = float(value) if type(value) in (int, float, str) else math.nan
    except ValueError:
        return _NO
    return number if math.isfinite(number) else _NO


def _said(kind: Any) -> str:
    """Return a type in words."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_said(each) for each in inside)
    if origin is Literal:
        return f"one of {', '.join(map(str, inside))}"
    if origin is tuple and inside[-1:] == (...,):
        return f"a list, as in [1, 2], each {_said(inside[0])}"
    if origin is tuple:
        return f"a list of {len(inside)}: {', '.join(map(_said, inside))}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(kind, "none" if kind is type(None) else getattr(kind, "__name__", str(kind)))


# Prompts


def read_prompts(file: Path) -> list[str]:
    """Return the prompts of a file; see `read_prompt_file`.

    Raises:
        SafetyBenchError: it is not there, cannot be read, is no UTF-8, or holds no prompt.
    """
    try:
        return read_prompt_file(file)
    except SafetyBenchError as error:
        raise SafetyBenchError(f"--prompts: {error}") from error


def digest_of(texts: Iterable[str]) -> str:
    """Return a SHA-256 of texts in their order."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
