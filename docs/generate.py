"""Write the pages of docs/ that repeat what the code says: `python -m docs.generate`.

Components come from the registry, commands from the command line, figures from the cards of the
zoo and from docs/results/*.json, which `--run RUN` copies there. tests/test_docs.py fails while a
page differs from what this writes.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from docs import (
    backdoor_answers,
    bias_answers,
    claims,
    claims_library,
    detectors,
    encoder,
    evasion_answers,
    noise_triggers,
    protection_answers,
)
from docs.figures import card_folders, card_of, run_page, zoo_figures, zoo_models
from docs.figures_unlearning import figure, is_comparison
from docs.markdown import NOTE, cell, table
from safetybench import registry

DOCS = Path(__file__).resolve().parent
# Zoo models have a page of their own, with more than a registry entry knows.
KINDS = tuple(kind for kind in registry.KINDS if kind != "targets")
_INTRO = {
    "attacks": "What looks for a way around a defense; each is a file below `attacks/`.",
    "defenses": "What keeps images, and models at run time, from harm.",
    "unlearning": "Methods that return a model in which a concept is erased.",
    "recipes": "Distillation methods: each makes a few-step student of a target.",
    "text-recipes": "Distillation methods of language models: each trains a smaller student.",
    "scenarios": "Threat models made executable: which cells a suite makes, what success is.",
    "suites": "Suite files that come with the package; the format is in [suites](../suites.md).",
    "judges": "What decides whether an image shows a concept, or an answer a bias.",
    "metrics": "Figures of utility and similarity.",
    "reports": "What is written from a finished run.",
}


def built_in(kind: str) -> list[registry.Entry]:
    """Return the components of a kind that this repository holds, sorted by name."""
    entries = [registry.describe(name) for name in registry.names(kind)]
    return [entry for entry in entries if entry.package == "safetybench"]


def pages(docs: Path = DOCS) -> dict[str, str]:
    """Return every generated page by its path below docs/."""
    found = {"reference/index.md": _index(), "reference/commands.md": _commands()}
    for kind in KINDS:
        if built_in(kind):
            found[f"reference/{kind}.md"] = _kind(kind)
    folders = card_folders()
    found["zoo.md"] = zoo_models(folders)
    found["results/zoo.md"] = zoo_figures(folders)
    cards = {folder.name: card_of(folder) for folder in folders}
    found["results/claims.md"] = claims.page(claims.known(cards, claims.read()))
    found["distillation.md"] = claims_library.page()
    found["results/protection-answers.md"] = protection_answers.page(protection_answers.known())
    answered = backdoor_answers.known(list(cards.values()))
    found["results/backdoor-answers.md"] = backdoor_answers.page(answered)
    found["results/bias-answers.md"] = bias_answers.page(bias_answers.known())
    found["results/evasion-answers.md"] = evasion_answers.page(evasion_answers.known())
    for measured in (encoder, noise_triggers, detectors):
        if (figures := measured.read()) is not None:
            found[f"results/{measured.FILE.stem}.md"] = measured.page(figures)
    for file in sorted((docs / "results").glob("*.json")):
        if file.name in (kept.FILE.name for kept in (claims, encoder, noise_triggers, detectors)):
            continue
        results = json.loads(file.read_text(encoding="utf-8"))
        found[f"results/{file.stem}.md"] = run_page(results)
        if is_comparison(results):
            found[f"results/{file.stem}.svg"] = figure(results)
    return found


def _index() -> str:
    lines = ["# Reference", NOTE, "- [Commands, environment variables, exit codes](commands.md)"]
    for kind in KINDS:
        entries = built_in(kind)
        names = ", ".join(f"`{entry.name}`" for entry in entries)
        link = f"[{kind}]({kind}.md)" if entries else kind
        lines.append(f"- {link}: {names or 'none in this version'}")
    lines.append("- targets: see [the embedded models](../zoo.md)")
    return "\n".join([*lines[:1], "", lines[1], "", *lines[2:], ""])


def _kind(kind: str) -> str:
    parts = [f"# {kind.capitalize()}", NOTE, _INTRO[kind]]
    for entry in built_in(kind):
        parts += _suite(entry) if kind == "suites" else _component(entry)
    return "\n\n".join(parts) + "\n"


def _suite(entry: registry.Entry) -> Iterator[str]:
    home = registry.folder("suites")
    assert home is not None, "built_in() found the suite in it"
    yield f"## {entry.name}"
    yield entry.summary
    text = (home / f"{entry.name}.yaml").read_text(encoding="utf-8").rstrip()
    yield f"```yaml\n{text}\n```"


def _component(entry: registry.Entry) -> Iterator[str]:
    component: Any = registry.load(entry.name)
    module = inspect.getmodule(component)
    yield f"## {entry.name}"
    yield inspect.cleandoc((module.__doc__ if module else "") or "")
    yield inspect.getdoc(component) or ""
    facts = [f"File: [`{entry.file}`](../../{_in_repository(entry.file)})"]
    if entry.source:
        facts.append(f"Source: <{entry.source}>")
    if hasattr(component, "sees"):
        facts.append(f"Sees: {component.sees}")
    if hasattr(component, "needs"):
        needs = ", ".join(need.__name__ for need in component.needs) or "nothing"
        facts.append(f"Needs of the target: {needs}")
    if getattr(component, "is_control", False):
        facts.append("A control: its rate is what luck reaches, and no finding.")
    yield "\n".join(f"- {fact}" for fact in facts)
    options = list(_options(component))
    yield table(("option", "default", "type"), options) if options else "No options."


def _in_repository(file: str) -> str:
    folder = file.partition("/")[0]
    own = ("attacks", "defenses", "unlearning", "reports")
    return file if folder in own else f"safetybench/{file}"


def _options(component: type) -> Iterator[Sequence[str]]:
    for parameter in inspect.signature(component).parameters.values():
        needed = parameter.default is inspect.Parameter.empty
        default = "required" if needed else f"`{parameter.default!r}`"
        kind = inspect.formatannotation(parameter.annotation).strip("'\"")
        yield f"`{parameter.name}`", default, f"`{kind}`"


def _commands() -> str:
    import typer

    from safetybench.cli import app

    root: Any = typer.main.get_command(app)
    parts = [
        "# Commands",
        NOTE,
        "Data goes to stdout, everything else to stderr. Each option can also be set by the "
        "environment variable beside it.",
        "## safetybench",
        root.help,
        _parameters(root),
    ]
    for name, command in root.commands.items():
        parts += _command(f"safetybench {name}", command)
    parts += ["## Exit codes", table(("code", "meaning"), exit_codes(root.epilog))]
    parts.append("What each means for a run is in [results](../results.md#exit-codes).")
    return "\n\n".join(part for part in parts if part) + "\n"


def _command(path: str, command: Any) -> Iterator[str]:
    below = getattr(command, "commands", {})
    yield f"## {path}"
    yield command.help
    if not below:
        yield _parameters(command)
    for name, each in below.items():
        yield from _command(f"{path} {name}", each)


def _parameters(command: Any) -> str:
    rows = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            rows.append((f"`{parameter.metavar or parameter.name}`", parameter.help or "", ""))
            continue
        words = "`, `".join([*parameter.opts, *parameter.secondary_opts])
        takes = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
        variable = f"`{parameter.envvar}`" if parameter.envvar else ""
        rows.append((f"`{words}{takes}`", parameter.help or "", variable))
    return table(("argument or option", "what it does", "environment"), rows)


def exit_codes(epilog: str) -> list[tuple[str, str]]:
    """Split "Exit codes: 0 gates hold, 1 a gate failed, ..." into rows.

    >>> exit_codes("Exit codes: 0 gates hold, 130 interrupted.")
    [('0', 'gates hold'), ('130', 'interrupted')]
    """
    return re.findall(r"(\d+) ([^,.]+)", epilog)


def write(found: Mapping[str, str], docs: Path = DOCS) -> list[str]:
    """Write the pages that differ and return their paths."""
    changed = differing(found, docs)
    for path in changed:
        file = docs / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(found[path], encoding="utf-8")
    return changed


def differing(found: Mapping[str, str], docs: Path = DOCS) -> list[str]:
    """Return the paths of pages that are missing or not what they should be."""
    files = {path: docs / path for path in found}
    return [
        path
        for path, file in files.items()
        if not file.is_file() or file.read_text(encoding="utf-8") != found[path]
    ]


def keep_run(*runs: Path, docs: Path = DOCS) -> Path:
    """Copy a run's results.json to where its page is made from; return the copy.

    Of several runs: what they are together, see `docs.parts`.
    """
    from docs.parts import together
    from safetybench.store import read_results, write_json

    results = together([read_results(run) for run in runs])
    file = docs / "results" / f"{results['run']['suite']}.json"
    write_json(file, results)
    return file


def main(arguments: Iterable[str] | None = None) -> int:
    """Write the pages, or with --check only say which differ; return 1 if any does."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    parser.add_argument("--run", type=Path, nargs="+", help="keep this run's results and make its "
                        "page; several are runs of one suite, each of other subjects")  # fmt: skip
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    if chosen.run is not None:
        print(f"kept {cell(keep_run(*chosen.run).relative_to(DOCS).as_posix())}")
    found = pages()
    changed = differing(found) if chosen.check else write(found)
    for path in changed:
        print(f"{'stale' if chosen.check else 'wrote'} docs/{path}")
    return 1 if chosen.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
