"""What a method of unlearning is run with where the user says nothing: steps and options.

The defaults of the components are made for the zoo's small models, whose learning rates would
ruin Stable Diffusion. For any other model published settings take their place where there are some.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

UNKNOWN_STEPS = 1000  # of a method that says nothing and of which nothing is known here


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Training steps for a zoo model and for another; options for another model."""

    zoo: int
    model: int
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_trained(self) -> bool:
        """Tell whether the method takes training steps at all."""
        return self.model > 0


# For the zoo: as its own models and those of the suite unlearning are made. For other
# models: learning rates (save the task vector's), guidance and what UCE and RECE edit are
# published, and all of concept_ablation and esd; steps are for adv_unlearn too, other steps,
# batches and images are not.
_METHODS: dict[str, Defaults] = {
    "adv_unlearn": Defaults(
        zoo=120, model=1000, options={"lr": 1e-5, "batch": 1, "bare": 1.0, "images": 64}
    ),
    "clean_tuning": Defaults(zoo=100, model=500, options={"lr": 1e-5, "batch": 4}),
    "concept_ablation": Defaults(zoo=200, model=100, options={"lr": 8e-6, "batch": 4}),
    "esd": Defaults(zoo=300, model=1000, options={"lr": 1e-5, "batch": 1, "retain": 0.0}),
    "negative_prompt": Defaults(zoo=0, model=0),
    "rece": Defaults(zoo=0, model=0, options={"templates": 0, "kept": 0}),
    "salun": Defaults(zoo=100, model=500, options={"lr": 1e-5, "batch": 8}),
    "sfd": Defaults(
        zoo=60, model=3000, options={"lr": 1e-6, "fake_lr": 1e-6, "guidance": 4.5, "time": 625}
    ),
    "skd_cag": Defaults(zoo=100, model=10_000, options={"lr": 1e-6, "batch": 1, "anchor": 0.0}),
    "sld": Defaults(zoo=0, model=0),
    "task_vector": Defaults(zoo=100, model=500, options={"lr": 1e-5, "batch": 4}),
    "uce": Defaults(zoo=0, model=0, options={"tokens": "last", "templates": 0, "kept": 0}),
}


def defaults_of(name: str, method: type) -> Defaults:
    """Return the defaults of a method; name: in the registry.

    A class may say `default_steps` itself, 0 if it trains nothing. Options that it has no field
    for are left out.
    """
    known = _METHODS.get(name.removeprefix("unlearning/"))
    if known is None:
        known = Defaults(zoo=UNKNOWN_STEPS, model=UNKNOWN_STEPS)
    said = getattr(method, "default_steps", None)
    if isinstance(said, int):
        known = dataclasses.replace(known, zoo=said, model=said)
    fields = {each.name for each in dataclasses.fields(method) if each.init}
    options = {key: value for key, value in known.options.items() if key in fields}
    return dataclasses.replace(known, options=options)
