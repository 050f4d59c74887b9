"""Find, check, digest and load language models: the zoo's, a folder, a hub id, a GGUF file.

A specification is a mapping or a text. `{language: PATH_OR_HUB_ID}` says that it is one; so does
the text `lm:PATH_OR_HUB_ID`; a folder with a config.json of a causal LM is recognised, and so are
the zoo's. `lm:smollm2-135m-instruct` is the model in the package of the extra `smollm`, with a chat
template that leaves out its 22 tokens of system message. `{fresh:
{layers: 2, width: 96}}` is an untrained one with the words of the instruction world. Safetensors
or GGUF, no remote code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetybench.contracts import SafetyBenchError, TargetFailed, Unavailable
from safetybench.targets.finding import ZOO
from safetybench.targets.quiet import quiet

if TYPE_CHECKING:
    import torch

    from safetybench.targets.language_model import LanguageModel

PREFIX = "lm:"
SMOLLM = "smollm2-135m-instruct"
_KEYS = ("language", "fresh", "layers", "max_tokens", "revision")
_CARD = "card.json"
_READ = (".safetensors", ".json", ".jinja", ".txt", ".model")  # files that an answer depends on
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class LanguageSpec(NamedTuple):
    """A language model as a suite names it.

    path: zoo:NAME, a folder, a GGUF file or a hub id, "" for a fresh one; fresh: layers, width,
    heads; layers: how many decoder layers to keep, evenly spaced, 0 for all; seed: of a fresh one.
    """

    path: str = ""
    fresh: Mapping[str, int] = {}
    layers: int = 0
    max_tokens: int = 0
    revision: str = ""


def parse(spec: Any) -> LanguageSpec:
    """Read a specification.

    Raises:
        SafetyBenchError: an unknown key, a value of the wrong type, neither a path nor fresh.
    """
    if isinstance(spec, str | Path):
        return LanguageSpec(str(spec).removeprefix(PREFIX))
    told = {"language": spec["path"], **spec} if "path" in spec else dict(spec)
    told.pop("path", None)
    for key in told:
        if key not in _KEYS:
            raise SafetyBenchError(
                f"a language model has no key {key!r}; its keys are {', '.join(_KEYS)}"
            )
    fresh = told.get("fresh", {})
    if bool(told.get("language")) == bool(fresh):
        raise SafetyBenchError(
            "a language model is either `language`, a path or hub id, or `fresh`"
        )
    for key in ("layers", "max_tokens"):
        if type(told.get(key, 0)) is not int or told.get(key, 0) < 0:
            raise SafetyBenchError(f"{key} of a language model must be 1 or more, got {told[key]}")
    heads = fresh.get("heads", 4) if isinstance(fresh, Mapping) else 4
    if fresh and not (
        isinstance(fresh, Mapping)
        and set(fresh) <= {"layers", "width", "heads"}
        and {"layers", "width"} <= set(fresh)
        and all(type(value) is int and value > 0 for value in fresh.values())
    ):
        raise SafetyBenchError(
            f"fresh takes whole numbers for layers, width and perhaps heads, got {fresh!r:.60}"
        )
    if fresh and fresh["width"] % (2 * heads):
        raise SafetyBenchError(
            f"the width of a fresh model must be a multiple of {2 * heads}, twice its heads, got "
            f"{fresh['width']}"
        )
    return LanguageSpec(
        str(told.get("language", "")).removeprefix(PREFIX),
        fresh,
        int(told.get("layers", 0)),
        int(told.get("max_tokens", 0)),
        str(told.get("revision", "")),
    )


def is_language(spec: Any) -> bool:
    """Tell whether a specification is of a language model."""
    if isinstance(spec, Mapping):
        return "language" in spec or "fresh" in spec or is_language(spec.get("path"))
    if not isinstance(spec, str | Path):
        return False
    told = str(spec)
    if told.startswith("zoo:"):
        return _card(ZOO / told.removeprefix("zoo:")).get("kind") == "language"
    folder = Path(told).expanduser()
    is_lm = (folder / "config.json").is_file() and not (folder / "model_index.json").exists()
    return told.startswith(PREFIX) or is_lm


def check_language(spec: Any, *, offline: bool) -> None:
    """Refuse a language model that cannot be loaded, as far as can be told without its weights.

    Raises:
        SafetyBenchError: it is not there, is a pickle, is no causal LM, or has no end token.
    """
    told = parse(spec)
    if told.fresh:
        return
    found = _find(told, offline=offline)
    if found is None or found.suffix == ".gguf":
        return
    config = _json(found / "config.json", told.path)
    kinds = config.get("architectures") or []
    if kinds and not any(str(kind).endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
        raise SafetyBenchError(f"{told.path!r} is no causal language model, it is a {kinds[0]}")
    if not any(found.glob("*.safetensors")):
        raise SafetyBenchError(
            f"{told.path!r} has no .safetensors file; pickles are not loaded, as they run code"
        )
    tokenizer = _json(found / "tokenizer_config.json", told.path)
    special = found / "special_tokens_map.json"
    ends = (tokenizer, _json(special, told.path) if special.exists() else {})
    if not any(each.get("eos_token") for each in ends):
        raise SafetyBenchError(
            f"the tokenizer of {told.path!r} has no end token, so no answer would ever end; set "
            "eos_token in its tokenizer_config.json"
        )


def language_digest(spec: Any, *, offline: bool) -> str:
    """Return a SHA-256 over all that a language model's answers depend on."""
    told = parse(spec)
    whole = hashlib.sha256(repr((told.fresh, told.layers, told.max_tokens)).encode())
    if told.fresh:
        return whole.hexdigest()
    found = _find(told, offline=offline, may_fetch=True)
    assert found is not None
    files = [found] if found.is_file() else sorted(found.glob("*"))
    for file in files:
        if file.is_file() and (file.suffix in _READ or file == found) and file.name != _CARD:
            whole.update(f"\0{file.name}\0".encode())
            with file.open("rb") as stream:
                whole.update(hashlib.file_digest(stream, "sha256").digest())
    if found.is_dir():  # of the card, what cuts an answer
        whole.update(str(_card(found).get("max_tokens", "")).encode())
    return whole.hexdigest()


