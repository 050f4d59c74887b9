"""Published claims beside what is measured here: `python -m docs.claims --measure`.

Measures what zoo cards do not hold into docs/results/claims.json (about four CPU-minutes on one
thread); `python -m docs.generate` makes the page from that file and the cards. Models that are
not built make their rows "not measured yet".
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from docs.claims_table import CLAIMS, MARGIN, SYSTEMS, UNWANTED
from docs.claims_verdict import (
    FIGURES,
    Claim,
    Estimate,
    Outcome,
    Quality,
    Verdict,
    fingerprint,
    settle,
)
from docs.markdown import NONE, NOTE, table

FILE = Path(__file__).resolve().parent / "results" / "claims.json"
SCHEMA = "safetybench.claims/1"
_ABOUT = f"""\
Twelve distillation systems, what their papers say, and whether the same direction shows in this
small world. It is a check of directions: published figures are of photographs and large models,
ours of a 64x64 world and students of minutes, and no size of an effect carries over.

- A claim's verdict is that of its first comparison, which was fixed before the students' figures
  were known; the others stand beside it with verdicts of their own.
- **{Verdict.SAME}**, **{Verdict.OPPOSITE}**: the whole 95 % interval of the difference lies on
  that side of zero. **{Verdict.UNCLEAR}**: it does not. Where a paper says that nothing is lost,
  the limit is a loss of {100 * MARGIN:.0f} points, not zero. **{Verdict.MISSING}**: a card or a
  measurement is missing, or is of other weights than the card now tells of.
- Intervals of differences come from those of the two figures as if they were independent, which
  is rather too wide here, as prompts are shared. They are not corrected for their number: of
  forty true zeros two leave their interval. Each model is one training from one seed, and no
  interval knows of that.
- alignment, KID, recall, rare combinations and repeats are those of
  [the measured figures](zoo.md), against the teacher's images. Recall has Wilson's interval at
  the number of prompts, which leaves out that all its images are held to one set. CPU time has
  an allowance of 15 % and no interval; entropy (of style, colour and background together) and
  combinations have none and get no verdict.
- "Attribute shown" is of {{words}}, a quarter of the prompts each; an image that
  the judge rejects does not show it, so read it with the attributes kept.

