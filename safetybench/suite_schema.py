"""What the models of a suite file are made of: strict keys, portable names, targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from safetybench import registry
from safetybench.contracts import Budget

Portable = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,79}$")]
Word = Annotated[str, Field(min_length=1, max_length=200)]
Share = Annotated[float, Field(gt=0, lt=1)]
TargetSpec = str | dict[str, Any]
# Options by which a recipe or an unlearning method names further models.
MODELS = ("teacher", "original", "student")


class Strict(BaseModel):
    """A mapping of known keys with values of the right type, which nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def read_budget(value: Any) -> Any:
    """Build a Budget; pydantic alone would let unknown keys of a plain dataclass pass."""
    if not isinstance(value, Mapping):
        return value
    known = {field.name: field.default for field in fields(Budget)}
    for key, given in value.items():
        if key not in known:
            near = registry.suggestion(str(key), known) or f"; it takes {', '.join(known)}"
            raise ValueError(f"unknown key {key!r}{near}")
        wanted = type(known[key])
        if type(given) is not wanted and not (wanted is float and type(given) is int):
            raise ValueError(f"{key} must be {_article(wanted)}, got {given!r}")
    return Budget(**value)


def _article(kind: type) -> str:
    return {int: "a whole number", float: "a number", str: "text"}[kind]
