"""Transfer: which distillation methods keep what a teacher was made to forget, and which do not?

Students of the unlearned teacher (trained in the run, plugged, or ready) draw the same prompts
from the same noise as the teacher and the original, each under its own sampler. Nothing is
attacked: this is what every user of the student meets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from safetybench.contracts import (
    Cell,
    Item,
    ItemStatus,
    Prompt,
    SafetyBenchError,
    Scenario,
)
from safetybench.registry import register

from ._controls import NOT_IDEAL
from ._prompts import digest
from ._search import Trial, search
from ._transfer_property import Erased
from ._transfer_summary import summarise
from ._transfer_traits import explain


@register
@dataclass(frozen=True, kw_only=True)
class Transfer(Scenario):
    """What of a derived property outlives distillation, paired by prompt (this project).

    Asked for pruned and distilled models by Shirkavand et al. (2024); here several trainings of
    each recipe, a control and a floor make recipes comparable.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2412.15341"
    reads: ClassVar[tuple[str, ...]] = ("students",)

    def cells(self, suite: Any) -> list[Cell]:
        """Expand a suite; cells of one target stand together, so that it loads once."""
        found = [cell for subject in suite.subjects for cell in _subject_cells(suite, subject)]
        return list({cell.label: cell for cell in found}.values())  # students share a control

    def run_chunk(self, cell: Cell, chunk: int, items: Sequence[str], context: Any) -> list[Item]:
        """Generate and judge these items of a cell; a floor reads the images of its utility."""
        subject = context.suite.subject(cell.subject)
        held = Erased.of(context.suite, subject)
        chosen = [held.asks(cell.kind)[item] for item in items]
        if cell.concept not in context.judge.concepts():
            raise SafetyBenchError(
                f"the judge must see {cell.concept!r}, got {', '.join(context.judge.concepts())}"
            )
        before = {item.item: item for label in cell.after for item in context.store.items_of(label)}
        if cell.kind == "floor":
            return [_floor(cell, chunk, prompt, before[prompt.id]) for prompt in chosen]
        reasons = {p.id: _reason_to_skip(cell, p, before) for p in chosen}
        counted = [p for p in chosen if not reasons[p.id]]
        made = _draw(cell, chunk, counted, held, context) if counted else {}
        return [made.get(p.id) or _skipped(cell, chunk, p, reasons[p.id]) for p in chosen]

    def summarise(
        self, suite: Any, cells: Sequence[Cell], items: Sequence[Item]
    ) -> Mapping[str, Any]:
        """Return rates, pairs, checks and the table of what came back; see `_transfer_summary`."""
        return summarise(suite, cells, items)


def _subject_cells(suite: Any, subject: Any) -> Iterator[Cell]:
    held = Erased.of(suite, subject)
    ideal = f"{subject.name}.original.clean".replace("/", "-")

    def cell(role: str, target: str, kind: str, entry: str = "", seed: int = 0) -> Cell:
        parts = [subject.name, role, *([entry, f"seed{seed}"] if entry else [])]
        if role == "control":
            parts = [subject.name, role, target]
        stem = ".".join(parts).replace("/", "-")
        plain = Cell(
            label=f"{stem}.{kind}",
            subject=subject.name,
            concept=subject.concept,
            role=role,
            target=target,
            kind=kind,
            options={"prompts": digest(held.asks(kind)), **({"student": entry} if entry else {})},
            seed=seed,
            items=tuple(held.asks(kind)),
        )
        if kind == "floor":
            return replace(plain, after=(f"{stem}.utility",))
        return replace(plain, after=(ideal,) if kind == "clean" and role != "original" else ())

    kinds = ("clean", *(("utility", "floor") if held.prompts.other else ()))
    for role in ("original", "teacher"):
        yield from (cell(role, subject.roles[role], kind) for kind in kinds)
    mine = [made for made in suite.made if made.subject == subject.name]
    for made in mine:
        if made.role == "control":
            yield cell("control", made.label, "clean", seed=made.seed)
        else:
            yield from (cell("student", made.label, k, made.entry, made.seed) for k in kinds)


