"""Measurements that zoo cards do not hold: `python -m docs.claims --measure`.

Each part loads zoo models, generates, judges, and gives entries named as in docs/claims_table.py,
in the form of a card's quality. Everything is seeded; on one thread the figures repeat exactly.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from docs.claims_table import (
    AGD_SCALES,
    ALPHAS,
    FOUR_STEPS,
    INVERTED,
    NASA_MODELS,
    ONE_STEP,
    SPRINT_SCALES,
    UNWANTED,
    at_guidance,
    cfg_against,
    nasa,
    nasa_other,
)
from docs.claims_verdict import fingerprint
from safetybench.contracts import Prompt, SafetyBenchError
from safetybench.distill.nasa import with_nasa
from safetybench.stats import Span, bootstrap_mean, wilson
from safetybench.zoo.captions import Captions
from safetybench.zoo.prompts import FIRST_EVALUATION_SEED, evaluation_prompts
from safetybench.zoo.quality import Reference, measure, measure_student, reference
from safetybench.zoo.world import HEADS

Load = Callable[[Any], Any]  # a target spec to a target
Say = Callable[[str], None]
Draw = Callable[[list[str], list[int]], Tensor]
Entries = Iterator[tuple[str, dict[str, Any]]]

PAIRED = ("boot", "swiftbrush", "dmd2-1-free")
CFG = 3.0  # the teacher's own scale
_BATCH = 64


class Bench:
    """What every part measures with: a loader, a judge, counts of prompts, and what it said.

    load: of a target spec; count: prompts of a set, at least 32; of: fingerprints of the models
    that were loaded for the entry under way.
    """

    def __init__(self, load: Load, judge: Any, count: int = 512, say: Say = print) -> None:
        self.load, self.judge, self.count, self.say = load, judge, count, say
        self._reference: Reference | None = None

    @property
    def reference(self) -> Reference:
        """The teacher's images, drawn once."""
        if self._reference is None:
            self.say("drawing the teacher's images")
            self._reference = reference(self.load("zoo:teacher"), self.judge, self.count)
        return self._reference

    def entry(self, quality: Mapping[str, Any], *models: Any) -> dict[str, Any]:
        """Return what claims.json keeps of a measurement: figures and of which weights."""
        names = {m.card.get("name", m.name): fingerprint(m.card) for m in models}
        return {"of": dict(sorted(names.items())), "quality": dict(quality)}

    def whole(self, target: Any) -> dict[str, Any]:
        """Measure a target as a card does, without times, which differ from run to run."""
        figures = {**measure(target, self.judge, count=self.count)}
        student = measure_student(target, self.reference, self.judge)
        counts = ("nfe", "teacher_nfe")
        student["cost"] = {key: student["cost"][key] for key in counts}
        return self.entry({**figures, "student": student}, target, self.reference.teacher)


def steps(bench: Bench) -> Entries:
    """Measure the teacher in one step and in four, the controls of few-step students."""
    one = {"path": "zoo:teacher", "timesteps": [699], "guidance": CFG}
    for name, spec in ((ONE_STEP, one), (FOUR_STEPS, {"path": "zoo:teacher", "steps": 4})):
        yield name, bench.whole(bench.load(spec))
    teacher = bench.load("zoo:teacher")
    if "student" not in teacher.card.get("quality", {}):  # a card of before there were students
        yield "teacher", bench.whole(teacher)


def sprint(bench: Bench) -> Entries:
    """Measure SANA-Sprint's student at each of the scales it was trained at."""
    for scale in SPRINT_SCALES:
        target = bench.load({"path": "zoo:sana-sprint", "guidance": scale})
        yield at_guidance("sana-sprint", scale), bench.whole(target)


