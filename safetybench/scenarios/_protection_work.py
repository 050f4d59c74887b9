"""What a protection run does with images, be they edited one by one or learnt as an album."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from safetybench import registry
from safetybench.contracts import Album, Cell, Item, SafetyBenchError

from ._protection_figures import cloak


def fitting(component: Any, target: Any) -> Any:
    """Refuse a component whose needs a model does not meet, before anything is computed."""
    lacking = [need.__name__ for need in component.needs if not isinstance(target, need)]
    if lacking:
        name = type(component).__name__
        raise SafetyBenchError(f"{name} needs a model that is {', '.join(lacking)}, got another")
    return component


def purified(cell: Cell, album: Album, context: Any) -> Tensor:
    """Return the album's images after the cell's purifier; as they are where it has none."""
    shield = cell.defense
    if "purifier" not in shield:
        return album.images
    cleaner = context.target(shield["cleaner"]) if shield["cleaner"] else None
    purifier = registry.create(shield["purifier"], shield["purifier_options"])
    if purifier.needs:
        fitting(purifier, cleaner)
    cleaned: Tensor = purifier.purify(cleaner, album, cell.seed)
    return cleaned


def protected_items(
    cell: Cell,
    chunk: int,
    album: Album,
    made: Tensor,
    ids: Sequence[str],
    context: Any,
) -> list[Item]:
    """Save some of an album's protected images; success: each file, read again, is in its ball.

    album: clean; made: (batch, 3, height, width), all of it, protected; ids: which are wanted.
    """
    target = context.target(cell.target)
    is_control = registry.create(cell.defense["protection"], cell.defense["options"]).is_control
    found = []
    for i in map(album.ids.index, ids):
        path = context.store.save_image(cell, album.ids[i], made[i])
        again = context.store.load_image(path).to(context.device)
        figures = cloak(album.images[i], again, target)
        is_inside = figures["levels"] <= cell.budget.epsilon * 255 + 1e-3
        found.append(
            Item(
                cell=cell.label,
                chunk=chunk,
                item=album.ids[i],
                status="ok",
                success=is_inside,
                steps=0 if is_control else cell.budget.steps,
                prompt=album.captions[i],
                artifacts=(path,),
                extra={"shown": [int(is_inside)], "abstained": [0], **figures},
            )
        )
    return found
