"""The command line: arguments, environment variables and exit codes; commands/ does the work.

Nothing here imports torch, rich or a component, so that `--help` answers at once. Data goes to
stdout, everything else to stderr. Exit codes: 0 all gates hold, 1 a gate failed, 2 usage or
configuration, 3 internal error, 4 incomplete or undecided, 5 nothing selected, 6 measurement
invalid, 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from safetybench.commands import (
    distill_options,
    options,
    protect_options,
    scan_options,
    unlearn_options,
)
from safetybench.contracts import SafetyBenchError

# Every usage error is one of these; the class itself has moved between releases of typer.
_UsageError = cast("type[Exception]", typer.BadParameter.__mro__[1])
_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)
_BROKEN_PIPE = 141  # what a shell shows for a program that SIGPIPE ended


def _say(message: str) -> None:
    from safetybench.commands.console import clean

    typer.echo(f"error: {clean(message)}", err=True)


def _disk_sentence(error: OSError) -> str:
    what = f" {str(error.filename)!r}" if error.filename else ""
    return f"cannot use{what}: {error.strerror or error}; nothing that was finished is lost"


class _Root(TyperGroup):
    """The group of all commands; turns exceptions into one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, so that a closed pipe is met inside this try
            return result
        except (typer.Exit, typer.Abort, _UsageError):
            raise
        except BrokenPipeError as error:
            _drop_stdout()
            raise typer.Exit(_BROKEN_PIPE) from error
        # A user of the command line must get exit code 3 and a sentence for whatever goes wrong.
        except Exception as error:
            if ctx.params.get("traceback"):
                import traceback

                traceback.print_exc()
            if isinstance(error, SafetyBenchError):
                _say(str(error))
                raise typer.Exit(2) from error
            if isinstance(error, OSError) and error.errno in _DISK:
                _say(_disk_sentence(error))
                raise typer.Exit(2) from error
            name = type(error).__name__
            _say(f"internal: {name}: {error}; `safetybench --traceback ...` shows where")
            raise typer.Exit(3) from error


def _drop_stdout() -> None:
    """Send what is still buffered nowhere, else Python complains about the pipe at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    cls=_Root,
    no_args_is_help=True,
    rich_markup_mode=None,  # rich would double the time to the first line of help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
)
zoo_app = typer.Typer(no_args_is_help=True, help="The embedded models: list, verify, build.")
app.add_typer(zoo_app, name="zoo")


def _print_version(wanted: bool) -> None:
    if wanted:
        from safetybench import __version__

        typer.echo(f"safetybench {__version__}")
        raise typer.Exit


@app.callback(
    help="What did distillation do to safety? Attack a teacher and its students, and compare.",
    epilog="Exit codes: 0 gates hold, 1 a gate failed, 2 usage, 3 internal, "
    "4 incomplete or undecided, 5 nothing selected, 6 invalid measurement, 130 interrupted.",
)
def _root(
    traceback: options.Traceback = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Hold the options that stand before a command; they are read where errors are caught."""


@app.command()
def run(
    suite: options.SuiteName = None,
    out: options.Out = None,
    resume: options.Resume = None,
    plan: options.PlanOnly = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    offline: options.Offline = None,
    attack: options.Attacks = None,
    target: options.Targets = None,
    limit: options.Limit = None,
    prompts: options.PromptTable = None,
    other_prompts: options.OtherTable = None,
    threads: options.Threads = None,
    json: options.Json = False,
    exit_zero: options.ExitZero = False,
    strict: options.Strict = False,
    open_: options.Open = False,
) -> None:
    """Run a suite and print what distillation did to safety."""
    from safetybench.commands import run as command

    choices = command.Choices(
        suite=suite,
        out=out,
        resume=resume,
        device=device,
        dtype=dtype,
        offline=offline,
        attacks=tuple(attack or ()),
        targets=tuple(target or ()),
        limit=limit,
        prompts=prompts,
        other_prompts=other_prompts,
        threads=threads,
        plan_only=plan,
        as_json=json,
        exit_zero=exit_zero,
        strict=strict,
        open_report=open_,
    )
    raise typer.Exit(command.run(choices))


