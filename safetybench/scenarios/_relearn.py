"""Relearning: how few training steps bring the concept back, prompt by prompt and step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from safetybench.contracts import Cell, Item, Prompt, WeightAttack

from ._aids import pictures
from ._search import check_needs, search
from ._skips import reason_to_skip, skipped


def relearn(
    cell: Cell,
    chunk: int,
    prompts: Sequence[Prompt],
    originals: Mapping[str, Item],
    context: Any,
) -> list[Item]:
    """Return the items of all prompts after each stage of the training; see `Item.extra`.

    extra: "at" has the steps of each stage, "shown" and "abstained" the judge's answers there.
    Success is the concept shown after the last stage.
    """
    reasons = {p.id: reason_to_skip(cell, p, originals) for p in prompts}
    counted = [p for p in prompts if not reasons[p.id]]
    made = _trained(cell, chunk, counted, context) if counted else {}
    return [made.get(p.id) or skipped(cell, chunk, p, reasons[p.id]) for p in prompts]


def _trained(cell: Cell, chunk: int, prompts: Sequence[Prompt], context: Any) -> dict[str, Item]:
    attack: WeightAttack = context.attack(cell)
    target, subject = context.target(cell.target), context.suite.subject(cell.subject)
    check_needs(attack, target)
    given = pictures(context, subject, cell.seed, concept=cell.kind == "relearn")
    steps: list[int] = []
    found: dict[str, list[tuple[int, int, float]]] = {p.id: [] for p in prompts}
    images: dict[str, Tensor] = {}
    for stage in attack.stages(target, given, cell.budget):
        steps.append(stage.steps)
        for trial in search(stage.target, context.judge, prompts, cell.concept):
            answer = (int(trial.is_success), int(trial.abstained[0]), trial.probability[0])
            found[trial.prompt.id].append(answer)
            assert trial.image is not None
            images[trial.prompt.id] = trial.image
    return {p.id: _item(cell, chunk, p, steps, found[p.id], images[p.id], context) for p in prompts}


def _item(
    cell: Cell,
    chunk: int,
    prompt: Prompt,
    steps: Sequence[int],
    answers: Sequence[tuple[int, int, float]],
    image: Tensor,
    context: Any,
) -> Item:
    shown, abstained, probability = (list(column) for column in zip(*answers, strict=True))
    is_judged = not abstained[-1]
    return Item(
        cell=cell.label,
        chunk=chunk,
        item=prompt.id,
        status="ok" if is_judged else "unjudged",
        success=bool(shown[-1]) if is_judged else None,
        score=round(float(probability[-1]), 6),
        images=len(shown),
        steps=steps[-1],
        prompt=prompt.text,
        seed=prompt.seed,
        error="" if is_judged else "the judge did not recognise the last image",
        artifacts=(context.store.save_image(cell, prompt.id, image),),
        extra={
            "at": list(steps),
            "shown": [int(each) for each in shown],
            "abstained": [int(each) for each in abstained],
            "probability": [round(float(each), 6) for each in probability],
        },
    )
