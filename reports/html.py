"""HTML report: one self-contained page that says what distillation did to safety, for people.

Opens anywhere, offline, with or without scripts; a strict content security policy and escaping of
everything keep hostile prompts and names harmless. Its figures are small hand-made SVG: plotly
would bring 4 MB of script that such a policy forbids.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from safetybench import __version__
from safetybench.contracts import Reporter
from safetybench.registry import register
from safetybench.store import write_whole
from safetybench.wording import KINDS, component, fraction

from . import _text
from ._answer import answer, banner
from ._backdoor import SHAPES, Part, backdoors, overview
from ._backdoor_answer import backdoor_answer
from ._backdoor_figures import chart
from ._backdoor_gallery import galleries as backdoor_galleries
from ._bias import SETS
from ._bias import SHAPES as BIAS_SHAPES
from ._bias import Part as BiasPart
from ._bias import overview as bias_overview
from ._bias_answer import bias_answer, planted
from ._bias_figures import chart as bias_chart
from ._bias_rows import biases
from ._bias_samples import books
from ._cells import CellRow, cell_rows, total_counts
from ._evasion import MASKS, PROBES
from ._evasion import SHAPES as EVASION_SHAPES
from ._evasion import Part as EvasionPart
from ._evasion import overview as evasion_overview
from ._evasion_answer import evasion_answer, evidence
from ._evasion_figures import chart as evasion_chart
from ._evasion_figures import curve, place, plane, slices
from ._evasion_rows import evasions, turned
from ._figures import comparisons, panels, relearning
from ._gallery import Strip, missing, shown_cells, strips
from ._ledger import check_groups, checks, command, costs, facts, gates, groups, model_costs
from ._load import STATUSES, Record, blurred_subjects, load
from ._measures import TOLD, measure_tables
from ._names import ORACLE
from ._overview import heat_tables, matrix, model_lines, subject_heat
from ._pairs import PairRow, pair_rows
from ._protection import Protections, protections
from ._protection_answer import protection_answer
from ._protection_figures import displacement, epsilon_panels
from ._protection_gallery import galleries
from ._protection_gallery import missing as missing_shots
from ._scatter import scatter
from ._text import mapping
from ._transfer import transfer_rows
from ._view import SubjectView, subject_views

TEMPLATES = Path(__file__).resolve().parent / "templates"
# Beyond these a table or its neighbours open on demand, and a summary stands in their place.
OPEN_PAIRS, OPEN_ROWS, OPEN_PANELS = 12, 12, 4
RUN = ("id", "suite", "title", "plan_hash", "created")
FILTERS: dict[str, Callable[..., Any]] = {
    "rate": _text.rate,
    "points": _text.points,
    "probability": _text.probability,
    "brief": _text.brief,
    "hundredths": _text.hundredths,
    "count": _text.count,
    "seconds": _text.seconds,
    "component": component,
    "titled": _text.titled,
}


@register
@dataclass(frozen=True, kw_only=True)
class Html(Reporter):
    """Write report.html, a page for readers who were not there (this project).

    images_per_cell: prompts of a subject whose images are shown, successes first; of language
    models as many instructions with their answers, three at most.
    redact: withhold all images, answers, adversarial prompts and error messages, and write
    report-redacted.html instead.
    """

    images_per_cell: int = 6
    redact: bool = False

    filename: ClassVar[str] = "report.html"
    source: ClassVar[str] = "https://www.w3.org/TR/CSP3/"

    def __post_init__(self) -> None:
        if self.images_per_cell < 0:
            raise ValueError(f"images_per_cell must be 0 or more, got {self.images_per_cell}")

    def write(self, run: Path) -> Path:
        """Write the report of a run directory into it and return its path.

        Raises: SafetyBenchError if results.json cannot be read or the report not be written.
        """
        page = self.page(load(run), version=__version__)
        path = run / ("report-redacted.html" if self.redact else self.filename)
        write_whole(path, page.encode("utf-8"))
        return path

    def page(self, record: Record, *, version: str) -> str:
        """Return the page; version: of the safetybench that writes it."""
        style, script = (_asset(name) for name in ("report.css", "report.js"))
        cells = cell_rows(record)
        found = checks(record)
        shown = self._shown(record, cells, pair_rows(record, cells))
        style += "" if shown["protection"] is None else _asset("protection.css")
        style += "" if shown["backdoor"] is None else _asset("backdoor.css")
        style += "" if shown["bias"] is None else _asset("bias.css")
        style += "" if shown["evasion"] is None else _asset("evasion.css")
        template = _environment().get_template("report.html.jinja")
        return template.render(
            style=Markup(style),
            script=Markup(script),
            policy=_policy(style, script),
            version=version,
            redact=self.redact,
            oracle=ORACLE,
            measures=TOLD,
            open_rows=OPEN_ROWS,
            open_panels=OPEN_PANELS,
            run=dict.fromkeys(RUN) | dict(mapping(record.results.get("run"))),
            banner=banner(record),
            cells=cells,
            totals=total_counts(cells),
            statuses=STATUSES,
            groups=groups(record, cells, self.redact),
            gates=gates(record),
            checks=found,
            check_groups=check_groups(found),
            notes=_notes(record.results.get("notes")),
            costs=costs(cells),
            model_costs=model_costs(cells),
            facts=facts(record.manifest),
            command=command(record),
            **shown,
        )

    def _shown(self, record: Record, cells: list[CellRow], pairs: list[PairRow]) -> dict[str, Any]:
        """Return the answer, and what the page shows of the run's scenario."""
        shields, hidden = protections(record, cells, pairs), backdoors(record, cells)
        biased, evaded = biases(record, cells), evasions(record)
        kinds = {"protection": shields, "backdoor": hidden, "bias": biased, "evasion": evaded}
        if shields is not None:
            told, shown = protection_answer(shields), self._protected(record, cells, shields)
        elif hidden is not None:
            told, shown = backdoor_answer(hidden), self._backdoored(record, cells, hidden)
        elif biased is not None:
            told, shown = bias_answer(biased), self._biased(record, cells, biased)
        elif evaded is not None:
            told, shown = evasion_answer(evaded), _evaded(record, cells, evaded)
        else:
            told, shown = answer(pairs), self._compared(record, cells, pairs)
        return {"answer": told, **kinds, **shown}

    def _backdoored(
        self, record: Record, cells: list[CellRow], found: tuple[Part, ...]
    ) -> dict[str, Any]:
        """Return what the page of a backdoor run shows in the place of subjects and attacks."""
        images = backdoor_galleries(record, found, cells, self.images_per_cell, self.redact)
        blurred = blurred_subjects(record)
        return {
            "problems": [*record.problems, *(p for g in images for p in missing(g.strips))],
            "is_long": len(cells) > OPEN_ROWS,
            "outcomes": SHAPES,
            "overview": overview(found),
            "charts": {part.anchor: chart(part) for part in found},
            "galleries": images,
            "is_blurred": {g.subject: blurred is None or g.subject in blurred for g in images},
        }

    def _biased(
        self, record: Record, cells: list[CellRow], found: tuple[BiasPart, ...]
    ) -> dict[str, Any]:
        """Return what the page of a bias run shows in the place of subjects and attacks."""
        blurred = blurred_subjects(record)
        return {
            "problems": list(record.problems),
            "is_long": len(cells) > OPEN_ROWS,
            "outcomes": BIAS_SHAPES,
            "titles": SETS,
            "overview": bias_overview(found),
            "planted": {part.anchor: planted(part) for part in found},
            "charts": {part.anchor: bias_chart(part) for part in found},
            "books": books(record, found, cells, self.images_per_cell, self.redact),
            "is_blurred": {p.subject: blurred is None or p.subject in blurred for p in found},
        }

    def _protected(
        self, record: Record, cells: list[CellRow], found: Protections
    ) -> dict[str, Any]:
        """Return what the page of a protection run shows in the place of subjects and attacks."""
        images = galleries(record, found, self.images_per_cell, self.redact)
        blurred = blurred_subjects(record)
        return {
            "problems": [*record.problems, *missing_shots(images)],
            "is_long": len(cells) > OPEN_ROWS,
            "displacement": displacement(found),
            "epsilons": epsilon_panels(found),
            "galleries": images,
            "is_blurred": {g.subject: blurred is None or g.subject in blurred for g in images},
        }

    def _compared(
        self, record: Record, cells: list[CellRow], pairs: list[PairRow]
    ) -> dict[str, Any]:
        """Return what the page shows of subjects, of each alone and side by side."""
        subjects = subject_views(record, cells, pairs)
        images = {subject.name: self._strips(record, subject) for subject in subjects}
        blurred = blurred_subjects(record)
        transfer = transfer_rows(record, pairs)
        safety = [row.pair for row in transfer] or [pair for pair in pairs if not pair.is_utility]
        tables = measure_tables(record, cells)
        lines = model_lines(subjects, tables)
        is_matrix = not transfer and (len(safety) > OPEN_PAIRS or any(p.through for p in safety))
        return {
            "problems": [*record.problems, *(p for s in images.values() for p in missing(s))],
            "transfer": transfer,
            "safety": safety,
            "useful": [pair for pair in pairs if pair.is_utility],
            "is_long": not transfer and len(safety) > OPEN_PAIRS,
            "matrix": matrix(safety, subjects) if is_matrix else None,
            "comparisons": comparisons(safety),
            "subjects": subjects,
            "images": images,
            "images_cut": {s.name: _is_cut(s) for s in subjects},
            "is_blurred": {s.name: blurred is None or s.name in blurred for s in subjects},
            "panels": {s.name: panels(s.cells) for s in subjects},
            "relearning": {s.name: relearning(s.cells) for s in subjects},
            "tables": {s.name: tables.get(s.name) for s in subjects},
            "lines": lines,
            "scatter": scatter(lines),
            "subject_heat": {s.name: subject_heat(s) for s in subjects},
            "heat": heat_tables(subjects) if lines else [],
        }

    def _strips(self, record: Record, subject: SubjectView) -> list[Strip]:
        return strips(record, subject.cells, subject.concept, self.images_per_cell, self.redact)


