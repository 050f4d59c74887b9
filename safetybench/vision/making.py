"""Make the classifiers of a run from their specifications, see `safetybench.suite_evasion`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetybench import registry
from safetybench.class_contracts import ClassLesson, Labelled
from safetybench.component import Budget
from safetybench.store import digest
from safetybench.targets.classifier_loading import (
    check_fits,
    classifier_digest,
    load_classifier,
)
from safetybench.vision.data import Source, source_of
from safetybench.vision.fitting import steps_of

Report = Callable[[int, float], None] | None


class Trained(NamedTuple):
    """A classifier as a run makes it: lineage of its teacher, what its card says, its NFE."""

    model: Any
    lineage: tuple[str, ...]
    card: dict[str, Any]
    nfe: int


def data_of(spec: Mapping[str, Any]) -> tuple[Source, Labelled]:
    """Return the source and the training images of a specification."""
    source = source_of(spec["data"]["source"])
    return source, source.train(spec["data"]["train"], spec["data"]["seed"])


def key_of(spec: Mapping[str, Any], teacher: str) -> str:
    """Return a digest of all that makes a classifier what it is; teacher: its teacher's."""
    places = ("base", "teacher", "root", "data")
    return digest(
        {
            "spec": {key: value for key, value in spec.items() if key not in places},
            "base": classifier_digest(spec["base"], offline=False),
            "data": {**spec["data"], "source": source_of(spec["data"]["source"]).digest},
            "teacher": teacher,
            "frame": _frame_digest(),
            "code": registry.code_digest(spec["trained"]),
        }
    )


def _frame_digest() -> str:
    """Return a SHA-256 over the code that every training runs on; ways have their own."""
    here = Path(__file__).resolve().parent
    others = sorted((here.parent / "targets").glob("classifier*.py"))
    whole = hashlib.sha256()
    for file in (*sorted(here.glob("*.py")), *others):
        whole.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return whole.hexdigest()


def make(
    spec: Mapping[str, Any],
    load: Callable[[str], Any],
    *,
    device: Any,
    offline: bool,
    report: Report,
) -> Trained:
    """Return the classifier of a specification; load: a teacher from where it lies."""
    source, data = data_of(spec)
    shaped = {"classes": source.classes, "shape": source.shape, "seed": spec["seed"]}
    model = load_classifier(spec["base"], device=device, offline=offline, fresh=shaped)
    check_fits(model, source)
    teacher = load(spec["teacher"]) if spec["teacher"] else None
    if teacher is not None:
        check_fits(teacher, source)
    way = registry.create(spec["trained"], spec["options"])
    steps = steps_of(spec["epochs"], len(data.labels), way.size)
    budget = Budget(steps=steps, seed=spec["seed"], **spec["threat"])
    data = Labelled(data.images.to(device), data.labels.to(device))
    net = way.run(
        model.net.requires_grad_(True), ClassLesson(data=data, teacher=teacher), budget, report
    )
    model.net, model.data = net.eval().requires_grad_(False), source.name
    card = {
        "components": {spec["trained"]: registry.code_digest(spec["trained"])},
        "seed": spec["seed"],
        "training": {"steps": steps, "samples": len(data.labels), "options": repr(way)},
    }
    lineage = tuple(teacher.lineage) if teacher is not None else ()
    return Trained(model, lineage, card, model.nfe + (teacher.nfe if teacher is not None else 0))


def steps_in(spec: Mapping[str, Any]) -> int:
    """Return how many steps a training takes."""
    _, data = data_of(spec)
    size = registry.create(spec["trained"], spec["options"]).size
    return steps_of(spec["epochs"], len(data.labels), size)
