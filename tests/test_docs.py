"""The documents say what the code does: generated pages, commands, keys, examples and links."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs import generate
from safetybench import registry
from safetybench.contracts import Budget
from tests.pages import DOCS, PAGES, ROOT, blocks, name_of

GOLDEN_HELP = sorted((ROOT / "tests" / "golden").glob("help*.txt"))
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")


# Generated pages


def test_generated_pages_are_fresh() -> None:
    stale = generate.differing(generate.pages())
    assert not stale, f"run `python -m docs.generate`; stale are {', '.join(stale)}"


@pytest.mark.parametrize("kind", generate.KINDS)
def test_every_component_is_in_the_reference(kind: str) -> None:
    index = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    for entry in generate.built_in(kind):
        assert f"`{entry.name}`" in index
        page = (DOCS / "reference" / f"{kind}.md").read_text(encoding="utf-8")
        section = page.partition(f"\n## {entry.name}\n")[2].partition("\n## ")[0]
        assert section, f"{kind}.md has no section {entry.name}"
        if kind == "suites":
            continue
        assert entry.source in section
        for option in inspect.signature(registry.load(entry.name)).parameters:
            assert f"| `{option}` |" in section


@pytest.mark.parametrize("page", GOLDEN_HELP, ids=lambda page: page.stem)
def test_every_command_and_option_is_in_the_reference(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    command = re.match(r"Usage: (safetybench(?: [a-z]+)*)", text)
    assert command
    commands = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    section = commands.partition(f"\n## {command[1]}\n")[2].partition("\n## ")[0]
    assert section, f"commands.md has no section {command[1]}"
    listed = "\n".join(line for line in text.splitlines() if re.match(r"  -", line))
    for option in set(OPTION.findall(listed)) - {"--help"}:
        assert f"`{option}" in section


def test_every_zoo_model_is_listed() -> None:
    text = (DOCS / "zoo.md").read_text(encoding="utf-8")
    for name in registry.names("targets"):
        assert f"`{name.removeprefix('zoo:')}`" in text


def test_a_stale_page_is_found_and_written(tmp_path: Path) -> None:
    found = {"a/b.md": "new\n", "c.md": "same\n"}
    (tmp_path / "c.md").write_text("same\n")
    assert generate.differing(found, tmp_path) == ["a/b.md"]
    assert generate.write(found, tmp_path) == ["a/b.md"]
    assert generate.differing(found, tmp_path) == []
    (tmp_path / "c.md").write_text("edited\n")
    assert generate.differing(found, tmp_path) == ["c.md"]


# Links, commands and code on every page


def slugs(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    plain = [re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads]
    return set(plain)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("http"):
            assert link.startswith("https://"), link
            continue
        path, _, anchor = link.partition("#")
        goal = (page.parent / path).resolve() if path else page
        assert goal.exists(), f"{name_of(page)} links to {link}"
        if anchor:
            assert anchor in slugs(goal), f"{name_of(page)} links to {link}"


def shell_lines() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        spans = re.findall(r"`((?:safetybench|make|pytest|python -m) [^`]+)`", page.read_text())
        lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
        for line in [*lines, *spans]:
            yield name_of(page), line.strip().partition("  #")[0].strip()


def test_commands_on_the_pages_exist() -> None:
    import typer

    from safetybench.cli import app

    root: Any = typer.main.get_command(app)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    seen = set()
    for page, line in shell_lines():
        words = line.split()
        if words[0] == "make":
            assert words[1] in targets, f"{page}: {line}"
        if words[0] != "safetybench" or words[1].startswith("-"):
            continue
        command, given = root, words[1:]
        while given and given[0] in getattr(command, "commands", {}):
            command, given = command.commands[given[0]], given[1:]
        assert command is not root, f"{page}: {line}"
        seen.add(words[1])
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        assert set(OPTION.findall(" ".join(given))) <= known, f"{page}: {line}"
    assert seen == set(root.commands)


def test_suites_and_components_named_on_the_pages_exist() -> None:
    known = {name for kind in registry.KINDS for name in registry.names(kind)}
    known |= {entry.file for kind in registry.KINDS for entry in generate.built_in(kind)}
    kinds = "|".join(registry.KINDS)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(rf"`((?:{kinds})/[a-z][\w/.]*)`", text):
            is_folder = (ROOT / name).is_dir() or (ROOT / "safetybench" / name).is_dir()
            assert name in known or is_folder or "/mine" in name, f"{name_of(page)}: {name}"
        for suite in re.findall(r"safetybench run ([a-z][\w-]+)(?![\w.-]*\.yaml)", text):
            assert suite in known, f"{name_of(page)}: {suite}"


PYTHON = [(page, block) for page in PAGES for block in blocks(page, "python")]


@pytest.mark.parametrize(("page", "block"), PYTHON, ids=lambda x: name_of(x) if x in PAGES else "")
def test_python_on_the_pages_fits_the_plugin(page: Path, block: str) -> None:
    from safetybench.pytest_plugin import SafetyBench

    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == "safetybench":
                method = inspect.signature(getattr(SafetyBench, node.func.attr))
                named = {word.arg: None for word in node.keywords if word.arg}
                method.bind(None, *node.args, **named)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_figures_on_the_pages_are_those_that_their_commands_print(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for code in re.findall(r'^ *python -c "(.+)"$', text, re.M):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, {})
        assert f"`{printed.getvalue().strip()}`" in text


# Keys, codes and checks that a page must name


def missing(page: str, words: Iterator[str] | set[str] | list[str]) -> set[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return {word for word in words if f"`{word}`" not in text}


def test_suite_keys_are_documented() -> None:
    from safetybench import suite
    from safetybench.targets.spec import TargetSpec

    models = (suite.Suite, suite.Subject, suite.AttackEntry, suite.Gate)
    fields = {f.alias or n for m in models for n, f in m.model_fields.items()} - {"base"}
    assert missing("suites.md", fields | set(Budget.__dataclass_fields__)) == set()
    assert missing("targets.md", set(TargetSpec.__dataclass_fields__)) == set()


def test_suite_defaults_are_as_documented() -> None:
    from safetybench.suite import Gate, Suite

    text = (DOCS / "suites.md").read_text(encoding="utf-8")
    for model, names in ((Suite, ("device", "dtype")), (Gate, ("metric", "role"))):
        for name in names:
            assert f"| `{name}` | `{model.model_fields[name].default}` |" in text
    assert f"| `level` | {Gate.model_fields['level'].default} |" in text
    for name in ("steps", "images", "queries"):
        assert f"| `{name}` | {getattr(Budget(), name)} |" in text


@pytest.mark.usefixtures("toys")
def test_result_keys_are_documented(tmp_path: Path) -> None:
    from safetybench.harness import engine
    from safetybench.harness.plan import make_plan
    from safetybench.suite import load_suite
    from tests import toys_attack
    from tests.test_scenario_unlearning import Outcome, context, suite
    from tests.toys import write_suite

    gates = "[{metric: asr, role: student, attack: attacks/toy, below: 0.5}]"
    toy = engine.run(make_plan(load_suite(write_suite(tmp_path, gates=gates))), tmp_path / "run")
    scenario = registry.create("scenarios/unlearning")
    real = Outcome(scenario, context(suite(tmp_path), toys_attack.vulnerable()))
    keys = {*toy.results, *toy.results["run"], *toy.results["gates"][0]}
    keys |= {*toy.results["cells"][0]["cost"], *toy.results["checks"][0]}
    for part in ("cells", "comparisons", "pairs", "checks"):
        assert real.summary[part]
        keys |= {key for row in real.summary[part] for key in row}
    keys |= set(real.summary["pairs"][0]["teacher"]) | set(real.summary["cells"][0]["interval"])
    assert missing("results.md", keys) == set()
    items = {key for item in real.log for key in (*item.__dataclass_fields__, *item.extra)}
    assert missing("results.md", items) == set()
    assert missing("results.md", {entry.name for entry in (tmp_path / "run").iterdir()
                                  if entry.suffix in (".json", ".jsonl")}) == set()  # fmt: skip


def test_exit_codes_are_documented() -> None:
    import typer

    from safetybench.cli import app

    root: Any = typer.main.get_command(app)
    codes = [code for code, _ in generate.exit_codes(root.epilog)]
    assert codes
    text = (DOCS / "results.md").read_text(encoding="utf-8").partition("## Exit codes")[2]
    assert re.findall(r"^\| (\d+) \|", text, re.M) == codes


def test_checks_are_documented() -> None:
    from safetybench.scenarios import _checks

    tree = ast.parse(Path(_checks.__file__).read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if not (
            isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
        ):
            continue
        function = node.func.func if isinstance(node.func, ast.Call) else node.func
        if isinstance(function, ast.Name) and function.id in ("Check", "check", "_check_for"):
            names.add(str(node.args[0].value))
    text = (DOCS / "scenarios" / "unlearning.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| ([a-z-]+) \| .* \| (?:invalid|warning) \|$", text, re.M))
    assert listed == names
    for row, share in (("left-out", _checks.LEFT_OUT), ("collapse", _checks.COLLAPSE)):
        line = next(line for line in text.splitlines() if line.startswith(f"| {row} |"))
        assert f"{share * 100:.0f} %" in line
    halves = (_checks.POSITIVE_CONTROL, _checks.YES_TO_ALL, _checks.ZERO_GRADIENT)
    assert halves == (0.5, 0.5, 0.5)
    assert f"p < {_checks.ALPHA_WORSE}" in text


def test_verdicts_are_documented() -> None:
    from safetybench.stats import Verdict, pair_verdict

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    scenario = (DOCS / "scenarios" / "unlearning.md").read_text(encoding="utf-8")
    for verdict in Verdict:
        assert f"| {verdict} |" in readme
        assert f"**{verdict}**" in scenario
    margin = inspect.signature(pair_verdict).parameters["margin"].default
    assert f"{margin * 100:.0f} points" in readme
    assert f"margin of {margin * 100:.0f} points" in scenario


def test_pytest_options_are_documented() -> None:
    from safetybench import pytest_plugin

    source = Path(pytest_plugin.__file__).read_text(encoding="utf-8")
    words = set(
        re.findall(r'"(--safetybench-[a-z]+|safetybench_[a-z]+|SAFETYBENCH_[A-Z]+)"', source)
    )
    text = (DOCS / "pytest.md").read_text(encoding="utf-8")
    assert words
    assert {word for word in words if word not in text} == set()
    named = inspect.signature(pytest_plugin.SafetyBench.assert_robust).parameters
    assert all(name in text for name in named if name != "self")


# Decisions and changes


DECISIONS = sorted((DOCS / "decisions").glob("*.md"))


@pytest.mark.parametrize("page", DECISIONS, ids=name_of)
def test_a_decision_has_its_parts_on_twenty_lines(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 20
    assert text.startswith(f"# {page.name[:3]}: ")
    for part in ("**Choice.**", "**Why.**", "**What would change it.**"):
        assert part in text


def test_decisions_are_numbered_without_a_gap() -> None:
    assert [page.name[:3] for page in DECISIONS] == [f"{i + 1:03}" for i in range(len(DECISIONS))]


def test_a_change_is_told_in_25_words() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    changes = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    assert changes
    assert [line for line in changes if len(line.split()) > 25] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_hold_nothing_of_their_author(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "\t" not in text
    assert not re.search(r"TODO|FIXME|XXX|lorem", text)


def test_doctests_of_the_generator() -> None:
    import doctest

    modules: list[types.ModuleType] = [generate, sys.modules["docs.markdown"]]
    for module in modules:
        assert doctest.testmod(module).attempted
        assert doctest.testmod(module).failed == 0
