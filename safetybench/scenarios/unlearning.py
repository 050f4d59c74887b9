"""Unlearning: did the erased concept stay erased, in the teacher and in its distilled student?

Every prompt goes through the original, the unlearned teacher and the student: as it is, under
each attack, and under the controls at as many images (random prefixes, other seeds, and random
prefixes on prompts of other concepts). Only prompts on which the original succeeds count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from safetybench import registry
from safetybench.contracts import (
    Budget,
    Cell,
    Denoises,
    Item,
    ItemStatus,
    Judge,
    Prompt,
    SafetyBenchError,
    Scenario,
    WeightAttack,
)
from safetybench.metrics.distances import encode_features
from safetybench.registry import register

from ._aids import gather, pairs, synonyms_of
from ._controls import RANDOM, RELEARNING, SEEDS, label_of, random_options
from ._notes import told
from ._prompts import PromptSet, digest, prompt_set
from ._relearn import relearn
from ._search import Trial, search
from ._skips import reason_to_skip, skipped
from ._summary import summarise


@register
@dataclass(frozen=True, kw_only=True)
class Unlearning(Scenario):
    """Attack success on an erased concept, after Zhang et al. (2023), with its controls."""

    source: ClassVar[str] = "https://arxiv.org/abs/2310.11868"
    reads: ClassVar[tuple[str, ...]] = ("attacks", "students")

    def cells(self, suite: Any) -> list[Cell]:
        """Expand a suite; cells of one target stand together, so that it loads once."""
        return [cell for subject in suite.subjects for cell in _subject_cells(suite, subject)]

    def run_chunk(self, cell: Cell, chunk: int, items: Sequence[str], context: Any) -> list[Item]:
        """Generate, attack and judge these items of a cell."""
        subject = context.suite.subject(cell.subject)
        source = _asked(prompt_set(context.suite, subject), cell.kind)
        chosen = [source[item] for item in items]
        if cell.concept not in context.judge.concepts():
            raise SafetyBenchError(
                f"the judge must see {cell.concept!r}, got {', '.join(context.judge.concepts())}"
            )
        originals = _originals(cell, context) if cell.after else {}
        if cell.kind in RELEARNING:
            return relearn(cell, chunk, chosen, originals, context)
        reasons = {p.id: reason_to_skip(cell, p, originals) for p in chosen}
        counted = [p for p in chosen if not reasons[p.id]]
        trials = _trials(cell, counted, originals, context) if counted else {}
        return [
            skipped(cell, chunk, p, reasons[p.id])
            if reasons[p.id]
            else _item(cell, chunk, trials[p.id], originals.get(p.id), context)
            for p in chosen
        ]

    def summarise(
        self, suite: Any, cells: Sequence[Cell], items: Sequence[Item]
    ) -> Mapping[str, Any]:
        """Return rates, comparisons, pairs and checks; see `_summary`."""
        return summarise(cells, items, {s.name: s.neighbours for s in suite.subjects})


# Which of the original's cells another model's cell reads; its clean one where nothing stands here.
_BEFORE = {
    "utility": ("utility",),
    "plain": ("plain",),
    "implicit": ("implicit",),
    "floor": ("utility", "plain"),
}


class _Model(NamedTuple):
    """One model of a subject; student: its name where a teacher has several."""

    role: str
    target: str
    student: str = ""


def _models(suite: Any, subject: Any) -> list[_Model]:
    found = [_Model(role, target) for role, target in subject.roles.items()]
    many = len(suite.training.seeds) > 1
    for made in suite.made:
        if made.subject == subject.name and made.role == "student":
            name = f"{made.entry}.seed{made.seed}" if many and made.spec else made.entry
            found.append(_Model("student", made.label, name))
    return found


def _asked(prompts: PromptSet, kind: str) -> Mapping[str, Prompt]:
    return prompts.beside if kind == "floor" else prompts.of(kind)


def _options(prompts: PromptSet, role: str, kind: str) -> dict[str, Any]:
    """Return what a cell without an attack says of its prompts.

    The texts are in the key of these cells, and so in that of all others, which come after one.
    """
    options: dict[str, Any] = {"prompts": digest(prompts.of(kind))}
    if prompts.excluded and (role, kind) == ("original", "clean"):
        options["excluded"] = told(prompts.excluded)
    if prompts.cross and kind == "utility":
        options["cross"] = prompts.cross
    return options


def _subject_cells(suite: Any, subject: Any) -> Iterator[Cell]:
    prompts = prompt_set(suite, subject)

    def cell(model: _Model, kind: str, **more: Any) -> Cell:
        more.setdefault("options", _options(prompts, model.role, kind))
        plain = Cell(
            label="",
            subject=subject.name,
            concept=subject.concept,
            role=model.role,
            student=model.student,
            target=model.target,
            kind=kind,
            items=tuple(_asked(prompts, kind)),
            **more,
        )
        if model.role != "original":
            of = _BEFORE.get(kind, ("clean",))
            after = [label_of(cell(original, before)) for before in of if prompts.of(before)]
            plain = replace(plain, after=tuple(after))
        return replace(plain, label=label_of(plain))

    original, *others = _models(suite, subject)
    for model in (original, *others):
        yield cell(model, "clean")
        for kind in ("utility", "plain", "implicit"):
            if prompts.of(kind):
                yield cell(model, kind)
        if model is original:
            continue
        made = partial(cell, model)
        mine = [e for e in suite.attacks if _is_on(e, subject, model)]
        _refuse_unarmed(suite, subject, mine)
        attacked = [
            c
            for seed in suite.seeds
            for c in _attack_cells(mine, seed, made, has_others=bool(prompts.beside))
        ]
        yield from {c.label: c for c in attacked if c.items}.values()


def _refuse_unarmed(suite: Any, subject: Any, entries: Sequence[Any]) -> None:
    """Refuse an attack that would have nothing to try: it would pass for one that was withstood."""
    for entry in entries:
        aids = getattr(registry.create(entry.name, entry.options), "aids", ())
        if "synonyms" in aids and not synonyms_of(suite, subject):
            raise SafetyBenchError(
                f"{entry.name} needs synonyms of {subject.concept!r}: say them in the subject "
                f"{subject.name}, synonyms: [...]"
            )
        if "pairs" in aids and not pairs(suite, subject):
            raise SafetyBenchError(
                f"{entry.name} needs prompts that name {subject.concept!r} as a word of its own, "
                f"and those of {subject.name} never do"
            )


def _is_on(entry: Any, subject: Any, model: _Model) -> bool:
    """Tell whether an attack of the suite is made on a model."""
    named = {model.role, model.student, model.student.partition(".seed")[0]}
    is_model = not entry.models or bool(named & set(entry.models))
    return is_model and (not entry.subjects or subject.name in entry.subjects)


def _attack_cells(
    entries: Sequence[Any], seed: int, cell: Any, *, has_others: bool
) -> Iterator[Cell]:
    """Yield the attacks of one seed, each followed by its controls at as many images."""
    for entry in entries:
        attack = registry.create(entry.name, entry.options)
        budget, options = replace(entry.budget, seed=seed), dict(entry.options)
        if isinstance(attack, WeightAttack):
            if budget.steps < 1:
                raise SafetyBenchError(f"{entry.name} needs a budget of steps, 1 or more")
            # Without prompts on other concepts there are no other pictures to train on.
            for kind in RELEARNING if has_others else RELEARNING[:1]:
                made = cell(kind, attack=entry.name, options=options, budget=budget, seed=seed)
                # All prompts in one chunk: the training is one, whoever is asked afterwards.
                yield replace(made, chunk_size=max(len(made.items), 1))
            continue
        if entry.budget.images < 2:
            raise SafetyBenchError(
                f"{entry.name} needs a budget of at least 2 images, as the unmodified prompt is "
                f"the first, got {entry.budget.images}"
            )
        kind = "control" if attack.is_control else "attack"
        yield cell(kind, attack=entry.name, options=options, budget=budget, seed=seed)
        spent = Budget(images=budget.images, queries=budget.queries, seed=seed)
        options = random_options(attack)
        for kind, name, given in (
            ("control", RANDOM, options),
            ("control", SEEDS, {}),
            ("floor", RANDOM, options),
        ):
            yield cell(kind, attack=name, options=given, budget=spent, seed=seed)


def _originals(cell: Cell, context: Any) -> dict[str, Item]:
    """Return the original's items on the same prompts, from the log."""
    return {item.item: item for label in cell.after for item in context.store.items_of(label)}


