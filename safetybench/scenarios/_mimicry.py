"""Mimicry in a protection run: an album is protected whole, learnt whole, and then asked for.

An item is one prompt, drawn by the model that learnt one album. An album's protection and its
learning are made of the album alone, whatever items a call asks for, and kept from call to call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Album, Budget, Cell, Item, SafetyBenchError
from safetybench.mimic_tasks import Albums, MimicTask
from safetybench.store import digest
from safetybench.suite_mimicry import RESERVED
from safetybench.targets.personalise import Lora, plugged

from ._protection_cells import Given, Use
from ._protection_figures import between, kept_by
from ._protection_work import fitting, protected_items, purified

T = TypeVar("T")
OF_ALBUMS = "albums"


def given_of(albums: Albums) -> Given:
    """Return what is protected: an album a call."""
    return Given(tuple(albums.ids), albums.content, albums.spec.size, OF_ALBUMS)


def uses_of(suite: Any, albums: Albums) -> list[Use]:
    """Return the mimicries of a suite; an album a call."""
    found = []
    for entry in suite.mimicries:
        word = registry.create(entry.name, entry.options).word
        tasks = albums.tasks(word, entry.kinds)
        told = {
            **entry.options,
            "learner": entry.learner,
            "steps": entry.budget.steps,
            "seed": entry.budget.seed,
            **({"kinds": list(entry.kinds)} if entry.kinds else {}),
        }
        asked = {"images": digest([albums.content, [list(t) for t in tasks]]), "of": OF_ALBUMS}
        found.append(
            Use(
                attack=entry.name,
                options=told,
                items=tuple(task.id for task in tasks),
                asked=asked,
                models=entry.models,
                chunk=albums.spec.prompts,
                holder="teacher" if entry.learner == "teacher" else "",
            )
        )
    return found


def shielded(cell: Cell, chunk: int, items: Sequence[str], context: Any) -> list[Item]:
    """Return items whose artifact is the protected PNG, as of images that are edited."""
    albums, target = _albums(context), context.target(cell.target)
    shield = cell.defense
    protection = fitting(registry.create(shield["protection"], shield["options"]), target)
    found: list[Item] = []
    for name, ids in _by_album((albums.ids[id], id) for id in items).items():
        album = albums.pictures(name)
        album = album.with_images(album.images.to(context.device))

        def protect(album: Album = album) -> Tensor:
            made: Tensor = protection.protect(target, album, cell.budget)
            return made

        made = _latest(context, (cell.label, name), protect)
        found += protected_items(cell, chunk, album, made, ids, context)
    return found


def mimicked(cell: Cell, chunk: int, items: Sequence[str], context: Any) -> list[Item]:
    """Return items whose artifact is the drawing; success: the detector sees what was learnt."""
    albums = _albums(context)
    tasks = {t.id: t for t in albums.tasks(_mimicry(cell).word, cell.options.get("kinds", ()))}
    before = {(label, i.item): i for label in cell.after for i in context.store.items_of(label)}
    asked = _by_album((tasks[name].album, tasks[name]) for name in items)
    found: list[Item] = []
    for name, mine in asked.items():
        model = _learnt(cell, albums, name, before, context)
        drawings = model.generate([task.prompt for task in mine], [task.seed for task in mine])
        _count(context.target(cell.target), model)
        found += _judged(cell, chunk, mine, drawings, before, context)
    return found


def _albums(context: Any) -> Albums:
    albums: Albums = context.memo.setdefault("albums", Albums(context.suite.albums))
    return albums


def _by_album(pairs: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    found: dict[str, list[T]] = {}
    for album, each in pairs:
        found.setdefault(album, []).append(each)
    return found


def _latest(context: Any, key: tuple[str, ...], make: Callable[[], T]) -> T:
    """Keep what was made last, for calls that ask for the rest of the same album."""
    held = context.memo.get("latest of an album")
    if held is None or held[0] != key:
        context.memo.pop("latest of an album", None)  # it may be a whole model
        held = context.memo["latest of an album"] = key, make()
    made: T = held[1]
    return made


def _mimicry(cell: Cell) -> Any:
    own = {key: value for key, value in cell.options.items() if key not in RESERVED}
    return registry.create(cell.attack, own)


def _learnt(
    cell: Cell, albums: Albums, name: str, before: Mapping[tuple[str, str], Item], context: Any
) -> Any:
    """Return the cell's model after the album was learnt, by itself or by the teacher."""
    mimicry, model = _mimicry(cell), context.target(cell.target)
    # Albums learnt from one seed would share their noise, and be no tries of their own.
    seed = cell.options["seed"] * 1009 + list(albums.names).index(name)
    budget = Budget(steps=cell.options["steps"], seed=seed)

    def given() -> Album:
        return _given(cell, albums.pictures(name, mimicry.word), before, context)

    def learn() -> Any:
        if cell.options["learner"] != "teacher":
            return fitting(mimicry, model).learn(model, given(), budget)
        loras = context.memo.setdefault("loras", {})  # each is plugged on several models
        learner = context.suite.subject(cell.subject).teacher
        # The label of what was protected says how and on which model; the rest is the mimic's.
        told = {k: v for k, v in cell.defense.items() if k.startswith(("purifier", "cleaner"))}
        key = digest([learner, cell.attack, cell.options, cell.after[1:], told, cell.seed, name])
        if key not in loras:
            teacher = context.target(learner)
            lora = fitting(mimicry, teacher).lora(teacher, given(), budget)
            loras[key] = Lora(*({k: w.cpu() for k, w in side.items()} for side in lora))
        return plugged(model, loras[key])

    return _latest(context, (cell.label, name), learn)