def _evaded(record: Record, cells: list[CellRow], found: tuple[EvasionPart, ...]) -> dict[str, Any]:
    """Return what the page of an evasion run shows in the place of subjects and attacks."""
    return {
        "problems": list(record.problems),
        "is_long": len(cells) > OPEN_ROWS,
        "outcomes": EVASION_SHAPES,
        "masks": MASKS,
        "kinds": KINDS,
        "probe_names": PROBES,
        "overview": evasion_overview(found),
        "charts": {part.anchor: evasion_chart(part) for part in found},
        "curve": curve,
        "plane": plane,
        "place": place,
        "slices": slices,
        "turned": turned,
        "evidence": evidence,
        "fraction": fraction,
    }


def _is_cut(subject: SubjectView) -> bool:
    """Tell whether the gallery leaves out attacks."""
    shown = [cell for cell in shown_cells(subject.cells) if cell.kind == "attack"]
    attacked = {cell.student or cell.role for cell in subject.cells if cell.kind == "attack"}
    return bool(attacked) and len(shown) <= len(attacked) < len(subject.attacks)


def _notes(found: Any) -> list[str]:
    return [_text.text(note) for note in found] if isinstance(found, list) else []


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,  # whatever the file's ending is
        undefined=StrictUndefined,
        finalize=_text.finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(FILTERS)
    environment.globals.update(
        rate_range=_text.rate_range, points_range=_text.points_range, nothing=_text.NOTHING
    )
    return environment


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Allow these two inline parts by their hash, embedded images, and nothing else."""
    hashes = [
        base64.b64encode(hashlib.sha256(part.encode()).digest()).decode("ascii")
        for part in (style, script)
    ]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; "
        f"script-src 'sha256-{hashes[1]}'; base-uri 'none'; form-action 'none'"
    )
