"""`python -m benchmarks`: how much the batched paths save, each against a plain one.

The plain path does the same work one item at a time in the same process; results must agree,
else the exit code is 1. `--protection` compares steps of image protections with the ways of the
published code, `--evasion` attacks on a classifier with ART's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.evasion import EvasionRow
    from benchmarks.measure import Row
    from benchmarks.protection import StepRow


def _arguments(given: Iterable[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test: its ratios mean little")
    parser.add_argument(
        "--protection", action="store_true", help="steps of image protections instead"
    )
    parser.add_argument(
        "--evasion", action="store_true", help="attacks on a classifier instead, beside ART's"
    )
    # 16 is what the harness gives an attack at once (Cell.chunk_size).
    parser.add_argument(
        "--items", type=int, metavar="N", help="prompts or images (default 16, or 8 protected)"
    )
    parser.add_argument("--repeats", type=int, default=2, metavar="N", help="(default 2)")
    parser.add_argument("--target", default="", metavar="SPEC", help="default zoo:teacher")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    return parser.parse_args(None if given is None else list(given))


def rows(chosen: argparse.Namespace) -> tuple[str, list[Row]]:
    """Return where it ran, in words, and every comparison."""
    from safetybench.threads import limit_threads

    threads = limit_threads()
    from benchmarks import measure, models
    from safetybench.contracts import Budget
    from safetybench.zoo.prompts import evaluation_prompts

    count, repeats = (3, 1) if chosen.quick else (chosen.items or 16, chosen.repeats)
    target = models.target(chosen.target, chosen.device, 2 if chosen.quick else None)
    prompts = evaluation_prompts("fish", count, seed=7)
    budget = Budget(steps=4, images=3) if chosen.quick else Budget(steps=20, images=5)
    found = [
        measure.search_row(target, prompts, budget, repeats),
        measure.generation_row(target, prompts, repeats),
    ]
    images = target.generate([p.text for p in prompts], [p.seed for p in prompts])
    found.append(measure.judge_row(models.judge_network(images.device), images, repeats))
    return f"{target.name} on {images.device}, {threads} threads", found


def table(found: Sequence[Row]) -> str:
    """Return the rows as text."""
    lines = [f"{'path':24}{'items':>6}{'one by one':>13}{'batched':>11}{'ratio':>8}   results"]
    for row in found:
        agree = "agree" if row.same else "DIFFER"
        lines.append(
            f"{row.name:24}{row.items:>6}{row.plain_s:>11.3f} s{row.batched_s:>9.3f} s"
            f"{row.ratio:>7.1f}x   {agree}, at most {row.worst:.1e} apart"
        )
    return "\n".join(lines)


def steps(chosen: argparse.Namespace) -> tuple[str, list[StepRow]]:
    """Return where it ran, in words, and the steps of image protections."""
    from safetybench.threads import limit_threads

    threads = limit_threads()
    from benchmarks import models, protection

    target = models.target(chosen.target, chosen.device, None)
    batch, count, repeats = (2, 1, 1) if chosen.quick else (chosen.items or 8, 4, chosen.repeats)
    found = protection.rows(target, batch, count, repeats)
    return f"{target.name} on {target.device}, {threads} threads", found


def evasions(chosen: argparse.Namespace) -> tuple[str, list[EvasionRow]]:
    """Return where it ran, in words, and the attacks on a classifier."""
    from safetybench.threads import limit_threads

    threads = limit_threads()
    from benchmarks import evasion

    count, steps = (2, 3) if chosen.quick else (chosen.items or 16, 30)
    return f"digits on cpu, {threads} threads", evasion.rows(count, steps)


def main(given: Iterable[str] | None = None) -> int:
    """Measure, print, and return 1 where a batched path gives other results."""
    chosen = _arguments(given)
    if chosen.protection:
        from benchmarks import protection

        place, measured = steps(chosen)
        written = protection.record(measured) if chosen.json else protection.table(measured)
        return _told(chosen, place, written, all(row.same for row in measured))
    if chosen.evasion:
        from benchmarks import evasion

        where, attacks = evasions(chosen)
        shown = evasion.record(attacks) if chosen.json else evasion.table(attacks)
        return _told(chosen, where, shown, chosen.quick or all(row.same for row in attacks))
    where, found = rows(chosen)
    record = [{**row._asdict(), "ratio": row.ratio} for row in found]
    return _told(chosen, where, record if chosen.json else table(found), all(r.same for r in found))


def _told(chosen: argparse.Namespace, where: str, found: object, agree: bool) -> int:
    """Print results as text or JSON and return the exit code."""
    if chosen.json:
        print(json.dumps({"where": where, "rows": found}, indent=1))
    else:
        print(f"{where}\n\n{found}")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
