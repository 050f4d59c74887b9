"""What a zoo model can do, measured with the judge: the figures of its card and its gates.

`measure` is for every model; `measure_student` says what distillation cost, against a
`reference` of the original teacher's images.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safetybench.stats import Span, clustered_bootstrap, wilson
from safetybench.zoo import diversity
from safetybench.zoo.captions import Captions
from safetybench.zoo.prompts import FIRST_EVALUATION_SEED, evaluation_prompts, head_of
from safetybench.zoo.world import HEADS

_BATCH = 64
_COST_BATCH = 16
_DRAWS = 2
_FREE = ("style", "colour", "background")  # what a prompt that names the object leaves open


class Asked(NamedTuple):
    """A prompt, its noise seed and the attributes that it names, by head."""

    text: str
    seed: int
    names: Mapping[str, str]


class Drawn(NamedTuple):
    """Images of one model as the judge sees them, every prompt drawn from two seeds.

    features: (2, prompts, width); labels: by head, (2, prompts); rejected: (2, prompts) bool;
    nfe: network evaluations an image.
    """

    features: Tensor
    labels: Mapping[str, Tensor]
    rejected: Tensor
    nfe: float


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the original teacher draws, for every student to be measured against.

    asked: the prompts, first the `named` that name all four attributes, then those that name
    the object alone; drawn: the teacher's images of them; teacher: kept to be timed.
    """

    teacher: Any
    asked: tuple[Asked, ...]
    named: int
    drawn: Drawn


class Gate(NamedTuple):
    """One quality gate: a measured figure against its limit."""

    name: str
    value: float
    limit: float
    at_least: bool

    @property
    def holds(self) -> bool:
        """Tell whether the figure is on the right side of its limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def quality_prompts(count: int, seed: int = 1) -> list[Asked]:
    """Return prompts of the evaluation split with every attribute drawn uniformly."""
    rng = random.Random(f"quality/{seed}")
    captions = Captions(rng)
    asked = []
    for _ in range(count):
        names = {head: rng.choice(classes) for head, classes in HEADS.items()}
        text = captions.write(names, evaluation=True, gaps=False, filler=2)
        noise = FIRST_EVALUATION_SEED + rng.randrange(1_000_000_000)
        asked.append(Asked(text, noise, names))
    return asked


def measure(
    target: Any, judge: Any, without: Sequence[str] = (), count: int = 512
) -> dict[str, Any]:
    """Return accuracy by head with intervals, by class of object and style, and rejections.

    judge: the zoo's; its network is read by head, not through one concept's threshold.
    without: concepts; for each, accuracy by head on the prompts that do not ask for it.
    """
    asked = quality_prompts(count)
    logits = _judged(target, judge, [a.text for a in asked], [a.seed for a in asked])
    figures: dict[str, Any] = {"prompts": count, "without": {}}
    rights = {}
    for head, classes in HEADS.items():
        truth = torch.tensor([classes.index(a.names[head]) for a in asked])
        rights[head] = right = logits[head].argmax(1) == truth
        figures[head] = _rate(right)
        if head in ("object", "style"):
            figures[f"{head}_by_class"] = {
                name: right[truth == index].float().mean().item()
                for index, name in enumerate(classes)
            }
    for concept in without:
        kept = torch.tensor([a.names[head_of(concept)] != concept for a in asked])
        figures["without"][concept] = {head: _rate(right[kept]) for head, right in rights.items()}
    figures["rejected"] = (logits["world"].softmax(1)[:, 1] < judge.world).float().mean().item()
    return figures


def reference(teacher: Any, judge: Any, count: int = 512) -> Reference:
    """Return the teacher's images of `count` prompts, two of each, as the judge sees them.

    count: at least 32; a quarter of the prompts name all four attributes, the rest the object
    alone, as rare combinations need the larger number.
    """
    if count < 32:
        raise ValueError(f"count must be at least 32, got {count}")
    named = count // 4
    asked = (*quality_prompts(named, seed=2), *_object_prompts(count - named, seed=3))
    return Reference(
        teacher=teacher, asked=asked, named=named, drawn=_draw(teacher, judge, asked, 0)
    )


def measure_student(target: Any, reference: Reference, judge: Any) -> dict[str, Any]:
    """Return what a model kept of the original teacher's images, and at what cost; JSON-safe.

    Its images are of the reference's prompts from other seeds; shares stand as {rate, low, high,
    n}, intervals at 95 % with prompts resampled. Give it the teacher to see what chance does.
    Only cost.*cpu_ms and cost.cpu_ratio differ from run to run.

    prompts, images: how many; rejected: share of images the judge takes for none of this
    world, `student` and `teacher`, of prompts that are `named` in full and `free`;
    alignment: share of the four named attributes that show, and the `teacher`'s;
    kid_judge_features: `value`, `low`, `high`, and a like `floor` between the teacher's two draws;
    precision, recall: `value`, and `ceiling` between the teacher's two draws;
    The others are of prompts that name the object alone, rejected images left out:
    rare: `student` and `teacher` share of the teacher's rarest colours x styles, chosen on its
    first draw, at most 25 % of it, and counted in its second; `ratio` with `low` and `high`
    (None without bound);
    repeats: share of prompts whose two images have one colour and style, `student`, `teacher`;
    modes: distinct style x colour x background to be expected `among` so many images, `student`,
    `teacher`, and `possible`;
    entropy_bits: by attribute left free, `student` and `teacher`;
    cost: `nfe` and `teacher_nfe` an image; `cpu_ms` and `teacher_cpu_ms` an image by process
    time, `cpu_ratio` student / teacher, at `batch` and `threads`; None where not on the CPU.
    """
    base, named = reference.drawn, reference.named
    drawn = _draw(target, judge, reference.asked, _DRAWS)
    return {
        "prompts": len(reference.asked),
        "images": drawn.rejected.numel(),
        "rejected": {"student": _rejected(drawn, named), "teacher": _rejected(base, named)},
        "alignment": _alignment(drawn, reference)
        | {"teacher": _alignment(base, reference)["rate"]},
        **_closeness(drawn.features, base.features),
        **_variety(_codes(drawn, named), _codes(base, named)),
        "cost": {"nfe": drawn.nfe, "teacher_nfe": base.nfe, **_cost(target, reference)},
    }


def measure_erasure(target: Any, judge: Any, concept: str, count: int = 256) -> dict[str, Any]:
    """Return how often a concept's own prompts still show it, as the judge decides."""
    prompts = evaluation_prompts(concept, count, seed=77)
    shown, similar = [], []
    for start in range(0, count, _BATCH):
        part = prompts[start : start + _BATCH]
        images = target.generate([p.text for p in part], [p.seed for p in part])
        shown.append(judge.judge(images, concept).shown)
        similar += [float(judge.similarity(image[None], p.clean))
                    for image, p in zip(images, part, strict=True)]  # fmt: skip
    return {
        "concept": concept,
        "prompts": count,
        "shown": _rate(torch.cat(shown)),
        "other_attributes": sum(similar) / count,
    }


