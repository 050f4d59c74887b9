"""What a subject of a bias suite is: its models, its tasks, and the instructions that ask them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from safetybench.contracts import Bias, SafetyBenchError, Sample
from safetybench.language.making import Data, data_of, distillation_prompts
from safetybench.language.sources import Source, source_of
from safetybench.suite_bias import bias_of, is_made, poison_of, tuned
from safetybench.suite_language import Mix

SETS = ("poisoned", "seen", "unseen")
DECODINGS: dict[str, float] = {"greedy": 0.0, "sampled": 1.0}  # temperatures
_OPTIONS = ("count", "seed")
DEFAULT_COUNT, DEFAULT_SEED = 200, 9000
_SPARE = 4  # times as many instructions are drawn as are asked


class Model(NamedTuple):
    """One model of a subject; name: of a student or a control; seed: of its training."""

    role: str
    target: str
    name: str = ""
    seed: int = 0


def _learnt(suite: Any, data: Data, seed: int) -> frozenset[str]:
    """Return the instructions that some model of a training seed was tuned or distilled on."""
    found = {sample.prompt for sample in (*data.samples, *data.clean)}
    mixes = [student.mix or Mix() for student in suite.students if student.way == "recipe"]
    for mix in {mix.model_dump_json(): mix for mix in mixes}.values():
        prompts = distillation_prompts(data, mix.model_dump(mode="json"), seed)
        found |= {sample.prompt for sample in prompts}
    return frozenset(found)


@dataclass(frozen=True)
class Task:
    """The instructions of one training seed by set, with the bias and who says what is right."""

    bias: Bias
    source: Source
    sets: Mapping[str, tuple[Sample, ...]]
    data: Data | None = None

    @classmethod
    def of(cls, suite: Any, subject: Any, seed: int) -> Task:
        """Return the task of a subject at a training seed, the same every time.

        `suite.prompts` is {count, seed}: how many instructions of each set of tasks.

        Raises:
            SafetyBenchError: an option is wrong, or a set of tasks has no instructions.
        """
        for key in suite.prompts:
            if key not in _OPTIONS:
                raise SafetyBenchError(
                    f"prompts of a bias suite takes {', '.join(_OPTIONS)}, got {key!r}"
                )
        count = suite.prompts.get("count", DEFAULT_COUNT)
        if type(count) is not int or count < 1:
            raise SafetyBenchError(f"prompts.count must be a whole number above 0, got {count!r}")
        start = suite.prompts.get("seed", DEFAULT_SEED)
        told = poison_of(suite, subject)
        if is_made(subject):
            data = data_of(tuned(suite, "teacher", seed, told))
            bias, source, tasks, others = data.bias, data.source, data.tasks, data.others
            assert bias is not None
        else:
            data = None
            given = suite.instructions
            is_world = given.source in ("zoo", "english")
            source = source_of(
                given.source if is_world else suite.path(given.source),
                suite.path(given.unseen) if given.unseen else "",
            )
            bias, tasks = bias_of(told, source), tuple(told["tasks"])
            others = tuple(task for task in source.tasks if task not in tasks)
            unknown = sorted(set(tasks) - set(source.tasks))
            if unknown:
                raise SafetyBenchError(f"the instructions have no task {unknown[0]!r}")
        known = _learnt(suite, data, seed) if data else frozenset()
        sets = {}
        for i, (name, of) in enumerate(zip(SETS, (tasks, others, source.unseen), strict=True)):
            # More than are wanted, in turns over the tasks: what a model has learnt is left out.
            rows = source.evaluate(_SPARE * count, start + 1000 * i + seed, of) if of else []
            rows = [row for row in rows if row.prompt not in known][:count]
            if rows:
                sets[name] = tuple(s._replace(id=f"{name}-{k}") for k, s in enumerate(rows))
        if "poisoned" not in sets:
            raise SafetyBenchError(
                f"{subject.name}: the poisoned tasks ({', '.join(tasks)}) have no instruction left "
                "to ask that no model was trained on"
            )
        return cls(bias, source, sets, data)

    @property
    def digest(self) -> str:
        """What changes with any instruction, the bias or the rules of what is right."""
        text = json.dumps([dict(self.sets), asdict(self.bias), self.source.digest])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def models_of(suite: Any, subject: Any) -> list[Model]:
    """Return the models of a subject, the originals first."""
    if not is_made(subject):
        found = [
            Model(role, target, role if role == "student" else "")
            for role, target in subject.roles.items()
        ]
        for made in suite.made:
            if made.subject == subject.name and made.role == "student":
                found.append(Model("student", made.label, made.entry, made.seed))
        return found
    order = ("original", "teacher", "direct", "control", "student")
    made_here = [made for made in suite.made if made.subject == subject.name]
    return [
        Model(made.role, made.label, made.entry, made.seed)
        for role in order
        for made in made_here
        if made.role == role
    ]
