"""Download a target from the Hugging Face hub: the files it needs, safetensors only."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from safetybench.contracts import SafetyBenchError, Unavailable
from safetybench.targets.layout import ADAPTER, LORA, PARTS, choose_weights
from safetybench.targets.spec import TargetSpec


def refuse_offline(spec: TargetSpec) -> None:
    """Say what to do about a hub id when the network is off.

    Raises:
        Unavailable: always.
    """
    raise Unavailable(
        f"{spec.path!r} is a hub id and the network is off; download it first with `hf download "
        f"{spec.path} --local-dir DIR` and use DIR"
    )


def fetch(spec: TargetSpec) -> Path:
    """Return the folder of a downloaded snapshot; files that are there already stay.

    Raises:
        Unavailable: no such model, no access, or no network.
        SafetyBenchError: the model has pickles only; nothing is downloaded then.
    """
    import huggingface_hub
    from huggingface_hub import errors

    try:
        names = huggingface_hub.list_repo_files(spec.path, revision=spec.revision)
        wanted = _wanted(names, spec.path)
        return Path(
            huggingface_hub.snapshot_download(
                spec.path, revision=spec.revision, allow_patterns=wanted
            )
        )
    except errors.GatedRepoError as error:
        raise Unavailable(
            f"{spec.path!r} is gated: accept its terms on the hub and log in with `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise Unavailable(f"{spec.path!r} has no revision {spec.revision!r}") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise Unavailable(
            f"the hub has no public model {spec.path!r}, and there is no such directory here"
        ) from error
    except (_http_error(), errors.LocalEntryNotFoundError, ConnectionError) as error:
        raise Unavailable(
            f"the hub could not be reached for {spec.path!r} ({type(error).__name__}); check the "
            "network, or download it elsewhere and name the directory"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise SafetyBenchError(f"could not store {spec.path!r}: {reason}") from error


def _http_error() -> type[Exception]:
    """Return the HTTP library's base error; which library depends on the hub client's version."""
    from huggingface_hub import errors

    base: type[Exception] = vars(errors)["HTTPError"]
    return base


def _wanted(names: list[str], shown: str) -> list[str]:
    """Choose the files to download; code comes along, so that the check sees and refuses it."""
    wanted = [name for name in names if name in ("model_index.json", "card.json")]
    wanted += fnmatch.filter(names, "*.py")
    wanted += [name for name in names if name in (LORA, ADAPTER)]
    for part, (_, _, stem) in PARTS.items():
        folder = {name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")}
        wanted += [f"{part}/{name}" for name in folder if name.endswith((".json", ".txt"))]
        if stem and folder:
            weights = choose_weights(folder, part, shown)
            if weights.files[0].endswith(".index.json"):
                shards = fnmatch.filter(folder, f"{stem}-*-of-*.safetensors")
                wanted += [f"{part}/{shard}" for shard in shards]
            else:
                wanted.append(f"{part}/{weights.files[0]}")
    return sorted(set(wanted))
