"""`safetybench run`: from the user's choices to a run directory, its reports and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetybench import session
from safetybench.commands.console import clean, note, print_json
from safetybench.contracts import SafetyBenchError

if TYPE_CHECKING:
    from safetybench.harness.plan import Plan

NOTHING, INVALID, INTERRUPTED = 5, 6, 130
# Codes of a measurement that was made and written; --exit-zero must not hide any other.
_FINDINGS = (1, 4, 6)
_CHANGES = (
    "suite", "device", "dtype", "attacks", "targets", "limit", "prompts", "other_prompts"
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The arguments of `safetybench run`; None where the user said nothing."""

    suite: str | None = None
    out: Path | None = None
    resume: Path | None = None
    device: str | None = None
    dtype: str | None = None
    offline: bool | None = None
    attacks: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    limit: int | None = None
    prompts: Path | None = None
    other_prompts: Path | None = None
    threads: int | None = None
    plan_only: bool = False
    as_json: bool = False
    exit_zero: bool = False
    strict: bool = False
    open_report: bool = False


def run(choices: Choices) -> int:
    """Do what was chosen and return the exit code; data goes to stdout, chatter to stderr."""
    offline = choices.offline
    if offline is None:
        offline = session.is_set("HF_HUB_OFFLINE")
    session.prepare_process(choices.threads, offline=offline)
    try:
        plan = _plan(choices, offline)
    except session.NothingSelected as error:
        note(f"error: {error}")
        return NOTHING
    if choices.plan_only:
        from safetybench.commands.plan_table import print_plan

        print_plan(plan, as_json=choices.as_json)
        return 0 if plan.cells else NOTHING
    if not plan.cells:
        note("error: the suite selects no cells, so there is nothing to run")
        return NOTHING
    return _work(choices, plan, offline)


def _plan(choices: Choices, offline: bool) -> Plan:
    from safetybench.harness import engine

    if choices.resume is not None and choices.out is not None:
        raise SafetyBenchError("--resume and --out both name the run directory; give one of them")
    if choices.suite is None:
        if choices.resume is None:
            raise SafetyBenchError(
                "run needs a SUITE; `safetybench list suites` shows those that are built in"
            )
        if any(getattr(choices, name) for name in _CHANGES):
            raise SafetyBenchError("--resume without a SUITE takes the plan as it was frozen")
        return engine.reload(choices.resume, offline=offline)
    return session.make_plan(
        session.Request(
            suite=choices.suite,
            device=choices.device,
            dtype=choices.dtype,
            offline=offline,
            attacks=choices.attacks,
            targets=choices.targets,
            limit=choices.limit,
            prompts=choices.prompts,
            other_prompts=choices.other_prompts,
        )
    )


def _work(choices: Choices, plan: Plan, offline: bool) -> int:
    from safetybench.harness import engine, progress

    ended = engine.run(
        plan,
        choices.resume or choices.out,
        progress=progress.on(),
        resume=choices.resume is not None,
        offline=offline,
        argv=["safetybench", *sys.argv[1:]],
        reports=False,  # written below, where a report that fails cannot take the verdict along
    )
    if ended.exit_code == INTERRUPTED or not ended.results:
        note(f"error: {ended.reason}; `safetybench run --resume {ended.run_dir}` goes on with it")
        return ended.exit_code
    code, reason = _verdict(choices, ended.exit_code, ended.reason, ended.results)
    reports = _reports(plan, ended.run_dir)
    try:
        _show(choices, ended.results, reports)
        note(f"exit code {code}: {reason}")
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read stdout has gone; the run and its verdict stand.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _verdict(
    choices: Choices, code: int, reason: str, results: Mapping[str, Any]
) -> tuple[int, str]:
    """Apply --strict, then --exit-zero."""
    open_pairs = [
        pair
        for pair in results["pairs"]
        if pair["verdict"] == "not distinguishable" and pair["metric"] != "utility"
    ]
    if choices.strict and code == 0 and open_pairs:
        pair = open_pairs[0]
        code = INVALID
        reason = f"--strict: {pair['subject']} is not distinguishable: {pair['reason']}"
    if choices.exit_zero and code in _FINDINGS:
        return 0, f"--exit-zero instead of {code}: {reason}"
    return code, reason


def _reports(plan: Plan, run_dir: Path) -> list[Path]:
    from safetybench.commands.report import write_report

    return [write_report(run_dir, name) for name in plan.suite.reports]


def _show(choices: Choices, results: Mapping[str, Any], reports: list[Path]) -> None:
    from safetybench.commands.summary import print_verdicts

    if choices.as_json:
        print_json(results)
    else:
        print_verdicts(results)
        print()
    for report in reports:
        line = clean(f"report: {report}")
        print(line, file=sys.stderr if choices.as_json else sys.stdout)
    if choices.open_report and reports:
        import webbrowser

        webbrowser.open(reports[0].resolve().as_uri())
