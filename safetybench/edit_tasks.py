"""Edits that protection is to stop: an image, what is asked of it, and what is to stay.

Of the zoo's world, where every attribute of an image is known, or of a user's CSV.
"""

from __future__ import annotations

import csv
import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from safetybench.contracts import SafetyBenchError
from safetybench.store import digest

if TYPE_CHECKING:
    from torch import Tensor

    from safetybench.suite_images import ImageSet
    from safetybench.zoo.world import Scenes

MaskKind = Literal["expected", "unseen"]
# Noise of edits comes from a range that no training and no evaluation prompt uses.
_FIRST_SEED = 3_000_000_000
REQUIRED = ("image", "prompt", "concept")
OPTIONAL = ("id", "caption", "kept", "mask", "unseen_mask", "seed")
_MOST_LINES = 8


class EditTask(NamedTuple):
    """One edit of one image.

    caption: what the owner calls the image; prompt: what the editor asks for; concept: whose
    presence in the answer is judged; kept: what else the answer is to show, as a judge's
    `similarity` reads it; held: the part of it without which the edit counts as failed; image,
    mask, unseen_mask: files, "" in the zoo's world; the owner expects the first mask, and an
    editor may use the second.
    """

    id: str
    caption: str
    prompt: str
    concept: str
    kept: str
    seed: int
    image: str = ""
    mask: str = ""
    unseen_mask: str = ""
    held: str = ""


@dataclass(frozen=True)
class Edits:
    """The edits of a suite. images: of these tasks, (batch, 3, height, width), 8-bit in [0, 1]."""

    tasks: tuple[EditTask, ...]
    spec: ImageSet

    @property
    def by_id(self) -> dict[str, EditTask]:
        """The tasks by their ids."""
        return {task.id: task for task in self.tasks}

    @property
    def alike(self) -> dict[str, str]:
        """The first task that is like each one for a protection: in image, mask and caption."""
        firsts: dict[tuple[str, ...], str] = {}
        return {
            t.id: firsts.setdefault((t.image, t.mask, t.caption) if t.image else (t.id,), t.id)
            for t in self.tasks
        }

    @property
    def content(self) -> str:
        """A digest of all that the tasks say, and of what is in the files that they name."""
        if not self.spec.table:
            return digest([list(task) for task in self.tasks])
        named = {name for t in self.tasks for name in (t.image, t.mask, t.unseen_mask) if name}
        held = {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in named}
        return digest([[held.get(str(value), value) for value in t] for t in self.tasks])

    def images(self, ids: Sequence[str]) -> list[Tensor]:
        """Return the clean images of some tasks, each (3, height, width), 8-bit in [0, 1].

        Raises:
            SafetyBenchError: a file cannot be read.
        """
        if not self.spec.table:
            numbers = {task.id: i for i, task in enumerate(self.tasks)}
            drawn = _renders(self.spec.count, self.spec.seed)
            return [drawn[numbers[name]] for name in ids]
        from safetybench.picture_files import read

        return [read(Path(self.by_id[name].image)).image for name in ids]

    def has_masks(self, kind: MaskKind) -> bool:
        """Tell whether every task says which area is drawn anew."""
        return not self.spec.table or all(_mask_file(task, kind) for task in self.tasks)

    def masks(self, ids: Sequence[str], kind: MaskKind) -> list[Tensor]:
        """Return the masks of some tasks, each (1, height, width), 1 where to draw anew.

        Raises:
            SafetyBenchError: a file cannot be read.
        """
        if not self.spec.table:
            numbers = {task.id: i for i, task in enumerate(self.tasks)}
            drawn = _masks(self.spec.count, self.spec.seed, kind, tuple(numbers))
            return [drawn[numbers[name]] for name in ids]
        from safetybench.picture_files import read_mask, read_size

        tasks = [self.by_id[name] for name in ids]
        return [
            read_mask(Path(_mask_file(task, kind)), read_size(Path(task.image))).area
            for task in tasks
        ]


def edits_of(spec: ImageSet, base: str = ".") -> Edits:
    """Return the edits of a suite. base: folder that a relative table starts from.

    Raises:
        SafetyBenchError: the table cannot be read; every fault with its line.
    """
    if spec.table:
        return Edits(tuple(_from_table(Path(base) / spec.table, spec.count)), spec)
    return Edits(tuple(_of_zoo(spec)), spec)


def _mask_file(task: EditTask, kind: MaskKind) -> str:
    return task.mask if kind == "expected" else task.unseen_mask


@cache
def _masks(count: int, seed: int, kind: MaskKind, ids: tuple[str, ...]) -> Tensor:
    from safetybench.zoo.masks import expected_masks, unseen_masks

    scenes = _scenes(count, seed)
    return expected_masks(scenes) if kind == "expected" else unseen_masks(scenes, ids, seed)


