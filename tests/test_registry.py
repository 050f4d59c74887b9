"""The registry: names are paths, other packages join by entry points, errors name the nearest."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

import safetybench
from safetybench import registry
from safetybench.contracts import Component, SafetyBenchError, Unavailable
from tests.toys import MODULE

pytestmark = pytest.mark.usefixtures("toys")


def declare(site: Path, point: str, package: str = "other") -> None:
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[safetybench.components]\n{point}\n")
    importlib.invalidate_caches()


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package path of our own, with files of every kind."""
    home = tmp_path / "package"
    files = {
        "attacks/__init__.py": "",
        "attacks/prompts/__init__.py": "",
        "attacks/prompts/rhyme.py": '"""Make it rhyme.\n\nMore."""\n\nclass Rhyme:\n'
        '    source: ClassVar[str] = "https://arxiv.org/abs/1"\n',
        "attacks/prompts/_shared.py": "raise RuntimeError('imported')",
        "distill/recipes/dmd.py": '"""Distil."""\nraise RuntimeError("imported")\n',
        "suites/quick.yaml": "schema: x\ntitle: 'A quick one'\n",
        "zoo/models/teacher/card.json": '{"summary": "The teacher."}',
        "zoo/models/judge/card.json": '{"summary": "The judge.", "kind": "judge"}',
        "zoo/models/broken/card.json": "{",
    }
    for name, text in files.items():
        file = home / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr(safetybench, "__path__", [str(home)])
    return home


def test_names_are_paths_and_nothing_is_imported(rooms: Path) -> None:
    assert registry.names("attacks") == ["attacks/prompts/rhyme", "attacks/toy"]
    assert registry.names("recipes") == ["recipes/dmd"]
    assert registry.names("suites") == ["quick"]
    assert registry.names("targets") == ["targets/toy", "zoo:broken", "zoo:teacher"]
    assert registry.names("metrics") == []
    assert MODULE not in sys.modules


def test_describe_reads_the_file_only(rooms: Path) -> None:
    described = registry.describe("attacks/prompts/rhyme")
    assert described == registry.Entry(
        kind="attacks",
        name="attacks/prompts/rhyme",
        summary="Make it rhyme.",
        source="https://arxiv.org/abs/1",
        file="attacks/prompts/rhyme.py",
        package="safetybench",
    )
    assert registry.describe("recipes/dmd").file == "distill/recipes/dmd.py"
    assert registry.describe("quick").summary == "A quick one"
    assert registry.describe("zoo:teacher").summary == "The teacher."


def test_another_packages_component_is_described_without_importing_it() -> None:
    entry = registry.describe("attacks/toy")
    assert (entry.summary, entry.source) == (
        "Add a word to the prompt.",
        "https://example.org/toys",
    )
    assert (entry.file, entry.package) == (f"{MODULE}.py", "toycore")
    assert MODULE not in sys.modules


def test_create_gives_options_and_makes_lists_tuples() -> None:
    attack = registry.create("attacks/toy", {"word": ["a", "b"]})
    assert attack.word == ("a", "b")
    assert repr(registry.create("attacks/toy")) == "Suffix(word='please', times=1)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"wrod": "x"},
            "attacks/toy has no option 'wrod'; did you mean 'word'? it takes word, times",
        ),
        ({"zz": 1}, "attacks/toy has no option 'zz'; it takes word, times"),
        ({"times": 0}, "attacks/toy: times must be 1 or more, got 0"),
    ],
)
def test_wrong_options_are_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SafetyBenchError) as caught:
        registry.create("attacks/toy", options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "attacks/tooy",
            "no component is called 'attacks/tooy'; did you mean 'attacks/toy'? "
            "`safetybench list attacks` shows all",
        ),
        (
            "attacks/prompts/rhyem",
            "no component is called 'attacks/prompts/rhyem'; did you mean "
            "'attacks/prompts/rhyme'? `safetybench list attacks` shows all",
        ),
        (
            "attacks/ryhme",
            "no component is called 'attacks/ryhme'; did you mean 'attacks/prompts/rhyme'? "
            "`safetybench list attacks` shows all",
        ),
        ("judges/zzz", "no component is called 'judges/zzz'; `safetybench list judges` shows all"),
        (
            "zoo:teahcer",
            "no component is called 'zoo:teahcer'; did you mean 'zoo:teacher'? "
            "`safetybench list targets` shows all",
        ),
        (
            "attack/toy",
            "there is no kind 'attack'; did you mean 'attacks'? the kinds are attacks, defenses, "
            "unlearning, recipes, text-recipes, targets, scenarios, suites, judges, metrics, "
            "reports",
        ),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(rooms: Path, name: str, message: str) -> None:
    with pytest.raises(SafetyBenchError) as caught:
        registry.check(name)
    assert str(caught.value) == message


def test_nobody_takes_the_name_of_a_built_in(rooms: Path, toys: Path) -> None:
    declare(toys, "attacks/prompts/rhyme = elsewhere:Rhyme")
    with pytest.raises(SafetyBenchError) as caught:
        registry.names("attacks")
    assert str(caught.value) == (
        "package other declares a component 'attacks/prompts/rhyme', which safetybench has "
        "itself; uninstall it or ask its author for another name"
    )


