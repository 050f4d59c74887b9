"""Image protection: does it stop edits, and does what was made on a teacher stop its students?

Protected images are saved as PNG and read again, then edited by every model at the same noise.
An edit succeeds when the judge sees what was asked for, and what was to stay. That protected
images are edited into other pixels is no protection: noise of the same epsilon does that too, and
stands beside each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Album, Cell, Item, SafetyBenchError, Scenario
from safetybench.edit_tasks import Edits, EditTask, MaskKind, edits_of
from safetybench.mimic_tasks import Albums
from safetybench.registry import register

from ._mimicry import OF_ALBUMS, given_of, mimicked, shielded, uses_of
from ._protection_cells import Given, Use, subject_cells
from ._protection_figures import between, kept_by
from ._protection_shared import once
from ._protection_summary import summarise
from ._protection_work import fitting, protected_items, purified


@register
@dataclass(frozen=True, kw_only=True)
class Protection(Scenario):
    """Edit success under a protection against noise of the same epsilon, paired by image.

    Net effect over equal noise, and edit success in the place of displacement, answer what
    comparisons of protections lack (Hoenig et al. 2025, and this project).
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2406.12027"
    reads: ClassVar[tuple[str, ...]] = (
        "protections",
        "edits",
        "mimicries",
        "purifiers",
        "images",
        "students",
    )

    def cells(self, suite: Any) -> list[Cell]:
        """Expand a suite: per subject, what is protected, then what every model makes of it."""
        if not (suite.edits or suite.mimicries):
            raise SafetyBenchError(
                "a protection suite needs 'edits' or 'mimicries', what protection is to stop"
            )
        work: list[tuple[Given, list[Use]]] = []
        if suite.edits:
            edits = edits_of(suite.images, suite.base)
            _refuse_unmasked(suite, edits)
            work.append(_edits_of(suite, edits))
        if suite.mimicries:
            albums = Albums(suite.albums)
            work.append((given_of(albums), uses_of(suite, albums)))
        found = [c for s in suite.subjects for w in work for c in subject_cells(suite, s, *w)]
        return list({cell.label: cell for cell in found}.values())

    def run_chunk(self, cell: Cell, chunk: int, items: Sequence[str], context: Any) -> list[Item]:
        """Protect these images, or clean and edit, or learn, what was protected."""
        if cell.defense.get("of") == OF_ALBUMS:
            return (shielded if cell.kind == "protect" else mimicked)(cell, chunk, items, context)
        edits = context.memo.get("edits")
        if edits is None:  # a user's table is read once
            edits = edits_of(context.suite.images, context.suite.base)
            context.memo["edits"] = edits
        tasks = [edits.by_id[name] for name in items]
        if cell.kind == "protect":
            return _protected(cell, chunk, tasks, edits, context)
        return _edited(cell, chunk, tasks, edits, context)

    def summarise(
        self, suite: Any, cells: Sequence[Cell], items: Sequence[Item]
    ) -> Mapping[str, Any]:
        """Return rates, net effects, pairs and checks from the log alone."""
        return summarise(cells, items)


def _refuse_unmasked(suite: Any, edits: Edits) -> None:
    """Refuse a protection or an edit that needs masks where the user's table has none."""
    wanted: list[tuple[str, Any, MaskKind]]
    wanted = [(entry.name, entry.options, "expected") for entry in suite.protections]
    wanted += [(entry.name, entry.options, entry.mask) for entry in suite.edits]
    for name, options, kind in wanted:
        if registry.create(name, options).uses_masks and not edits.has_masks(kind):
            column = "mask" if kind == "expected" else "unseen_mask"
            raise SafetyBenchError(
                f"{name} needs a mask for every image: fill the column {column!r} of "
                f"{suite.images.table}"
            )


def _edits_of(suite: Any, edits: Edits) -> tuple[Given, list[Use]]:
    """Return what is protected, and the edits that follow."""
    ids = tuple(task.id for task in edits.tasks)
    given = Given(ids, edits.content)
    uses = []
    for entry in suite.edits:
        is_masked = registry.create(entry.name, entry.options).uses_masks
        asked = {**given.told, **({"mask": entry.mask} if is_masked else {})}
        uses.append(
            Use(
                attack=entry.name,
                options=entry.options,
                items=ids,
                asked=asked,
                models=entry.models,
            )
        )
    return given, uses


def _album(
    tasks: Sequence[EditTask],
    images: Sequence[Tensor],
    context: Any,
    masks: Sequence[Tensor] | None = None,
) -> Album:
    """Return images of one size; the harness takes a batch apart where they are not."""
    return Album(
        images=torch.stack(list(images)).to(context.device),
        ids=tuple(task.id for task in tasks),
        captions=tuple(task.caption for task in tasks),
        masks=None if masks is None else torch.stack(list(masks)).to(context.device),
    )


