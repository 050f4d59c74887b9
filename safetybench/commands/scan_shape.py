"""Whether a model and its alleged base are of one shape, from their configurations alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetybench.contracts import SafetyBenchError
from safetybench.targets.finding import find
from safetybench.targets.hub import fetch, refuse_offline
from safetybench.targets.layout import PARTS, Layout, read_json
from safetybench.targets.loading import check_target
from safetybench.targets.plugs import plugged
from safetybench.targets.spec import TargetSpec

# What a configuration says of how it was written, or of training, and not of the network.
_IDLE = (
    "architectures", "attention_dropout", "dropout", "dtype", "gradient_checkpointing",
    "initializer_factor", "initializer_range", "torch_dtype", "transformers_version", "use_cache",
    "attn_implementation", "force_upcast",
)  # fmt: skip
_SHOWN = 3  # differences in an error


def layout_of(flag: str, spec: TargetSpec, *, offline: bool) -> Layout:
    """Return the files of a model, checked; a hub id is fetched.

    Raises:
        SafetyBenchError: one sentence that begins with the flag.
    """
    try:
        if spec.kind == "hub" and offline:
            refuse_offline(spec)
        found = plugged(find(spec, None, fetch(spec) if spec.kind == "hub" else None), spec)
        if spec.kind != "hub":
            check_target(spec, offline=offline)
    except SafetyBenchError as error:
        raise SafetyBenchError(f"{flag}: {error}") from error
    return found


def refuse_unlike(mine: Layout, base: Layout) -> None:
    """Refuse a base of another pipeline, architecture or vocabulary; loads no weights.

    Raises:
        SafetyBenchError: what differs, mine beside the base's.
    """
    found = list(_differences(mine, base))
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise SafetyBenchError(
            f"--base must be a model of the same shape, got {', '.join(found[:_SHOWN])}{more}; "
            "give it the model that PATH was made of"
        )


def _differences(mine: Layout, base: Layout) -> Iterator[str]:
    kinds = [layout.index.get("_class_name") for layout in (mine, base)]
    if kinds[0] != kinds[1]:
        yield f"a {kinds[0]} beside a {kinds[1]}"
        return
    for part in mine.folders:
        library, _, stem = PARTS[part]
        if stem:
            yield from _keys(part, _shape(mine.config(part)), _shape(base.config(part)))
        elif library == "transformers":
            yield from _vocabularies(part, mine, base)
        else:
            kept = [
                {"prediction_type": layout.config(part).get("prediction_type", "epsilon")}
                for layout in (mine, base)
            ]
            yield from _keys(part, kept[0], kept[1])
    if (mine.adapter is None) != (base.adapter is None):
        yield "a guidance adapter on one of the two"


def _shape(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if not k.startswith("_") and k not in _IDLE}


def _keys(part: str, mine: Mapping[str, Any], base: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(mine.keys() & base.keys()):  # a newer library writes more of them
        if mine[key] != base[key]:
            yield f"{part} {key} {mine[key]!r} beside {base[key]!r}"


def _vocabularies(part: str, mine: Layout, base: Layout) -> Iterator[str]:
    ours, theirs = (_vocabulary(layout.folders[part], layout.shown) for layout in (mine, base))
    if len(ours) != len(theirs):
        yield f"{part} of {len(ours)} tokens beside {len(theirs)}"
    elif ours != theirs:
        other = next(token for token, number in ours.items() if theirs.get(token) != number)
        yield f"{part} of other tokens, {other!r} among them"
    elif _merges(mine.folders[part]) != _merges(base.folders[part]):
        yield f"{part} of other merges"


def _vocabulary(folder: Path, shown: str) -> dict[str, int]:
    """Return every token with its number, those added to the vocabulary too."""
    file = folder / "vocab.json"
    if file.is_file():
        found = dict(read_json(file, f"vocab.json of {shown!r}"))
    else:
        whole = read_json(folder / "tokenizer.json", f"tokenizer.json of {shown!r}")
        found = dict(whole.get("model", {}).get("vocab", {}))
        found |= {each["content"]: each["id"] for each in whole.get("added_tokens", ())}
    added = folder / "added_tokens.json"
    return found | (read_json(added, f"added_tokens.json of {shown!r}") if added.is_file() else {})


def _merges(folder: Path) -> str:
    """Return a digest of the pairs that the tokenizer merges, in whichever file they stand."""
    file = folder / "merges.txt"
    if file.is_file():
        lines = file.read_text(encoding="utf-8").splitlines()
        pairs = [line for line in lines if line.strip() and not line.startswith("#version")]
    else:
        whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        merges = whole.get("model", {}).get("merges", ())
        pairs = [each if isinstance(each, str) else " ".join(each) for each in merges]
    return hashlib.sha256("\n".join(pairs).encode()).hexdigest()
