"""The arguments and flags of `safetybench protect`, and the function that takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safetybench.commands.distill_options import Seed
from safetybench.commands.options import Json, Offline, PlanOnly, Threads

Images = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGE",
        help="Pictures, or folders of them: PNG, JPEG, WebP, AVIF, TIFF, BMP, GIF (one frame).",
    ),
]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        "-m",
        envvar="SAFETYBENCH_PROTECT_METHOD",
        metavar="NAME",
        help="An image protection of `safetybench list defenses`.",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        envvar="SAFETYBENCH_PROTECT_TARGET",
        metavar="SPEC",
        help="The model that the protection is made on: zoo:NAME, a diffusers directory or a hub "
        "id. Methods that look at no model need none.",
    ),
]
Epsilon = Annotated[
    str,
    typer.Option(
        envvar="SAFETYBENCH_EPSILON",
        metavar="N/255",
        help="How far a value of a pixel may move (Linf), as in 8/255, or as a number of [0, 1].",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        envvar="SAFETYBENCH_PROTECT_STEPS",
        min=1,
        metavar="N",
        help="Gradient steps; by default as the method's authors released it, see --plan.",
    ),
]
Mask = Annotated[
    Path | None,
    typer.Option(
        envvar="SAFETYBENCH_MASK",
        metavar="FILE|FOLDER",
        help="White is the area that an editor redraws, black what it keeps. One file for all "
        "pictures, or a folder with one of the same name for each; any size and mode.",
    ),
]
Caption = Annotated[
    str,
    typer.Option(
        envvar="SAFETYBENCH_CAPTION",
        metavar="TEXT",
        help="What the pictures show, for methods that use it; none by default.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-o",
        envvar="SAFETYBENCH_PROTECT_OPTION",
        metavar="KEY=VALUE",
        help="An option of the method (repeatable), its value as in YAML; "
        "`safetybench show METHOD` has them all.",
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        envvar="SAFETYBENCH_PROTECT_OUT",
        metavar="FOLDER",
        help="Where protected pictures, comparisons and protect.json go. What the same command "
        "has finished there is not done again.",
    ),
]
Side = Annotated[
    int | None,
    typer.Option(
        "--size",
        envvar="SAFETYBENCH_PROTECT_SIZE",
        min=8,
        metavar="N",
        help="Shrink pictures first, so that no side is above N pixels.",
    ),
]
Edit = Annotated[
    str | None,
    typer.Option(
        envvar="SAFETYBENCH_EDIT",
        metavar="PROMPT",
        help="Edit original, protected and noisy picture on the target by this prompt, show them "
        "in the comparison and measure how far apart they are.",
    ),
]
Strength = Annotated[
    float | None,
    typer.Option(
        envvar="SAFETYBENCH_STRENGTH",
        metavar="SHARE",
        help="How much of the way --edit goes, above 0 to 1; 0.5 by default.",
    ),
]
EditSeeds = Annotated[
    int,
    typer.Option(
        envvar="SAFETYBENCH_EDIT_SEEDS", min=1, metavar="N", help="Edits of each picture."
    ),
]
Batch = Annotated[
    int,
    typer.Option(
        envvar="SAFETYBENCH_PROTECT_BATCH",
        min=1,
        metavar="N",
        help="Pictures of one size at a time; fewer where memory does not last.",
    ),
]
Recursive = Annotated[
    bool,
    typer.Option(
        "--recursive",
        "-r",
        envvar="SAFETYBENCH_RECURSIVE",
        help="Go into the folders of folders as well.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        envvar="SAFETYBENCH_PROTECT_OVERWRITE",
        help="Make everything anew; what this command wrote into OUT before goes.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        envvar="SAFETYBENCH_DEVICE",
        metavar="auto|cpu|cuda|cuda:N",
        help="Where the target runs; auto is the first GPU, else the CPU.",
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        envvar="SAFETYBENCH_DTYPE",
        metavar="auto|float32|bfloat16|float16",
        help="Number format of the target; auto is float32. Pictures are float32 always.",
    ),
]


def protect(
    images: Images,
    method: Method = "sds",
    target: Target = None,
    epsilon: Epsilon = "8/255",
    steps: Steps = None,
    seed: Seed = 1,
    mask: Mask = None,
    caption: Caption = "",
    option: Settings = None,
    out: Out = Path("protected"),
    size: Side = None,
    edit: Edit = None,
    strength: Strength = None,
    edit_seeds: EditSeeds = 3,
    batch: Batch = 4,
    recursive: Recursive = False,
    plan: PlanOnly = False,
    overwrite: Overwrite = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    offline: Offline = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Change pictures so that models fail to edit or to learn them."""
    from safetybench import session
    from safetybench.commands import protect as command

    choices = command.Choices(
        images=tuple(images),
        method=method,
        target=target,
        epsilon=epsilon,
        steps=steps,
        seed=seed,
        mask=mask,
        caption=caption,
        options=tuple(option or ()),
        out=out,
        size=size,
        edit=edit,
        strength=strength,
        edit_seeds=edit_seeds,
        batch=batch,
        recursive=recursive,
        device=device,
        dtype=dtype,
        offline=session.is_set("HF_HUB_OFFLINE") if offline is None else offline,
        overwrite=overwrite,
        plan_only=plan,
        as_json=json,
        threads=threads,
    )
    raise typer.Exit(command.protect(choices))
