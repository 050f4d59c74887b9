"""Read published tables of prompts from the user's copy; none is shipped.

A row is known by its case_number, never by its place. A row that cannot be used is told, with
its line and the reason; a fault of the whole file, or of its structure, is an error.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetybench.contracts import Prompt, SafetyBenchError
from safetybench.registry import suggestion

COLUMNS = ("case_number", "prompt", "evaluation_seed")
FORMATS = ("auto", "unlearndiffatk", "i2p", "canvas")
CANVAS_SEEDS = (188, 288, 588, 688, 888)
CROSS = "-cross"  # the end of an id in a canvas: judged for the kind that the concept is not of

# What the tables call a thing, in the order of preference.
_NAMES = {
    "seed": ("evaluation_seed", "sd_seed"),
    "guidance": ("evaluation_guidance", "sd_guidance_scale"),
    "concept": ("concept", "target"),
}
_NOTHING = ("", "nan", "none", "null")  # what pandas writes for a cell without a value
_CONDITION = re.compile(r"(>=|<=|==|!=|=|>|<|has\b)?\s*(.*)", re.S)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
}
_FOREIGN = (  # what is saved in the place of a table now and then, by its first bytes
    (b"\xff\xfe", "it looks like UTF-16; save it as CSV in UTF-8"),
    (b"\xfe\xff", "it looks like UTF-16; save it as CSV in UTF-8"),
    (b"PK\x03\x04", "it looks like a spreadsheet or archive; save its sheet as CSV"),
    (b"version https://git-lfs", "it is a Git LFS pointer; fetch the file itself"),
    (b"<", "it is a web page; download the raw file"),
)


class Excluded(NamedTuple):
    """A row that cannot be used.

    line: where the row ends in the file, the header being 1; case_number: "" if it has none.
    """

    line: int
    case_number: str
    reason: str
    file: str = ""


class Table(NamedTuple):
    """What a file holds: prompts that can be used, and the rows that cannot."""

    prompts: list[Prompt]
    excluded: list[Excluded]


class _Row(NamedTuple):
    line: int
    cells: Mapping[str, str]


def read_table(
    path: Path,
    concept: str,
    *,
    form: str = "auto",
    where: Mapping[str, Any] | None = None,
    keep_empty: bool = False,
) -> Table:
    """Read a table in the columns of UnlearnDiffAtk (also Six-CD, COCO) or of I2P.

    form: "unlearndiffatk" has case_number, prompt, evaluation_seed, and if wanted
    evaluation_guidance and concept (or target); "i2p" may name the seed sd_seed and the guidance
    sd_guidance_scale and has no case_number: a digest of prompt and seed takes its place. "auto"
    looks at the columns. Other columns are for `where`.
    concept: of rows that name none. where: conditions on columns that all must hold, such as
    {"nudity_percentage": ">= 50"} or {"categories": "has sexual"}; rows that do not hold them are
    left out and not told. keep_empty: an empty prompt stays a prompt, for a log to name it.

    Told and left out: no prompt, no seed, a case_number that stands twice with the same prompt,
    a cell that `where` cannot compare. A prompt too long for a tokenizer stays: attacks know.

    Raises:
        SafetyBenchError: the file cannot be read, lacks a column, has a cell of a wrong kind or
            a row of a wrong length, or gives two prompts the same case_number.
    """
    name = path.name
    columns, rows = _read(path)
    is_i2p = form == "i2p" or (form == "auto" and _is_i2p(columns))
    _check_columns(name, columns, is_i2p)
    _check_where(name, where or {}, columns)
    found: dict[str, Prompt] = {}
    excluded: list[Excluded] = []
    for row in rows:
        at = f"{name}:{row.line}"
        case = _case(row.cells, at, is_i2p)
        reason = _unusable(row.cells, where or {}, keep_empty)
        if reason is None:
            continue
        if not reason:
            prompt = _prompt(row.cells, case, concept, at)
            reason = _twice(found.get(case), prompt, at)
            found.setdefault(case, prompt)
        if reason:
            excluded.append(Excluded(row.line, case, reason, name))
    return Table(list(found.values()), excluded)


def canvas_prompts(
    objects: Sequence[str],
    styles: Sequence[str],
    concept: str,
    seeds: Sequence[int] = CANVAS_SEEDS,
) -> Table:
    """Return UnlearnCanvas' grid of prompts, "A {object} image in {style} style.", at each seed.

    The prompts of the erased concept come with it as their concept, under the authors' file
    names ("Van_Gogh_Dogs_seed188"). All others come twice, as two accuracies are read from them:
    for the item of the concept's own kind under that id (IRA), and for the item of the other
    kind under the id with "-cross" (CRA). Their order is by a digest of the id, so that the first
    n are a fair sample. `clean` is the prompt without what it is judged for.

    The words are those of the authors' sampling code, "A" before a vowel too. Departs from it:
    there, one generator runs through the grid in order, so that noise depends on place; here
    each prompt has the noise of its own seed. Guidance is the target's own: the published 9.0
    with 100 DDIM steps is for the target's settings to say.
    Source: https://arxiv.org/abs/2402.11846

    Raises:
        SafetyBenchError: the concept is in neither list, or a word stands in both.
    """
    both = sorted(set(objects) & set(styles))
    if both:
        raise SafetyBenchError(f"{both[0]!r} must be an object or a style, and is both")
    if concept not in (*objects, *styles):
        raise SafetyBenchError(
            f"{concept!r} is no object and no style of the grid"
            f"{suggestion(concept, [*objects, *styles])}"
        )
    is_style = concept in styles
    found: list[Prompt] = []
    for drawn in objects:
        for style in styles:
            own, other = (style, drawn) if is_style else (drawn, style)
            for seed in seeds:
                name = f"{style}_{drawn}_seed{seed}"
                found.append(_grid(name, drawn, style, own == style, seed))
                if own != concept:
                    found.append(_grid(f"{name}{CROSS}", drawn, style, other == style, seed))
    return Table(shuffled(found), [])


def shuffled(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return prompts in the order of a digest of their ids: the first n are a fair sample."""
    return sorted(prompts, key=lambda p: hashlib.sha256(p.id.encode()).digest())


