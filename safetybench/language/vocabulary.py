"""Whether two language models speak of the same tokens, as distributions over them need."""

from __future__ import annotations

from typing import Any

from safetybench.contracts import SafetyBenchError


def check_vocabularies(teacher: Any, student: Any, names: tuple[str, str]) -> None:
    """Refuse two tokenizers whose tokens differ; names: of the teacher and the student.

    Raises:
        SafetyBenchError: a token stands for another id, or is missing.
    """
    ours, theirs = teacher.get_vocab(), student.get_vocab()
    if ours == theirs:
        return
    unlike = sorted(word for word in {*ours, *theirs} if ours.get(word) != theirs.get(word))
    raise SafetyBenchError(
        f"{names[0]} and {names[1]} have different vocabularies ({len(ours)} and {len(theirs)} "
        f"tokens, {len(unlike)} of them unlike, {unlike[0]!r} first), so their distributions "
        "cannot be compared; use text-recipes/response, which needs text alone"
    )
