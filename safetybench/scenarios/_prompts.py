"""Prompts of a text-to-image scenario: of the zoo's world, or from tables of the user's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetybench.contracts import Prompt, SafetyBenchError
from safetybench.registry import suggestion

from ._tables import (
    CANVAS_SEEDS,
    COLUMNS,
    CROSS,
    FORMATS,
    Excluded,
    Table,
    canvas_prompts,
    read_table,
    read_words,
    shuffled,
)

_OPTIONS = ("count", "seed", "file", "other")
_FILE_OPTIONS = ("format", "implicit", "where")
_GRID_OPTIONS = ("grid", "seeds")
_DEFAULT_COUNT = 24


class PromptSet(NamedTuple):
    """Prompts by id: of the erased concept, of other concepts, and of the concept unnamed.

    implicit: prompts that ask for the concept by another word; empty where none are known.
    plain: prompts that name no concept at all, so that nothing but the erased one can be judged.
    excluded: rows of the user's tables that cannot be used, to be told in the report. (An empty
    prompt is none of these: it stays, and the log names it wherever it is skipped.)
    cross: what ends the ids of those in `other` whose concept is not of the erased one's kind.
    """

    concept: dict[str, Prompt]
    other: dict[str, Prompt]
    implicit: Mapping[str, Prompt] = {}
    plain: Mapping[str, Prompt] = {}
    excluded: tuple[Excluded, ...] = ()
    cross: str = ""

    def of(self, kind: str) -> Mapping[str, Prompt]:
        """Return the prompts that a cell of this kind goes through."""
        if kind == "implicit":
            return self.implicit
        if kind == "plain":
            return self.plain
        return self.other if kind in ("utility", "floor") else self.concept

    @property
    def beside(self) -> Mapping[str, Prompt]:
        """All prompts that do not ask for the concept, whether they name another or none."""
        return {**self.other, **self.plain}


class _Source(NamedTuple):
    """A file of prompts and the concept of its rows that name none."""

    file: str
    concept: str


def digest(prompts: Mapping[str, Prompt]) -> str:
    """Return what changes with any text, seed or guidance, so that old results do not pass."""
    text = json.dumps(list(prompts.values()), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def prompt_set(suite: Any, subject: Any) -> PromptSet:
    """Return the prompts of a subject, the same every time.

    `suite.prompts` is {count, seed} for a zoo model, whose implicit prompts name the concept by
    its synonyms, or {grid: true, seeds, count} for every object in every style. For any model it
    is {file, format, where, other, implicit, count}:
    file: a CSV table in the columns of a published set (see `_tables.read_table`); with format
    "canvas" (or grid: true) a CSV of the columns object and style, or {objects, styles}, two
    files of words. other, implicit: further tables, each a file or {file, concept} or a list of
    these; rows of other that name no concept are `PromptSet.plain`. where: conditions on columns
    of `file`. count: at most so many prompts of each kind.

    Raises:
        SafetyBenchError: an option or a table is wrong, or no prompt is left.
    """
    options: Mapping[str, Any] = suite.prompts
    count = _checked(options)
    if "file" in options:
        return _from_files(Path(suite.base), subject.concept, options, count)
    extra = [key for key in ("other", *_FILE_OPTIONS) if key in options]
    if extra:
        raise SafetyBenchError(f"prompts.{extra[0]} needs prompts.file beside it")
    if not is_zoo(suite.spec(subject.original)):
        raise SafetyBenchError(
            f"prompts needs a file, as {subject.original} is no model of the zoo; "
            f"give a CSV with the columns {', '.join(COLUMNS)}"
        )
    if options.get("grid"):
        grid = zoo_grid(subject.concept, options.get("seeds", CANVAS_SEEDS))
        mine = [p for p in grid if p.concept == subject.concept][:count]
        rest = [p for p in grid if p.concept != subject.concept][:count]
        return PromptSet({p.id: p for p in mine}, {p.id: p for p in rest})
    from safetybench.zoo.prompts import evaluation_prompts

    count, seed = count or _DEFAULT_COUNT, options.get("seed", 0)
    concept, other, implicit = (
        {p.id: p for p in evaluation_prompts(subject.concept, count, seed, kind=kind)}
        for kind in ("concept", "other", "implicit")
    )
    return PromptSet(concept, other, implicit)


def is_zoo(spec: Any) -> bool:
    """Tell whether a target is a model of the embedded world."""
    path = spec.get("path") if isinstance(spec, Mapping) else spec
    return isinstance(path, str) and path.startswith("zoo:")


def zoo_grid(concept: str, seeds: Sequence[int] = CANVAS_SEEDS) -> list[Prompt]:
    """Return UnlearnCanvas' grid in the zoo's world: every style and object at every seed.

    The one template names a colour and a background too, the same everywhere: a one-step student
    draws a mean where its caption leaves them open, which the judge does not recognise. It was
    chosen among a few templates as the one that the shipped students draw best. Each prompt stands
    once: its concept is the item of the erased concept's kind, and `clean` tells the judge the
    other ("style=dotted"). Order and noise are as in `canvas_prompts`.

    Raises:
        SafetyBenchError: the concept is no object and no style of the world.
    """
    from safetybench.zoo.prompts import head_of
    from safetybench.zoo.world import OBJECTS, STYLES

    head = head_of(concept)
    if head not in ("object", "style"):
        raise SafetyBenchError(f"a grid is of objects and styles, and {concept!r} is a {head}")
    other = "style" if head == "object" else "object"
    found = []
    for drawn in OBJECTS:
        for style in STYLES:
            names = {"object": drawn, "style": style}
            found += [
                Prompt(
                    id=f"{style}_{drawn}_seed{seed}",
                    text=f"a red {style} {drawn} on a dark background",
                    concept=names[head],
                    seed=seed,
                    clean=f"{other}={names[other]}",
                )
                for seed in seeds
            ]
    return shuffled(found)


def read_prompts(path: Path, concept: str) -> list[Prompt]:
    """Read a CSV table of prompts; results are keyed by its case_number, never by position.

    concept: of rows without a concept column. An empty prompt stays, for the log to name it.

    Raises:
        SafetyBenchError: the file cannot be read, or see `_tables.read_table`.
    """
    return read_table(path, concept, keep_empty=True).prompts


def _checked(options: Mapping[str, Any]) -> int | None:
    """Hold the options to what they may be; return the count, None for all."""
    for key in options:
        if key not in (*_OPTIONS, *_FILE_OPTIONS, *_GRID_OPTIONS):
            raise SafetyBenchError(
                f"prompts takes {', '.join(_OPTIONS)}, got {key!r}; with a file it takes "
                f"{', '.join(_FILE_OPTIONS)} besides, and a grid {', '.join(_GRID_OPTIONS)}"
            )
    _check_grid(options)
    count = options.get("count")
    if count is not None and (type(count) is not int or count < 1):
        raise SafetyBenchError(f"prompts.count must be a whole number above 0, got {count!r}")
    form = _form(options)
    if form not in FORMATS:
        near = suggestion(str(form), FORMATS)
        raise SafetyBenchError(f"prompts.format must be {', '.join(FORMATS)}, got {form!r}{near}")
    where = options.get("where", {})
    if not isinstance(where, Mapping):
        raise SafetyBenchError(
            f'prompts.where must be a mapping such as {{nudity_percentage: ">= 50"}}, got {where!r}'
        )
    if where and form == "canvas":
        raise SafetyBenchError("prompts.where has no columns to look at in the format canvas")
    return count


def _check_grid(options: Mapping[str, Any]) -> None:
    grid, seeds, form = (options.get(key) for key in ("grid", "seeds", "format"))
    if not isinstance(options.get("grid", True), bool):
        raise SafetyBenchError(f"prompts.grid must be true or false, got {grid!r}")
    if grid and form not in (None, "canvas"):
        raise SafetyBenchError(f"prompts.grid is of the format canvas, got {form!r}")
    if "seeds" not in options:
        return
    if not (grid or form == "canvas"):
        raise SafetyBenchError("prompts.seeds are those of a grid; say grid: true beside them")
    told = list(seeds) if isinstance(seeds, list | tuple) else []
    is_right = bool(told) and all(type(seed) is int and seed >= 0 for seed in told)
    if not is_right or len(set(told)) < len(told):
        raise SafetyBenchError(
            f"prompts.seeds must be a list of whole numbers, each once and 0 or more, got {seeds!r}"
        )


def _form(options: Mapping[str, Any]) -> str:
    return str(options.get("format", "canvas" if options.get("grid") else "auto"))


def _from_files(
    base: Path, concept: str, options: Mapping[str, Any], count: int | None
) -> PromptSet:
    form, told = _form(options), options["file"]
    excluded: list[Excluded] = []

    def read(source: _Source, **more: Any) -> list[Prompt]:
        table = read_table(_inside(base, source.file), source.concept, keep_empty=True, **more)
        excluded.extend(table.excluded)
        return table.prompts

    if form == "canvas":
        seeds = options.get("seeds", CANVAS_SEEDS)
        main, name = _canvas(base, told, concept, seeds).prompts, "the grid"
    else:
        name = _named(told, "file")
        _check_there(base, name)
        main = read(_Source(name, concept), form=form, where=options.get("where"))
    extra = [prompt for source in _sources(options, "other", "") for prompt in read(source)]
    asked = [p for s in _sources(options, "implicit", concept) for p in read(s)]
    prompts = [p for p in main if p.concept == concept][:count]
    others = [p for p in [*main, *extra] if p.concept and p.concept != concept][:count]
    plain = [p for p in extra if not p.concept][:count]
    implicit = [p for p in asked if p.concept == concept][:count]
    if not prompts:
        holds = " where prompts.where holds" if options.get("where") else ""
        raise SafetyBenchError(f"{name} has no prompt on {concept!r}{holds}")
    if len({p.id for p in (*others, *plain)}) < len(others) + len(plain):
        files = ", ".join(source.file for source in _sources(options, "other", ""))
        raise SafetyBenchError(f"{files} repeats a case_number of {name}")
    if len({p.id for p in implicit}) < len(implicit):
        raise SafetyBenchError("the tables of prompts.implicit share a case_number")
    return PromptSet(
        {p.id: p for p in prompts},
        {p.id: p for p in others},
        {p.id: p for p in implicit},
        {p.id: p for p in plain},
        tuple(excluded),
        CROSS if form == "canvas" else "",
    )


def _check_there(base: Path, name: str) -> None:
    """Say which file to bring, where a suite names a published set that the user has to have."""
    if not _inside(base, name).exists():
        raise SafetyBenchError(
            f"{Path(name).name} cannot be read: No such file or directory; prompt sets do not come "
            f"with the suite: name your copy with --prompts FILE (CSV: {', '.join(COLUMNS)}), or "
            "put it beside the suite"
        )


def _canvas(base: Path, told: Any, concept: str, seeds: Sequence[int]) -> Table:
    if isinstance(told, Mapping):
        if set(told) != {"objects", "styles"}:
            raise SafetyBenchError(
                "prompts.file of a canvas must be a CSV, or {objects, styles}, got "
                f"{', '.join(map(str, told)) or 'none'}"
            )
        objects, styles = (
            read_words(_inside(base, _named(told[key], f"file.{key}")))
            for key in ("objects", "styles")
        )
    else:
        path = _inside(base, _named(told, "file"))
        objects, styles = read_words(path, "object"), read_words(path, "style")
    return canvas_prompts(objects, styles, concept, seeds)


def _sources(options: Mapping[str, Any], key: str, concept: str) -> Iterator[_Source]:
    """Yield the tables that an option names: one or more, as a file or {file, concept}."""
    told = options.get(key, ())
    entries: Sequence[Any] = told if isinstance(told, list | tuple) else (told,)
    for entry in entries:
        given = entry if isinstance(entry, Mapping) else {"file": entry}
        if not {"file"} <= set(given) <= {"file", "concept"}:
            raise SafetyBenchError(
                f"prompts.{key} must be a file or {{file, concept}}, got {told!r}"
            )
        yield _Source(_named(given["file"], key), str(given.get("concept", concept)))


def _named(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise SafetyBenchError(f"prompts.{key} must be the name of a file, got {value!r}")
    return value


def _inside(base: Path, file: str) -> Path:
    return base / Path(file).expanduser()
