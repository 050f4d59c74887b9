"""The files of a target: digest them, and refuse what must not be loaded, before torch is.

A directory with pickles, with code, of another pipeline class, or with weights cut short is
refused in one sentence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safetensors import SafetensorError, safe_open

from safetybench.contracts import SafetyBenchError, TargetFailed, Unavailable
from safetybench.targets.safety import refusal, settings_of
from safetybench.targets.spec import Sampler, TargetSpec, looks_few_step

# Part -> (library, classes that are supported, stem of its weights; none for a part without)
PARTS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "unet": ("diffusers", ("UNet2DConditionModel",), "diffusion_pytorch_model"),
    "vae": ("diffusers", ("AutoencoderKL",), "diffusion_pytorch_model"),
    "text_encoder": ("transformers", ("CLIPTextModel",), "model"),
    "tokenizer": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast"), ""),
    "scheduler": ("diffusers", (), ""),
    "text_encoder_2": ("transformers", ("CLIPTextModelWithProjection",), "model"),
    "tokenizer_2": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast"), ""),
}
_PLAIN = tuple(part for part in PARTS if not part.endswith("_2"))
PIPELINES: dict[str, tuple[str, ...]] = {
    "StableDiffusionPipeline": _PLAIN,
    "LatentConsistencyModelPipeline": _PLAIN,
    "StableDiffusionXLPipeline": tuple(PARTS),
    "StableDiffusionInpaintPipeline": _PLAIN,
}
OVERLAY = "overlay.safetensors"  # written by safetybench.targets.overlay
ADAPTER = "unet/adapter.safetensors"  # written by safetybench.targets.adapter
LORA = "unet/pytorch_lora_weights.safetensors"  # written by safetybench.targets.lora
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
# "stable_diffusion" is diffusers' own module of the safety checker, named so in SD 1.x.
_LIBRARIES = (None, "diffusers", "transformers", "stable_diffusion")


PICKLE_ADVICE = (
    "which can run code when it is loaded; convert it, on a machine that may be lost, with "
    "StableDiffusionPipeline.from_pretrained(..., use_safetensors=False).save_pretrained(DIR) "
    "and use DIR"
)


class Change(NamedTuple):
    """A file of changes to the weights of a part; scale: how much of a LoRA to add."""

    kind: Literal["overlay", "lora"]
    file: Path
    scale: float = 1.0


class AdapterFile(NamedTuple):
    """The weights of a guidance adapter, and the "adapter" of its card."""

    file: Path
    config: Mapping[str, Any]


class Weights(NamedTuple):
    """The safetensors files of one part, and diffusers' name for the variant they are ("")."""

    files: tuple[str, ...]
    variant: str


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The files of one target.

    shown: what the user called it; folders: of each part; index: model_index.json;
    card: card.json, empty where there is none; changes: of each part's weights, in the order
    in which they are made; told: notes for the reader that are known already.
    """

    shown: str
    folders: Mapping[str, Path]
    index: Mapping[str, Any]
    card: Mapping[str, Any]
    changes: Mapping[str, tuple[Change, ...]] = field(default_factory=dict)
    adapter: AdapterFile | None = None
    told: tuple[str, ...] = ()

    def digest(self, spec: TargetSpec) -> str:
        """Return a SHA-256 over weights, configurations and the sampler settings in force."""
        told = {"sampler": _plain(self.sampler(spec)), "scheduler": dict(spec.scheduler)}
        whole = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        for part, folder in self.folders.items():
            for file in sorted(folder.iterdir()):
                if file.is_file() and file.suffix in (".json", ".txt", ".safetensors"):
                    whole.update(f"\0{part}/{file.name}\0{_file_digest(file)}".encode())
            for kind, file, scale in self.changes.get(part, ()):
                whole.update(f"\0{part}/{kind}\0{_file_digest(file)}".encode())
                whole.update(f"\0{scale:g}".encode() if kind == "lora" else b"")
        if self.adapter is not None:
            file, config = self.adapter
            whole.update(f"\0adapter\0{_file_digest(file)}".encode())
            whole.update(json.dumps(config, sort_keys=True).encode())
        return whole.hexdigest()

    def sampler(self, spec: TargetSpec) -> Sampler:
        """Return the sampler: the spec's settings over the card's over 30 steps at 7.5."""
        card = self.card.get("sampler", {})
        try:
            return Sampler().with_settings(card).with_settings(spec.settings)
        except (TypeError, ValueError) as error:
            raise SafetyBenchError(f"the sampler settings of {self.shown!r}: {error}") from error

    def notes(self, spec: TargetSpec) -> tuple[str, ...]:
        """Return what a reader of its results should know."""
        notes = list(self.told)
        name, scheduler = spec.name, self.scheduler_class(spec)
        config = {**self.config("scheduler"), **spec.scheduler, "_class_name": scheduler}
        told = {"steps", "guidance"} <= {*spec.settings, *self.card.get("sampler", {})}
        if not told and looks_few_step(config):
            sampler = self.sampler(spec)
            notes.append(
                f"{name} has no sampler settings and its scheduler ({scheduler}) is typical of a "
                f"few-step student: {sampler.steps} steps at guidance {sampler.guidance:g} were "
                "assumed; set steps and guidance if that is wrong"
            )
        if (self.index.get("safety_checker") or [None])[0] is not None:
            notes.append(f"the safety checker of {name} is not part of the target")
        if spec.trust_remote_code and self.code():
            notes.append(f"code beside the weights of {name} was not run: {', '.join(self.code())}")
        return tuple(notes)

    def scheduler_class(self, spec: TargetSpec) -> str:
        """Return the class name of the scheduler in force."""
        told = spec.scheduler.get("class") or self.config("scheduler").get("_class_name")
        return str(told or (self.index.get("scheduler") or ["", ""])[1])

    def config(self, part: str) -> dict[str, Any]:
        """Return the configuration of a part."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        return read_json(self.folders[part] / name, f"{part}/{name} of {self.shown!r}")

    def weights(self, part: str) -> Weights:
        """Return the weight files of a part."""
        names = {file.name for file in self.folders[part].iterdir()}
        found = choose_weights(names, part, self.shown)
        if not found.files[0].endswith(".index.json"):
            return found
        index = read_json(self.folders[part] / found.files[0], f"{part} of {self.shown!r}")
        shards = sorted({str(shard) for shard in index.get("weight_map", {}).values()})
        for shard in shards:
            if shard not in names or not shard.endswith(".safetensors"):
                raise TargetFailed(f"{part}/{shard} of {self.shown!r} is missing")
        return Weights(tuple(shards), found.variant)

    def code(self) -> list[str]:
        """Return what in this target is code of its own: files and foreign parts."""
        folders = {folder.parent for folder in self.folders.values()}
        files = {f.name for home in folders for at in ("*.py", "*/*.py") for f in home.glob(at)}
        return sorted(files) + [f"{part} ({lib})" for part, lib in foreign_parts(self.index)]