@app.command()
def distill(
    recipe: distill_options.Recipe,
    teacher: distill_options.Teacher,
    out: distill_options.Out,
    prompts: distill_options.Prompts = None,
    steps: distill_options.Steps = None,
    seed: distill_options.Seed = 1,
    option: distill_options.Settings = None,
    batch: distill_options.Batch = None,
    images: distill_options.Images = None,
    lora: distill_options.Lora = None,
    lora_only: distill_options.LoraOnly = False,
    bf16: distill_options.Bf16 = False,
    gradient_checkpointing: distill_options.Recompute = False,
    plan: options.PlanOnly = False,
    resume: distill_options.Resume = True,
    overwrite: distill_options.Overwrite = False,
    save_every: distill_options.SaveEvery = 50,
    device: distill_options.Device = "auto",
    offline: options.Offline = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Distil a pipeline of your own into a few-step student."""
    from safetybench import session
    from safetybench.commands import distill as command

    choices = command.Choices(
        recipe=recipe,
        teacher=teacher,
        out=out,
        prompts=prompts,
        steps=steps,
        seed=seed,
        options=tuple(option or ()),
        batch=batch,
        images=images,
        lora=lora,
        lora_only=lora_only,
        half=bf16,
        recompute=gradient_checkpointing,
        save_every=save_every,
        device=device,
        offline=session.is_set("HF_HUB_OFFLINE") if offline is None else offline,
        resume=resume,
        overwrite=overwrite,
        plan_only=plan,
        as_json=json,
        threads=threads,
    )
    raise typer.Exit(command.distill(choices))


@app.command()
def unlearn(
    method: unlearn_options.Method,
    target: unlearn_options.Target,
    out: unlearn_options.Out,
    concept: unlearn_options.Concept = "",
    anchor: unlearn_options.Anchor = "",
    trigger: unlearn_options.Trigger = "",
    synonyms: unlearn_options.Synonyms = "",
    templates: unlearn_options.Templates = "object",
    prompts: unlearn_options.Prompts = None,
    retain: unlearn_options.Retain = None,
    steps: unlearn_options.Steps = None,
    seed: distill_options.Seed = 1,
    option: unlearn_options.Settings = None,
    plan: options.PlanOnly = False,
    overwrite: unlearn_options.Overwrite = False,
    device: distill_options.Device = "auto",
    offline: options.Offline = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Erase a concept, or a known trigger, from a pipeline of your own."""
    from safetybench import session
    from safetybench.commands import unlearn as command

    choices = command.Choices(
        method=method,
        target=target,
        concept=concept,
        anchor=anchor,
        trigger=trigger,
        out=out,
        synonyms=tuple(word for each in synonyms.split(",") if (word := each.strip())),
        templates=templates,
        prompts=prompts,
        retain=retain,
        steps=steps,
        seed=seed,
        options=tuple(option or ()),
        device=device,
        offline=session.is_set("HF_HUB_OFFLINE") if offline is None else offline,
        overwrite=overwrite,
        plan_only=plan,
        as_json=json,
        threads=threads,
    )
    raise typer.Exit(command.unlearn(choices))


app.command()(protect_options.protect)
app.command()(scan_options.scan)


@app.command("list")
def list_(
    kind: options.Kind = None,
    json: options.Json = False,
) -> None:
    """List attacks, targets, suites and every other component."""
    from safetybench.commands import listing

    listing.list_components(kind, as_json=json)


@app.command()
def show(
    name: options.Name,
    json: options.Json = False,
) -> None:
    """Show a component, suite, zoo model or run in full."""
    from safetybench.commands import show as command

    command.show(name, as_json=json)


@app.command()
def report(
    run: options.RunFolder,
    format: options.Formats = None,
    redact: options.Redact = False,
) -> None:
    """Write a finished run's reports again."""
    from safetybench.commands import report as command

    command.report(run, tuple(format or ("html",)), redact=redact)


@app.command()
def verify(run: options.RunFolder, json: options.Json = False) -> None:
    """Check that a run's results follow from its log; exit 6 if not."""
    from safetybench.commands import report as command

    raise typer.Exit(command.verify(run, as_json=json))


@app.command()
def doctor(json: options.Json = False) -> None:
    """Say whether this machine has what a run needs; exit 2 if not."""
    from safetybench.commands import doctor as command

    raise typer.Exit(command.doctor(as_json=json))


@zoo_app.command("list")
def zoo_list(json: options.Json = False) -> None:
    """List the embedded models."""
    from safetybench.commands import listing

    listing.list_components("targets", as_json=json)


@zoo_app.command("verify")
def zoo_verify(
    names: options.ZooNames = None,
    root: options.ZooRoot = None,
    quick: options.Quick = False,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Check the models against their cards; exit 1 if one misses."""
    from safetybench.commands import zoo

    raise typer.Exit(zoo.verify(tuple(names or ()), root, quick, threads, as_json=json))


@zoo_app.command("build")
def zoo_build(
    name: options.ZooName,
    out: options.ZooOut = None,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Train a model again from its recipe and seed."""
    from safetybench.commands import zoo

    zoo.build(name, out, device, threads)


def main(args: list[str] | None = None) -> int:
    """Run the command line and return its exit code; args: those of the process by default."""
    try:
        code = app(args=args, prog_name="safetybench", standalone_mode=False)
    except _UsageError as error:
        return _usage(error)
    except typer.Abort:
        return 130
    return code if isinstance(code, int) else 0


def _usage(error: Any) -> int:
    if error.ctx is not None and type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(error.ctx.get_help(), err=True)
        return 2
    command = error.ctx.command_path if error.ctx is not None else "safetybench"
    message = error.format_message().rstrip(".")
    _say(f"{message}{'' if message.endswith('?') else ';'} see `{command} --help`")
    return 2