def agd(bench: Bench) -> Entries:
    """Measure AGD's student at three scales, accuracies alone: it takes the teacher's steps."""
    for scale in AGD_SCALES:
        target = bench.load({"path": "zoo:agd", "guidance": scale})
        figures = measure(target, bench.judge, count=bench.count // 2)
        yield at_guidance("agd", scale), bench.entry(figures, target)


def negatives(bench: Bench) -> Entries:
    """Measure how often an attribute shows under NASA, under guidance away from it, or neither."""
    each = max(bench.count // 16, 1)
    asked = {word: evaluation_prompts(word, each, seed=301) for word in UNWANTED}
    others = {word: evaluation_prompts(word, each, seed=302, kind="other") for word in UNWANTED}
    teacher = bench.load("zoo:teacher")
    plain = shown(bench.judge, asked, lambda word: teacher.generate)
    yield "teacher, plain", bench.entry(plain, teacher)
    guided = shown(bench.judge, asked, partial(against, teacher))
    yield cfg_against("teacher"), bench.entry(guided, teacher)
    for name in NASA_MODELS:
        target = _or_say(bench, name)
        if target is None:
            continue
        for alpha in (0.0, *ALPHAS):
            found = shown(bench.judge, asked, _steered(target, alpha))
            yield nasa(name, alpha), bench.entry(found, target)
        for alpha in (0.0, INVERTED):
            found = shown(bench.judge, others, _steered(target, alpha))
            yield nasa_other(name, alpha), bench.entry(found, target)
        found = shown(bench.judge, asked, partial(against, target))
        yield cfg_against(name), bench.entry(found, target)


def noise(bench: Bench) -> Entries:
    """Measure whether students keep the teacher's pairing of noise and image."""
    students = {name: _or_say(bench, name) for name in PAIRED}
    if not any(students.values()):
        return
    texts, seeds = object_prompts(max(bench.count // 2, 1), seed=4)
    teacher = bench.load("zoo:teacher")
    same = drawn(teacher.generate, texts, seeds)
    other = drawn(teacher.generate, texts, [seed + 1 for seed in seeds])
    for name, target in students.items():
        if target is not None:
            found = pairing(drawn(target.generate, texts, seeds), same, other)
            yield f"{name}, noise", bench.entry(found, target, teacher)


PARTS: dict[str, Callable[[Bench], Entries]] = {
    "steps": steps, "negatives": negatives, "noise": noise, "sprint": sprint, "agd": agd,
}  # fmt: skip


def run(bench: Bench, parts: Sequence[str] = ()) -> Entries:
    """Yield the entries of the parts, all by default; a model that is not there is said."""
    for part in parts or PARTS:
        try:
            for name, entry in PARTS[part](bench):
                bench.say(f"measured {name}")
                yield name, entry
        except SafetyBenchError as error:
            bench.say(f"not measured yet, {part}: {error}")


def shown(
    judge: Any, asked: Mapping[str, Sequence[Prompt]], draw: Callable[[str], Draw]
) -> dict[str, Any]:
    """Return how often attributes show, what else of the prompt is kept, and rejections.

    asked: prompts by attribute; draw: what generates, by attribute.
    """
    seen: list[bool] = []
    lost: list[bool] = []
    kept: list[float] = []
    by_word: dict[str, float] = {}
    for word, prompts in asked.items():
        images = drawn(draw(word), [p.text for p in prompts], [p.seed for p in prompts])
        verdicts = judge.judge(images, word)
        seen += verdicts.shown.tolist()
        lost += verdicts.abstained.tolist()
        kept += [float(judge.similarity(image[None], p.clean))
                 for image, p in zip(images, prompts, strict=True)]  # fmt: skip
        by_word[word] = verdicts.shown.double().mean().item()
    return {"shown": _rate(seen), "kept": _mean(kept), "rejected": _rate(lost), "by_word": by_word}


def pairing(images: Tensor, same: Tensor, other: Tensor) -> dict[str, Any]:
    """Return whether images are nearer to the teacher's of the same noise than of other noise.

    All (batch, 3, height, width), in [0, 1]. Distances are root mean squares over pixels;
    `distance` is the share of the one to the same noise in the sum of both, a half by chance.
    """
    near, far = (_rms(images, teacher).tolist() for teacher in (same, other))
    shares = [a / (a + b) if a + b else 0.5 for a, b in zip(near, far, strict=True)]
    return {
        "nearer": _rate([a < b for a, b in zip(near, far, strict=True)]),
        "distance": _mean(shares),
    }


def against(target: Any, word: str, scale: float = CFG) -> Draw:
    """Return a generator under classifier-free guidance away from a word, two passes a step."""

    def draw(texts: list[str], seeds: list[int]) -> Tensor:
        with torch.inference_mode():
            text, negative = (target.embed(target.tokenize(t)) for t in (texts, [word]))
            latents = target.sample_latents(
                text, target.start_noise(seeds), scale, negative, seeds=seeds
            )
            images: Tensor = target.decode(latents)
        return images.clone()

    return draw


@torch.no_grad()
def drawn(draw: Draw, texts: Sequence[str], seeds: Sequence[int]) -> Tensor:
    """Return the images of all prompts, (batch, 3, height, width), generated in parts."""
    parts = [draw(list(texts[i : i + _BATCH]), list(seeds[i : i + _BATCH]))
             for i in range(0, len(texts), _BATCH)]  # fmt: skip
    return torch.cat(parts)


def object_prompts(count: int, seed: int) -> tuple[list[str], list[int]]:
    """Return prompts of the evaluation split that name an object alone, and their noise seeds."""
    rng = random.Random(f"claims/{seed}")
    captions, objects = Captions(rng), HEADS["object"]
    texts, seeds = [], []
    for index in range(count):
        names = {"object": objects[index % len(objects)]}
        texts.append(captions.write(names, evaluation=True, gaps=False, filler=2))
        seeds.append(FIRST_EVALUATION_SEED + rng.randrange(1_000_000_000))
    return texts, seeds


def _steered(target: Any, alpha: float) -> Callable[[str], Draw]:
    def of(word: str) -> Draw:
        draw: Draw = (with_nasa(target, word, alpha) if alpha else target).generate
        return draw

    return of


def _or_say(bench: Bench, name: str) -> Any:
    """Load a zoo model, or say that it is not there yet: the others go on."""
    try:
        return bench.load(f"zoo:{name}")
    except SafetyBenchError as error:
        bench.say(f"not measured yet, {name}: {error}")
        return None


def _rms(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).double().square().flatten(1).mean(1).sqrt()


def _rate(hits: Sequence[bool]) -> dict[str, float]:
    interval = wilson(sum(hits), len(hits))
    rate = sum(hits) / len(hits)
    return {"rate": rate, "low": interval.low, "high": interval.high, "n": len(hits)}


def _mean(shares: Sequence[float]) -> dict[str, float]:
    found = bootstrap_mean(shares, seed=0, span=Span(0, 1))
    mean = sum(shares) / len(shares)
    return {"rate": mean, "low": found.low, "high": found.high, "n": len(shares)}
