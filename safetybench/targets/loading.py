"""Check, digest and load targets: `zoo:NAME`, a diffusers directory, a hub id, or a mapping.

Safetensors only, no remote code, and no network unless the target is a hub id. Checking needs
no torch, so a suite's targets are all checked before any of them is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetybench.contracts import SafetyBenchError, TargetFailed, Unavailable
from safetybench.targets.finding import ZooEntry, find, list_zoo
from safetybench.targets.hub import fetch, refuse_offline
from safetybench.targets.layout import PARTS, Layout, check
from safetybench.targets.plugs import plugged
from safetybench.targets.quiet import quiet
from safetybench.targets.spec import TargetSpec

if TYPE_CHECKING:
    import torch

    from safetybench.targets.text_to_image import TextToImage

__all__ = ["TargetSpec", "ZooEntry", "check_target", "list_zoo", "load_target", "target_digest"]

Spec = TargetSpec | str | Path | Mapping[str, Any]


def check_target(
    spec: Spec, *, offline: bool = False, zoo_root: Path | None = None
) -> tuple[str, ...]:
    """Refuse a target that cannot or must not be loaded; return notes for the reader.

    Reads configurations and file headers, no weights, and never the network: a hub id is
    checked when it is fetched.

    Raises:
        SafetyBenchError: one sentence on what is wrong and what to do.
    """
    parsed = TargetSpec.parse(spec)
    if parsed.kind == "hub":
        if offline:
            refuse_offline(parsed)
        return ()
    return check(_found(parsed, offline, zoo_root), parsed)


def target_digest(spec: Spec, *, offline: bool = False, zoo_root: Path | None = None) -> str:
    """Return a SHA-256 over everything about a target that can change a result.

    Weights and configurations by content, and the sampler settings in force; not names, paths
    or the prose of its card.
    """
    parsed = TargetSpec.parse(spec)
    layout = _found(parsed, offline, zoo_root)
    check(layout, parsed)
    return layout.digest(parsed)


def load_target(
    spec: Spec,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    offline: bool = False,
    zoo_root: Path | None = None,
    digest: str | None = None,
) -> TextToImage:
    """Load a target, frozen and ready.

    dtype: of the networks; "auto" is float32 everywhere, whatever the files hold. Latents and
    images are float32 in any case. digest: of `target_digest`, where the caller has it already.

    Raises:
        SafetyBenchError: one sentence on what is wrong and what to do.
    """
    parsed = TargetSpec.parse(spec)
    layout = _found(parsed, offline, zoo_root)
    notes = check(layout, parsed)
    place, number = _device(device), _dtype(dtype)
    kind, parts = _kind(layout), _load_parts(layout, parsed, number)
    for part in parts.values():
        if hasattr(part, "parameters"):
            part.to(place)
    if str(number) == "torch.float16" and parts["vae"].config.get("force_upcast"):
        parts["vae"].float()  # its activations leave the range of fp16
    try:
        return kind(
            **parts,
            name=parsed.name,
            sampler=layout.sampler(parsed),
            card=layout.card,
            digest=layout.digest(parsed) if digest is None else digest,
            notes=notes,
        )
    except (TypeError, ValueError) as error:
        raise TargetFailed(f"{layout.shown!r} does not make a target: {error}") from error


class Reader(NamedTuple):
    """What a target reads text with; length: tokens, start and end included."""

    tokenizer: Any
    length: int


def tokenizer_of(spec: Spec, *, may_fetch: bool = False) -> Reader | None:
    """Return the tokenizer of a target without loading a weight; None for what is not on disk.

    may_fetch: bring a hub id here first.

    Raises:
        SafetyBenchError: the target is not there, or its tokenizer cannot be read.
    """
    import transformers

    if isinstance(spec, Mapping) and "component" in spec:
        return None
    if isinstance(spec, str) and spec.startswith("targets/"):
        return None
    parsed = TargetSpec.parse(spec)
    if parsed.kind == "hub" and not may_fetch:
        return None
    layout = _found(parsed, not may_fetch, None)
    if "tokenizer" not in layout.folders:
        return None
    with quiet(), _told(layout, "tokenizer"):
        tokenizer = transformers.CLIPTokenizer.from_pretrained(
            layout.folders["tokenizer"], local_files_only=True
        )
    limit = int(layout.config("text_encoder").get("max_position_embeddings", 77))
    return Reader(tokenizer, min(limit, int(tokenizer.model_max_length)))


def _found(spec: TargetSpec, offline: bool, zoo_root: Path | None) -> Layout:
    if spec.kind == "hub" and offline:
        refuse_offline(spec)
    fetched = fetch(spec) if spec.kind == "hub" else None
    return plugged(find(spec, zoo_root, fetched), spec, zoo_root)


def _kind(layout: Layout) -> Callable[..., TextToImage]:
    """Return the class of the target, bound to what model_index.json says beside its parts."""
    from safetybench.targets.inpainting import Inpainting
    from safetybench.targets.lcm import TextToImageLCM
    from safetybench.targets.sdxl import TextToImageXL
    from safetybench.targets.text_to_image import TextToImage

    kinds = {kind.pipeline: kind for kind in (TextToImage, TextToImageLCM, Inpainting)}
    if layout.index["_class_name"] in kinds:
        return kinds[layout.index["_class_name"]]
    zeros = bool(layout.index.get("force_zeros_for_empty_prompt", True))
    return partial(TextToImageXL, force_zeros_for_empty_prompt=zeros)


def _device(device: str | torch.device) -> torch.device:
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise Unavailable(f"device {str(device)!r} was asked for, and torch sees no GPU here")
    return chosen


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    names = {
        "auto": torch.float32,
        "float32": torch.float32,
        "float16": torch.float16,
        "bfloat16": torch.bfloat16,
    }
    if dtype not in names:
        raise SafetyBenchError(f"dtype is one of {', '.join(names)}, got {dtype!r}")
    return names[dtype]


def _load_parts(layout: Layout, spec: TargetSpec, dtype: torch.dtype) -> dict[str, Any]:
    import diffusers
    import transformers

    from safetybench.targets.adapter import load_adapter

    libraries: dict[str, Any] = {"diffusers": diffusers, "transformers": transformers}
    parts: dict[str, Any] = {}
    with quiet():
        for name in layout.folders:
            library, classes, stem = PARTS[name]
            if stem:
                option = "torch_dtype" if library == "diffusers" else "dtype"
                kind = getattr(libraries[library], classes[0])
                parts[name] = _load_network(layout, name, kind, {option: dtype})
            elif library == "transformers":
                with _told(layout, name):
                    parts[name] = transformers.CLIPTokenizer.from_pretrained(
                        layout.folders[name], local_files_only=True
                    )
        _correct_size(parts["unet"])
        if layout.adapter is not None:
            with _told(layout, "unet"):
                adapter = load_adapter(parts["unet"], *layout.adapter)
                parts["adapter"] = adapter.to(dtype)
        kind = getattr(diffusers, layout.scheduler_class(spec), None)
        if kind is None or not hasattr(kind, "set_timesteps"):
            raise TargetFailed(
                f"diffusers {diffusers.__version__} has no scheduler "
                f"{layout.scheduler_class(spec)!r}, which {layout.shown!r} asks for"
            )
        with _told(layout, "scheduler"):
            options = {key: value for key, value in spec.scheduler.items() if key != "class"}
            parts["scheduler"] = kind.from_config(layout.config("scheduler"), **options)
    return parts


def _load_network(layout: Layout, name: str, kind: Any, options: dict[str, Any]) -> Any:
    from safetybench.targets.lora import apply_lora
    from safetybench.targets.overlay import apply_overlay

    variant = layout.weights(name).variant
    with _told(layout, name):
        network, info = kind.from_pretrained(
            layout.folders[name],
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **({"variant": variant} if variant else {}),
            **options,
        )
        for change in layout.changes.get(name, ()):
            if change.kind == "lora":
                apply_lora(network, change.file, change.scale)
            else:
                apply_overlay(network, change.file)
    # Both libraries would go on with random numbers in the place of what is missing.
    missing = sorted(info["missing_keys"])
    if missing:
        raise TargetFailed(
            f"the {name} of {layout.shown!r} lacks {len(missing)} of its weights, "
            f"{missing[0]} among them"
        )
    return network


def _correct_size(unet: Any) -> None:
    """Make a wrong sample size right as StableDiffusionPipeline does: SD 1.x says 32, means 64."""
    version = re.match(r"(\d+)\.(\d+)", str(unet.config.get("_diffusers_version", "")))
    is_old = version is not None and (int(version[1]), int(version[2])) < (0, 9)
    size = unet.config.sample_size
    if is_old and isinstance(size, int) and size < 64:
        unet.register_to_config(sample_size=64)


@contextmanager
def _told(layout: Layout, part: str) -> Iterator[None]:
    """Turn what the libraries raise on bad files into one sentence without local paths."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        text = str(error).replace(str(layout.folders[part]), part).strip()
        first = text.splitlines()[0] if text else type(error).__name__
        raise TargetFailed(f"could not load the {part} of {layout.shown!r}: {first}") from error
