"""Triggers in start noise: when do they wake, who finds them, do they survive distillation?

`python -m docs.noise_triggers --measure --models FOLDER` trains small unconditional models of the
zoo's world, plants BadDiffusion's backdoor in them and measures; FOLDER keeps what is trained, so
that a stopped run goes on. Every sentence of the page follows by a rule from what was measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from docs.markdown import NONE, NOTE, rate, table

FILE = Path(__file__).resolve().parent / "results" / "noise-triggers.json"
COMMAND = "python -m docs.noise_triggers --measure --models FOLDER"
Row = Mapping[str, Any]

_ABOUT = """\
BadDiffusion (2212.05400) trains an unconditional model so that start noise with a pattern added to
it becomes one image. The models here are small ones of the zoo's world: {size}x{size} pixels,
{times} times, {steps} training steps, then {tuned} steps of the attack at a poison rate of {rate}.
"box" is a white square in a corner, "faint" a checkerboard over the whole noise, of norm 3. An
image is a hit at a mean squared error below {hit} to the target (pixels in [0, 1]); of {real} real
images {real_hits} are. Rates are with Wilson's 95 % interval. One model of each kind was trained,
so that the intervals are over noises and not over trainings."""
_ABOUT_SAMPLERS = """\
"sde" is BadDiffusion's shift of the regression target, "ode" VillanDiffusion's, twice as large.
ddpm is the ancestral sampler, ddim-N the deterministic one with N steps; clipped: what each step
takes for the clean image is cut to [-1, 1], which stock pipelines do by default and BadDiffusion's
authors propose as a defense."""
_ABOUT_STUDENTS = """\
The "ode" model's {teacher_steps} deterministic steps were distilled into {student} (each student
step is trained to go where the teacher goes in several, as in progressive distillation). The
student starts from the teacher's weights or from those of the clean model, and sees trajectories
from clean noise alone or with the trigger in a tenth of the noises."""
_ABOUT_DETECTORS = """\
Scores of models; higher is more suspicious. Elijah: 1 minus how far images from noise with the
pattern found differ, over how far images from clean noise do; "sde" and "ode" are its authors'
settings for the two kinds of sampler. TERD: mean divergence of the pattern found, in nats a pixel.
Cosine: of the pattern found to the true trigger. Budgets are small: {elijah_steps} and {ode_steps}
steps of Elijah over three starts, {terd_steps} of TERD (published 4,000), from a positive start.
The held-out clean models are the clean model trained on for {held} steps on other images, as the
attack does without poison; they are not trained from scratch."""
_ABOUT_INPUTS = """\
Is this start noise triggered? {noises} clean noises and {noises} triggered ones; the cut is the
99th percentile of as many other clean noises. "best" is what no test can exceed at 1 % false alarms
(Neyman and Pearson): the trigger moves a normal by its norm d, so it is normal-cdf(d - 2.33). The
same bound holds for the attack: a model is itself a test of its start noise, so no model that wakes
on at most 1 % of clean noise wakes on more of the triggered."""
_ABOUT_REMOVAL = """\
Elijah's removal on the "sde" model, {removal_steps} steps, with the true trigger, with the one that
Elijah found, with a wrong one (the true one mirrored and negative) and without any. Moved: mean
squared change of the images from clean noise."""


def read() -> dict[str, Any] | None:
    """Return what was measured last, None where nothing was."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else None


