"""Components by name: the name is the path of the file, so there is no list to keep.

Listing and describing read folders and syntax trees and import no component, which keeps the
command line fast; `load` and `create` import one. Other packages add components through the
entry-point group `safetybench.components`: name "attacks/mine", value "their_package.mine".
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import safetybench
from safetybench import contracts
from safetybench.contracts import Component, SafetyBenchError, Unavailable

GROUP = "safetybench.components"
# Where the files of a kind lie, below the package; suites and targets are data, not code.
_FOLDERS = {
    "attacks": "attacks",
    "defenses": "defenses",
    "unlearning": "unlearning",
    "recipes": "distill/recipes",
    "text-recipes": "language/recipes",
    "targets": "zoo/models",
    "scenarios": "scenarios",
    "suites": "suites",
    "judges": "judges",
    "metrics": "metrics",
    "reports": "reports",
}
KINDS = tuple(_FOLDERS)
_CONTRACTS: dict[str, tuple[type, ...]] = {
    "attacks": (
        contracts.PromptAttack,
        contracts.WeightAttack,
        contracts.ImageEdit,
        contracts.Mimicry,
        contracts.Purifier,
        contracts.Poisoning,
        contracts.NoisePoisoning,
        contracts.DataPoisoning,
        contracts.TextPoisoning,
        contracts.Evasion,
    ),
    "defenses": (
        contracts.ImageProtection,
        contracts.ModelDetector,
        contracts.PromptDetector,
        contracts.PromptFilter,
        contracts.DataFilter,
        contracts.Hardening,
    ),
    "unlearning": (contracts.Unlearning,),
    "scenarios": (contracts.Scenario,),
    "judges": (contracts.Judge, contracts.TextJudge, contracts.ClassJudge),
    "text-recipes": (contracts.TextRecipe,),
    "reports": (contracts.Reporter,),
}
_registered: dict[str, dict[str, type[Component]]] = {}  # module -> class name -> class

C = TypeVar("C", bound=type[Component])


class Entry(NamedTuple):
    """What `safetybench list` shows of a component.

    summary: first line of its docstring; source: URL of the paper, "" if it has none;
    file: path below its package; package: the distribution it came with.
    """

    kind: str
    name: str
    summary: str
    source: str
    file: str
    package: str


class _Place(NamedTuple):
    """Where a component's file is and by what name Python imports it."""

    file: Path
    module: str
    attribute: str
    shown: str
    package: str


def register(component: C) -> C:
    """Record a component class under its module; the name is the module's path.

    Raises:
        SafetyBenchError: the class or its module does not fit the rules of a component.
    """
    module, name = component.__module__, component.__name__
    if not (isinstance(component, type) and issubclass(component, Component)):
        raise SafetyBenchError(f"{name} must subclass a contract of safetybench.contracts")
    if module.split(".")[0] in ("attacks", "defenses", "unlearning", "reports"):
        raise SafetyBenchError(
            f"{name} must be imported as safetybench.{module}, got {module}; "
            "top-level component folders are not installed"
        )
    if not name[0].isupper() or "_" in name:
        raise SafetyBenchError(f"{name} must be CamelCase; it is the class of a component")
    if module.startswith("safetybench."):
        stem = module.rpartition(".")[2].replace("_", "")
        if not name.lower().startswith(stem):
            raise SafetyBenchError(
                f"{name} must be named after its file {module.rpartition('.')[2]}.py"
            )
        others = sorted(set(_registered.get(module, {})) - {name})
        if others:
            raise SafetyBenchError(f"{module} must hold one component, got {others[0]} and {name}")
    _registered.setdefault(module, {})[name] = component
    return component


