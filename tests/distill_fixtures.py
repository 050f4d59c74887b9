"""Fixtures of the distill command's tests: a tiny teacher on disk and the command on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from safetybench.targets.saving import save_target
from tests.calls import Call, Done
from tests.targets import tiny_target

PROMPTS = (
    "# what it is for\na red fish\n\n  a blue star  \na green moon\na dark heart\na pale fish\n"
)
QUICK = ("--option", "warmup=0", "--batch", "2", "--device", "cpu", "--option", "lr=1e-3")


@pytest.fixture(scope="module")
def made_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers") / "teacher"
    return save_target(tiny_target("velocity"), folder)


@pytest.fixture
def teacher(made_teacher: Path, here: Path) -> Path:
    (here / "prompts.txt").write_text(PROMPTS, encoding="utf-8")
    return Path(shutil.copytree(made_teacher, here / "teacher"))


@pytest.fixture
def distil(call: Call, teacher: Path) -> Callable[..., Done]:
    """Return the command on the tiny teacher, three steps; `more` comes last and wins."""

    def run(*more: str, recipe: str = "dmd2", steps: int = 3, out: str = "student") -> Done:
        words = ("--teacher", "teacher", "--prompts", "prompts.txt", "--out", out)
        return call("distill", recipe, *words, "--steps", str(steps), *QUICK, *more)

    return run