def _grid(name: str, drawn: str, style: str, is_style: bool, seed: int) -> Prompt:
    said = style.replace("_", " ")
    return Prompt(
        id=name,
        text=f"A {drawn} image in {said} style.",
        concept=style if is_style else drawn,
        seed=seed,
        clean=f"A {drawn} image." if is_style else f"An image in {said} style.",
    )


def read_words(path: Path, column: str = "") -> list[str]:
    """Read a list of words: one a line, or one column of a CSV table, blanks left out.

    Raises:
        SafetyBenchError: the file cannot be read, has no such column, no word, or one twice.
    """
    if column:
        columns, rows = _read(path)
        if column not in columns:
            raise SafetyBenchError(_lacks(path.name, (column,), columns))
        words = [row.cells[column].strip() for row in rows]
    else:
        words = [line.strip() for line in _text(path).split("\n")]
    words = [word for word in words if word and not word.startswith("#")]
    if not words:
        raise SafetyBenchError(f"{path.name} must hold words, one a line, got none")
    twice = [word for i, word in enumerate(words) if word in words[:i]]
    if twice:
        raise SafetyBenchError(f"{path.name}: {twice[0]!r} stands twice")
    return words


def number(text: str, name: str, kind: type[int] | type[float]) -> float:
    """Return a cell as a finite number; a whole one may be written 7.0, as pandas does."""
    try:
        value = float(text) if kind is float or "." in text else int(text)
        if not math.isfinite(value) or (kind is int and value != int(value)):
            raise ValueError(text)
        return kind(value)
    except ValueError as error:
        word = "a whole number" if kind is int else "a number"
        raise SafetyBenchError(f"{name} must be {word}, got {text!r}") from error


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SafetyBenchError(f"{path.name} cannot be read: {error.strerror}") from error
    for start, hint in _FOREIGN:
        if content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(start):
            raise SafetyBenchError(f"{path.name} must be a CSV table in UTF-8; {hint}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SafetyBenchError(
            f"{path.name} must be UTF-8, got byte {error.object[error.start]:#04x} at {error.start}"
        ) from error


def _read(path: Path) -> tuple[tuple[str, ...], list[_Row]]:
    """Return the columns and the rows of a CSV table, each row as long as the header."""
    name, text = path.name, _text(path)
    if "\0" in text:
        raise SafetyBenchError(f"{name} must be a CSV table, got a binary file")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = tuple(cell.strip() for cell in next(reader, ()))
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise SafetyBenchError(
            f"{name}:{reader.line_num} must be a row of a CSV table: {error}"
        ) from error
    twice = [c for i, c in enumerate(columns) if c and c in columns[:i]]
    if twice:
        raise SafetyBenchError(f"{name}:1: the column {twice[0]!r} stands twice")
    rows = []
    for line, cells in lines:
        if len(cells) > len(columns):
            raise SafetyBenchError(
                f"{name}:{line}: a row must have {len(columns)} cells, got {len(cells)}; a prompt "
                "with a comma needs quotes"
            )
        # A row that ends early has no cell there, which is not an empty one.
        rows.append(_Row(line, dict(zip(columns, cells, strict=False))))
    return columns, rows