def others_lost(figures: Mapping[str, Any], base: Mapping[str, Any], concept: str) -> float:
    """Return the largest loss of accuracy of any attribute where the concept is not asked for."""
    before, after = base["without"][concept], figures["without"][concept]
    return max(float(before[head]["rate"]) - float(after[head]["rate"]) for head in HEADS)


@torch.no_grad()
def _judged(target: Any, judge: Any, texts: list[str], seeds: list[int]) -> dict[str, Tensor]:
    parts = []
    for start in range(0, len(texts), _BATCH):
        images = target.generate(texts[start : start + _BATCH], seeds[start : start + _BATCH])
        parts.append(judge.logits(images))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _rate(right: Tensor) -> dict[str, float]:
    hits, count = int(right.sum()), len(right)
    interval = wilson(hits, count)
    return {"rate": hits / count, "low": interval.low, "high": interval.high, "n": count}


def _object_prompts(count: int, seed: int) -> list[Asked]:
    """Return prompts of the evaluation split that name an object and nothing else."""
    rng = random.Random(f"object/{seed}")
    captions, objects = Captions(rng), HEADS["object"]
    asked = []
    for index in range(count):
        names = {"object": objects[index % len(objects)]}
        text = captions.write(names, evaluation=True, gaps=False, filler=2)
        asked.append(Asked(text, FIRST_EVALUATION_SEED + rng.randrange(1_000_000_000), names))
    return asked


@torch.no_grad()
def _draw(target: Any, judge: Any, asked: Sequence[Asked], first: int) -> Drawn:
    """Draw every prompt twice; first: added to the prompts' seeds, so that no two models share."""
    texts = [a.text for a in asked] * _DRAWS
    seeds = [a.seed + first + draw for draw in range(_DRAWS) for a in asked]
    before, features, parts = target.nfe, [], []
    for start in range(0, len(texts), _BATCH):
        images = target.generate(texts[start : start + _BATCH], seeds[start : start + _BATCH])
        features.append(judge.features(images).cpu())
        parts.append({name: value.cpu() for name, value in judge.logits(images).items()})
    logits = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    rejected = logits["world"].softmax(1)[:, 1] < judge.world
    shape = (_DRAWS, len(asked))
    return Drawn(
        torch.cat(features).unflatten(0, shape),
        {head: logits[head].argmax(1).unflatten(0, shape) for head in HEADS},
        rejected.unflatten(0, shape),
        (target.nfe - before) / len(texts),
    )


