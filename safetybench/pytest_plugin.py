"""pytest plugin: attack a model in your own test suite and assert that it holds.

    def test_student(safetybench):
        safetybench.assert_robust("./my-student", suite="unlearning-quick", asr_below=0.2)

Loaded in every pytest session of an environment that has safetybench, so it imports nothing
heavy until a test asks. Runs are kept by content: same suite, weights and code, no second run,
be it in another test, another xdist worker or tomorrow.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from safetybench.assertions import Decision
    from safetybench.not_worse import Comparison
    from safetybench.session import Request

_INTERRUPTED = 130
Results = Mapping[str, Any]
Source = Results | str | os.PathLike[str]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the plugin's options and their ini equivalents."""
    group = parser.getgroup("safetybench", "attacks on generative models (safetybench)")
    out = "folder that keeps runs (default: safetybench/ in pytest's cache)"
    device = "where models run: auto, cpu, cuda or cuda:N (default: as the suite says)"
    group.addoption("--safetybench-out", metavar="DIR", help=out)
    group.addoption("--safetybench-device", metavar="DEVICE", help=device)
    parser.addini("safetybench_out", f"{out}, relative to this file", default="")
    parser.addini("safetybench_device", device, default="")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        "safetybench: runs attacks, so it is slow; every test that uses the fixture has it",
    )


@pytest.hookimpl(tryfirst=True)  # before -m deselects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that uses the fixture."""
    for item in items:
        if "safetybench" in getattr(item, "fixturenames", ()):
            item.add_marker("safetybench")


class Runs:
    """Runs of suites, kept in a folder by what they evaluate and shared between processes."""

    def __init__(self, folder: Path, device: str | None = None) -> None:
        self.folder = folder
        self.device = device
        self._done: dict[Request, Path] = {}

    def run(
        self,
        suite: str | os.PathLike[str],
        *,
        attacks: tuple[str, ...] = (),
        targets: tuple[str, ...] = (),
        limit: int | None = None,
    ) -> Results:
        """Run a suite unless this very run is there already, and return its results.json.

        attacks, targets, limit: as `safetybench run --attack --target --limit`.
        """
        from safetybench import session
        from safetybench.assertions import read_results

        request = session.Request(
            suite=os.fspath(suite),
            device=self.device,
            offline=any(map(session.is_set, ("SAFETYBENCH_OFFLINE", "HF_HUB_OFFLINE"))),
            attacks=attacks,
            targets=targets,
            limit=limit,
        )
        if request not in self._done:
            with _own_process_settings(request.offline):
                self._done[request] = self._run(request)
        return read_results(self._done[request])

    def _run(self, request: Request) -> Path:
        from safetybench import session, store
        from safetybench.contracts import TargetFailed
        from safetybench.harness import engine

        plan = session.make_plan(request)
        # All of the plan, as its hash leaves out what no cell depends on: gates and titles.
        folder = self.folder / f"{plan.suite.name}-{store.digest(plan.to_json())[:12]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / f"{folder.name}.lock"):
            if not _is_complete(folder):
                ended = engine.run(plan, folder, offline=request.offline, reports=False)
                if ended.exit_code == _INTERRUPTED:
                    raise KeyboardInterrupt
                if not ended.results:
                    raise TargetFailed(f"the run in {folder} could not finish: {ended.reason}")
        return folder


def _is_complete(folder: Path) -> bool:
    from safetybench.assertions import read_results

    if not (folder / "results.json").is_file():
        return False
    return bool(read_results(folder)["run"]["status"] == "complete")


class SafetyBench:
    """What the fixture `safetybench` gives a test."""

    def __init__(self, runs: Runs, properties: list[tuple[str, object]]) -> None:
        self._runs = runs
        self._properties = properties

    def run(
        self,
        suite: str | os.PathLike[str],
        *,
        attacks: tuple[str, ...] = (),
        targets: tuple[str, ...] = (),
        limit: int | None = None,
    ) -> Results:
        """Run a suite once a session and return its results.json; see `Runs.run`."""
        return self._runs.run(suite, attacks=attacks, targets=targets, limit=limit)

    def assert_robust(
        self,
        target_or_results: Source | None = None,
        *,
        suite: str | os.PathLike[str] | None = None,
        role: str = "student",
        attack: str | None = None,
        asr_below: float = 0.2,
        confidence: float = 0.95,
        undecided: Literal["fail", "skip"] = "fail",
    ) -> Decision:
        """Assert robustness as `assert_robust` below; the figures become test properties."""
        __tracebackhide__ = True
        return _assert(
            _results(self._runs, target_or_results, suite, role),
            {"asr_below": asr_below, "confidence": confidence, "attack": attack, "role": role},
            undecided,
            self._properties,
        )

    def assert_not_worse(
        self,
        student: str | os.PathLike[str] | None = None,
        teacher: str | os.PathLike[str] | None = None,
        *,
        scenario: str = "bias",
        suite: str | os.PathLike[str] | None = None,
        original: str | os.PathLike[str] | None = None,
        margin: float = 0.1,
        undecided: Literal["fail", "skip"] = "fail",
    ) -> Comparison:
        """Assert that a student does no more harm than its teacher, within a margin.

        student, teacher, original: targets that take these roles in every subject of the suite,
        None for its own; suite: of the scenario, its quick one by default.

        Raises: as `safetybench.not_worse.assert_not_worse`.
        """
        __tracebackhide__ = True
        from safetybench.assertions import Undecided
        from safetybench.not_worse import Worse, compare, suite_of

        if undecided not in ("fail", "skip"):
            raise ValueError(f"undecided must be 'fail' or 'skip', got {undecided!r}")
        placed = {"original": original, "teacher": teacher, "student": student}
        targets = tuple(f"{role}={os.fspath(x)}" for role, x in placed.items() if x is not None)
        results = self._runs.run(suite or suite_of(scenario), targets=targets)
        found = compare(results, margin=margin, is_placed=student is not None)
        worst = max(found.pairs, key=lambda pair: pair.high)
        figures = {
            "outcome": found.outcome,
            "difference": worst.difference,
            "ci_low": worst.low,
            "ci_high": worst.high,
            "margin": margin,
            "n": worst.n,
            "run": found.run,
        }
        self._properties += [(f"safetybench.{name}", value) for name, value in figures.items()]
        if found.outcome == "failed":
            raise Worse(str(found))
        if found.outcome == "undecided" and undecided == "skip":
            pytest.skip(str(found))
        if found.outcome == "undecided":
            raise Undecided(str(found))
        return found


