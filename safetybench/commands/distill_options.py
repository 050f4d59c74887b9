"""The arguments and flags of `safetybench distill`, for `safetybench.cli` to annotate it with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A method of `safetybench list recipes`.")
]
Teacher = Annotated[
    str,
    typer.Option(
        envvar="SAFETYBENCH_TEACHER",
        metavar="SPEC",
        help="The model to distil: zoo:NAME, a diffusers directory or a hub id.",
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        envvar="SAFETYBENCH_DISTILL_OUT",
        help="Folder of the student; while it is made, of its checkpoint.",
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        envvar="SAFETYBENCH_PROMPTS",
        metavar="FILE",
        help="What the student is distilled on: one prompt a line, UTF-8; blank lines and lines "
        "that begin with # are skipped. A zoo teacher needs none: its grammar writes captions.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        envvar="SAFETYBENCH_STEPS",
        min=1,
        metavar="N",
        help="Updates of the student; by default 300 for a zoo teacher, 1000 with --lora, "
        "else 3000.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        envvar="SAFETYBENCH_SEED", min=0, max=2**31 - 1, metavar="N", help="Of every draw."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        envvar="SAFETYBENCH_OPTION",
        metavar="KEY=VALUE",
        help="An option of the recipe (repeatable), its value as in YAML: lr=1e-5, "
        "'times=[999, 749]'; `safetybench show RECIPE` has them all.",
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        envvar="SAFETYBENCH_IMAGES",
        metavar="FOLDER",
        help="Real images, for recipes that read some: PNG or JPEG files, each with a .txt of "
        "the same stem, or a metadata.jsonl with file_name and text.",
    ),
]
Lora = Annotated[
    int | None,
    typer.Option(
        envvar="SAFETYBENCH_LORA",
        min=1,
        metavar="RANK",
        help="Train a LoRA of this rank in the place of all weights.",
    ),
]
LoraOnly = Annotated[
    bool,
    typer.Option(
        "--lora-only",
        envvar="SAFETYBENCH_LORA_ONLY",
        help="Write the LoRA alone, without a whole pipeline beside it.",
    ),
]
Bf16 = Annotated[
    bool, typer.Option("--bf16", envvar="SAFETYBENCH_BF16", help="Train in bfloat16 autocast.")
]
Recompute = Annotated[
    bool,
    typer.Option(
        "--gradient-checkpointing",
        envvar="SAFETYBENCH_GRADIENT_CHECKPOINTING",
        help="Compute activations twice, to keep fewer in memory.",
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(
        envvar="SAFETYBENCH_BATCH", min=1, metavar="N", help="Short for --option batch=N."
    ),
]
SaveEvery = Annotated[
    int,
    typer.Option(
        envvar="SAFETYBENCH_SAVE_EVERY", min=1, metavar="N", help="Steps between checkpoints."
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume/--no-resume",
        envvar="SAFETYBENCH_DISTILL_RESUME",
        help="Whether to go on from the checkpoint that the same command left in OUT, or anew.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        envvar="SAFETYBENCH_OVERWRITE",
        help="Replace a finished student in OUT, once the new one is whole.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        envvar="SAFETYBENCH_DEVICE",
        metavar="auto|cpu|cuda|cuda:N",
        help="Where it trains; auto is the first GPU, else the CPU.",
    ),
]
