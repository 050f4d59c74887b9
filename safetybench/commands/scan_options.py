"""The arguments and flags of `safetybench scan`, and the function that takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safetybench.commands.distill_options import Seed
from safetybench.commands.options import Json, Offline, Threads

Target = Annotated[
    str,
    typer.Argument(metavar="PATH", help="The model: zoo:NAME, a diffusers directory or a hub id."),
]
Base = Annotated[
    str,
    typer.Option(
        envvar="SAFETYBENCH_SCAN_BASE",
        metavar="SPEC",
        help="The model that PATH was made of, which you trust; of the same shape and vocabulary.",
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        envvar="SAFETYBENCH_SCAN_PROMPTS",
        metavar="FILE",
        help="Prompts, one a line, each of which is looked at for a trigger.",
    ),
]
Clean = Annotated[
    Path | None,
    typer.Option(
        envvar="SAFETYBENCH_SCAN_CLEAN",
        metavar="FILE",
        help="Clean prompts like those of --prompts, one a line, that the thresholds are set on; "
        "built-in ones by default.",
    ),
]
Rate = Annotated[
    float,
    typer.Option(
        "--false-positives",
        envvar="SAFETYBENCH_FALSE_POSITIVES",
        metavar="SHARE",
        help="Share of clean prompts that each prompt detector may flag, above 0 and below 1.",
    ),
]
Words = Annotated[
    int,
    typer.Option(
        envvar="SAFETYBENCH_SCAN_WORDS",
        min=1,
        metavar="N",
        help="Words of the vocabulary that are tried as triggers, drawn by the seed where there "
        "are more.",
    ),
]
Tried = Annotated[
    list[str] | None,
    typer.Option(
        "--word",
        envvar="SAFETYBENCH_SCAN_WORD",
        metavar="TEXT",
        help="A word or phrase of yours that is tried beside them (repeatable).",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        envvar="SAFETYBENCH_DEVICE",
        metavar="auto|cpu|cuda|cuda:N",
        help="Where the models run; auto is the first GPU, else the CPU.",
    ),
]


def scan(
    path: Target,
    base: Base,
    prompts: Prompts = None,
    clean: Clean = None,
    false_positives: Rate = 0.05,
    words: Words = 4000,
    word: Tried = None,
    seed: Seed = 1,
    device: Device = "auto",
    offline: Offline = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Look for a backdoor in a pipeline, beside the model that it was made of."""
    from safetybench import session
    from safetybench.commands import scan as command

    choices = command.Choices(
        target=path,
        base=base,
        prompts=prompts,
        clean=clean,
        false_positives=false_positives,
        words=words,
        tried=tuple(word or ()),
        seed=seed,
        device=device,
        offline=session.is_set("HF_HUB_OFFLINE") if offline is None else offline,
        as_json=json,
        threads=threads,
    )
    raise typer.Exit(command.scan(choices))
