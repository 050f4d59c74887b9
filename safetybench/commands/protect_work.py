"""Protect pictures batch by batch: make, write, read again, measure, edit, compare.

A picture that cannot be read or made fails alone and is recorded as failed; the rest go on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safetybench import registry
from safetybench.commands.protect_folder import Folder, Record
from safetybench.commands.protect_measures import apart, figures, side_by_side
from safetybench.commands.protect_pictures import Source
from safetybench.commands.protect_request import CONTROL, Job
from safetybench.contracts import (
    Album,
    EditsImages,
    ImageProtection,
    Inpaints,
    SafetyBenchError,
    Unavailable,
)
from safetybench.harness.device import is_out_of_memory, release
from safetybench.harness.progress import Progress
from safetybench.picture_files import (
    Mask,
    Picture,
    Size,
    check_ball,
    read,
    read_mask,
    read_size,
    write_png,
)
from safetybench.private import scrub
from safetybench.store import StoreError
from safetybench.targets.sides import mirrored, side_multiple

_SAVE_SECONDS = 5  # a kill costs that much work; protect.json grows with every picture
Edits = list[Tensor]  # one a seed, each (batch, 3, height, width) in [0, 1], on the CPU


class Loaded(NamedTuple):
    """A picture that was read, with the area that an editor redraws."""

    source: Source
    picture: Picture
    mask: Mask | None

    @property
    def notes(self) -> list[str]:
        """What the owner should know of how it was read."""
        return [*self.picture.notes, *(self.mask.notes if self.mask else ())]


class _Failure(NamedTuple):
    message: str
    is_memory: bool


def check_target(job: Job, target: Any) -> None:
    """Refuse a target that lacks what the method or the edit needs.

    Raises:
        SafetyBenchError: which it lacks.
    """
    missing = [need.__name__ for need in job.method.needs if not isinstance(target, need)]
    if missing:
        raise SafetyBenchError(
            f"{job.name} needs a target with {', '.join(missing)}, and {target.name} is none; "
            "choose another --target"
        )
    if job.choices.edit is None:
        return
    name = target.name
    if isinstance(target, Inpaints):
        if job.choices.mask is None:
            raise SafetyBenchError(
                f"{name} redraws a masked area, so --edit needs --mask FILE|FOLDER"
            )
    elif not isinstance(target, EditsImages):
        raise SafetyBenchError(f"--edit needs a target that edits images, {name} does not")


def readable(job: Job, folder: Folder, sources: Iterable[Source]) -> dict[Source, Size]:
    """Return the sizes that pictures are protected at; those without a head are recorded as failed.

    Needs no target, so that none is loaded for pictures that cannot be read.
    """
    sizes = {}
    for source in sources:
        try:
            sizes[source] = read_size(source.path, job.choices.size)
        except SafetyBenchError as error:
            folder.fail(source, str(error))
    return sizes


@dataclass(kw_only=True)
class Worker:
    """Makes protected pictures of a job, on a loaded target (None where none is needed)."""

    job: Job
    target: Any
    folder: Folder
    progress: Progress

    def __post_init__(self) -> None:
        self.multiple = 1 if self.target is None else side_multiple(self.target)
        self.control: ImageProtection = registry.create(CONTROL)
        self.label, self.saved = "", time.monotonic()

    def run(self, sizes: Mapping[Source, Size]) -> None:
        """Protect all of them; every one has a record in the folder afterwards."""
        try:
            self._run(sizes)
        finally:
            self.folder.save(summary(self.folder.records.values()))

    def _run(self, sizes: Mapping[Source, Size]) -> None:
        batch = self.job.choices.batch
        for group in self._groups(sizes):
            waiting = split(group, batch)
            while waiting:
                now = waiting.pop(0)
                loaded = self._load(now)
                found = self._attempt(loaded) if loaded else {}
                if not isinstance(found, _Failure):
                    self._record(now, found)
                elif len(loaded) == 1:
                    self._fail(found, loaded[0])
                    self._record(now, {})
                elif found.is_memory:
                    batch = max(1, len(loaded) // 2)
                    release()
                    rest = [each.source for each in loaded]
                    waiting = split([*rest, *(s for later in waiting for s in later)], batch)
                else:  # one picture spoils the batch: find out which
                    waiting = [*split([each.source for each in loaded], 1), *waiting]

    def _groups(self, sizes: Mapping[Source, Size]) -> Iterable[list[Source]]:
        """Bring together what fits one batch: one padded size, and no picture twice."""
        groups: dict[tuple[int, int, int], list[Source]] = {}
        seen: Counter[str] = Counter()
        for source, size in sizes.items():
            height, width = (-(-side // self.multiple) for side in size)
            groups.setdefault((height, width, seen[source.sha256]), []).append(source)
            seen[source.sha256] += 1
        return groups.values()

    def _load(self, sources: Sequence[Source]) -> list[Loaded]:
        """Read pictures and masks; those that cannot be read are recorded here."""
        loaded = []
        for source in sources:
            try:
                picture = read(source.path, self.job.choices.size)
                mask = None if source.mask is None else read_mask(source.mask, picture.size)
            except SafetyBenchError as error:
                self.folder.fail(source, str(error))
                continue
            loaded.append(Loaded(source, picture, mask))
        return loaded

    def _attempt(self, loaded: Sequence[Loaded]) -> dict[str, Record] | _Failure:
        """Make a batch; the one place where any exception is caught and recorded."""
        self.label = loaded[0].source.origin
        try:
            return self._make(loaded)
        except BaseException as error:
            for each in loaded:
                self.folder.drop(each.source)
            # Every further picture would meet the same missing package or full disk.
            if not isinstance(error, Exception) or isinstance(error, Unavailable | StoreError):
                raise
            name = "" if isinstance(error, SafetyBenchError) else f"{type(error).__name__}: "
            return _Failure(scrub(f"{name}{error}".strip())[:500], is_out_of_memory(error))

    def _fail(self, failure: _Failure, loaded: Loaded) -> None:
        message = failure.message
        if failure.is_memory:
            message = (
                f"memory does not last for {loaded.picture.size} pixels; --size N shrinks the "
                f"picture ({message})"
            )
        self.folder.fail(loaded.source, message)

    def _record(self, sources: Sequence[Source], found: Mapping[str, Record]) -> None:
        self.folder.records.update(found)
        if time.monotonic() - self.saved > _SAVE_SECONDS:
            self.folder.save(summary(self.folder.records.values()))
            self.saved = time.monotonic()
        self.progress.advance(self.label, len(sources))

    # One batch

    def _make(self, loaded: Sequence[Loaded]) -> dict[str, Record]:
        album = self._album(loaded)
        began, before = time.perf_counter(), getattr(self.target, "nfe", 0)
        images = self._protect(self.job.method, loaded, album)
        seconds = (time.perf_counter() - began) / len(loaded)
        spent = (getattr(self.target, "nfe", 0) - before) / len(loaded)
        again = []
        records: dict[str, Record] = {}
        for each, image in zip(loaded, images, strict=True):
            again.append(self._write(each, image))
            file = self.folder.image(each.source)
            records[each.source.name] = {
                "name": each.source.name,
                "origin": each.source.origin,
                "status": "done",
                "key": self.folder.key(each.source),
                "image_sha256": each.source.sha256,
                "mask_sha256": each.source.mask_sha256 or None,
                "protected_sha256": self.folder.digest_of(file),
                "height": each.picture.size.height,
                "width": each.picture.size.width,
                "linf_levels": check_ball(file, each.picture, self.job.budget.epsilon),
                **figures(each.picture.image, again[-1]),
                "steps": self.job.budget.steps,
                "seconds": round(seconds, 3),
                "network_evaluations": spent,
                "notes": self._notes(each),
                "edit": None,
            }
        edits = self._edit(loaded, album, again, records)
        for i, each in enumerate(loaded):
            panels = [cut(edit[i], each.picture) for edit in edits]
            file = self.folder.comparison(each.source)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_png(file, side_by_side(each.picture, again[i], panels))
        return records

    def _album(self, loaded: Sequence[Loaded]) -> Album:
        place = "cpu" if self.target is None else self.target.device
        masks = [each.mask.area for each in loaded if each.mask is not None]
        return Album(
            images=self._padded([each.picture.image for each in loaded]).to(place),
            # By content: a picture is protected alike whatever its file is called.
            ids=tuple(each.source.sha256 for each in loaded),
            captions=(self.job.choices.caption,) * len(loaded),
            masks=self._padded(masks).to(place) if masks else None,
        )

    def _padded(self, images: Sequence[Tensor]) -> Tensor:
        return torch.stack([mirrored(image, self.multiple) for image in images])

    def _protect(
        self, method: ImageProtection, loaded: Sequence[Loaded], album: Album
    ) -> list[Tensor]:
        """Return protected images at their own sizes; where nothing shows, pixels are as before."""

        def report(step: int, loss: float) -> None:
            more = f" and {len(loaded) - 1} more" if len(loaded) > 1 else ""
            of = self.job.budget.steps
            self.progress.within(f"{self.label}{more}: step {step} of {of}, loss {loss:.4g}")

        made = method.protect(self.target, album, self.job.budget, report)
        if made.shape != album.images.shape or not bool(made.isfinite().all()):
            raise ValueError(
                f"{type(method).__name__}.protect must return finite images of shape "
                f"{tuple(album.images.shape)}, got {tuple(made.shape)}"
            )
        images = []
        for each, image in zip(loaded, made.detach().float().cpu(), strict=True):
            picture = each.picture
            own = cut(image, picture)
            images.append(
                own if picture.alpha is None else torch.where(picture.alpha > 0, own, picture.image)
            )
        return images

    def _write(self, each: Loaded, image: Tensor) -> Tensor:
        """Write a protected picture and return it as the file has it."""
        file = self.folder.image(each.source)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_png(file, image, each.picture.alpha, each.picture.profile)
        return read(file).image

    def _notes(self, each: Loaded) -> list[str]:
        notes = each.notes
        if any(side % self.multiple for side in each.picture.size):
            notes.append(
                f"has a side that is no multiple of {self.multiple}: protected with a mirrored "
                "margin, cut off again"
            )
        native = self._native()
        if native and max(each.picture.size) > 2 * native:
            notes.append(
                f"is above twice the {native} pixels a side that the target was made for; editors "
                f"shrink such pictures, so --size {native} protects what they see"
            )
        return notes

    def _native(self) -> int:
        shape = getattr(self.target, "latent_shape", None)
        if shape is None:
            return 0
        return int(max(shape[1:]) * 2 ** (len(self.target.vae.config.block_out_channels) - 1))

    # Edits

    def _edit(
        self,
        loaded: Sequence[Loaded],
        album: Album,
        again: Sequence[Tensor],
        records: Mapping[str, Record],
    ) -> list[Tensor]:
        """Edit originals, protected and noisy pictures; measure them; return those to show."""
        if self.job.choices.edit is None:
            return []
        noisy = self._protect(self.control, loaded, album)
        edits = [
            self._edits(album.with_images(self._padded(images).to(album.images.device)))
            for images in ([each.picture.image for each in loaded], again, noisy)
        ]
        for i, each in enumerate(loaded):
            mine = [[cut(edit[i], each.picture) for edit in seeds] for seeds in edits]
            moved, noise = apart(mine[0], mine[1]), apart(mine[0], mine[2])
            records[each.source.name]["edit"] = {
                "displacement": moved,
                "control_displacement": noise,
                "net": moved - noise,
            }
        return [seeds[0] for seeds in edits]

    def _edits(self, album: Album) -> Edits:
        chosen = self.job.choices
        prompts = [chosen.edit or ""] * len(album)
        found = []
        for number in range(chosen.edit_seeds):
            self.progress.within(f"{self.label}: edit {number + 1} of {chosen.edit_seeds}")
            seeds = [chosen.seed + number] * len(album)
            if isinstance(self.target, Inpaints):
                assert album.masks is not None, "check_target() saw to it"
                edited = self.target.inpaint(album.images, album.masks, prompts, seeds)
            else:
                edited = self.target.edit(album.images, prompts, seeds, self.job.strength)
            found.append(edited.detach().float().cpu())
        return found


def cut(image: Tensor, picture: Picture) -> Tensor:
    """Return an image without the margin that it was padded by."""
    return image[..., : picture.size.height, : picture.size.width]


def split(sources: Sequence[Source], size: int) -> list[list[Source]]:
    """Return the sources in lists of at most `size`."""
    return [list(sources[start : start + size]) for start in range(0, len(sources), size)]


def summary(records: Iterable[Record]) -> dict[str, Any]:
    """Return counts and the means of what was measured, with the interval of the net effect."""
    from safetybench.stats import Span, bootstrap_mean

    rows = list(records)
    done = [row for row in rows if row["status"] == "done"]
    found: dict[str, Any] = {"done": len(done), "failed": len(rows) - len(done)}
    for key in ("psnr", "ssim", "lpips"):
        values = [row[key] for row in done if row[key] is not None]
        found[key] = sum(values) / len(values) if values else None
    edits = [row["edit"] for row in done if row["edit"] is not None]
    if edits:
        nets = [edit["net"] for edit in edits]
        found["net"] = {"mean": sum(nets) / len(nets), "pictures": len(nets), "interval": None}
        if len(nets) > 1:
            span = bootstrap_mean(nets, seed=0, span=Span(-1, 1))
            found["net"]["interval"] = {"level": span.level, "low": span.low, "high": span.high}
    return found
