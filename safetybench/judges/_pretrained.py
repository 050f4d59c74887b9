"""What judges of real images share: images as they are saved, models of a folder, refusals.

Nothing is ever fetched: a hub id must be in the cache already. Weights are safetensors, and
remote code is off.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetybench.contracts import SafetyBenchError, Unavailable, Verdicts
from safetybench.registry import suggestion

if TYPE_CHECKING:
    from torch import Tensor

UNMEASURED = "not measured here"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # a lone word is a folder's name, more likely
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_READ = (".json", ".txt", ".model", ".safetensors")
_LISTED = 12


class Files(NamedTuple):
    """The folder of a model, and what it is called where others read it: never a whole path."""

    folder: Path
    shown: str


def eight_bit(images: Tensor) -> Tensor:
    """Return images as a PNG keeps them: (batch, 3, height, width) uint8.

    A judge then sees what the report shows. images: float, in [0, 1]; what is no number is black.

    Raises:
        ValueError: the shape is another.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            "images must be (batch, 3, height, width) in [0, 1], got "
            f"{tuple(images.shape)}; add a batch axis with images[None]"
        )
    return (images.float().nan_to_num(0, 0, 0).clamp(0, 1) * 255).round().byte()


def unreadable(images: Tensor) -> Tensor:
    """Return which images hold what is no number, or are of one flat colour: (batch,) bool.

    A flat image is a failed decoding, or a filter's refusal: neither says what the model knows.
    """
    plain = eight_bit(images).flatten(2)
    is_flat = (plain.amax(2) == plain.amin(2)).all(1)
    is_broken = ~images.isfinite().flatten(1).all(1)
    return is_flat | is_broken


def verdicts(probability: Tensor, shown: Tensor, images: Tensor) -> Verdicts:
    """Return verdicts on the images' device; an unreadable image is abstained from."""
    abstained = unreadable(images)
    probability = probability.to(images.device, copy=True).float()
    return Verdicts(
        probability.masked_fill(abstained, 0), shown.to(images.device) & ~abstained, abstained
    )


def check_seen(judge: str, concept: str, known: Sequence[str]) -> None:
    """Raise SafetyBenchError, naming what the judge sees, where it does not see the concept."""
    if concept in known:
        return
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    raise SafetyBenchError(
        f"{judge} does not see {concept!r}{suggestion(concept, known)}; "
        f"it sees {', '.join(known[:_LISTED])}{more}"
    )


def find(judge: str, path: str) -> Files:
    """Return the files of a folder, or of a hub id that was downloaded before.

    Raises:
        Unavailable: there is no such folder, or the hub's cache does not have it.
        SafetyBenchError: its weights are pickles.
    """
    if not path:
        raise Unavailable(f"{judge} needs path, the folder (or hub id) of its model")
    folder = Path(path).expanduser()
    if folder.is_dir():
        files = Files(folder, folder.resolve().name)
    elif _HUB_ID.fullmatch(path):
        files = Files(_cached(judge, path), path)
    else:
        raise Unavailable(f"{judge}: there is no model folder {folder.name!r}")
    names = {file.name for file in files.folder.iterdir()}
    if "config.json" not in names:
        raise Unavailable(f"{judge}: {files.shown!r} holds no model: config.json is missing")
    if not names & set(_WEIGHTS):
        if any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in names):
            raise SafetyBenchError(
                f"{judge}: the weights of {files.shown!r} are pickles, which can run code; "
                "convert them to model.safetensors"
            )
        raise Unavailable(f"{judge}: {files.shown!r} has no weights: {_WEIGHTS[0]} is missing")
    return files


def _cached(judge: str, path: str) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    patterns = [f"*{ending}" for ending in _READ]
    try:
        found = huggingface_hub.snapshot_download(
            path, allow_patterns=patterns, local_files_only=True
        )
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, FileNotFoundError) as error:
        raise Unavailable(
            f"{judge}: {path!r} is no folder here and not in the hub's cache; get it with "
            f"`hf download {path}`"
        ) from error
    return Path(found)


def digest(files: Files) -> str:
    """Return a SHA-256 over the weights, configurations and vocabularies of a model."""
    whole = hashlib.sha256()
    for file in sorted(files.folder.iterdir()):
        if file.is_file() and file.suffix in _READ:
            with file.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").hexdigest()
            whole.update(f"\0{file.name}\0{content}".encode())
    return whole.hexdigest()


def load(judge: str, kind: str, files: Files) -> Any:
    """Load a model of transformers, `kind` being its class, in float32 and ready to judge.

    Raises:
        SafetyBenchError: it is of another kind, or lacks weights, which would be random then.
    """
    import transformers

    from safetybench.targets.quiet import quiet

    options = {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
    try:
        with quiet():
            model, told = getattr(transformers, kind).from_pretrained(
                files.folder, output_loading_info=True, dtype="float32", **options
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise SafetyBenchError(
            f"{judge}: {files.shown!r} cannot be loaded as {kind}: {_first_line(error, files)}"
        ) from error
    lacking = sorted(map(str, told["missing_keys"])) + sorted(map(str, told["mismatched_keys"]))
    if lacking:
        raise SafetyBenchError(
            f"{judge}: {files.shown!r} is no {kind}: it has no weights for {lacking[0]} and "
            f"{len(lacking) - 1} more"
        )
    return model.eval().requires_grad_(False)


def load_part(judge: str, kind: str, files: Files) -> Any:
    """Load a tokenizer or an image processor of a model's folder.

    Raises:
        Unavailable: the folder has none.
    """
    import transformers

    try:
        return getattr(transformers, kind).from_pretrained(
            files.folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"{judge}: {files.shown!r} has no {kind}: {_first_line(error, files)}"
        ) from error


def _first_line(error: Exception, files: Files) -> str:
    return str(error).strip().partition("\n")[0].replace(str(files.folder), files.shown)


def parts(images: Tensor, size: int) -> Iterator[list[Tensor]]:
    """Yield 8-bit images, `size` at a time, each on the CPU where processors of images work."""
    for part in eight_bit(images).cpu().split(size):
        yield list(part)


def card_of(files: Files) -> dict[str, Any]:
    """Return what every card of a model from a folder says."""
    return {
        "model": files.shown,
        "digest": digest(files),
        "transformers": version("transformers"),
        "sensitivity": UNMEASURED,
        "specificity": UNMEASURED,
        "abstains": "from images of one flat colour or with values that are no numbers",
    }