def _is_i2p(columns: Iterable[str]) -> bool:
    return "case_number" not in columns and {"prompt", "sd_seed"} <= set(columns)


def _check_columns(name: str, columns: Sequence[str], is_i2p: bool) -> None:
    if is_i2p:
        if "prompt" not in columns or not set(_NAMES["seed"]) & set(columns):
            raise SafetyBenchError(_lacks(name, ("prompt", "sd_seed"), columns))
    elif not set(COLUMNS) <= set(columns):
        raise SafetyBenchError(_lacks(name, COLUMNS, columns))


def _lacks(name: str, wanted: Sequence[str], columns: Sequence[str]) -> str:
    got = ", ".join(columns) or "none"
    hint = "; separate them by commas" if len(columns) == 1 and re.search("[;\t]", got) else ""
    many = f"the columns {', '.join(wanted)}" if len(wanted) > 1 else f"a column {wanted[0]}"
    return f"{name} must have {many}, got {got}{hint}"


def _check_where(name: str, where: Mapping[str, Any], columns: Sequence[str]) -> None:
    for column, condition in where.items():
        if column not in columns:
            near = suggestion(str(column), columns)
            raise SafetyBenchError(f"{name} has no column {column!r}{near}")
        sign, wanted = _split(condition)
        if not wanted:
            raise SafetyBenchError(
                f"prompts.where.{column} must be a value, maybe after one of >= <= > < = != has, "
                f"got {condition!r}"
            )
        if sign in (">=", "<=", ">", "<"):
            number(wanted, f"prompts.where.{column}: what follows {sign}", float)


def _split(condition: Any) -> tuple[str, str]:
    match = _CONDITION.fullmatch(str(condition).strip())
    assert match is not None, "the pattern takes any text"
    return match[1] or "=", match[2].strip()


def _unusable(cells: Mapping[str, str], where: Mapping[str, Any], keep_empty: bool) -> str | None:
    """Return why a row cannot be used, "" if it can, None if it is not asked for."""
    for column, condition in where.items():
        try:
            if not _holds(cells.get(column, ""), *_split(condition)):
                return None
        except ValueError:
            return f"{column} is no number, so that {str(condition)!r} cannot be asked of it"
    if not keep_empty and not cells.get("prompt", "").strip():
        return "the prompt is empty"
    seed = _cell(cells, "seed")
    if seed is not None and seed.lower() in _NOTHING:
        return "there is no seed"
    return ""


def _holds(cell: str, sign: str, wanted: str) -> bool:
    if sign == "has":
        return wanted.casefold() in (part.strip().casefold() for part in cell.split(","))
    try:
        limit = float(wanted)
    except ValueError:
        return _COMPARE[sign](cell.strip().casefold(), wanted.casefold())
    value = float(cell)
    if math.isnan(value):
        raise ValueError(cell)
    return _COMPARE[sign](value, limit)


def _case(cells: Mapping[str, str], at: str, is_i2p: bool) -> str:
    case = cells.get("case_number", "").strip()
    if not case and is_i2p:
        text = f"{cells.get('prompt', '').strip()}\0{(_cell(cells, 'seed') or '').strip()}"
        return f"i2p-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not case:
        raise SafetyBenchError(f"{at}: case_number must not be empty")
    return case


def _cell(cells: Mapping[str, str], what: str) -> str | None:
    """Return the cell under the first name that the row has, None if it ends before."""
    return next((cells[name].strip() for name in _NAMES[what] if name in cells), None)


def _prompt(cells: Mapping[str, str], case: str, concept: str, at: str) -> Prompt:
    seed, guidance = _cell(cells, "seed"), _cell(cells, "guidance") or ""
    if seed is None:
        raise SafetyBenchError(f"{at}: evaluation_seed must be a whole number, got None")
    is_told = guidance.lower() not in _NOTHING
    return Prompt(
        id=case,
        text=cells.get("prompt", "").strip(),
        concept=_cell(cells, "concept") or concept,
        seed=int(number(seed, f"{at}: evaluation_seed", int)),
        guidance=number(guidance, f"{at}: evaluation_guidance", float) if is_told else None,
    )


def _twice(before: Prompt | None, prompt: Prompt, at: str) -> str:
    """Return the reason to leave a repeated row out, "" if it is the first of its case_number."""
    if before is None:
        return ""
    if before == prompt:
        return "the case_number stands twice, with the same prompt"
    for what in ("text", "seed", "guidance", "concept"):
        if getattr(before, what) != getattr(prompt, what):
            break
    raise SafetyBenchError(
        f"{at}: case_number {prompt.id!r} stands twice, with another "
        f"{'prompt' if what == 'text' else what}"
    )
