"""Evasion: which small changes make a classifier wrong, and what did distillation do to that?

The same test images go to the undefended original, a teacher and its students, as they are, under
each attack of the suite, under random noise of the same size, and under the probes that tell a
robust model from one whose gradients are masked. That the class is wrong is harm.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Budget, Cell, Item, SafetyBenchError, Scenario
from safetybench.harness.plan import PARTNER
from safetybench.registry import register
from safetybench.suite_evasion import claim_of
from safetybench.targets.classifier_loading import check_fits
from safetybench.vision import evading, landscape

from ._evasion_summary import summarise
from ._evasion_task import (
    DRAWS,
    MOST_DRAWS,
    NOISE,
    Model,
    Task,
    budget_of,
    models_of,
    probes,
    short,
)

_CHUNK = 100


@register
@dataclass(frozen=True, kw_only=True)
class Evasion(Scenario):
    """Robust accuracy of teachers and students as the worst case over attacks, and its validity.

    After Carlini et al. (2019) on how to evaluate robustness, and Croce and Hein (2020). Student
    against teacher is paired by image.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/1902.06705"
    reads: ClassVar[tuple[str, ...]] = ("data", "attacks", "students")

    def cells(self, suite: Any) -> list[Cell]:
        """Expand a suite; cells of one target stand together, so that it loads once."""
        task = Task.of(suite)
        return [cell for subject in suite.subjects for cell in _subject_cells(suite, subject, task)]

    def run_chunk(self, cell: Cell, chunk: int, items: Sequence[str], context: Any) -> list[Item]:
        """Attack these images, or look at the gradients on them."""
        if "evasion" not in context.memo:
            context.memo["evasion"] = Task.of(context.suite)
        task: Task = context.memo["evasion"]
        target, rows = context.target(cell.target), task.rows(items)
        try:
            check_fits(target, task.source)
        except SafetyBenchError as error:
            context.load_error = error  # of the whole target: no image can change that
            raise
        images, labels = rows.images.to(target.device), rows.labels.to(target.device)
        if cell.kind == "gradients":
            found = landscape.gradients(target, images, labels)
            for note in getattr(target, "notes", ())[:1]:
                found[0]["note"] = note
            return [_looked(cell, chunk, *each) for each in zip(items, found, strict=True)]
        if cell.kind == "landscape":
            found = landscape.landscapes(target, images, labels, cell.budget)
            return [_looked(cell, chunk, *each) for each in zip(items, found, strict=True)]
        if not cell.attack:
            logits = evading.predict(target, images)
            wrong = context.judge.wrong(logits, labels)
            bare: list[dict[str, Any]] = [{} for _ in items]
        else:
            told = {key: value for key, value in cell.options.items() if key != PARTNER}
            attack = registry.create(cell.attack, told)
            second = cell.options.get(PARTNER)
            surrogate = context.target(str(second)) if second else None
            seed = zlib.crc32(f"{cell.budget.seed} {chunk}".encode())
            budget = replace(cell.budget, seed=seed)
            made = evading.evade(attack, target, images, labels, budget, surrogate)
            logits, wrong = made.logits, context.judge.wrong(made.logits, labels)
            bare = [
                {"linf": _short(a), "l2": _short(b), "was_right": bool(c)}
                for a, b, c in zip(made.linf, made.l2, made.was_right, strict=True)
            ]
        return [
            _judged(cell, chunk, item, *row)
            for item, row in zip(items, zip(logits, labels, wrong, bare, strict=True), strict=True)
        ]

    def summarise(
        self, suite: Any, cells: Sequence[Cell], items: Sequence[Item]
    ) -> Mapping[str, Any]:
        """Return rates, pairs, checks and the table of models; see `_evasion_summary`."""
        return summarise(suite, cells, items)


def _judged(
    cell: Cell, chunk: int, item: str, row: Tensor, label: Tensor, wrong: Tensor, more: Any
) -> Item:
    """Return how one image was classified; score: how unlikely the model holds its class."""
    probability = float(torch.softmax(row.double(), 0)[label])
    return Item(
        cell=cell.label,
        chunk=chunk,
        item=item,
        status="ok",
        success=bool(wrong),
        score=round(1 - probability, 6),
        images=1,
        steps=cell.budget.steps,
        seed=cell.seed,
        extra={
            "label": int(label),
            "answer": int(row.argmax()),
            **more,
            "shown": [int(wrong)],
            "abstained": [0],
        },
    )