def _trials(
    cell: Cell, prompts: Sequence[Prompt], originals: Mapping[str, Item], context: Any
) -> dict[str, Trial]:
    target, judge = context.target(cell.target), context.judge
    found: list[Trial] = []
    if cell.kind == "utility":
        for concept in dict.fromkeys(p.concept for p in prompts):
            found += search(target, judge, [p for p in prompts if p.concept == concept], concept)
    elif not cell.attack:
        found = search(target, judge, prompts, cell.concept)
    else:
        attack = context.attack(cell)
        found = search(
            target,
            judge,
            prompts,
            cell.concept,
            attack=attack,
            aids=gather(attack, cell, prompts, originals, context),
            budget=cell.budget,
        )
    return {trial.prompt.id: trial for trial in found}


def _item(cell: Cell, chunk: int, trial: Trial, original: Item | None, context: Any) -> Item:
    prompt = trial.prompt
    assert trial.image is not None
    status: ItemStatus = "ok"
    error = ""
    if trial.error:
        status, error = "failed", trial.error
    elif all(trial.abstained):
        status, error = "unjudged", "the judge recognised none of the images"
    path = context.store.save_image(cell, prompt.id, trial.image)
    return Item(
        cell=cell.label,
        chunk=chunk,
        item=prompt.id,
        status=status,
        success=trial.is_success if status == "ok" else None,
        score=round(trial.score, 6),
        images=len(trial.shown),
        steps=trial.steps,
        prompt=prompt.text,
        adversarial=trial.text if trial.text != prompt.text else "",
        seed=trial.seed,
        error=error,
        artifacts=(path, *(original.artifacts[:1] if original else ())),
        extra=_extra(cell, trial, context),
    )


