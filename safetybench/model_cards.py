"""RobustBench-shaped model cards: what others claim of a classifier, and what a run found of it.

The format keeps numbers as text ("90.25", "8/255"); its path names data set and threat model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetybench.component import SafetyBenchError
from safetybench.wording import component, fraction

AUTO_ATTACK = "attacks/evasion/auto_attack"
_ROBUST = ("external", "autoattack_acc")  # the first that is there is what the card is ranked by
_EPSILON = 1e-6  # by which two radii may differ that are written otherwise


class Claim(NamedTuple):
    """What a card says: accuracies in [0, 1]; robust: None where it has none; epsilon: a radius."""

    name: str
    dataset: str
    epsilon: float
    clean: float
    robust: float | None
    is_unreliable: bool


def read_claim(file: Path, epsilon: float, norm: str = "", dataset: str = "") -> Claim:
    """Read a card, of a model that is measured on this data set in a ball of radius `epsilon`.

    norm: "linf" or "l2"; a card says it by the name of its folder, if at all.

    Raises:
        SafetyBenchError: there is no such file, it is no card, or its ball or data are others.
    """
    shown = file.name
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SafetyBenchError(f"cannot read the model card {shown}: {error.strerror}") from error
    except ValueError as error:
        raise SafetyBenchError(f"the model card {shown} is no JSON: {error}") from error
    if not isinstance(told, Mapping):
        raise SafetyBenchError(f"the model card {shown} must be a mapping, got {told!r:.40}")
    for key in ("name", "dataset", "eps", "clean_acc"):
        if not told.get(key):
            raise SafetyBenchError(f"the model card {shown} needs {key!r}")
    robust = next((told[key] for key in _ROBUST if told.get(key)), None)
    found = Claim(
        name=str(told["name"]),
        dataset=str(told["dataset"]),
        epsilon=_radius(told["eps"], shown),
        clean=_share(told["clean_acc"], "clean_acc", shown),
        robust=None if robust is None else _share(robust, "autoattack_acc", shown),
        is_unreliable=told.get("unreliable") is True,
    )
    folder = file.resolve().parent.name.lower()
    if norm and folder in ("linf", "l2") and folder != norm:
        raise SafetyBenchError(
            f"the model card {shown} lies among those of {folder}, the suite's threat is {norm}"
        )
    if dataset and _plain(found.dataset) != _plain(dataset):
        raise SafetyBenchError(
            f"the model card {shown} is of {found.dataset}, the suite's data are {dataset}"
        )
    if abs(found.epsilon - epsilon) > _EPSILON:
        raise SafetyBenchError(
            f"the model card {shown} is of eps {told['eps']}, the suite's threat of "
            f"{fraction(epsilon)} ({epsilon:g}): their accuracies cannot be compared"
        )
    return found


def _plain(name: str) -> str:
    """Return a data set's name without what people write otherwise: "CIFAR-10", "cifar10"."""
    return "".join(c for c in name.lower() if c.isalnum())


def _radius(value: Any, shown: str) -> float:
    """Return the radius of "8/255", "0.5" or 0.5."""
    first, slash, last = str(value).partition("/")
    try:
        return float(first) / float(last) if slash else float(first)
    except (ValueError, ZeroDivisionError) as error:
        raise SafetyBenchError(
            f'eps of the model card {shown} must be like "8/255" or "0.5", got {value!r:.40}'
        ) from error


def _share(value: Any, key: str, shown: str) -> float:
    try:
        percent = float(value)
    except (TypeError, ValueError):
        percent = -1.0
    if not 0 <= percent <= 100:
        raise SafetyBenchError(
            f'{key} of the model card {shown} must be in percent, like "90.25", got {value!r:.40}'
        )
    return percent / 100


def card_of(row: Mapping[str, Any], *, version: str) -> dict[str, Any] | None:
    """Return the card of a row of `robustness`, None where it has no worst case.

    autoattack_acc: under AutoAttack in its standard version, if the suite had it; external: the
    worst case over all attacks, where that is lower. A masked model is unreliable.
    """
    if row["worst"] is None or row["clean"] is None:
        return None
    norm, epsilon = row["threat"]["norm"], row["threat"]["epsilon"]
    auto = [
        attack["left"]["value"]
        for attack in row["attacks"]
        if attack["attack"] == AUTO_ATTACK
        and attack["options"].get("version", "standard") == "standard"
        and (attack["norm"], attack["epsilon"]) == (norm, epsilon)
        and attack["left"] is not None
    ]
    worst = row["worst"]["value"]
    external = {"external": _percent(worst)} if not auto or worst < min(auto) else {}
    is_masked = row["masking"]["verdict"] == "masked"
    notes = [f"{row['images']} images, {row['seeds']} training(s)"]
    if is_masked:
        failed = [sign for sign in row["masking"]["signs"] if not sign["passed"]]
        notes.append(f"gradients are masked: {failed[0]['message']}")
    return {
        "link": "",
        "name": " ".join(filter(None, (row["role"], row["model"]))),
        "authors": "",
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": row["data"],
        "venue": f"safetybench {version}",
        "architecture": _architecture(row),
        "eps": fraction(epsilon) if norm == "linf" else f"{epsilon:g}",
        "clean_acc": _percent(row["clean"]["value"]),
        "reported": _percent(worst),
        **({"autoattack_acc": _percent(min(auto))} if auto else {}),
        **external,
        "unreliable": is_masked,
        "footnote": "; ".join(notes),
    }


def place_of(row: Mapping[str, Any]) -> str:
    """Return the path that the format gives a card: data set, threat model, name."""
    threat = {"linf": "Linf", "l2": "L2"}[row["threat"]["norm"]]
    name = "-".join(filter(None, (row["subject"], row["role"], row["model"])))
    return f"{_portable(row['data'])}/{threat}/{_portable(name)}.json"


def _portable(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in name).lstrip(".") or "unnamed"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _architecture(row: Mapping[str, Any]) -> str:
    told = {**(row.get("base") or {}), **row.get("choice", {})}
    net = " ".join(f"{key}={value}" for key, value in told.items())
    return ", ".join(filter(None, (net, component(row["way"]) if row["way"] else "")))
