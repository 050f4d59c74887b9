"""Labels for targets that a suite names by a path or a mapping: short, and the same everywhere.

Labels go into logs and reports; a path there would tell the reader a user's name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from safetybench import suite_students
from safetybench.suite_schema import TargetSpec


def label_targets(data: dict[str, Any], roles: Sequence[str]) -> None:
    """Give mappings and absolute paths among subjects' and students' targets a short label.

    Labels go into logs and reports; a path there would tell the reader a user's name.
    """
    subjects, targets = data.get("subjects"), data.get("targets", {})
    if not isinstance(subjects, list) or not isinstance(targets, dict):
        return  # the schema says so with its line

    def relabel(spec: Any, role: str) -> Any:
        is_private = isinstance(spec, str) and spec.startswith(("/", "~"))
        return _label(spec, role, targets) if is_private or isinstance(spec, dict) else spec

    for subject in subjects:
        for role in roles if isinstance(subject, dict) else ():
            if role in subject:
                subject[role] = relabel(subject[role], role)
    suite_students.relabel(data.get("students"), relabel)
    for told in [*targets.values()]:  # models that the run makes of another
        if isinstance(told, dict) and "teacher" in told:
            told["teacher"] = relabel(told["teacher"], "teacher")
    if targets:
        data["targets"] = targets


def _label(spec: TargetSpec, role: str, targets: dict[str, Any]) -> str:
    """Name a target by the end of its path and its settings, the same on every machine."""
    settings = dict(spec) if isinstance(spec, dict) else {"path": spec}
    path = str(settings.get("path") or settings.get("component") or role)
    last = path.rstrip("/").rpartition("/")[2]
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or role
    text = json.dumps(_ends(settings), sort_keys=True, default=str)
    wanted = f"{stem}@{hashlib.sha256(text.encode()).hexdigest()[:4]}"
    label, number = wanted, 1
    while targets.get(label, spec) != spec:
        number += 1
        label = f"{wanted}-{number}"
    targets[label] = spec
    return label


def _ends(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _ends(entry) for key, entry in value.items()}
    is_path = isinstance(value, str) and value.startswith(("/", "~"))
    return value.rstrip("/").rpartition("/")[2] if is_path else value
