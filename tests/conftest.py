"""What every test gets: one thread, no network, few examples, golden files, toy components."""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before anything imports torch or a hub client; subprocesses of tests inherit it.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "safetybench", max_examples=25, deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile("safetybench")

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("golden files")
    group.addoption(
        "--update-golden", action="store_true", help="write tests/golden/ anew from what tests get"
    )


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)
    gc.freeze()  # the engine collects garbage between models; torch's own objects are none


class NetworkUsed(RuntimeError):
    """A test tried to reach another machine."""


def _is_local(address: object) -> bool:
    if not isinstance(address, tuple):
        return True  # a unix socket, or a pair
    host = str(address[0])
    return host in ("", "localhost", "::1") or host.startswith("127.")


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Refuse every connection that leaves the machine, names included."""

    def guarded(real: Callable[..., Any], where: int) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if not _is_local(arguments[where]):
                raise NetworkUsed(f"a test may not reach {arguments[where]!r}")
            return real(*arguments, **named)

        return call

    def lookup(host: Any, *arguments: Any, **named: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name is not None and not _is_local((name,)):
            raise NetworkUsed(f"a test may not look up {name!r}")
        return real_lookup(host, *arguments, **named)

    real_lookup = socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        for name, where in (("connect", 1), ("connect_ex", 1), ("sendto", -1)):
            patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name), where))
        patch.setattr(socket, "getaddrinfo", lookup)
        yield


@pytest.fixture
def golden(pytestconfig: pytest.Config) -> Callable[[str, str], None]:
    """Compare a text with a file of tests/golden/, whole; `--update-golden` writes the file."""

    def compare(name: str, text: str) -> None:
        file = GOLDEN / name
        if pytestconfig.getoption("--update-golden"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        assert file.is_file(), f"there is no {file.name}; run pytest --update-golden and read it"
        assert text == file.read_text(encoding="utf-8")

    return compare


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install the components of tests/toys.py as another package would be; yield its folder."""
    from tests.toys import MODULE, install

    site = install(tmp_path / "site")
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield site
    sys.modules.pop(MODULE, None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Return the system's Chromium; skips where there is none."""
    from playwright.sync_api import sync_playwright

    places = (Path("/usr/bin/chromium"), Path("/usr/bin/chromium-browser"))
    found = next((place for place in places if place.exists()), None)
    if found is None:
        pytest.skip("there is no Chromium at /usr/bin")
    with sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=str(found), args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()