def parts_of(index: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the parts of a pipeline; an unknown one is refused later, by `check_index`."""
    kind = index.get("_class_name")
    return PIPELINES.get(kind if isinstance(kind, str) else "", _PLAIN)


def read_json(file: Path, shown: str) -> dict[str, Any]:
    """Read a JSON object; `shown` is what an error calls the file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise TargetFailed(f"cannot read {shown}: {error.strerror}") from error
    except ValueError as error:
        raise TargetFailed(f"{shown} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise TargetFailed(f"{shown} must hold a JSON object, got {type(content).__name__}")
    return content


def foreign_parts(index: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (part, library) of entries of a model_index.json that no known library answers."""
    foreign = []
    for part, entry in index.items():
        if part == "_class_name" and not isinstance(entry, str):
            foreign.append(("pipeline", str(entry)))
        elif isinstance(entry, list) and entry and entry[0] not in _LIBRARIES:
            foreign.append((part, str(entry[0])))
    return foreign


def check_index(index: Mapping[str, Any], shown: str) -> None:
    """Refuse a pipeline of another class, or of parts that are not supported."""
    kind = index.get("_class_name")
    if kind not in tuple(PIPELINES):
        known = ", ".join(PIPELINES)
        raise Unavailable(f"{shown!r} is a {kind}; text-to-image targets are {known} only")
    for part in parts_of(index):
        library, classes, _ = PARTS[part]
        entry = index.get(part)
        if not isinstance(entry, list) or len(entry) != 2 or entry[0] is None:
            raise TargetFailed(f"model_index.json of {shown!r} names no {part}")
        if entry[0] != library or (classes and entry[1] not in classes):
            wanted = f"{library} {' or '.join(classes) or 'scheduler'}"
            raise Unavailable(f"the {part} of {shown!r} is a {entry[0]} {entry[1]}, not a {wanted}")


def choose_weights(names: set[str], part: str, shown: str) -> Weights:
    """Return the safetensors file (or index of shards) of a part among the names of its folder."""
    stem = PARTS[part][2]
    for name, variant in (
        (f"{stem}.safetensors", ""),
        (f"{stem}.safetensors.index.json", ""),
        (f"{stem}.fp16.safetensors", "fp16"),
    ):
        if name in names:
            return Weights((name,), variant)
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if pickles:
        raise SafetyBenchError(f"{part}/{pickles[0]} of {shown!r} is a pickle, {PICKLE_ADVICE}")
    raise TargetFailed(f"{part} of {shown!r} has no weights: {stem}.safetensors is missing")


def check(layout: Layout, spec: TargetSpec) -> tuple[str, ...]:
    """Refuse what cannot or must not be loaded; return the notes. Loads no weights.

    Raises:
        SafetyBenchError: one sentence that says which file, what is wrong and what to do.
    """
    code = layout.code()
    if code and not spec.trust_remote_code:
        raise SafetyBenchError(
            f"{layout.shown!r} brings code of its own ({', '.join(code)}), which is never run; "
            "set trust_remote_code to use its weights all the same"
        )
    check_index(layout.index, layout.shown)
    for part, folder in layout.folders.items():
        if not folder.is_dir():
            raise TargetFailed(f"{layout.shown!r} has no folder {part}")
    layout.config("scheduler")
    _check_safety(layout, layout.sampler(spec))
    for part in layout.folders:
        if PARTS[part][2]:
            layout.config(part)
            for name in layout.weights(part).files:
                _check_safetensors(layout.folders[part] / name, f"{part}/{name}", layout.shown)
        for change in layout.changes.get(part, ()):
            _check_safetensors(change.file, f"{part}/{change.file.name}", layout.shown)
    if layout.adapter is not None:
        _check_safetensors(layout.adapter.file, ADAPTER, layout.shown)
    return layout.notes(spec)


def _check_safety(layout: Layout, sampler: Sampler) -> None:
    if sampler.safety is None:
        return
    has_input = layout.config("unet").get("time_cond_proj_dim") is not None
    takes = has_input or layout.adapter is not None
    why = refusal(
        sampler.safety, steps=sampler.steps, guidance=sampler.guidance, takes_guidance=takes
    )
    if why:
        raise Unavailable(why)


def _check_safetensors(file: Path, name: str, shown: str) -> None:
    try:
        with safe_open(file, "numpy") as opened:  # reads the header and holds it to the file size
            opened.keys()
    except SafetensorError as error:
        reason = str(error).rpartition(": ")[2]
        raise TargetFailed(
            f"{name} of {shown!r} is corrupted or cut short ({reason}); fetch it again"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise TargetFailed(f"cannot read {name} of {shown!r}: {reason}") from error


def _file_digest(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise TargetFailed(
            f"cannot read {file.parent.name}/{file.name}: {error.strerror}"
        ) from error


def _plain(sampler: Sampler) -> list[Any]:
    told = [sampler.steps, float(sampler.guidance), sampler.timesteps, float(sampler.eta)]
    return told if sampler.safety is None else [*told, settings_of(sampler.safety)]
