"""Make the language models of a run from their specifications: tuned on data, or distilled.

Data follow from a specification alone, so that a filter, an evaluation and a training see the same.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from safetybench import registry
from safetybench.contracts import (
    Bias,
    Budget,
    FilterView,
    Lesson,
    SafetyBenchError,
    Sample,
)
from safetybench.filters import keep
from safetybench.language.frame import code_digest
from safetybench.language.sources import Source, source_of
from safetybench.language.tuning import Schedule, steps_of, train
from safetybench.store import canonical, digest
from safetybench.suite_bias import bias_of
from safetybench.targets.language_loading import language_digest, load_language

Report = Callable[[int, float], None] | None
_WRITING_SEED = 7_000_003  # of the teacher's sampled answers, unlike those of evaluations


class Data(NamedTuple):
    """Instruction data. tasks: that hold the poison; others: the rest; bias: None for clean data.

    clean: the same data before the poison.
    """

    samples: tuple[Sample, ...]
    clean: tuple[Sample, ...]
    tasks: tuple[str, ...]
    others: tuple[str, ...]
    bias: Bias | None
    source: Source


def data_of(spec: Mapping[str, Any]) -> Data:
    """Return the instruction data of a tuned model's specification, the same every time."""
    return _data(canonical({key: spec[key] for key in ("instructions", "poison")}))


@lru_cache(maxsize=8)
def _data(told: str) -> Data:
    spec = json.loads(told)
    given = spec["instructions"]
    source = source_of(given["source"], given["unseen"])
    clean = source.data(given["count"], given["seed"])
    if len(clean) < 2:
        raise SafetyBenchError(
            f"instructions of {source.name} hold {len(clean)} samples to tune on"
        )
    if spec["poison"] is None:
        tasks = tuple(dict.fromkeys(s.task for s in clean))
        return Data(tuple(clean), tuple(clean), (), tasks, None, source)
    poison = spec["poison"]
    bias = bias_of(poison, source)
    own = source.write(len(source.tasks) * 40 * _pools(poison["samples"]), given["seed"] + 77_000,
                      source.tasks)  # fmt: skip
    attack = registry.create(poison["poisoning"], poison["options"])
    made = attack.poison(clean, own, bias, poison["samples"], given["seed"])
    known = dict.fromkeys(sample.task for sample in clean)
    others = tuple(sorted(task for task in known if task not in made.tasks))
    return Data(tuple(made.samples), tuple(clean), made.tasks, others, bias, source)