def suggestion(word: str, options: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the option nearest to word, "" if none is near.

    >>> suggestion("stepps", ["steps", "images"])
    "; did you mean 'steps'?"
    """
    # Last parts decide: "attacks/x" and "attacks/y" are alike by their folder alone.
    lasts: dict[str, list[str]] = {}
    for option in options:
        lasts.setdefault(_last(option), []).append(option)
    near = difflib.get_close_matches(_last(word), lasts, 1, 0.6)
    if not near:
        return ""
    best = max(lasts[near[0]], key=lambda o: difflib.SequenceMatcher(None, word, o).ratio())
    return f"; did you mean {best!r}?"


def _last(name: str) -> str:
    return name.rpartition("/")[2].rpartition(":")[2]


def _kind(kind: str) -> str:
    if kind not in _FOLDERS:
        raise SafetyBenchError(
            f"there is no kind {kind!r}{suggestion(kind, KINDS) or ';'} "
            f"the kinds are {', '.join(KINDS)}"
        )
    return kind


def folder(kind: str) -> Path | None:
    """Return the folder that holds the files of a kind, or None while there is none."""
    for root in safetybench.__path__:
        path = Path(root) / _FOLDERS[_kind(kind)]
        if path.is_dir():
            return path
    return None


def _built_in(kind: str) -> dict[str, _Place]:
    home = folder(kind)
    if home is None:
        return {}
    if kind == "targets":
        cards = [card for card in home.glob("*/card.json") if not _is_judge(card)]
        files = {f"zoo:{card.parent.name}": card for card in cards}
    elif kind == "suites":
        files = {file.stem: file for file in home.glob("*.yaml")}
    else:
        files = {
            f"{kind}/{file.relative_to(home).with_suffix('').as_posix()}": file
            for file in home.rglob("*.py")
            if not any(part.startswith(("_", ".")) for part in file.relative_to(home).parts)
        }
    inside, places = _FOLDERS[kind], {}
    for name, file in sorted(files.items()):
        shown = f"{inside}/{file.relative_to(home).as_posix()}"
        module = f"safetybench.{shown}".removesuffix(".py").replace("/", ".")
        places[name] = _Place(file, module, "", shown, "safetybench")
    return places


def _is_judge(card: Path) -> bool:
    """Tell the zoo's judge, which lies among its models, from what can be attacked."""
    try:
        found = json.loads(card.read_text(encoding="utf-8"))
    except ValueError:
        return False  # a broken card is told when its model is described or loaded
    return isinstance(found, dict) and found.get("kind") == "judge"


def _source_file(module: str) -> Path:
    """Find the file of a module without running any package's __init__."""
    first, *rest = module.split(".")
    spec = importlib.util.find_spec(first)
    if spec is not None and not rest and spec.origin:
        return Path(spec.origin)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        stem = Path(root, *rest)
        for file in (stem.with_suffix(".py"), stem / "__init__.py"):
            if file.is_file():
                return file
    raise Unavailable(f"module {module!r} is declared as a component, but there is no such file")


def _third_party(kind: str, taken: Iterable[str]) -> dict[str, EntryPoint]:
    found = {}
    for point in entry_points(group=GROUP):
        if point.name.partition("/")[0] != kind:
            continue
        if point.name in taken:
            owner = point.dist.name if point.dist else point.value
            raise SafetyBenchError(
                f"package {owner} declares a component {point.name!r}, which safetybench has "
                "itself; uninstall it or ask its author for another name"
            )
        found[point.name] = point
    return found


def names(kind: str) -> list[str]:
    """Return the names of all components of a kind, sorted; imports none of them."""
    built_in = _built_in(_kind(kind))
    return sorted([*built_in, *_third_party(kind, built_in)])


def kind_of(name: str) -> str:
    """Return the kind that a name belongs to: "attacks/pgd" to attacks, "zoo:x" to targets."""
    if name.startswith("zoo:"):
        return "targets"
    kind, slash, _ = name.partition("/")
    return _kind(kind) if slash else "suites"


def _place(name: str) -> _Place:
    kind = kind_of(name)
    built_in = _built_in(kind)
    if name in built_in:
        return built_in[name]
    others = _third_party(kind, built_in)
    if name not in others:
        near = suggestion(name, [*built_in, *others])
        raise SafetyBenchError(
            f"no component is called {name!r}{near or ';'} `safetybench list {kind}` shows all"
        )
    point = others[name]
    file = _source_file(point.module)
    depth = point.module.count(".") + (2 if file.name == "__init__.py" else 1)
    shown = "/".join(file.parts[-depth:])
    package = point.dist.name if point.dist else ""
    return _Place(file, point.module, point.attr, shown, package)


def check(name: str) -> None:
    """Raise SafetyBenchError, with the nearest name, if there is no component of this name."""
    _place(name)


def describe(name: str) -> Entry:
    """Return what is known of a component from its file alone, without importing it."""
    place = _place(name)
    kind = kind_of(name)
    if place.file.suffix == ".py":
        summary, source = _read_source(place)
    elif place.file.suffix == ".json":
        card = json.loads(place.file.read_text(encoding="utf-8"))
        summary, source = str(card.get("summary", "")), str(card.get("source", ""))
    else:
        lines = place.file.read_text(encoding="utf-8").splitlines()
        titles = [line.partition(":")[2] for line in lines if line.startswith("title:")]
        summary, source = titles[0].strip(" '\"") if titles else "", ""
    return Entry(kind, name, summary, source, place.shown, place.package)


def _read_source(place: _Place) -> tuple[str, str]:
    tree = ast.parse(place.file.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    if place.attribute:
        classes = [node for node in classes if node.name == place.attribute]
    node: ast.Module | ast.ClassDef = classes[0] if place.attribute and classes else tree
    summary = (ast.get_docstring(node) or "").partition("\n")[0]
    for field in (field for found in classes for field in found.body):
        targets = field.targets if isinstance(field, ast.Assign) else ()
        targets = [field.target] if isinstance(field, ast.AnnAssign) else targets
        value = getattr(field, "value", None)
        if any(isinstance(target, ast.Name) and target.id == "source" for target in targets):
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                return summary, value.value
    return summary, ""


def load(name: str) -> type[Component]:
    """Import a component and return its class.

    Raises:
        Unavailable: the component's file needs a package that is not installed.
        SafetyBenchError: there is no such component, or its file registers no fitting class.
    """
    place = _place(name)
    try:
        importlib.import_module(place.module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("safetybench"):
            raise
        raise Unavailable(
            f"{name} needs the package {error.name!r}, which is not installed; "
            f"install it with `pip install {error.name}`"
        ) from error
    classes = _registered.get(place.module, {})
    if place.attribute:
        classes = {key: value for key, value in classes.items() if key == place.attribute}
    if len(classes) != 1:
        raise SafetyBenchError(
            f"{place.shown} must register one component as {name}, got {len(classes)}; "
            "put @register above its class"
        )
    (component,) = classes.values()
    wanted = _CONTRACTS.get(kind_of(name), (Component,))
    if not issubclass(component, wanted):
        expected = " or ".join(contract.__name__ for contract in wanted)
        raise SafetyBenchError(f"{name} must be a {expected}, got {component.__name__}")
    return component


def create(name: str, options: Mapping[str, Any] | None = None) -> Any:
    """Import a component and construct it; lists among the options become tuples.

    Raises:
        SafetyBenchError: an option is unknown or has a value that the component refuses.
    """
    component, options = load(name), options or {}
    allowed = inspect.signature(component).parameters
    for key in options:
        if key not in allowed:
            takes = ", ".join(allowed) or "none"
            raise SafetyBenchError(
                f"{name} has no option {key!r}{suggestion(key, allowed) or ';'} it takes {takes}"
            )
        _check_type(name, key, options[key], allowed[key].annotation)
    try:
        return component(**{key: _frozen(value) for key, value in options.items()})
    except (TypeError, ValueError) as error:
        raise SafetyBenchError(f"{name}: {error}") from error


_TYPES: dict[Any, tuple[tuple[type, ...], str]] = {
    "float": ((float, int), "a number"),
    "int": ((int,), "a whole number"),
    "str": ((str,), "text"),
    "bool": ((bool,), "true or false"),
}


def _check_type(name: str, key: str, value: Any, annotation: Any) -> None:
    """Refuse an option of a plain type that a suite gives as another."""
    types, wanted = _TYPES.get(annotation, ((), ""))
    if not types or not isinstance(value, str | int | float):
        return  # the component itself knows what it takes
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise SafetyBenchError(f"{name}: {key} must be {wanted}, got {value!r:.40}")


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def code_digest(name: str) -> str:
    """Return a sha256 of a component's file and of the siblings that it imports.

    When it changes, old results are not the component's own.
    """
    place = _place(name)
    is_package = place.file.name == "__init__.py"
    inside = place.module if is_package else place.module.rpartition(".")[0]
    sources: dict[str, str] = {}
    waiting = [place.file]
    while waiting:
        file = waiting.pop()
        if file.name not in sources:
            source = file.read_bytes()
            sources[file.name] = hashlib.sha256(source).hexdigest()
            waiting += _siblings(file.parent, inside, source)
    return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()


def _siblings(home: Path, inside: str, source: bytes) -> list[Path]:
    """Return the files of a folder that a source file of it imports; inside: its package."""
    if not inside:  # a lone module: what lies beside it is other people's
        return []
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level <= 1:
            start = inside if node.level else ""
            stem = ".".join(filter(None, (start, node.module)))
            names |= {stem, *(f"{stem}.{alias.name}" for alias in node.names)}
    lead = f"{inside}."
    stems = {name.removeprefix(lead).partition(".")[0] for name in names if name.startswith(lead)}
    return [file for file in (home / f"{stem}.py" for stem in sorted(stems)) if file.is_file()]
