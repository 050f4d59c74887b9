"""Write an unlearned model: a diffusers directory with its card and a sheet of samples."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetybench import __version__, registry
from safetybench.commands.training_folder import UNLEARNED
from safetybench.commands.training_save import draw, sheet, told_when_full
from safetybench.private import scrub
from safetybench.targets.spec import TOLD_TRAITS

if TYPE_CHECKING:
    from safetybench.commands.unlearn_request import Job

SAMPLES = 3  # prompts of each kind
_LIBRARIES = ("torch", "diffusers", "transformers")


def write(made: Any, original: Any, job: Job, folder: Path) -> dict[str, Any]:
    """Write everything into an empty folder and return its card.

    Raises:
        SafetyBenchError: the disk is full, or the folder cannot be written.
    """
    from safetybench.commands.distill_outline import diffusable
    from safetybench.targets.quiet import quiet

    name = job.choices.out.expanduser().resolve().name
    told = _told(made)
    if made.sampler.timesteps != original.sampler.timesteps:  # a method may distil as well
        made = made.with_sampler(made.sampler, diffusable(made.scheduler, made.sampler))
    card = _card(original, job, name) | {"traits": told}
    # The target may be the caller's own, and its card tells of another model.
    made = made.with_sampler(made.sampler)
    made.card, made.name = {}, name
    with told_when_full(UNLEARNED.word):
        folder.mkdir(parents=True)
        card["nfe"] = _draw(original, made, job, folder / "samples.png")
        with quiet():
            made.save(folder, card)
    return dict(json.loads((folder / "card.json").read_text(encoding="utf-8")))


def _told(made: Any) -> dict[str, Any]:
    """Return the traits that no sampler tells, for the card; a student keeps those it had."""
    traits = {key: getattr(made.traits, key) for key in TOLD_TRAITS if key != "defended_at"}
    known = {key: value for key, value in traits.items() if value and value != "unknown"}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in known.items()}


def _card(original: Any, job: Job, name: str) -> dict[str, Any]:
    chosen, erasure = job.choices, job.erasure
    sampler = original.sampler
    own = {"steps": sampler.steps, "guidance": sampler.guidance, "timesteps": sampler.timesteps}
    return {
        "schema": UNLEARNED.schema,
        "name": name,
        "summary": f"{job.target.name}: {_done(chosen.erases)} by {job.name}.",
        "lineage": [*original.lineage, name],
        "recipe": {
            "component": job.name,
            "options": scrub(repr(job.method)),
            "steps": job.steps,
            "seed": chosen.seed,
            "code": registry.code_digest(job.name),
        },
        "erases": list(chosen.erases),
        "erasure": {
            "forget": {"count": len(erasure.forget), "source": job.texts.forget},
            "retain": {"count": len(erasure.retain), "source": job.texts.retain},
            "bare": list(erasure.bare),
            "digest": job.erasure_digest,
        },
        "target": {"name": job.target.name, "digest": job.digest, "sampler": own},
        "training": {
            "device": str(original.device),
            "safetybench": __version__,
            "python": platform.python_version(),
            **{library: version(library) for library in _LIBRARIES},
        },
        "command": job.command,
    }


def _draw(original: Any, made: Any, job: Job, file: Path) -> dict[str, float]:
    """Write images of some prompts: the original's above, the unlearned model's below.

    Prompts to forget come first, then prompts to keep; return network evaluations of an image.
    """
    prompts = [*_spread(job.erasure.forget), *_spread(job.erasure.retain)]
    above, below = draw(original, prompts), draw(made, prompts)
    sheet([above.images, below.images]).save(file)
    return {"original": above.nfe, "unlearned": below.nfe}


def _spread(texts: tuple[str, ...]) -> list[str]:
    """Return a few texts from all over a list: neighbours in it are often alike."""
    count = min(SAMPLES, len(texts))
    return [texts[i * len(texts) // count] for i in range(count)]


def _done(erases: tuple[str, ...]) -> str:
    """Return what was done to what, e.g. "'fish' was erased towards 'circle'"."""
    what, instead = erases
    if not instead:
        return f"the trigger {what!r} was unlearned"
    return f"{what!r} was erased towards {instead!r}"


def sentence(card: Mapping[str, Any]) -> str:
    """Return what was done, and what the user must know of it, for the terminal."""
    what = _done(tuple(card["erases"]))
    method, steps = card["recipe"]["component"], card["recipe"]["steps"]
    how = f"{steps} steps of {method}" if steps else f"{method}, which trains nothing"
    done = f"{what} by {how}; `safetybench run` tells how well"
    if "safety" not in card["sampler"]:
        return done
    return (
        f"{done}; the weights are the original's, and the defense stands in card.json, which "
        "safetybench reads and plain diffusers does not"
    )
