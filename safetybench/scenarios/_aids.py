"""What an attacker has beside the target: made for the aids that an attack asks for, and no other.

Everything comes from the original model. On the zoo the prompts are others than the evaluated
ones; a user's table is all that there is, so there they are its texts at other seeds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch

from safetybench.contracts import (
    Aids,
    AttackAid,
    Cell,
    Item,
    Judge,
    Pictures,
    Prompt,
    PromptAttack,
    SafetyBenchError,
)

from ._prompts import is_zoo, prompt_set

PICTURES = 16  # few-shot, as in the papers on relearning and concept inversion
_SPARE_SEED = 90_001  # a prompt set that no suite should ask for


def gather(
    attack: PromptAttack,
    cell: Cell,
    prompts: Sequence[Prompt],
    originals: Mapping[str, Item],
    context: Any,
) -> Aids:
    """Return what `attack` uses in this cell; prompts: those it is made on, in their order."""
    subject = context.suite.subject(cell.subject)
    makers: dict[AttackAid, Callable[[], Any]] = {
        "references": partial(_references, prompts, originals, context),
        "original": lambda: context.target(subject.original),
        "surrogate": lambda: context.target(surrogate_of(cell, subject)),
        "judge": lambda: context.judge,
        "pictures": lambda: pictures(context, subject, cell.seed),
        "pairs": lambda: pairs(context.suite, subject),
        "synonyms": lambda: synonyms_of(context.suite, subject),
    }
    wanted: list[AttackAid] = [aid for aid in attack.aids if aid != "scores"]
    given: dict[str, Any] = {aid: makers[aid]() for aid in wanted}
    return Aids(concept=cell.concept, **given)


def surrogate_of(cell: Cell, subject: Any) -> str:
    """Return the target on which texts are made for another: the one before it in the lineage."""
    label: str = subject.teacher if cell.role == "student" else subject.original
    return label


def pictures(context: Any, subject: Any, seed: int, *, concept: bool = True) -> Pictures:
    """Return the original's images that the judge finds right; concept: of it, else of others.

    They are drawn once a run.

    Raises:
        SafetyBenchError: the original drew none.
    """
    key = ("pictures", subject.name, seed, concept)
    if key not in context.memo:
        context.memo[key] = _draw_pictures(context, subject, seed, concept)
    kept: Pictures = context.memo[key]
    return kept


def _draw_pictures(context: Any, subject: Any, seed: int, concept: bool) -> Pictures:
    spare = spare_prompts(context.suite, subject, "concept" if concept else "other")
    original = context.target(subject.original)
    images: list[torch.Tensor] = []
    texts: list[str] = []
    for first in range(0, len(spare), PICTURES):
        if len(texts) >= PICTURES:
            break
        group = spare[first : first + PICTURES]
        drawn = original.generate([p.text for p in group], [p.seed + 1 + seed for p in group])
        for prompt, image in zip(group, drawn, strict=True):
            if _is_right(context.judge, image, prompt, subject.concept):
                images.append(image)
                texts.append(prompt.text)
    if not texts:
        raise SafetyBenchError(
            f"the original shows what was asked for on none of {len(spare)} prompts that are not "
            "evaluated, so there are no pictures to attack with"
        )
    return Pictures(torch.stack(images[:PICTURES]), texts[:PICTURES])


def _is_right(judge: Judge, image: torch.Tensor, prompt: Prompt, concept: str) -> bool:
    """Tell whether an image shows what was asked for; without a concept: not the erased one."""
    verdict = judge.judge(image[None], prompt.concept or concept)
    if prompt.concept:
        return bool(verdict.shown[0])
    return not bool(verdict.shown[0]) and not bool(verdict.abstained[0])


def pairs(suite: Any, subject: Any) -> tuple[tuple[str, str], ...]:
    """Return prompts that name the concept, each with the same prompt without its word."""
    found = []
    for prompt in spare_prompts(suite, subject, "concept"):
        words = rf"(?<!\w){re.escape(subject.concept)}(?!\w)"
        without = " ".join(re.sub(words, " ", prompt.text, flags=re.IGNORECASE).split())
        if without != " ".join(prompt.text.split()):
            found.append((prompt.text, without))
    return tuple(found)


def _references(
    prompts: Sequence[Prompt], originals: Mapping[str, Item], context: Any
) -> torch.Tensor:
    paths = [originals[p.id].artifacts[0] for p in prompts]
    images = torch.stack([context.store.load_image(path) for path in paths])
    return images.to(context.device)


def spare_prompts(suite: Any, subject: Any, kind: Literal["concept", "other"]) -> list[Prompt]:
    """Return prompts for an attacker, of which none is evaluated.

    Of the zoo's world there are enough. From a user's table they are the evaluated texts, at
    seeds that no evaluation has: the table is all that there is.
    """
    held = prompt_set(suite, subject)
    evaluated = held.concept if kind == "concept" else held.beside
    if not is_zoo(suite.spec(subject.original)):
        return [p._replace(seed=p.seed + 1_000_003) for p in evaluated.values()]
    from safetybench.zoo.prompts import evaluation_prompts

    texts = {p.text for p in evaluated.values()}
    found = evaluation_prompts(subject.concept, 4 * PICTURES, _SPARE_SEED, kind=kind)
    return [p for p in found if p.text not in texts]


def synonyms_of(suite: Any, subject: Any) -> tuple[str, ...]:
    """Return other words for the concept: the subject's, or those of the zoo's world."""
    if subject.synonyms or not is_zoo(suite.spec(subject.original)):
        return tuple(subject.synonyms)
    from safetybench.zoo.captions import SYNONYMS

    return tuple(word for word in SYNONYMS[subject.concept] if word != subject.concept)