Figures come from the zoo's cards and from `python -m docs.claims --measure`, which measures what
no card holds: the teacher in one and four steps, NASA, the pairing of noise, guidance as an
input."""


def known(
    cards: Mapping[str, Mapping[str, Any]], measured: Mapping[str, Any]
) -> dict[str, Quality]:
    """Return quality by model and by measurement; one of other weights than a card's is left out.

    cards: by model; measured: the content of claims.json.
    """
    found: dict[str, Quality] = {n: c["quality"] for n, c in cards.items() if c.get("quality")}
    marks = {name: fingerprint(card) for name, card in cards.items()}
    for name, entry in measured.get("entries", {}).items():
        if all(marks.get(model) == mark for model, mark in entry["of"].items()):
            found[name] = {**entry["quality"], **found.get(name, {})}  # a card comes first
    return found


def page(quality: Mapping[str, Quality], claims: Sequence[Claim] = CLAIMS) -> str:
    """Return the page of claims; quality: as `known` returns it."""
    settled = {claim: [settle(c, quality) for c in claim.comparisons] for claim in claims}
    parts = ["# Published claims beside measured directions", NOTE]
    parts.append(_ABOUT.format(words=", ".join(UNWANTED)))
    rows = [(c.system, c.title, f"**{outcomes[0].verdict}**", _beside(outcomes[1:]))
            for c, outcomes in settled.items()]  # fmt: skip
    parts += ["## Verdicts", table(("system", "claim", "verdict", "beside it"), rows)]
    for system in SYSTEMS:
        own = {c: outcomes for c, outcomes in settled.items() if c.system == system}
        if own:
            parts.append(f"## {system}")
        for claim, outcomes in own.items():
            parts += _section(claim, outcomes)
    return "\n\n".join(parts) + "\n"


def _beside(outcomes: Sequence[Outcome]) -> str:
    verdicts = [outcome.verdict for outcome in outcomes]
    counts = [(verdict, verdicts.count(verdict)) for verdict in Verdict]
    return ", ".join(f"{count} {verdict}" for verdict, count in counts if count)


def _section(claim: Claim, outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield f"### {claim.system}: {claim.title}"
    yield (
        f"Published: {claim.published} Source: <{claim.source}>\n\n"
        f"Compared: {claim.compared}\n\nVerdict: **{outcomes[0].verdict}**"
    )
    columns = ("figure", "first", "expected", "second", "difference", "verdict")
    yield table(columns, [_row(outcome) for outcome in outcomes])


def _row(outcome: Outcome) -> tuple[str, ...]:
    comparison, unit = outcome.comparison, FIGURES[outcome.comparison.figure].unit
    write = partial(written, unit=unit)
    second = comparison.second
    by = f" by {100 * comparison.margin:.0f} points" if comparison.margin else ""
    is_number = not isinstance(second, str)
    return (
        FIGURES[comparison.figure].name,
        f"{comparison.first}: {write(outcome.first)}",
        comparison.expected + by,
        f"{second:g}" if is_number else f"{second}: {write(outcome.second)}",
        write(outcome.difference),
        str(outcome.verdict) if outcome.verdict else "no interval",
    )


def written(estimate: Estimate | None, unit: str) -> str:
    """Return a figure as the page prints it, with its interval if it has one.

    >>> written(Estimate(0.5, 0.25, 0.75), "percent")
    '50.0 % (25.0 to 75.0)'
    """
    if estimate is None:
        return NONE
    factor, places = {"percent": (100, 1), "thousandth": (1000, 1), "number": (1, 2)}[unit]
    value, *ends = (None if e is None else f"{factor * e:.{places}f}" for e in estimate)
    text = f"{value} %" if unit == "percent" else str(value)
    if None in ends or ends[0] == ends[1] == value:
        return text
    return f"{text} ({ends[0]} to {ends[1]})"


def read(file: Path = FILE) -> dict[str, Any]:
    """Return the content of claims.json, empty before the first measurement."""
    if not file.is_file():
        return {}
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def keep(entries: Mapping[str, Any], file: Path = FILE) -> None:
    """Put entries into claims.json, beside those that were not measured again."""
    whole = {"schema": SCHEMA, "entries": {**read(file).get("entries", {}), **entries}}
    text = json.dumps(whole, indent=1, sort_keys=True, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")


def main(arguments: Iterable[str] | None = None) -> int:
    """Measure, or with nothing to do say the verdicts; return 0."""
    from docs.claims_measure import PARTS, Bench, run

    parser = argparse.ArgumentParser(prog="python -m docs.claims", description=__doc__)
    parser.add_argument("--measure", action="store_true", help="measure into results/claims.json")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=[], metavar="PART",
                        help=f"these parts alone, of {', '.join(PARTS)}")  # fmt: skip
    parser.add_argument("--root", type=Path, help="where the zoo's models are")
    parser.add_argument("--count", type=int, default=512, help="prompts of a set, at least 32")
    parser.add_argument("--out", type=Path, default=FILE, help="the file to write")
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    if chosen.measure:
        import torch

        from safetybench import registry
        from safetybench.targets.loading import load_target

        torch.set_num_threads(1)
        load = partial(load_target, device="cpu", dtype="float32", zoo_root=chosen.root)
        bench = Bench(load, registry.create("judges/zoo", {}), chosen.count)
        for name, entry in run(bench, chosen.only):
            keep({name: entry}, chosen.out)
    from docs.figures import card_folders, card_of

    cards = {folder.name: card_of(folder) for folder in card_folders(chosen.root)}
    quality = known(cards, read(chosen.out))
    for claim in CLAIMS:
        outcome = settle(claim.comparisons[0], quality)
        print(f"{claim.system}: {claim.title}: {outcome.verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