def _reason_to_skip(cell: Cell, prompt: Prompt, originals: Mapping[str, Item]) -> str:
    if not prompt.text:
        return "the prompt is empty"
    if cell.after and not originals[prompt.id].success:
        return NOT_IDEAL
    return ""


def _draw(
    cell: Cell, chunk: int, prompts: Sequence[Prompt], held: Erased, context: Any
) -> dict[str, Item]:
    """Return the items of prompts that are drawn; a student's first says what the target is.

    It does in every chunk: one that fails, or has no prompt that counts, takes nothing along.
    """
    target, judge = context.target(cell.target), context.judge
    asked = {p.id: held.judged_for(cell.kind, p) for p in prompts}
    found: dict[str, Trial] = {}
    for concept in dict.fromkeys(asked.values()):
        group = [p for p in prompts if asked[p.id] == concept]
        found |= {trial.prompt.id: trial for trial in search(target, judge, group, concept)}
    extras: dict[str, dict[str, Any]] = {p.id: {} for p in prompts}
    if cell.kind == "utility":  # the same images, judged for the erased concept: the floor's
        images = torch.stack([_image(found[p.id]) for p in prompts]).to(context.device)
        verdict = judge.judge(images, cell.concept)
        answers = (verdict.shown, verdict.abstained, verdict.probability.float())
        columns = zip(*(answer.tolist() for answer in answers), strict=True)
        for prompt, (shown, abstained, probability) in zip(prompts, columns, strict=True):
            no_answer = bool(abstained) or probability != probability
            extras[prompt.id] = {
                "erased_shown": int(bool(shown) and not no_answer),
                "erased_abstained": int(no_answer),
            }
    if cell.kind == "clean" and cell.role == "student":
        told, spec = context.suite.told(cell.target), context.suite.spec(cell.target)
        extras[prompts[0].id]["traits"] = explain(target, told, spec, held)
    return {p.id: _item(cell, chunk, found[p.id], extras[p.id], context) for p in prompts}


def _image(trial: Trial) -> torch.Tensor:
    assert trial.image is not None
    return trial.image


def _item(cell: Cell, chunk: int, trial: Trial, extra: Mapping[str, Any], context: Any) -> Item:
    prompt = trial.prompt
    is_judged = not all(trial.abstained)
    status: ItemStatus = "ok" if is_judged else "unjudged"
    return Item(
        cell=cell.label,
        chunk=chunk,
        item=prompt.id,
        status=status,
        success=trial.is_success if is_judged else None,
        score=round(trial.score, 6),
        images=len(trial.shown),
        prompt=prompt.text,
        seed=trial.seed,
        error="" if is_judged else "the judge recognised none of the images",
        artifacts=(context.store.save_image(cell, prompt.id, _image(trial)),),
        extra={
            "shown": [int(shown) for shown in trial.shown],
            "abstained": [int(abstained) for abstained in trial.abstained],
            "probability": [round(p, 6) for p in trial.probability],
            **extra,
        },
    )


def _floor(cell: Cell, chunk: int, prompt: Prompt, drawn: Item) -> Item:
    """Return the item of an image that the utility cell has: does it show the erased concept?"""
    has_image, is_judged = "erased_shown" in drawn.extra, not drawn.extra.get("erased_abstained")
    status: ItemStatus = drawn.status if not has_image else "ok" if is_judged else "unjudged"
    shown = drawn.extra.get("erased_shown", 0)
    return Item(
        cell=cell.label,
        chunk=chunk,
        item=prompt.id,
        status=status,
        success=bool(shown) if status == "ok" else None,
        prompt=prompt.text,
        seed=prompt.seed,
        error="" if status == "ok" else drawn.error or "the judge did not recognise the image",
        artifacts=drawn.artifacts,
        extra={"shown": [shown], "abstained": [int(not is_judged)]} if has_image else {},
    )


def _skipped(cell: Cell, chunk: int, prompt: Prompt, reason: str) -> Item:
    return Item(
        cell=cell.label,
        chunk=chunk,
        item=prompt.id,
        status="skipped",
        prompt=prompt.text,
        seed=prompt.seed,
        error=reason,
    )
