"""What the models of a suite file are made of: strict keys, portable names, targets."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Portable = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,79}$")]
Word = Annotated[str, Field(min_length=1, max_length=200)]
Share = Annotated[float, Field(gt=0, lt=1)]
TargetSpec = str | dict[str, Any]
# Options by which a recipe or an unlearning method names further models.
MODELS = ("teacher", "original", "student")


class Strict(BaseModel):
    """A mapping of known keys with values of the right type, which nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
