"""What a suite's schema refuses, in sentences with file and line and the nearest right word."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from safetybench import registry
from safetybench.suite_file import Document, Location

_RULES = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text",
    "dict_type": "must be a mapping",
    "tuple_type": "must be a list",
    "model_type": "must be a mapping",
    "bool_type": "must be true or false",
    "string_too_short": "must not be empty",
}


def sentences(
    error: ValidationError,
    document: Document,
    models: Mapping[tuple[str, ...], type[BaseModel]],
    whole: type[BaseModel],
) -> list[str]:
    """Return one line for each fault: `file:line: what is wrong, got what; hint`.

    models: by the keys that lead to them, for the keys that they take; whole: of the file.
    """
    faults = error.errors(include_url=False)
    inside = {fault["loc"][:1] for fault in faults if len(fault["loc"]) > 1}
    # A list whose entries are wrong counts as too short as well: one fault is enough.
    kept = [f for f in faults if not (f["type"] == "too_short" and f["loc"] in inside)]
    return list(dict.fromkeys(_sentence(fault, document, models, whole) for fault in kept))


def _sentence(
    fault: ErrorDetails,
    document: Document,
    models: Mapping[tuple[str, ...], type[BaseModel]],
    whole: type[BaseModel],
) -> str:
    where, got = fault["loc"], fault["input"]
    at, named = document.at(where), _dotted(where)
    kind = fault["type"]
    if kind == "extra_forbidden":
        path = tuple(part for part in where[:-1] if isinstance(part, str))
        # "*" is a name of the user's own, as those of backdoors.
        model = models.get(path) or models.get((*path[:1], "*", *path[2:]), whole)
        keys = [f.alias or name for name, f in model.model_fields.items() if name != "base"]
        near = registry.suggestion(str(where[-1]), keys) or f"; it takes {', '.join(keys)}"
        return f"{at}: unknown key {where[-1]!r}{near}"
    if kind == "missing":
        return f"{document.at(where[:-1])}: {_dotted(where[:-1]) or 'suite'} needs {where[-1]!r}"
    if kind == "too_short" or (kind == "tuple_type" and got is None):
        return f"{at}: {named} must not be empty"
    if kind == "value_error":  # of Budget, a whole sentence already
        return f"{at}: {named}: {fault['msg'].removeprefix('Value error, ')}"
    rule = _RULES.get(kind) or _lower(fault["msg"])
    return f"{at}: {named} {rule}, got {got!r:.80}"


def _lower(message: str) -> str:
    message = message.removeprefix("Input should ").removeprefix("String should ")
    return f"should {message}" if message[:1].islower() else message


def _dotted(where: Location) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)
    return text.removeprefix(".")
