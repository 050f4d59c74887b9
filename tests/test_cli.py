"""The command line: help, listings, exit codes, and how little it imports to answer."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safetybench import registry
from tests import staged
from tests.calls import ROOT, Call, python

pytest_plugins = ("tests.cli_fixtures",)
GOLDEN = ROOT / "tests" / "golden"
COMMANDS = (
    "",
    "run",
    "list",
    "show",
    "report",
    "verify",
    "doctor",
    "distill",
    "unlearn",
    "protect",
    "scan",
    "zoo",
    "zoo list",
    "zoo verify",
    "zoo build",
)
HEAVY = ("torch", "numpy", "scipy", "diffusers", "transformers", "rich", "PIL", "yaml")


def golden_name(command: str) -> str:
    return f"help{'-' * bool(command)}{command.replace(' ', '-')}.txt"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_what_it_was(call: Call, golden: Callable[[str, str], None], command: str) -> None:
    done = call(*command.split(), "--help")
    assert (done.code, done.err) == (0, "")
    golden(golden_name(command), done.out)


def test_every_flag_has_an_environment_variable() -> None:
    for command in COMMANDS:
        text = (GOLDEN / golden_name(command)).read_text()
        options = text.partition("Options:\n")[2].partition("\n\n")[0]
        flags = [part for part in ("\n" + options).split("\n  -") if part.strip()]
        for flag in flags:
            if flag.split()[0].strip("-,") not in (
                "version",
                "install-completion",
                "show-completion",
                "h",
            ):
                assert "[env var: SAFETYBENCH_" in " ".join(flag.split()), (command, flag)


@pytest.mark.parametrize("arguments", [("--help",), ("list", "attacks"), ("list", "--json")])
def test_nothing_heavy_is_imported_to_answer(arguments: tuple[str, ...]) -> None:
    code = (
        "import sys; from safetybench.cli import main; code = main(sys.argv[1:]); "
        f"print(sorted(set(sys.modules) & {set(HEAVY)!r}), code, file=sys.stderr)"
    )
    done = python("-c", code, *arguments)
    assert done.stderr.strip() == "[] 0"
    assert done.stdout


def test_help_answers_in_half_a_second() -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python("-m", "safetybench", "--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Processor time: help waits for nothing, so alone on a core it is the wall time, and a busy
    # machine cannot fail the test. The first call may write bytecode.
    assert min(seconds() for _ in range(3)) < 0.5


def test_version_is_data(call: Call) -> None:
    import safetybench

    assert call("--version") == (0, f"safetybench {safetybench.__version__}\n", "")


def test_no_command_shows_the_help_and_is_a_usage_error(call: Call) -> None:
    done = call()
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("Usage: safetybench")


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_kind_is_listed_and_its_json_is_all_of_stdout(call: Call, kind: str) -> None:
    done = call("list", kind, "--json")
    assert (done.code, done.err) == (0, "")
    rows = json.loads(done.out)
    assert [row["name"] for row in rows] == registry.names(kind)
    assert {row["kind"] for row in rows} <= {kind}
    plain = call("list", kind)
    assert [line.split()[0] for line in plain.out.splitlines()] == registry.names(kind)


def test_a_list_of_everything_is_grouped_by_kind(call: Call) -> None:
    rows = json.loads(call("list", "--json").out)
    assert [row["name"] for row in rows] == [n for k in registry.KINDS for n in registry.names(k)]
    heads = [line for line in call("list").out.splitlines() if not line.startswith(" ")]
    assert [head.partition(":")[0] for head in heads] == list(registry.KINDS)


def test_environment_variables_stand_for_flags(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFETYBENCH_JSON", "1")
    assert isinstance(json.loads(call("list", "attacks").out), list)


def test_show_a_component_by_its_whole_and_its_short_name(call: Call, with_staged: Path) -> None:
    done = call("show", "attacks/staged")
    assert done.code == 0
    for text in (
        "Staged components.",
        "Staged attack (Nobody 2026).",
        "https://example.org/staged",
    ):
        assert text in done.out
    shown = json.loads(call("show", "attacks/staged", "--json").out)
    assert shown["package"] == "stagedbench"
    assert shown["options"] == [
        {"name": "strength", "type": "float", "required": False, "default": "0.5"}
    ]
    assert call("show", "unlearndiffatk").out == call("show", "attacks/prompts/unlearndiffatk").out


def test_control_characters_of_a_docstring_do_not_reach_the_terminal(
    call: Call, with_staged: Path
) -> None:
    file = with_staged / "stagedbench" / "parts.py"
    file.write_text(
        file.read_text().replace("Staged components.", "Staged \\x1b[31m[bold]components."), "utf-8"
    )
    done = call("show", "attacks/staged")
    assert "\x1b" not in done.out
    assert "[bold]components." in done.out  # no markup of ours either


def test_show_a_suite_resolved(call: Call, here: Path, with_staged: Path) -> None:
    suite = staged.write_suite(here / "staged.yaml")
    shown: dict[str, Any] = json.loads(call("show", suite, "--json").out)
    assert shown["schema"] == "safetybench.suite/1"
    assert shown["attacks"][0]["budget"]["images"] == 2
    assert "scenario: scenarios/staged" in call("show", suite).out


def test_a_closed_pipe_is_no_error_message() -> None:
    code = (
        "import os, sys; from safetybench.cli import main; read, write = os.pipe(); "
        "os.close(read); os.dup2(write, 1); sys.exit(main(['list']))"
    )
    done = python("-c", code)
    assert done.returncode == 141
    assert done.stderr == ""


def test_doctor_says_what_is_there_and_json_agrees(call: Call, here: Path) -> None:
    done = call("doctor", "--json")
    found = json.loads(done.out)
    by_name = {row["name"]: row for row in found["findings"]}
    assert done.code == (0 if found["fit"] else 2)
    assert found["fit"] == all(row["ok"] for row in found["findings"] if row["required"])
    assert by_name["torch"]["ok"]
    assert by_name["threads"]["value"] == os.environ["OMP_NUM_THREADS"]
    plain = call("doctor").out
    assert [line.split()[1] for line in plain.splitlines()] == list(by_name)


def test_doctor_misses_a_package(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetybench.commands import doctor

    monkeypatch.setattr(doctor, "_PACKAGES", ("no-such-package",))
    done = call("doctor")
    assert done.code == 2
    assert "MISSING no-such-package" in done.out