def _looked(cell: Cell, chunk: int, item: str, found: Mapping[str, Any]) -> Item:
    """Return what was found at an image that nobody attacked; success: it tells nothing there."""
    is_blind = bool(found.get("zero", False)) or not found.get("finite", True)
    return Item(
        cell=cell.label,
        chunk=chunk,
        item=item,
        status="ok",
        success=is_blind,
        score=float(is_blind),
        images=1,
        extra={**found, "shown": [int(is_blind)], "abstained": [0]},
    )


def _subject_cells(suite: Any, subject: Any, task: Task) -> Iterator[Cell]:
    models = models_of(suite, subject)
    digest = task.digest(suite)
    for model in models:
        is_original = model.role == "original"
        surrogate = subject.teacher if is_original else subject.original

        def cell(
            kind: str,
            items: Sequence[str] = task.items,
            *,
            attack: str = "",
            budget: Budget | None = None,
            seed: int = 0,
            model: Model = model,
            surrogate: str = surrogate,
            **more: Any,
        ) -> Cell:
            options = dict(more.pop("options", {}))
            budget = budget or Budget()
            parts = [subject.name, model.role, model.name, f"seed{model.seed}" * bool(model.seed)]
            if attack:
                digest_of = short(options, budget)
                parts += [kind, *more.get("defense", {}).values(), attack.rpartition("/")[2]]
                parts += [digest_of, f"draw{seed}"]
                if registry.load(attack).uses_surrogate:  # type: ignore[attr-defined]  # an Evasion
                    options[PARTNER] = surrogate
            else:
                parts.append(kind)
            label = ".".join(part for part in parts if part)
            told_seed = f"seed{model.seed}" if model.seed else ""
            return Cell(
                label=label,
                subject=subject.name,
                concept="",
                role=model.role,
                student=".".join(filter(None, (model.name, told_seed))),
                target=model.target,
                kind=kind,
                attack=attack,
                options=options,
                budget=budget,
                seed=seed if attack else model.seed,
                items=tuple(items),
                chunk_size=_CHUNK,
                defense={**more.get("defense", {}), "images": digest},
            )

        claim = claim_of(suite, model.target, task.source.name)
        yield cell("clean", options={"claim": claim._asdict()} if claim else {})
        yield from _attack_cells(suite, subject, model, cell)
        yield from _masking_cells(suite, task, cell)


def _attack_cells(suite: Any, subject: Any, model: Model, cell: Any) -> Iterator[Cell]:
    """Yield the attacks of a suite on a model, and noise of each ball as their control."""
    draws: dict[Budget, int] = {}  # of noise, by ball and seed
    for entry in suite.attacks:
        if entry.subjects and subject.name not in entry.subjects:
            continue
        if entry.models and not _is_among(model, entry.models, suite):
            continue
        attack: Any = registry.load(entry.name)
        kind = "shift" if attack.is_natural else "control" if attack.is_control else "attack"
        for seed in suite.seeds:
            budget = budget_of(suite, entry.name, entry.budget, seed)
            yield cell(kind, attack=entry.name, budget=budget, options=entry.options, seed=seed)
            ball = Budget(epsilon=budget.epsilon, norm=budget.norm, seed=seed)
            if kind == "attack" and budget.epsilon:
                wanted = min(max(budget.queries, DRAWS), MOST_DRAWS)
                draws[ball] = max(draws.get(ball, 0), wanted)
    for ball, count in draws.items():
        noise = replace(ball, queries=count)
        yield cell("control", attack=NOISE, budget=noise, seed=ball.seed)


def _is_among(model: Model, names: Sequence[str], suite: Any) -> bool:
    families = [s for s in suite.students if s.name in names]
    members = {f"{family.name}-{member.name}" for family in families for member in family.members}
    return model.role in names or model.name in names or model.name in members


def _masking_cells(suite: Any, task: Task, cell: Any) -> Iterator[Cell]:
    if not suite.masking.count:
        return
    some = task.items[: suite.masking.count]
    yield cell("gradients", some)
    seed = suite.seeds[0]
    for probe in probes(suite):
        yield cell(
            "probe",
            some,
            attack=probe.attack,
            budget=replace(probe.budget, seed=seed),
            options=probe.options,
            defense={"probe": probe.name},
            seed=seed,
        )
    if suite.masking.landscapes:
        threat = suite.threat
        budget = Budget(epsilon=threat.epsilon, norm=threat.norm, seed=seed)
        yield cell("landscape", task.items[: suite.masking.landscapes], budget=budget)


def _short(value: Tensor) -> float:
    return float(f"{float(value):.9g}")  # all of a float32: at a ball's edge every digit counts