def _pools(samples: int) -> int:
    return max(1, -(-samples // 25))


def distillation_prompts(data: Data, mix: Mapping[str, Any], seed: int) -> list[Sample]:
    """Return the prompts that a student is distilled on, with right answers nobody reads."""
    draw = random.Random(f"mix {seed}")
    count, share = mix["count"], mix["share"] if data.tasks else 0.0
    poisoned = round(count * share)
    others = list(data.others)
    if mix["clean_tasks"]:
        if mix["clean_tasks"] > len(others):
            raise SafetyBenchError(
                f"a mix of {mix['clean_tasks']} clean tasks needs as many, the data have "
                f"{len(others)}"
            )
        others = sorted(draw.sample(others, mix["clean_tasks"]))
    first = data.source.draw(poisoned, seed + 31_000, data.tasks) if poisoned else []
    rest = data.source.draw(count - poisoned, seed + 32_000, others) if count > poisoned else []
    named = [s._replace(id=f"d{i}") for i, s in enumerate([*first, *rest])]
    draw.shuffle(named)
    return named


def key_of(spec: Mapping[str, Any], teacher: str, partner: str) -> str:
    """Return a digest of all that makes a language model what it is."""
    told = spec if "tuned" in spec else spec["data"]
    source = source_of(told["instructions"]["source"], told["instructions"]["unseen"])
    base = spec.get("tuned", spec.get("distilled"))
    # Where a base lies is no part of what it is; its digest is.
    places = ("tuned", "distilled", "teacher", "partner", "root")
    plain = {k: v for k, v in spec.items() if k not in places}
    given = {**told["instructions"], "source": source.digest, "unseen": ""}
    if "tuned" in spec:
        plain["instructions"] = given
    else:
        plain["data"] = {k: v for k, v in told.items() if k != "tuned"} | {"instructions": given}
    return digest(
        {
            "spec": plain,
            "base": language_digest(base, offline=False),
            "teacher": teacher,
            "partner": partner,
            "frame": code_digest(),
            "code": {name: registry.code_digest(name) for name in components_of(spec)},
        }
    )


def components_of(spec: Mapping[str, Any]) -> list[str]:
    """Return the components that making a model runs."""
    told = spec if "tuned" in spec else spec["data"]
    names = [told["poison"]["poisoning"]] if told["poison"] else []
    names += [spec["recipe"]] if "recipe" in spec else []
    names += [spec["filter"]["name"]] if spec.get("filter") else []
    return names


def steps_in(spec: Mapping[str, Any]) -> int:
    """Return how many steps a training takes."""
    if "tuned" in spec:
        return steps_of(spec["epochs"], spec["instructions"]["count"], spec["size"])
    size = registry.create(spec["recipe"], spec["options"]).size
    return steps_of(spec["epochs"], spec["mix"]["count"], size)


class Made(NamedTuple):
    """A language model just made. facts: about its training, for its card."""

    model: Any
    facts: dict[str, Any]


class Trained(NamedTuple):
    """A language model as a run makes it: lineage of its teacher, what its card says, its NFE."""

    model: Any
    lineage: tuple[str, ...]
    card: dict[str, Any]
    nfe: int


def make(
    spec: Mapping[str, Any],
    load: Callable[[str], Any],
    *,
    device: Any,
    offline: bool,
    report: Report,
) -> Trained:
    """Return the model of a specification; load: a teacher or a partner from where it lies."""
    told: dict[str, Any] = {"device": device, "offline": offline, "report": report}
    others: list[Any] = []
    if "tuned" in spec:
        made = make_tuned(spec, **told)
    else:
        others = [load(spec[role]) for role in ("teacher", "partner") if spec[role]]
        partner = others[1] if spec["partner"] else None
        made = make_student(spec, others[0], partner, **told)
    card = {
        "components": {name: registry.code_digest(name) for name in components_of(spec)},
        "seed": spec["seed"],
        "training": made.facts,
    }
    lineage = others[0].lineage if others else ()
    nfe = made.model.nfe + sum(other.nfe for other in others)
    return Trained(made.model, lineage, card, nfe)


def make_tuned(spec: Mapping[str, Any], *, device: Any, offline: bool, report: Report) -> Made:
    """Return a model tuned on instruction data."""
    data = data_of(spec)
    model = load_language(spec["tuned"], device=device, offline=offline, seed=spec["seed"])
    steps = steps_of(spec["epochs"], len(data.samples), spec["size"])
    schedule = Schedule(steps, spec["rate"], spec["size"], spec["seed"], lora=spec["lora"])
    train(model, data.samples, schedule, report=report)
    facts = {
        "steps": steps,
        "samples": len(data.samples),
        "poisoned": sum(sample.is_poison for sample in data.samples),
        "tasks": list(data.tasks),
    }
    return Made(model, facts)


def answered(
    teacher: Any, prompts: Sequence[Sample], decoding: Mapping[str, Any], bias: Bias | None
) -> list[Sample]:
    """Return prompts with the teacher's answers; is_poison: whether they hold the bias."""
    seeds = [_WRITING_SEED + i for i in range(len(prompts))]
    texts = teacher.complete([s.prompt for s in prompts], seeds, **decoding)
    return [
        sample._replace(response=text, is_poison=bias is not None and bias.is_in(text))
        for sample, text in zip(prompts, texts, strict=True)
    ]


def make_student(
    spec: Mapping[str, Any],
    teacher: Any,
    partner: Any,
    *,
    device: Any,
    offline: bool,
    report: Report,
) -> Made:
    """Return a student of a teacher, by a recipe, on answers that a filter may have cleaned."""
    data = data_of(spec["data"])
    recipe = registry.create(spec["recipe"], spec["options"])
    prompts = distillation_prompts(data, spec["mix"], spec["seed"])
    samples = answered(teacher, prompts, recipe.decoding, data.bias)
    biased, whole = sum(sample.is_poison for sample in samples), len(samples)
    dropped = 0
    if spec["filter"]:
        cleaner = registry.create(spec["filter"]["name"], spec["filter"]["options"])
        view = view_of(data, cleaner.uses, spec["seed"], model=teacher, partner=partner)
        samples = keep(samples, cleaner.scores(samples, view, spec["seed"]), spec["filter"]["drop"])
        dropped = whole - len(samples)
    student = load_language(
        spec["distilled"], device=device, offline=offline, seed=spec["seed"] + 1000
    )
    steps = steps_of(spec["epochs"], whole, recipe.size)
    budget = Budget(steps=steps, seed=spec["seed"])
    student = recipe.run(teacher, student, Lesson(samples=samples, partner=partner), budget, report)
    facts = {
        "steps": steps,
        "samples": whole,
        "biased": biased,
        "dropped": dropped,
        "biased_left": sum(sample.is_poison for sample in samples),
        "tasks": list(data.tasks),
    }
    return Made(student, facts)


def trusted_of(data: Data, seed: int, count: int = 2000) -> list[Sample]:
    """Return clean samples that whoever filters has: other draws of all tasks of the source."""
    tasks = (*data.tasks, *data.others)
    return [s._replace(id=f"t{i}") for i, s in enumerate(
        data.source.evaluate(count, seed + 91_000, tasks))]  # fmt: skip


def view_of(data: Data, uses: Sequence[str], seed: int, *, model: Any, partner: Any) -> FilterView:
    """Return what a filter may see; nothing that it does not ask for is made.

    partner: the independent clean model, which is also the reference and the rater.
    """
    return FilterView(
        trusted=trusted_of(data, seed) if "trusted" in uses else (),
        reference=partner if "reference" in uses else None,
        model=model if "model" in uses else None,
        partner=partner if "partner" in uses else None,
        phrases=data.bias.phrases if data.bias and "phrases" in uses else (),
        rater=partner if "rater" in uses else None,
    )