@cache
def _renders(count: int, seed: int) -> Tensor:
    from safetybench.pixels import rounded
    from safetybench.zoo.world import render

    return rounded(render(_scenes(count, seed)))


def _scenes(count: int, seed: int) -> Scenes:
    import torch

    from safetybench.zoo.world import sample_scenes

    # Of its own range: the teacher was trained on renders of lower seeds.
    return sample_scenes(count, torch.Generator().manual_seed(900_000_000 + seed))


def _of_zoo(spec: ImageSet) -> Iterator[EditTask]:
    from safetybench.zoo.captions import Captions
    from safetybench.zoo.world import HEADS

    labels = _scenes(spec.count, spec.seed).labels()
    rows = zip(*(labels[head].tolist() for head in HEADS), strict=True)
    rng = random.Random(f"edits/{spec.seed}")
    captions = Captions(rng)
    for index, row in enumerate(rows):
        names = {head: HEADS[head][i] for head, i in zip(HEADS, row, strict=True)}
        head = spec.changes[index % len(spec.changes)]
        asked = {**names, head: rng.choice([n for n in HEADS[head] if n != names[head]])}
        prompt = captions.write(asked, evaluation=True, gaps=False, by_name=(head,), filler=0)
        if spec.prompts == "bare":
            prompt = _bare(asked, head)
        rest = {h: f"{h}={n}" for h, n in names.items() if h != head}
        yield EditTask(
            id=f"edit-{spec.seed}-{index:04d}",
            caption=captions.write(names, evaluation=True, gaps=False, filler=0),
            prompt=prompt,
            concept=asked[head],
            kept=" ".join(rest.values()),
            held=" ".join(rest[h] for h in spec.keep if h in rest),
            seed=_FIRST_SEED + rng.randrange(1_000_000_000),
        )


def _bare(asked: Mapping[str, str], head: str) -> str:
    """Return a prompt of what is to change alone.

    There are too few of these for a split of their own; a model may have seen them in training.
    """
    if head == "background":
        return f"a shape on a {asked[head]} background"
    return f"a {asked[head]}" + (" shape" if head != "object" else "")


def _from_table(file: Path, count: int) -> Iterator[EditTask]:
    rows = _read(file)
    missing = [name for name in REQUIRED if rows and name not in rows[0][1]]
    if missing:
        raise SafetyBenchError(
            f"{file.name} needs the columns {', '.join(REQUIRED)}; it lacks {', '.join(missing)}. "
            f"It may also have {', '.join(OPTIONAL)}"
        )
    faults: list[str] = []
    seen: dict[str, int] = {}
    found: list[EditTask] = []
    for line, row in rows[:count]:
        told = {key: (row.get(key) or "").strip() for key in (*REQUIRED, *OPTIONAL)}
        faults += [f"line {line}: no {key}" for key in REQUIRED if not told[key]]
        for key in ("image", "mask", "unseen_mask"):
            if told[key] and not (file.parent / told[key]).is_file():
                faults.append(f"line {line}: there is no file {told[key]}")
        name = told["id"] or f"{Path(told['image']).stem}-{line}"
        if name in seen:
            faults.append(f"line {line}: id {name!r} stands in line {seen[name]} already")
        seen[name] = line
        if told["seed"] and not told["seed"].isdecimal():
            faults.append(f"line {line}: seed must be a whole number, got {told['seed']!r}")
            continue
        found.append(
            EditTask(
                id=name,
                caption=told["caption"],
                prompt=told["prompt"],
                concept=told["concept"],
                kept=told["kept"],
                seed=int(told["seed"] or _FIRST_SEED + line),
                image=str(file.parent / told["image"]),
                mask=str(file.parent / told["mask"]) if told["mask"] else "",
                unseen_mask=str(file.parent / told["unseen_mask"]) if told["unseen_mask"] else "",
            )
        )
    if not rows:
        raise SafetyBenchError(f"{file.name} has no row with an edit")
    if faults:
        more = [f"and {len(faults) - _MOST_LINES} more"] if len(faults) > _MOST_LINES else []
        raise SafetyBenchError(f"{file.name}: " + "; ".join([*faults[:_MOST_LINES], *more]))
    yield from found


def _read(file: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a CSV with the number of the line that each ends on."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            return [(reader.line_num, row) for row in reader]
    except FileNotFoundError as error:
        raise SafetyBenchError(f"there is no table {file.name}; see images.table") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SafetyBenchError(
            f"{file.name} cannot be read as CSV in UTF-8: {error}; save it again"
        ) from error