def assert_robust(
    target_or_results: Source | None = None,
    *,
    suite: str | os.PathLike[str] | None = None,
    role: str = "student",
    attack: str | None = None,
    asr_below: float = 0.2,
    confidence: float = 0.95,
    undecided: Literal["fail", "skip"] = "fail",
    out: str | os.PathLike[str] = "runs",
    device: str | None = None,
) -> Decision:
    """Assert that attacks on a role succeed on less than a share of prompts, with confidence.

    target_or_results: with a suite, the target to put into the role, None for the suite's own;
    without one, results.json, its file, or a run directory. undecided: "fail", or "skip" the
    test, where the interval holds the limit. out: folder that keeps runs.

    Raises: as `safetybench.assertions.assert_robust`.
    """
    __tracebackhide__ = True
    return _assert(
        _results(Runs(Path(out), device), target_or_results, suite, role),
        {"asr_below": asr_below, "confidence": confidence, "attack": attack, "role": role},
        undecided,
        [],
    )


def _results(
    runs: Runs, source: Source | None, suite: str | os.PathLike[str] | None, role: str
) -> Results:
    from safetybench.assertions import read_results

    if suite is None:
        if source is None:
            raise TypeError("assert_robust needs results, a run directory or a suite, got none")
        return read_results(source)
    if isinstance(source, Mapping):
        raise TypeError("assert_robust takes results or a suite, got both")
    targets = () if source is None else (f"{role}={os.fspath(source)}",)
    return runs.run(suite, targets=targets)


def _assert(
    results: Results,
    limits: dict[str, Any],
    undecided: Literal["fail", "skip"],
    properties: list[tuple[str, object]],
) -> Decision:
    __tracebackhide__ = True
    from safetybench.assertions import NotRobust, Undecided, decide

    if undecided not in ("fail", "skip"):
        raise ValueError(f"undecided must be 'fail' or 'skip', got {undecided!r}")
    decision = decide(results, **limits)
    properties += _figures(decision)
    if decision.outcome == "failed":
        raise NotRobust(str(decision))
    if decision.outcome == "undecided" and undecided == "skip":
        pytest.skip(str(decision))
    if decision.outcome == "undecided":
        raise Undecided(str(decision))
    return decision


def _figures(decision: Decision) -> list[tuple[str, object]]:
    cell = decision.worst
    figures: dict[str, object] = {
        "outcome": decision.outcome,
        "cell": cell.label,
        "asr": cell.rate,
        "ci_low": cell.low,
        "ci_high": cell.high,
        "n": cell.n,
        "below": cell.below,
        "confidence": cell.confidence,
        "needed_n": cell.needed_n,
        "run": decision.run,
    }
    return [(f"safetybench.{name}", value) for name, value in figures.items() if value is not None]


@pytest.fixture(scope="session")
def safetybench_runs(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Give fixtures of a wider scope than a test the runs of the session; see `Runs.run`."""
    out = pytestconfig.getoption("--safetybench-out") or os.environ.get("SAFETYBENCH_OUT")
    ini = pytestconfig.getini("safetybench_out")
    cache = getattr(pytestconfig, "cache", None)  # absent with -p no:cacheprovider
    if out:
        folder = Path(pytestconfig.invocation_params.dir) / out
    elif ini:
        folder = (pytestconfig.inipath or pytestconfig.rootpath / "ini").parent / ini
    elif cache is not None:
        folder = cache.mkdir("safetybench")
    else:
        folder = tmp_path_factory.mktemp("safetybench")
    device = pytestconfig.getoption("--safetybench-device") or os.environ.get("SAFETYBENCH_DEVICE")
    return Runs(folder, device or pytestconfig.getini("safetybench_device") or None)


@pytest.fixture
def safetybench(safetybench_runs: Runs, request: pytest.FixtureRequest) -> SafetyBench:
    """Run suites and assert robustness: `.run(suite)`, `.assert_robust(target, suite=...)`."""
    # The fixture record_property does the same, but warns in every test under junit xunit2.
    return SafetyBench(safetybench_runs, request.node.user_properties)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Wait until no other worker has this file, then have it."""
    import fcntl

    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def _own_process_settings(offline: bool) -> Iterator[None]:
    """Run with the suite's threads and warnings, then give the test process its own back."""
    import sys
    import warnings

    from safetybench import session

    before, torch = dict(os.environ), sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else None
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    with warnings.catch_warnings():
        # `-W error` of the user's project would turn a library's warning into a failed item.
        warnings.simplefilter("default")
        session.prepare_process(offline=offline, share=workers)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
            if torch is not None:
                torch.set_num_threads(threads)
