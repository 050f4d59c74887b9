"""Time one computation in two ways, in turns, and hold their results to each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from benchmarks.models import Brightness
from safetybench.contracts import Aids, Budget, Prompt
from safetybench.registry import create
from safetybench.scenarios._search import search

# Batched and single convolutions round differently; a different text changes far more.
TOLERANCE = 1e-3


class Row(NamedTuple):
    """One comparison.

    plain_s, batched_s: the fastest of the repeats, processor seconds where there is no GPU;
    worst: largest difference between the results, of a number; same: whether all agree.
    """

    name: str
    items: int
    plain_s: float
    batched_s: float
    worst: float
    same: bool

    @property
    def ratio(self) -> float:
        """How many times faster the batched path is."""
        return self.plain_s / self.batched_s


class Found(NamedTuple):
    """What a path computed: labels that must be equal and numbers that must be close."""

    labels: Sequence[Any]
    numbers: torch.Tensor


def compare(
    name: str, items: int, plain: Callable[[], Found], batched: Callable[[], Found], repeats: int
) -> Row:
    """Run both paths in turns, so that a busy moment of the machine hits both."""
    times: dict[str, list[float]] = {"plain": [], "batched": []}
    results: dict[str, Found] = {}
    for _ in range(repeats):
        for way, path in (("plain", plain), ("batched", batched)):
            began = _now()
            results[way] = path()
            times[way].append(_now() - began)
    one, other = results["plain"], results["batched"]
    worst = float((one.numbers - other.numbers).abs().max())
    same = list(one.labels) == list(other.labels) and worst <= TOLERANCE
    return Row(name, items, min(times["plain"]), min(times["batched"]), worst, same)


def _now() -> float:
    """Return seconds: of this process on a CPU, where others may be at work, else of the clock."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def search_row(target: Any, prompts: Sequence[Prompt], budget: Budget, repeats: int) -> Row:
    """Compare a batched UnlearnDiffAtk search with the same search one prompt at a time."""
    attack = create("attacks/prompts/unlearndiffatk", {"preset": "zoo"})
    references = target.generate([p.text for p in prompts], [p.seed for p in prompts])

    def run(groups: Sequence[Sequence[int]]) -> Found:
        trials = []
        for group in groups:
            trials += search(
                target,
                Brightness(),
                [prompts[i] for i in group],
                "fish",
                attack=attack,
                aids=Aids(concept="fish", references=references[list(group)]),
                budget=budget,
            )
        # The text alone is of the brightest image; the scores tell every text that was tried.
        labels = [(trial.text, trial.steps, len(trial.shown)) for trial in trials]
        return Found(labels, torch.tensor([trial.probability for trial in trials]))

    everyone = range(len(prompts))
    return compare(
        "UnlearnDiffAtk search", len(prompts),
        lambda: run([[i] for i in everyone]), lambda: run([everyone]), repeats,
    )  # fmt: skip


def generation_row(target: Any, prompts: Sequence[Prompt], repeats: int) -> Row:
    """Compare batched generation with one image at a time."""
    texts, seeds = [p.text for p in prompts], [p.seed for p in prompts]

    def plain() -> Found:
        pairs = zip(texts, seeds, strict=True)
        return Found([], torch.cat([target.generate([text], [seed]) for text, seed in pairs]))

    return compare(
        "generation", len(prompts), plain, lambda: Found([], target.generate(texts, seeds)), repeats
    )


def judge_row(network: Any, images: torch.Tensor, repeats: int) -> Row:
    """Compare judging a batch of images (batch, 3, height, width) with one at a time."""

    @torch.inference_mode()
    def run(parts: Sequence[torch.Tensor]) -> Found:
        answers = [network(part) for part in parts]
        heads = list(answers[0])
        shares = torch.cat(
            [torch.cat([answer[head].softmax(1) for head in heads], 1) for answer in answers]
        )
        return Found([], shares)

    return compare(
        "judge", len(images), lambda: run(images.split(1)), lambda: run([images]), repeats
    )