def _given(cell: Cell, album: Album, before: Mapping[tuple[str, str], Item], context: Any) -> Album:
    """Return the album as the mimic has it: protected, cleaned, or as it is."""
    images = list(album.images)
    if "protection" in cell.defense:
        shielded = [before[cell.after[1], id] for id in album.ids]
        lost = next((item for item in shielded if not item.artifacts), None)
        if lost is not None:
            raise SafetyBenchError(f"{lost.item} was not protected: {lost.error}")
        images = [context.store.load_image(item.artifacts[0]) for item in shielded]
    album = album.with_images(torch.stack(images).to(context.device))
    return album.with_images(purified(cell, album, context))


def _count(target: Any, model: Any) -> None:
    """Add what a model that learnt has evaluated to its target, whose cost is told."""
    if model is not target and hasattr(target, "nfe"):
        target.nfe, model.nfe = target.nfe + model.nfe, 0


def _judged(
    cell: Cell,
    chunk: int,
    tasks: Sequence[MimicTask],
    drawings: Tensor,
    before: Mapping[tuple[str, str], Item],
    context: Any,
) -> list[Item]:
    """Judge the drawings of one album's prompts by the detector of what was learnt."""
    from safetybench.zoo.detector import Detector

    detector = context.memo.setdefault("detector", Detector())
    paths = [context.store.save_image(cell, t.id, d) for t, d in zip(tasks, drawings, strict=True)]
    again = [context.store.load_image(path) for path in paths]
    plain = list(again)  # what the model draws that learnt the clean album
    for i, task in enumerate(tasks):
        clean = before.get((cell.after[0], task.id)) if cell.after else None
        if clean is not None and clean.artifacts:
            plain[i] = context.store.load_image(clean.artifacts[0])
    drawn, references = (torch.stack(images).to(context.device) for images in (again, plain))
    # There is no source of a drawing, and so no direction from it: it is left out.
    figures = between(context.judge, references, drawn, references)
    verdict = detector.judge(drawn, tasks[0].kind)
    found = []
    for i, task in enumerate(tasks):
        is_lost = bool(verdict.abstained[i])
        success = bool(verdict.shown[i]) and not is_lost
        found.append(
            Item(
                cell=cell.label,
                chunk=chunk,
                item=task.id,
                status="ok",
                success=success,
                score=round(float(verdict.probability[i]), 6),
                images=1,
                prompt=task.prompt,
                seed=task.seed,
                artifacts=(paths[i],),
                extra={
                    "shown": [int(success)],
                    "abstained": [int(is_lost)],
                    "album": task.album,
                    **kept_by(context.judge, drawn[i], task.kept),
                    **figures[i],
                },
            )
        )
    return found
