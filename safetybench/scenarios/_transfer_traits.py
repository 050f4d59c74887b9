"""What explains a student: steps, data, guidance, prompts that name the concept, shared weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safetybench.harness.training import NETWORKS, is_training, read_prompts

from ._transfer_property import Erased


def explain(target: Any, told: Any, spec: Any, held: Erased) -> dict[str, Any]:
    """Return the traits of a student as the log keeps them; None where nobody knows.

    told: what the suite says of the target; spec: the same for the loader. trained_on: as its
    card says it; prompts, naming: how many that was, and how many of these name the concept.
    guidance_survives: whether it still takes a guidance (and a negative prompt) as it samples.
    """
    traits = target.traits
    found: dict[str, Any] = {
        "steps": traits.steps,
        "guidance": traits.guidance,
        "guidance_survives": bool(traits.negative_prompt_works),
        "data": traits.data,
        "trained_on": traits.prompts,
        "shared_with_teacher": sorted(traits.shared_with_teacher),
        "prompts": None,
        "naming": None,
        "images": None,
    }
    if is_training(told):
        prompts = read_prompts(spec["prompts"])
        found |= {"prompts": len(prompts), "naming": held.named_in(prompts)}
        found["images"] = told["images"] if traits.data == "real" else None
    elif isinstance(told, Mapping) and "teacher" in told:
        # A plug lies beside them and changes none.
        own = [part for part in NETWORKS if getattr(target, part, None) is not None]
        found["shared_with_teacher"] = own
    return found
