"""The arguments and flags of the command line: help text, environment variable and bounds.

Types only, for `safetybench.cli` to annotate its functions with; every flag has SAFETYBENCH_*.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Traceback = Annotated[
    bool,
    typer.Option(
        "--traceback", envvar="SAFETYBENCH_TRACEBACK", help="Show the traceback of an error."
    ),
]
Json = Annotated[
    bool, typer.Option("--json", envvar="SAFETYBENCH_JSON", help="Print JSON on stdout.")
]
Device = Annotated[
    str | None,
    typer.Option(
        envvar="SAFETYBENCH_DEVICE",
        metavar="auto|cpu|cuda|cuda:N",
        help="Where models run; the suite's choice by default.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        envvar="SAFETYBENCH_THREADS",
        min=1,
        metavar="N",
        help="CPU threads; by default OMP_NUM_THREADS, else the cores this process may use, at "
        "most 8. Threads sleep while they wait, so that a busy machine is not slowed to a crawl.",
    ),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
SuiteName = Annotated[
    str | None,
    typer.Argument(metavar="SUITE", help="A built-in suite's name or a YAML file."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        envvar="SAFETYBENCH_OUT",
        help="The run directory; by default a new one in runs/. One that holds an unfinished "
        "run of the same plan is continued.",
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        envvar="SAFETYBENCH_RESUME",
        metavar="RUN",
        help="Continue this run directory with its frozen plan; SUITE may be left out.",
    ),
]
PlanOnly = Annotated[
    bool,
    typer.Option(
        "--plan",
        "--dry-run",
        envvar="SAFETYBENCH_PLAN",
        help="Print what would run, load no model and write nothing.",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        envvar="SAFETYBENCH_DTYPE",
        metavar="auto|float32|bfloat16|float16",
        help="Number format of models; the suite's choice by default.",
    ),
]
Offline = Annotated[
    bool | None,
    typer.Option(
        "--offline/--online",
        envvar="SAFETYBENCH_OFFLINE",
        help="Whether hub ids may be fetched; by default they may, and nothing else ever is.",
    ),
]
Attacks = Annotated[
    list[str] | None,
    typer.Option(
        envvar="SAFETYBENCH_ATTACK",
        metavar="NAME",
        help="Only this attack (repeatable); one that the suite lacks runs with its defaults.",
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        envvar="SAFETYBENCH_TARGET",
        metavar="[NAME=]SPEC",
        help="Only subjects that use this target (repeatable); with NAME= SPEC takes the place of "
        "a role in every subject (original, teacher or student) or of one of the suite's targets.",
    ),
]
PromptTable = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        envvar="SAFETYBENCH_PROMPTS",
        metavar="FILE",
        help="CSV of prompts on the concept, in the place of the suite's.",
    ),
]
OtherTable = Annotated[
    Path | None,
    typer.Option(
        "--other-prompts",
        envvar="SAFETYBENCH_OTHER_PROMPTS",
        metavar="FILE",
        help="CSV of prompts on other concepts, in the place of the suite's.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        envvar="SAFETYBENCH_LIMIT", min=1, metavar="N", help="At most N prompts a subject."
    ),
]
ExitZero = Annotated[
    bool,
    typer.Option(
        "--exit-zero",
        envvar="SAFETYBENCH_EXIT_ZERO",
        help="Exit 0 whatever was found (1, 4 and 6 become 0; errors do not).",
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        envvar="SAFETYBENCH_STRICT",
        help="Exit 6 when it stays open what distillation did to safety in a pair.",
    ),
]
Open = Annotated[
    bool,
    typer.Option(
        "--open/--no-open", envvar="SAFETYBENCH_OPEN", help="Open the report in a browser."
    ),
]
Kind = Annotated[
    str | None,
    typer.Argument(
        metavar="[KIND]",
        help="attacks, defenses, unlearning, recipes, text-recipes, targets, scenarios, suites, "
        "judges, metrics or reports; all of them by default.",
    ),
]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A component, suite, zoo model or run directory.")
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        envvar="SAFETYBENCH_FORMAT",
        metavar="NAME",
        help="Which report (repeatable), see `safetybench list reports`; html by default.",
    ),
]
Redact = Annotated[
    bool,
    typer.Option(
        "--redact",
        envvar="SAFETYBENCH_REDACT",
        help="Write a copy to pass on, without images, answers, adversarial prompts and errors.",
    ),
]
ZooNames = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Models; all by default.")
]
Quick = Annotated[
    bool,
    typer.Option("--quick", envvar="SAFETYBENCH_QUICK", help="Digests only; no model is loaded."),
]
ZooRoot = Annotated[
    Path | None,
    typer.Option(
        "--root", envvar="SAFETYBENCH_ZOO", help="Folder of the models; the package's by default."
    ),
]
ZooName = Annotated[str, typer.Argument(metavar="NAME", help="A model of `zoo list`.")]
ZooOut = Annotated[
    Path | None,
    typer.Option(
        envvar="SAFETYBENCH_ZOO_OUT", help="Folder to write to; zoo-build/NAME by default."
    ),
]