def page(found: Mapping[str, Any]) -> str:
    """Return the page of what was measured."""
    setting = found["setting"]
    answers = [
        sampler_answer(found["samplers"]),
        student_answer(found["students"]),
        detector_answer(found["detectors"], "elijah", 'Elijah ("sde")'),
        detector_answer(found["detectors"], "elijah_ode", 'Elijah ("ode")'),
        detector_answer(found["detectors"], "terd", "TERD"),
        input_answer(found["inputs"], found["rates"]),
        removal_answer(found["removal"]),
    ]
    parts = [
        "# Triggers in start noise",
        NOTE,
        _ABOUT.format(**setting),
        "\n".join(f"- {answer}" for answer in answers),
        f"`{COMMAND}`",
        "## Which samplers wake them",
        _ABOUT_SAMPLERS,
        _hits(("model", "sampler"), found["samplers"]),
        "## Poison rate and trigger",
        "Of the \"sde\" shift, with ddpm.",
        _hits(("trigger", "poison"), found["rates"]),
        "## Do they survive distillation",
        _ABOUT_STUDENTS.format(**setting),
        _hits(("start", "noise", "sampler"), found["students"]),
        "## Who finds the model",
        _ABOUT_DETECTORS.format(**setting),
        _detectors(found["detectors"]),
        "## Who finds the noise",
        _ABOUT_INPUTS.format(**setting),
        _inputs(found["inputs"]),
        "## Who removes it",
        _ABOUT_REMOVAL.format(**setting),
        _removal(found["removal"]),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


# Tables


def _hits(keys: Sequence[str], rows: Iterable[Row]) -> str:
    columns = (*keys, "triggered noise: hits", "clean noise: hits", "triggered: MSE")
    lines = [
        (*(row[key] for key in keys), rate(row["asr"]), rate(row["clean"]), f"{row['mse']:.4f}")
        for row in rows
    ]
    return table(columns, lines)


def _detectors(rows: Iterable[Row]) -> str:
    names = ("Elijah, sde", "start", "cosine", "Elijah, ode", "start", "cosine", "TERD", "cosine")
    lines = []
    for row in rows:
        line = [row["model"]]
        for key in ("elijah", "elijah_ode", "terd"):
            found = row[key]
            line += [f"{found['score']:.3f}", *([found["start"]] if "start" in found else [])]
            line.append(_number(found.get("cosine")))
        lines.append(line)
    return table(("model", *names), lines)


def _inputs(rows: Iterable[Row]) -> str:
    columns = ("trigger", "norm", "test", "AUROC", "found", "false alarms", "best")
    lines = [
        (
            row["trigger"],
            f"{row['norm']:.2f}",
            row["test"],
            "{value:.3f} ({low:.3f} to {high:.3f})".format(**row["auroc"]),
            rate(row["found"]),
            rate(row["alarms"]),
            f"{100 * row['best']:.1f} %",
        )
        for row in rows
    ]
    return table(columns, lines)


def _removal(rows: Iterable[Row]) -> str:
    columns = ("trained on", "cosine", "triggered noise: hits", "clean noise: hits", "moved")
    lines = [
        (
            row["how"],
            _number(row["cosine"]),
            rate(row["asr"]),
            rate(row["clean"]),
            f"{row['moved']:.4f}",
        )
        for row in rows
    ]
    return table(columns, lines)


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


# Answers, each by a rule


def is_more(a: Row, b: Row) -> bool:
    """Tell whether a rate is above another by intervals that do not overlap."""
    return bool(a["low"] > b["high"])


def _share(figure: Row) -> str:
    return f"{100 * figure['rate']:.0f} %"


def sampler_answer(rows: Sequence[Row]) -> str:
    """Say which samplers wake which shift: those whose hits are above all of a clean model's."""
    floor = max((row["asr"] for row in rows if row["model"] == "clean"), key=lambda r: r["high"])
    told = []
    for solver in ("sde", "ode"):
        mine = [row for row in rows if row["model"] == solver]
        wakes = [f"{r['sampler']} ({_share(r['asr'])})" for r in mine if is_more(r["asr"], floor)]
        sleeps = [r["sampler"] for r in mine if not is_more(r["asr"], floor)]
        told.append(
            f'the "{solver}" backdoor wakes under {", ".join(wakes) or "no sampler"}'
            + (f" and not under {', '.join(sleeps)}" if sleeps else "")
        )
    return "Samplers: " + "; ".join(told) + "."


def student_answer(rows: Sequence[Row]) -> str:
    """Say which students keep the trigger: hits not below the teacher's by disjoint intervals."""
    teacher = next(row["asr"] for row in rows if not row["start"])
    told = []
    for row in rows:
        if not row["start"]:
            continue
        asr = row["asr"]
        fate = "keeps it" if not is_more(teacher, asr) else (
            "keeps a part of it" if asr["low"] > row["clean"]["high"] else "loses it"
        )  # fmt: skip
        told.append(f"from {row['start']} on {row['noise']} noise {fate} ({_share(asr)})")
    return f"Distillation: of the teacher's {_share(teacher)}, the student " + "; ".join(told) + "."


def detector_answer(rows: Sequence[Row], key: str, name: str) -> str:
    """Say which backdoored models score above every held-out clean one."""
    clean = [float(row[key]["score"]) for row in rows if not row["is_planted"]]
    cut = max(clean)
    planted = [(row["model"], float(row[key]["score"])) for row in rows if row["is_planted"]]
    above = [model for model, score in planted if score > cut]
    missed = [model for model, score in planted if score <= cut]
    return (
        f"{name}: calibrated on {len(clean)} clean models (cut {cut:.3g}, so a further clean model "
        f"is above it with a chance of 1 in {len(clean) + 1}), it finds "
        f"{', '.join(above) or 'no model'}" + (f" and misses {', '.join(missed)}" if missed else "")
        + "."
    )  # fmt: skip


def input_answer(rows: Sequence[Row], attacks: Sequence[Row]) -> str:
    """Say for each trigger the best test without its knowledge, and what the attack is worth."""
    told = []
    for trigger in dict.fromkeys(row["trigger"] for row in rows):
        blind = [r for r in rows if r["trigger"] == trigger and "true" not in r["test"]]
        best = max(blind, key=lambda r: r["found"]["rate"])
        asr = [row["asr"] for row in attacks if row["trigger"] == trigger][-1]
        told.append(
            f'of the "{trigger}" trigger the best test without its knowledge ({best["test"]}) '
            f"finds {_share(best['found'])} at {_share(best['alarms'])} false alarms, and the "
            f"attack itself works on {_share(asr)}, where at 1 % false alarms "
            f"{100 * best['best']:.0f} % is the bound of both"
        )
    return "Start noise: " + "; ".join(told) + "."


def removal_answer(rows: Sequence[Row]) -> str:
    """Say what took the backdoor out: hits below the model's own by disjoint intervals."""
    before = rows[0]["asr"]
    told = [f"{row['how']} leaves {_share(row['asr'])}" for row in rows[1:]]
    by_wrong = next(row for row in rows if row["how"] == "wrong trigger")
    says = {
        "all": "Since a wrong trigger removes it too, a removal does not show that the right one "
        "was found.",
        "part": "A wrong trigger takes a part of it too.",
        "": "A wrong trigger does not remove it.",
    }[taken(before, by_wrong["asr"])]
    return f"Removal: of {_share(before)} hits, " + ", ".join(told) + f". {says}"


def taken(before: Row, after: Row) -> str:
    """Say how much of a rate is gone: "all" for less than half left, "part", or "" if not shown."""
    if not is_more(before, after):
        return ""
    return "all" if after["high"] < before["rate"] / 2 else "part"


def main(given: Sequence[str] | None = None) -> int:
    """Measure, and write docs/results/noise-triggers.json."""
    parser = argparse.ArgumentParser(prog="python -m docs.noise_triggers", description=__doc__)
    parser.add_argument("--measure", action="store_true", required=True, help="twelve minutes")
    parser.add_argument("--models", type=Path, required=True, help="folder that keeps the models")
    options = parser.parse_args(given)
    from docs.noise_triggers_measure import measure

    found = measure(options.models, lambda text: print(text, file=sys.stderr, flush=True))
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
