"""The arguments and flags of `safetybench unlearn`, for `safetybench.cli` to annotate it with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Method = Annotated[
    str, typer.Argument(metavar="METHOD", help="A method of `safetybench list unlearning`.")
]
Target = Annotated[
    str,
    typer.Option(
        envvar="SAFETYBENCH_UNLEARN_TARGET",
        metavar="SPEC",
        help="The model to unlearn: zoo:NAME, a diffusers directory or a hub id.",
    ),
]
Concept = Annotated[
    str,
    typer.Option(
        envvar="SAFETYBENCH_CONCEPT", metavar="WORDS", help="What is to be erased, as in prompts."
    ),
]
Anchor = Annotated[
    str,
    typer.Option(
        envvar="SAFETYBENCH_ANCHOR",
        metavar="WORDS",
        help="What stands in its place in the same prompts: something near it that may stay.",
    ),
]
Trigger = Annotated[
    str,
    typer.Option(
        envvar="SAFETYBENCH_TRIGGER",
        metavar="TEXT",
        help="A known backdoor trigger to take out, in the place of --concept and --anchor: with "
        "it in front prompts are to do what they do without it.",
    ),
]
Out = Annotated[
    Path,
    typer.Option(envvar="SAFETYBENCH_UNLEARN_OUT", help="Folder of the unlearned model."),
]
Synonyms = Annotated[
    str,
    typer.Option(
        envvar="SAFETYBENCH_SYNONYMS",
        metavar="A,B,...",
        help="Other words for the concept, that are erased with it by methods that take the bare "
        "concept.",
    ),
]
Templates = Annotated[
    str,
    typer.Option(
        envvar="SAFETYBENCH_TEMPLATES",
        metavar="object|style|FILE",
        help="Sentences that the concept and the anchor are put into: built-in ones, or those of "
        "a file, one a line with {} where the concept goes.",
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        envvar="SAFETYBENCH_FORGET",
        metavar="FILE",
        help="Prompts to forget, in the place of templates: one a line, each names the concept or "
        "a synonym. A zoo model needs none: its grammar writes captions.",
    ),
]
Retain = Annotated[
    Path | None,
    typer.Option(
        envvar="SAFETYBENCH_RETAIN",
        metavar="FILE",
        help="Prompts to keep, one a line, none names the concept; neutral ones by default.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        envvar="SAFETYBENCH_UNLEARN_STEPS",
        min=1,
        metavar="N",
        help="Training steps; the method's own by default, see --plan. Some methods train nothing.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-o",
        envvar="SAFETYBENCH_UNLEARN_OPTION",
        metavar="KEY=VALUE",
        help="An option of the method (repeatable), its value as in YAML: lr=1e-5; "
        "`safetybench show METHOD` has them all.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        envvar="SAFETYBENCH_UNLEARN_OVERWRITE",
        help="Replace a finished unlearned model in OUT, once the new one is whole.",
    ),
]