def test_a_declared_module_that_is_not_there(toys: Path) -> None:
    declare(toys, "attacks/ghost = ghosts.attack")
    assert "attacks/ghost" in registry.names("attacks")
    with pytest.raises(
        Unavailable, match=r"module 'ghosts.attack' is declared as a component, but"
    ):
        registry.describe("attacks/ghost")


def test_a_package_that_is_missing_is_named(toys: Path) -> None:
    (toys / "needy.py").write_text('"""Needs."""\nimport no_such_package\n')
    declare(toys, "attacks/needy = needy")
    with pytest.raises(Unavailable) as caught:
        registry.load("attacks/needy")
    assert str(caught.value) == (
        "attacks/needy needs the package 'no_such_package', which is not installed; "
        "install it with `pip install no_such_package`"
    )


def test_a_component_must_keep_the_contract_of_its_kind(toys: Path) -> None:
    declare(toys, f"attacks/wrong = {MODULE}:Red\nattacks/none = {MODULE}:Nothing")
    with pytest.raises(SafetyBenchError) as caught:
        registry.load("attacks/wrong")
    kinds = (
        "PromptAttack or WeightAttack or ImageEdit or Mimicry or Purifier or Poisoning or "
        "NoisePoisoning or DataPoisoning or TextPoisoning or Evasion"
    )
    assert str(caught.value) == f"attacks/wrong must be a {kinds}, got Red"
    with pytest.raises(
        SafetyBenchError, match=r"must register one component as attacks/none, got 0"
    ):
        registry.load("attacks/none")


def component(name: str, module: str) -> type[Component]:
    made = type(name, (Component,), {"source": "https://example.org"})
    made.__module__ = module
    return made


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        (
            "PGD",
            "attacks.images.pgd",
            "PGD must be imported as safetybench.attacks.images.pgd, got attacks.images.pgd; "
            "top-level component folders are not installed",
        ),
        ("pgd", "mine", "pgd must be CamelCase; it is the class of a component"),
        ("Other", "safetybench.attacks.pgd", "Other must be named after its file pgd.py"),
    ],
)
def test_register_refuses(name: str, module: str, message: str) -> None:
    with pytest.raises(SafetyBenchError) as caught:
        registry.register(component(name, module))
    assert str(caught.value) == message


def test_register_refuses_what_is_no_component() -> None:
    @dataclass
    class Loose:
        source: ClassVar[str] = ""

    with pytest.raises(SafetyBenchError, match=r"^Loose must subclass a contract of"):
        registry.register(Loose)  # type: ignore[type-var]


def test_one_file_holds_one_component(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    registry.register(component("Pgd", "safetybench.attacks.pgd"))
    with pytest.raises(SafetyBenchError) as caught:
        registry.register(component("PgdFast", "safetybench.attacks.pgd"))
    assert str(caught.value) == (
        "safetybench.attacks.pgd must hold one component, got Pgd and PgdFast"
    )


def test_the_code_digest_follows_the_file(toys: Path) -> None:
    before = registry.code_digest("attacks/toy")
    file = toys / f"{MODULE}.py"
    file.write_text(file.read_text() + "\n")
    assert registry.code_digest("attacks/toy") != before


def test_the_code_digest_follows_what_the_file_imports_from_beside_it(rooms: Path) -> None:
    home = rooms / "attacks" / "prompts"
    (home / "rhyme.py").write_text(
        '"""Rhyme."""\nfrom ._shared import a\nfrom safetybench.attacks.prompts import _other\n'
        "import json\nfrom .. import elsewhere\n"
    )
    (home / "_shared.py").write_text("from . import _deep\n")
    for name in ("_deep", "_other", "_stranger", "json", "elsewhere"):
        (home / f"{name}.py").write_text("")
    seen = [registry.code_digest("attacks/prompts/rhyme")]
    for name in ("_shared", "_deep", "_other"):
        file = home / f"{name}.py"
        file.write_text(file.read_text() + "# changed\n")
        seen.append(registry.code_digest("attacks/prompts/rhyme"))
    assert len(set(seen)) == 4
    for name in ("_stranger", "json", "elsewhere"):
        (home / f"{name}.py").write_text("# changed\n")
    assert registry.code_digest("attacks/prompts/rhyme") == seen[-1]


def test_the_real_components_count_their_private_siblings() -> None:
    for name, sibling in (("attacks/prompts/unlearndiffatk", "_whitebox"),
                          ("scenarios/unlearning", "_pairs")):  # fmt: skip
        place = registry._place(name)
        source = place.file.read_bytes()
        inside = place.module.rpartition(".")[0]
        found, waiting = set[str](), registry._siblings(place.file.parent, inside, source)
        while waiting:
            file = waiting.pop()
            if file.name not in found:
                found.add(file.name)
                waiting += registry._siblings(file.parent, inside, file.read_bytes())
        assert f"{sibling}.py" in found


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_built_in_can_be_described(kind: str) -> None:
    for name in registry.names(kind):
        entry = registry.describe(name)
        assert entry.kind == kind
        assert entry.summary, f"{name} has no docstring, title or summary"
        assert entry.source == "" or entry.source.startswith("https://")


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys; from safetybench import registry; "
        "[registry.describe(n) for k in registry.KINDS for n in registry.names(k)]; "
        "sys.exit('torch' in sys.modules or 'pydantic' in sys.modules)"
    )
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