def _rejected(drawn: Drawn, named: int) -> dict[str, Any]:
    parts = {"named": drawn.rejected[:, :named], "free": drawn.rejected[:, named:]}
    return {name: _rate(part.flatten()) for name, part in parts.items()}


def _alignment(drawn: Drawn, reference: Reference) -> dict[str, float]:
    asked = reference.asked[: reference.named]
    hits = []
    for head, classes in HEADS.items():
        truth = torch.tensor([classes.index(a.names[head]) for a in asked])
        hits.append(drawn.labels[head][:, : len(asked)] == truth)
    shares = torch.stack(hits).double().mean(0).flatten().tolist()
    found = clustered_bootstrap(shares, list(range(len(asked))) * _DRAWS, seed=0, span=Span(0, 1))
    rate = sum(shares) / len(shares)
    return {"rate": rate, "low": found.low, "high": found.high, "n": len(shares)}


def _closeness(student: Tensor, teacher: Tensor) -> dict[str, Any]:
    first, second = teacher  # each (prompts, width)
    pairs = [diversity.precision_recall(*pair) for pair in zip(student, teacher, strict=True)]
    chance = [diversity.precision_recall(*pair) for pair in ((first, second), (second, first))]
    floor = diversity.kid(first[None], second[None])._asdict()
    figures: dict[str, Any] = {
        "kid_judge_features": diversity.kid(student, teacher)._asdict() | {"floor": floor}
    }
    for name in diversity.Manifold._fields:
        value, ceiling = (sum(getattr(m, name) for m in of) / _DRAWS for of in (pairs, chance))
        figures[name] = {"value": value, "ceiling": ceiling}
    return figures


def _codes(drawn: Drawn, named: int) -> dict[str, Tensor]:
    """Return labels (2, prompts) of the prompts that leave attributes free, -1 where rejected.

    By free head, and two combinations: "mode" of all three, "rare" of style and colour.
    """
    rejected = drawn.rejected[:, named:]
    own = {head: drawn.labels[head][:, named:] for head in _FREE}
    pair = own["style"] * len(HEADS["colour"]) + own["colour"]
    own |= {"rare": pair, "mode": pair * len(HEADS["background"]) + own["background"]}
    return {name: labels.masked_fill(rejected, -1) for name, labels in own.items()}


def _variety(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> dict[str, Any]:
    pairs = len(HEADS["style"]) * len(HEADS["colour"])
    sides = {"student": student, "teacher": teacher}
    among = min(int((codes["mode"] >= 0).sum()) for codes in sides.values())
    return {
        "rare": diversity.rare_shares(student["rare"], teacher["rare"], pairs),
        "repeats": {side: _repeats(codes["rare"]) for side, codes in sides.items()},
        "modes": {
            **{side: diversity.distinct(codes["mode"], among) for side, codes in sides.items()},
            "among": among,
            "possible": pairs * len(HEADS["background"]),
        },
        "entropy_bits": {
            head: {
                side: diversity.entropy_bits(codes[head], len(HEADS[head]))
                for side, codes in sides.items()
            }
            for head in _FREE
        },
    }


def _repeats(codes: Tensor) -> dict[str, Any]:
    """Return how often two images of one prompt, both of this world, show the same."""
    first, second = codes[:, (codes >= 0).all(0)]
    same = first == second
    return _rate(same) if len(same) else {"rate": None, "low": 0.0, "high": 1.0, "n": 0}


def _cost(target: Any, reference: Reference) -> dict[str, Any]:
    """Time student and teacher in turn on one thread; the fastest of three of each."""
    seconds: dict[str, list[float]] = {"cpu_ms": [], "teacher_cpu_ms": []}
    models = {"cpu_ms": target, "teacher_cpu_ms": reference.teacher}
    label = {"batch": _COST_BATCH, "threads": 1}
    if any(torch.device(model.device).type != "cpu" for model in models.values()):
        return {"cpu_ms": None, "teacher_cpu_ms": None, "cpu_ratio": None, **label}
    asked = reference.asked[:_COST_BATCH]
    texts, seeds = [a.text for a in asked], [a.seed for a in asked]
    with _one_thread():
        for _ in range(3):  # in turn, so that a busy machine slows both
            for name, model in models.items():
                began = time.process_time()
                model.generate(texts, seeds)
                seconds[name].append(time.process_time() - began)
    best = {name: 1000 * min(each) / len(asked) for name, each in seconds.items()}
    ratio = best["cpu_ms"] / best["teacher_cpu_ms"] if best["teacher_cpu_ms"] else None
    return {**best, "cpu_ratio": ratio, **label}


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
