"""Fixtures of the unlearn command's tests: a tiny model on disk that reads 77 tokens."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from safetybench.targets.saving import save_target
from tests import targets
from tests.calls import Call, Done


@pytest.fixture(scope="module")
def made_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "sd15"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "LENGTH", 77)
        return save_target(targets.tiny_target("velocity"), folder)


@pytest.fixture
def model(made_model: Path, here: Path) -> Path:
    return Path(shutil.copytree(made_model, here / "sd15"))


@pytest.fixture
def unlearn(call: Call, model: Path) -> Callable[..., Done]:
    """Return the command on the tiny model, two steps; `more` comes last and wins."""

    def run(*more: str, method: str = "esd", steps: int = 2, out: str = "without") -> Done:
        words = ("--target", "sd15", "--concept", "fish", "--anchor", "star", "--out", out)
        return call("unlearn", method, *words, "--steps", str(steps), "--device", "cpu", *more)

    return run
