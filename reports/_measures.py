"""The table of measures: what each model forgot, what it kept, and how fast it learns it again.

Names, units and words stand here; figures, intervals and directions are those of results.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ._cells import CellRow, Estimate, estimate, models_of
from ._load import Record
from ._names import model_name
from ._text import NOTHING, brief, count, number, rate, rate_range, rows, text


class Told(NamedTuple):
    """How a measure is told. kind: of the cell that it comes from; unit: "%", "steps" or ""."""

    title: str
    words: str
    kind: str
    unit: str = "%"


TOLD = {
    "forgetting": Told(
        "Forgetting",
        "Prompts on the concept that no longer show it, of those on which the original does "
        "(unlearning accuracy, UA).",
        "clean",
    ),
    "in-prompt": Told(
        "In-prompt",
        "How much of the rest of these prompts is still drawn: colour, style, background.",
        "clean",
    ),
    "retain-same": Told(
        "Retained, same kind",
        "Prompts on other concepts of the same kind that show theirs (in-domain retain accuracy, "
        "IRA).",
        "utility",
    ),
    "retain-cross": Told(
        "Retained, other kinds",
        "Attributes of other kinds that these images show as asked (cross-domain retain accuracy, "
        "CRA).",
        "utility",
    ),
    "neighbours": Told(
        "Neighbours",
        "As retained, on the concepts nearest to the erased one, which erasing hits first.",
        "utility",
    ),
    "worst-concept": Told(
        "Worst concept",
        "As retained, on the one other concept that lost most against the original.",
        "utility",
    ),
    "implicit-leak": Told(
        "Implicit leak",
        "Prompts that ask for the concept without its name and get it.",
        "implicit",
    ),
    "fid-judge": Told(
        "FID, judge",
        "Fréchet distance to the original's images of other concepts, in the judge's features; "
        "not comparable with an FID in other features.",
        "utility",
        "",
    ),
    "kid-judge": Told(
        "KID, judge",
        "Kernel distance to the same images, in the judge's features; around 0 for equal ones.",
        "utility",
        "",
    ),
    "half-life": Told(
        "Relearning half-life",
        "Training steps on a few pictures of the concept until half of the prompts show it again.",
        "relearn",
        "steps",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measure of one model, as text. note: what it is about, beside what it stands."""

    value: str
    range: str
    n: float | None
    notes: tuple[str, ...]
    is_valid: bool
    estimate: Estimate


class MeasureRow(NamedTuple):
    """One measure over the models of a subject. better: "high", "low" or "" where unknown."""

    name: str
    title: str
    words: str
    better: str
    figures: Mapping[str, tuple[Figure, ...]]


class MeasureTable(NamedTuple):
    """The measures of one subject; models: its columns."""

    subject: str
    models: tuple[str, ...]
    rows: tuple[MeasureRow, ...]

    def first(self, measure: str, model: str) -> Figure | None:
        """Return a figure, of several seeds the first."""
        for row in self.rows:
            if row.name == measure:
                return next(iter(row.figures.get(model, ())), None)
        return None


def measure_tables(record: Record, cells: Sequence[CellRow]) -> dict[str, MeasureTable]:
    """Return the table of every subject that has measures."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows(record.results.get("measures")):
        found.setdefault(text(row.get("subject")), []).append(row)
    return {
        subject: _table(subject, mine, [cell for cell in cells if cell.subject == subject])
        for subject, mine in found.items()
    }


def _table(subject: str, found: list[Mapping[str, Any]], cells: list[CellRow]) -> MeasureTable:
    named = dict.fromkeys(_model(row) for row in found)
    models = list(dict.fromkeys([*(m for m in models_of(cells) if m in named), *named]))
    order = dict.fromkeys(text(row.get("name")) for row in found)
    names = [*(name for name in TOLD if name in order), *(n for n in order if n not in TOLD)]
    return MeasureTable(
        subject,
        tuple(models),
        tuple(_row(name, [r for r in found if text(r.get("name")) == name], cells)
              for name in names),
    )  # fmt: skip


def _model(row: Mapping[str, Any]) -> str:
    return model_name({"role": row.get("role"), "student": row.get("student")})


def _row(name: str, found: Iterable[Mapping[str, Any]], cells: Sequence[CellRow]) -> MeasureRow:
    found = list(found)
    told = TOLD.get(name, Told(name, "", "", ""))
    figures: dict[str, list[Figure]] = {}
    seeds = {text(row.get("seed")) for row in found}
    for row in found:
        figures.setdefault(_model(row), []).append(_figure(row, told, cells, len(seeds) > 1))
    better = next((text(row.get("better")) for row in found), "")
    return MeasureRow(
        name,
        told.title,
        told.words,
        better if better in ("high", "low") else "",
        {model: tuple(mine) for model, mine in figures.items()},
    )


def _figure(
    row: Mapping[str, Any], told: Told, cells: Sequence[CellRow], has_seeds: bool
) -> Figure:
    who, seed = _model(row), text(row.get("seed"))
    sources = [c for c in cells if (c.who, c.kind) == (who, told.kind)]
    source = next((c for c in sources if c.seed == seed), next(iter(sources), None))
    span = estimate(row.get("value"), row.get("interval"), row.get("n"))
    about = text(row.get("of"))
    value, shown = _written(span, told.unit, source)
    if told.unit == "steps" and span.value is None:
        value, about = (f"not {about}" if about else NOTHING), ""
    reference = number(row.get("reference"))
    notes = [about] if about else []
    if reference is not None:
        notes.append(f"original {rate(reference) if told.unit == '%' else brief(reference)}")
    if has_seeds:
        notes.append(f"seed {seed}")
    is_valid = source is None or source.is_valid
    return Figure(
        value=value, range=shown, n=span.n, notes=tuple(notes), is_valid=is_valid, estimate=span
    )


class _Written(NamedTuple):
    value: str
    range: str


def _written(span: Estimate, unit: str, source: CellRow | None) -> _Written:
    """Write a figure and its interval in the unit of its measure."""
    if unit == "%":
        return _Written(rate(span.value), _interval(span, rate_range(span.low, span.high)))
    if unit == "steps":
        last = max(source.curve_at, default=None) if source else None
        # Beyond the last stage nothing was measured: there the interval is open.
        is_open = (
            last is not None and span.low is not None and (span.high is None or span.high > last)
        )
        high = f"over {count(last)}" if is_open else count(span.high)
        value = NOTHING if span.value is None else f"{count(span.value)} steps"
        return _Written(value, _interval(span, f"{count(span.low)} – {high}"))
    return _Written(brief(span.value), _interval(span, f"{brief(span.low)} – {brief(span.high)}"))


def _interval(span: Estimate, shown: str) -> str:
    return "" if span.low is None or span.high is None else shown
