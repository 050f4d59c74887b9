"""The cells of a protection run: what is protected, and what every model makes of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from safetybench import registry
from safetybench.contracts import Budget, Cell
from safetybench.suite_images import SELF

NOISE = "defenses/images/sign_noise"


class Given(NamedTuple):
    """What is protected.

    ids: of the images; content: a digest of them; chunk: how many a call gets; of: what they are,
    "" for images that are protected and edited one by one.
    """

    ids: tuple[str, ...]
    content: str
    chunk: int = Cell.chunk_size
    of: str = ""

    @property
    def told(self) -> dict[str, str]:
        """What a cell's `defense` says of it."""
        return {"images": self.content, **({"of": self.of} if self.of else {})}


@dataclass(frozen=True, kw_only=True)
class Use:
    """One thing that models do with protected images: an edit, or a mimicry.

    attack, options: the component; items: what is judged; asked: what the cells' `defense` says
    whatever the protection; models: which do it, () for all; chunk: items a call gets; holder:
    of the images, who cleans them, "" for the model itself.
    """

    attack: str
    options: Mapping[str, Any]
    items: tuple[str, ...]
    asked: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    chunk: int = Cell.chunk_size
    holder: str = ""


class _Model(NamedTuple):
    """A model of a subject that edits, or that protection is made on."""

    name: str
    role: str
    target: str

    @property
    def student(self) -> str:
        return self.name if self.role == "student" else ""


def subject_cells(suite: Any, subject: Any, given: Given, uses: Sequence[Use]) -> Iterator[Cell]:
    """Yield the cells of a subject: what is made of the images, then what is done with it."""
    models = _models(suite, subject)
    made: dict[tuple[str, str], Cell] = {}  # by what it is and on which model
    shields: list[tuple[str, Cell]] = []
    for seed in suite.seeds:
        for entry, surrogate in _surrogates(suite, models):
            budget = replace(entry.spent, seed=seed)
            noise = _shield(NOISE, {}, Budget(epsilon=budget.epsilon, seed=seed), "", given)
            mine = _shield(entry.name, entry.options, budget, surrogate.name, given)
            for shield, model in ((noise, models["teacher"]), (mine, surrogate)):
                key = (json.dumps(shield, sort_keys=True, default=str), model.name)
                if key not in made:
                    made[key] = _cell(
                        subject,
                        model,
                        "protect",
                        items=given.ids,
                        chunk_size=given.chunk,
                        defense=shield,
                        budget=Budget(**shield["budget"]),
                        seed=seed,
                    )
                    yield made[key]
                    shields.append((_scope(entry), made[key]))
    for model in models.values():
        for use in (u for u in uses if not u.models or model.name in u.models):
            yield from _use_cells(suite, subject, model, models, use, shields)


def _models(suite: Any, subject: Any) -> dict[str, _Model]:
    found = {"teacher": _Model("teacher", "teacher", subject.teacher)}
    for made in suite.made:
        if made.subject == subject.name and made.role == "student":
            name = made.entry if not made.seed else f"{made.entry}.seed{made.seed}"
            found[name] = _Model(name, "student", made.label)
    return found


def _cell(subject: Any, model: _Model, kind: str, **more: Any) -> Cell:
    plain = Cell(
        label="",
        subject=subject.name,
        concept="",
        role=model.role,
        student=model.student,
        target=model.target,
        kind=kind,
        **more,
    )
    return replace(plain, label=_label(plain))


def _scope(entry: Any) -> str:
    """Return whom what was protected meets: "self" alone where it is made on every editor."""
    return SELF if tuple(entry.surrogates) == (SELF,) else ""


def _surrogates(suite: Any, models: Mapping[str, _Model]) -> Iterator[tuple[Any, _Model]]:
    for entry in suite.protections:
        names = [n for s in entry.surrogates for n in (models if s == SELF else (s,))]
        for name in dict.fromkeys(names):
            if name in models:
                yield entry, models[name]


def _shield(
    name: str, options: Mapping[str, Any], budget: Budget, surrogate: str, given: Given
) -> dict[str, Any]:
    return {
        "protection": name,
        "options": dict(options),
        "budget": asdict(budget),
        "surrogate": surrogate,
        **given.told,
    }


def _use_cells(
    suite: Any,
    subject: Any,
    model: _Model,
    models: Mapping[str, _Model],
    use: Use,
    shields: Sequence[tuple[str, Cell]],
) -> Iterator[Cell]:
    more: dict[str, Any] = {
        "attack": use.attack,
        "options": dict(use.options),
        "items": use.items,
        "chunk_size": use.chunk,
    }
    asked = dict(use.asked)
    clean = _cell(subject, model, "clean", defense=asked, **more)
    yield clean
    for cleaner in _cleaners(suite, models[use.holder] if use.holder else model, models):
        if cleaner:
            defense = {**asked, **cleaner}
            yield _cell(subject, model, "clean", defense=defense, after=(clean.label,), **more)
        for scope, shield in shields:
            is_noise = shield.defense["protection"] == NOISE
            mine = shield.defense["surrogate"]
            if scope == SELF and not is_noise and mine != model.name:
                continue
            yield _cell(
                subject,
                model,
                "control" if is_noise else "attack",
                defense={**shield.defense, **asked, **cleaner},
                budget=Budget(seed=shield.seed),
                seed=shield.seed,
                after=(clean.label, shield.label),
                **more,
            )


def _cleaners(suite: Any, holder: _Model, models: Mapping[str, _Model]) -> Iterator[dict[str, Any]]:
    """Yield what a cell's `defense` says of each purifier, nothing first."""
    yield {}
    for entry in suite.purifiers:
        cleans = holder if entry.model == SELF else models[entry.model]
        needs = registry.create(entry.name, entry.options).needs
        yield {
            "purifier": entry.name,
            "purifier_options": dict(entry.options),
            "cleaner": cleans.target if needs else "",
        }


def _label(cell: Cell) -> str:
    """Return a label that only cells of the same content share: portable, and readable."""
    defense = cell.defense
    parts = [cell.subject, cell.student or cell.role, cell.kind]
    parts += [defense["of"]] if "of" in defense else []
    if cell.attack:
        parts.append("-".join([_named(cell.attack, cell.options), *_mask(defense)]))
    if "protection" in defense:
        shown = f"{defense['budget']['epsilon'] * 255:.0f}"
        options = [defense["options"], defense["budget"]]
        parts.append(f"{_named(defense['protection'], options)}-eps{shown}")
        parts.append(f"on-{defense['surrogate'] or 'nothing'}")
    if "purifier" in defense:
        parts.append(_named(defense["purifier"], [defense["purifier_options"], defense["cleaner"]]))
    parts += [f"seed{cell.seed}"] if "protection" in defense else []
    return ".".join(part.replace("/", "-") for part in parts)


def _mask(defense: Mapping[str, Any]) -> list[str]:
    return [defense["mask"]] if "mask" in defense else []


def _named(name: str, options: Any) -> str:
    text = json.dumps(options, sort_keys=True, default=str)
    short = hashlib.sha256(text.encode()).hexdigest()[:4]
    return f"{name.rpartition('/')[2]}-{short}"