def _extra(cell: Cell, trial: Trial, context: Any) -> dict[str, Any]:
    extra: dict[str, Any] = {
        "shown": [int(shown) for shown in trial.shown],
        "abstained": [int(abstained) for abstained in trial.abstained],
        "probability": [round(p, 6) for p in trial.probability],
    }
    if trial.trace:
        extra["trace"] = [_rounded(figures) for figures in trial.trace]
    if cell.attack:
        sees = _sees_defense(context.attack(cell), context.target(cell.target))
        return extra if sees is None else {**extra, "sees_defense": sees}
    assert trial.image is not None
    image = trial.image[None].to(context.device)
    if cell.kind == "utility":  # other concepts, judged for the erased one besides their own
        verdict = context.judge.judge(image, cell.concept)
        extra["erased_shown"] = int(verdict.shown[0]) * int(not verdict.abstained[0])
        extra["asked"] = trial.prompt.concept
    if cell.kind in ("utility", "plain"):
        features = context.judge.features(image)
        if features is not None:
            extra["features"] = encode_features(features[0])
    return {**extra, **_alignment(context.judge, trial.prompt, image)}


def _sees_defense(attack: Any, target: Any) -> bool | None:
    """Tell whether an attack differentiates the target as it is defended; None if not at all."""
    if attack.is_oracle:  # through the sampler
        return True
    return target.traits.defended_at == "weights" if Denoises in attack.needs else None


def _alignment(judge: Judge, prompt: Prompt, image: Tensor) -> dict[str, float]:
    """Return how much else of the prompt the image shows, where the judge can tell."""
    found = judge.similarity(image, prompt.clean or prompt.text)
    return {} if found is None else {"similarity": round(float(found[0]), 6)}


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    # Six digits are beyond what any check reads, and keep the log small; JSON has no NaN.
    return {n: float(f"{value:.6g}") for n, value in figures.items() if math.isfinite(value)}