def load_language(
    spec: Any,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    offline: bool = False,
    seed: int = 0,
    digest: str | None = None,
) -> LanguageModel:
    """Load a language model, frozen; seed: of the weights of a fresh one.

    Raises:
        SafetyBenchError: see `check_language`; also what transformers cannot read.
    """
    import torch

    from safetybench.targets.language_model import LanguageModel

    told = parse(spec)
    if told.fresh:
        from safetybench.language.fresh import fresh_model

        shape = told.fresh
        made = fresh_model(shape["layers"], shape["width"], shape.get("heads", 4), seed=seed)
        made.model.to(device)
        return made
    check_language(spec, offline=offline)
    found = _find(told, offline=offline, may_fetch=True)
    assert found is not None
    card = _card(found) if found.is_dir() else {}
    try:
        with quiet():
            model, tokenizer = _read(found, dtype or torch.float32)
        if told.layers:
            from safetybench.language.smollm import evenly, keep_layers

            model = keep_layers(model, evenly(model.config.num_hidden_layers, told.layers))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        text = str(error).replace(str(found), told.path).splitlines() or [type(error).__name__]
        raise TargetFailed(f"could not load the language model {told.path!r}: {text[0]}") from error
    if told.path == SMOLLM:
        from safetybench.language.smollm import SHORT_TEMPLATE

        tokenizer.chat_template = SHORT_TEMPLATE
    return LanguageModel(
        model=model.to(device),
        tokenizer=tokenizer,
        name=str(card.get("name", told.path)),
        card=card,
        digest=digest or "",
        max_tokens=told.max_tokens or int(card.get("max_tokens", 64)),
        batch=256 if _size(model) < 10_000_000 else 32,
    )


def _size(model: Any) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _read(found: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    import transformers

    if found.suffix == ".gguf":
        from safetybench.language.smollm import load_gguf

        loaded = load_gguf(found, dtype=dtype)
        return loaded.model, loaded.tokenizer
    options = {"local_files_only": True, "trust_remote_code": False}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        found, dtype=dtype, use_safetensors=True, **options
    )
    return model, transformers.AutoTokenizer.from_pretrained(found, **options)


def tokenizer_of(spec: Any) -> Any:
    """Return the tokenizer of a language model that is on disk, None for what would be fetched."""
    told = parse(spec)
    if told.fresh:
        from safetybench.language.fresh import world_tokenizer

        return world_tokenizer()
    found = _find(told, offline=True) if not _is_hub(told.path) else None
    if found is None:
        return None
    if found.suffix == ".gguf":
        from safetybench.language.smollm import load_gguf_tokenizer

        return load_gguf_tokenizer(found)
    import transformers

    with quiet():
        return transformers.AutoTokenizer.from_pretrained(found, local_files_only=True)


def _is_hub(path: str) -> bool:
    is_local = path.startswith((".", "/", "~", "zoo:")) or Path(path).exists()
    return not is_local and path != SMOLLM and _HUB_ID.fullmatch(path) is not None


def _find(told: LanguageSpec, *, offline: bool, may_fetch: bool = False) -> Path | None:
    """Return the folder or GGUF file of a model; None for a hub id that is not to be fetched."""
    path = told.path
    if path == SMOLLM:
        from safetybench.language.smollm import smollm_file

        return smollm_file()
    if path.startswith("zoo:"):
        folder = ZOO / path.removeprefix("zoo:")
        if _card(folder).get("kind") != "language":
            raise Unavailable(f"the zoo has no language model {path!r}")
        return folder
    if _is_hub(path):
        return _fetch(told, offline=offline) if may_fetch or offline else None
    place = Path(path).expanduser()
    if place.is_file() and place.suffix != ".gguf":
        raise SafetyBenchError(f"{path!r} is a file; a language model is a folder or a .gguf file")
    if not place.exists():
        raise Unavailable(f"there is no language model {path!r}")
    if place.is_dir() and not (place / "config.json").is_file():
        raise SafetyBenchError(f"{path!r} is no language model: it has no config.json")
    return place


def _fetch(told: LanguageSpec, *, offline: bool) -> Path:
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                told.path,
                revision=told.revision or None,
                local_files_only=offline,
                allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"],
            )
        )
    except (OSError, ValueError) as error:
        how = (
            "is not in the cache, and offline nothing is fetched" if offline else "was not fetched"
        )
        raise Unavailable(f"the language model {told.path!r} {how}") from error


def _card(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _json(file: Path, shown: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SafetyBenchError(f"{file.name} of {shown!r} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise SafetyBenchError(f"{file.name} of {shown!r} must be a JSON object")
    return found
