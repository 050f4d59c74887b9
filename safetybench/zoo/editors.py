"""The zoo's editors: build its inpainting models, measure them and hold them to their gates.

They stand beside `derived`, as no component of the suite makes them: the teacher gets new inputs
and is trained on, and its student is distilled with an image and a mask bound to every prompt.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from safetybench.zoo import catalogue
from safetybench.zoo.derived import EDITORS
from safetybench.zoo.quality import Gate

Area = Literal["object", "around"]
_CHANGED: dict[Area, str] = {"object": "object", "around": "background"}  # what is asked anew


def build_editor(name: str, out: Path, root: Path, report: Callable[[str], None]) -> Path:
    """Build an inpainting model into `out`, on the CPU; see `catalogue.build`."""
    from safetybench.targets.loading import load_target
    from safetybench.zoo import inpainting

    began, plan = time.time(), EDITORS[name]
    base: Any = load_target(f"zoo:{plan.base}", device="cpu", dtype="float32", zoo_root=root)
    checkpoint = out.with_name(out.name + ".checkpoint")

    def tell(step: int, loss: float) -> None:
        report(f"{name}: step {step}, loss {loss:.4f}")

    if name == "inpainting":
        made = inpainting.train_inpainting(base, checkpoint, tell)
    else:
        made = inpainting.train_inpainting_student(base, checkpoint, tell)
    checkpoint.unlink(missing_ok=True)
    store(made, base, out, seconds=round(time.time() - began))
    report(f"{name}: measuring its quality")
    return catalogue.finish(name, out, root)


def store(made: Any, base: Any, out: Path, *, seconds: int) -> None:
    """Write what of an editor is not its base's, and its card without the measured figures."""
    from safetybench.targets.overlay import save_overlay
    from safetybench.targets.saving import save_part, write_index

    for part in ("unet", "scheduler"):  # an earlier build's may be of another form
        shutil.rmtree(out / part, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    parts, overlay = save_overlay(made.unet, base.unet, out)
    if _settings(made.scheduler) != _settings(base.scheduler):
        save_part(made.scheduler, out / "scheduler")
        parts = [*parts, "scheduler"]
    if made.pipeline != base.pipeline:
        write_index(made, out)
    card = {
        "base": EDITORS[made.name].base,
        "lineage": [*base.lineage, made.name],
        "recipe": _recipe(made.name),
        "erases": None,
        "traits": _traits(made.name),
        "sampler": {
            "steps": made.sampler.steps,
            "guidance": made.sampler.guidance,
            "eta": made.sampler.eta,
            "timesteps": list(made.sampler.timesteps) if made.sampler.timesteps else None,
        },
        "summary": EDITORS[made.name].summary,
        "parts": parts,
        "overlay": overlay,
    }
    catalogue.write_card(made.name, out, card, device="cpu", seconds=seconds)


def _settings(scheduler: Any) -> tuple[str, dict[str, Any]]:
    config = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
    return type(scheduler).__name__, config


def _recipe(name: str) -> dict[str, Any]:
    from safetybench.zoo.inpainting import PLAN, STUDENT, STUDENT_SEED, STUDENT_STEPS

    is_student = name != "inpainting"
    return {
        "component": "safetybench.zoo.inpainting",
        "options": repr(STUDENT if is_student else PLAN),
        "steps": STUDENT_STEPS if is_student else PLAN.steps,
        "seed": STUDENT_SEED if is_student else PLAN.seed,
    }


def _traits(name: str) -> dict[str, Any]:
    found = {
        "data": "procedural renders under masks",
        "prompts": "captions of the training split",
    }
    if name == "inpainting":
        return found
    seen = "renders under masks as input, none as a goal"
    return {**found, "data": seen, "shared_with_teacher": ["text_encoder", "vae"]}


def measure_editor(target: Any, judge: Any) -> dict[str, Any]:
    """Return the `quality` of an editor's card: its figures of both areas; JSON-safe."""
    from safetybench.zoo.inpainting import measure_inpainting

    figures = {area: measure_inpainting(target, judge, area=area) for area in _CHANGED}
    return {"inpainting": figures}


def editor_gates(name: str, quality: Mapping[str, Any]) -> list[Gate]:
    """Return the quality gates of an editor, on measured figures."""
    plan, areas = EDITORS[name], quality["inpainting"]
    gates = [
        Gate(f"{head} asked for", areas[area][head]["rate"], plan.least, True)
        for area, head in _CHANGED.items()
    ]
    gates.append(Gate("object kept", areas["around"]["object"]["rate"], plan.least, True))
    most = max(float(figures["rejected"]["rate"]) for figures in areas.values())
    return [*gates, Gate("images rejected", most, plan.rejected, False)]