def _protected(
    cell: Cell, chunk: int, tasks: Sequence[EditTask], edits: Edits, context: Any
) -> list[Item]:
    """Return items whose artifact is the protected PNG; success: it lies inside its ball."""
    target, shield = context.target(cell.target), cell.defense
    protection = fitting(registry.create(shield["protection"], shield["options"]), target)
    ids = [task.id for task in tasks]
    masks = edits.masks(ids, "expected") if edits.has_masks("expected") else None
    album = _album(tasks, edits.images(ids), context, masks)
    made = once(
        cell.label,
        album,
        edits.alike,
        lambda part: protection.protect(target, part, cell.budget),
        context.memo,
    )
    found = protected_items(cell, chunk, album, made, ids, context)
    return [
        replace(item, extra={**item.extra, **_still_held(context, made[i], tasks[i])})
        for i, item in enumerate(found)
    ]


def _still_held(context: Any, image: Tensor, task: EditTask) -> dict[str, int]:
    """Tell whether the judge reads off a protected image, unedited, what an edit must keep.

    If not, the protection fools the judge, and that edits lose it would say nothing.
    """
    is_kept = _keeps(context.judge, image, task)
    return {} if is_kept is None else {"held": int(is_kept)}


def _edited(
    cell: Cell, chunk: int, tasks: Sequence[EditTask], edits: Edits, context: Any
) -> list[Item]:
    """Return items whose artifact is the edit; success: the judge sees what was asked for."""
    before = {
        (label, item.item): item for label in cell.after for item in context.store.items_of(label)
    }
    ids = [task.id for task in tasks]
    sources = edits.images(ids)
    given = sources
    if "protection" in cell.defense:
        shielded = [before[cell.after[1], name] for name in ids]
        lost = [item.item for item in shielded if not item.artifacts]
        if lost:
            raise SafetyBenchError(
                f"{lost[0]} was not protected: {before[cell.after[1], lost[0]].error}"
            )
        given = [context.store.load_image(item.artifacts[0]) for item in shielded]
    masks = edits.masks(ids, cell.defense["mask"]) if "mask" in cell.defense else None
    album = _album(tasks, given, context, masks)
    if "purifier" in cell.defense:
        album = album.with_images(purified(cell, album, context))
    target = context.target(cell.target)
    edit = fitting(context.attack(cell), target)
    answers = edit.edit(target, album, [t.prompt for t in tasks], [t.seed for t in tasks])
    paths = [context.store.save_image(cell, t.id, a) for t, a in zip(tasks, answers, strict=True)]
    again = [context.store.load_image(path) for path in paths]
    plain = list(again)  # what the edit of the clean image is, an edit of it is compared with
    for i, task in enumerate(tasks):
        clean = before.get((cell.after[0], task.id)) if cell.after else None
        if clean is not None and clean.artifacts:
            plain[i] = context.store.load_image(clean.artifacts[0])
    stacks = (torch.stack(list(images)).to(context.device) for images in (sources, again, plain))
    originals, edited, references = stacks
    figures = between(context.judge, originals, edited, references)
    return [
        _judged(cell, chunk, task, paths[i], edited[i], figures[i], context)
        for i, task in enumerate(tasks)
    ]


def _judged(
    cell: Cell,
    chunk: int,
    task: EditTask,
    path: str,
    answer: Tensor,
    figures: Mapping[str, float],
    context: Any,
) -> Item:
    """Judge one edit: does it show what was asked for, and keep what it must?

    What the judge does not recognise is no edit as asked; how many there are is told.
    """
    verdict = context.judge.judge(answer[None], task.concept)
    is_ruined = bool(verdict.abstained[0])
    is_asked = bool(verdict.shown[0]) and not is_ruined
    is_kept = _keeps(context.judge, answer, task)
    success = is_asked and is_kept is not False
    return Item(
        cell=cell.label,
        chunk=chunk,
        item=task.id,
        status="ok",
        success=success,
        score=round(float(verdict.probability[0]), 6),
        images=1,
        prompt=task.prompt,
        seed=task.seed,
        artifacts=(path,),
        extra={
            "shown": [int(success)],
            "abstained": [int(is_ruined)],
            "asked": int(is_asked),
            **({} if is_kept is None else {"held": int(is_kept)}),
            **kept_by(context.judge, answer, task.kept),
            **figures,
        },
    )


def _keeps(judge: Any, answer: Tensor, task: EditTask) -> bool | None:
    """Tell whether an edit keeps what it must; None where nothing is asked of it."""
    if not task.held:
        return None
    share = judge.similarity(answer[None], task.held)
    if share is None:
        raise SafetyBenchError(f"the judge cannot tell whether {task.held!r} is kept")
    return float(share[0]) > 1 - 1e-6
