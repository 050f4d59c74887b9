"""What protections, purifiers and editors of a protection run are called on the page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from safetybench.wording import component

from ._names import said
from ._text import epsilon, mapping, number, rows, text

ANY = "any"  # in the place of a purifier: the best of all of them for the editor, and of none
ITSELF = "each editor itself"


class Place(NamedTuple):
    """A subject under one edit; edit: its name with all options."""

    subject: str
    edit: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Place:
        """Return the place of a row of results.json."""
        edit = said(text(row.get("edit")), row.get("edit_options"))
        return cls(text(row.get("subject")), edit)


class Shield(NamedTuple):
    """One protection as it was made. number: its place in the tables, counted from 1, else 0.

    name: with what tells it from its twins; made_on: the model, "" for noise; level: epsilon in
    1/255.
    """

    number: int
    name: str
    epsilon: str
    made_on: str
    level: float | None

    @property
    def label(self) -> str:
        """Return name and radius."""
        return f"{self.name} {self.epsilon}".strip()


def stopped(learns: Iterable[bool]) -> str:
    """Say what protection was to stop; learns: of each row, whether it is of a mimicry.

    >>> stopped([False]), stopped([True, False])
    ('edits', 'edits and mimicry')
    """
    kinds = set(learns)
    return "edits and mimicry" if len(kinds) > 1 else "mimicry" if kinds == {True} else "edits"


def editor_of(row: Mapping[str, Any]) -> str:
    """Return which model of a subject a row is about."""
    return text(row.get("student")) or text(row.get("role"))


def places(found: Iterable[Mapping[str, Any]], cells: Any) -> list[Place]:
    """Return the subjects and edits of a run; those without any net effect come too."""
    tried = [row for row in rows(cells) if text(row.get("edit"))]
    return list(dict.fromkeys(Place.of(row) for row in (*found, *tried)))


def _same(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def key_of(row: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    """Return fields of a row as something that can be compared, whatever they hold."""
    return tuple(_same(row.get(name)) for name in names)


_MADE = ("protection", "options", "epsilon", "seed")  # and the steps, which not every table tells


class Maker:
    """Names the protections of a run, each once, in the order of its table."""

    def __init__(
        self, found: Sequence[Mapping[str, Any]], cloaks: Sequence[Mapping[str, Any]]
    ) -> None:
        self._twins: dict[str, list[Mapping[str, Any]]] = {}
        for row in (*found, *cloaks):
            self._twins.setdefault(text(row.get("protection")), []).append(row)
        self._own = _made_on_each(found)
        self._numbers: dict[tuple[str, ...], int] = {}
        for row in found:
            exact = (*self._key(row), _same(row.get("steps")))
            number_of_row = self._numbers.setdefault(exact, len(set(self._numbers.values())) + 1)
            self._numbers.setdefault(self._key(row), number_of_row)

    def shield(self, row: Mapping[str, Any], *, is_made: bool = False) -> Shield:
        """Return the protection of a row; is_made: on its surrogate, whoever meets it."""
        level = number(row.get("epsilon"))
        surrogate = text(row.get("surrogate"))
        is_own = key_of(row, *_MADE) in self._own and not is_made
        loose = self._key(row)
        return Shield(
            self._numbers.get((*loose, _same(row.get("steps"))), self._numbers.get(loose, 0)),
            ", ".join(filter(None, (component(text(row.get("protection"))), self._variant(row)))),
            epsilon(level),
            ITSELF if is_own else surrogate,
            None if level is None else 255 * level,
        )

    def _key(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        made = key_of(row, *_MADE)
        return made if made in self._own else (*made, text(row.get("surrogate")))

    def _variant(self, row: Mapping[str, Any]) -> str:
        """Return what tells a protection from others of its name: options, steps, seed."""
        twins = self._twins.get(text(row.get("protection")), [])
        mine = mapping(row.get("options"))
        keys = dict.fromkeys(key for twin in twins for key in mapping(twin.get("options")))
        parts = []
        for key in keys:
            if len({_same(mapping(twin.get("options")).get(key)) for twin in twins}) > 1:
                parts.append(f"{text(key)}={text(mine.get(key, 'default'))}")
        if "steps" in row and len({_same(twin.get("steps")) for twin in twins}) > 1:
            parts.append(f"{text(row.get('steps'))} steps")
        if len({_same(twin.get("seed")) for twin in twins}) > 1:
            parts.append(f"seed {text(row.get('seed'))}")
        return ", ".join(parts)


def _made_on_each(found: Iterable[Mapping[str, Any]]) -> set[tuple[str, ...]]:
    """Return what was made on every editor for itself: such rows are one line of a table."""
    met: dict[tuple[str, ...], set[tuple[str, str]]] = {}
    for row in found:
        mine = met.setdefault(key_of(row, *_MADE), set())
        mine.add((text(row.get("surrogate")), editor_of(row)))
    return {
        key
        for key, pairs in met.items()
        if len(pairs) > 1 and all(surrogate == editor for surrogate, editor in pairs)
    }


def cleanings(
    found: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield every row with what its images were cleaned with, in words; "" for nothing.

    A purifier that works with a model does so with one for all, or with each editor's own.
    """
    families: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in found:
        families.setdefault(key_of(row, "purifier", "purifier_options"), []).append(row)
    for family in families.values():
        name = text(family[0].get("purifier"))
        if name in ("", ANY):
            yield from ((row, name) for row in family)
            continue
        words = said(name, family[0].get("purifier_options"))
        used = [(text(row.get("cleaner")), text(row.get("target"))) for row in family]
        shared = {cleaner for cleaner, target in used if cleaner and cleaner != target}
        has_own = any(cleaner and cleaner not in shared for cleaner, _ in used)
        for row, (cleaner, target) in zip(family, used, strict=True):
            if not cleaner:
                yield row, words
            if cleaner in shared:
                yield row, f"{words} with {cleaner}"
            if cleaner and cleaner == target and has_own:
                yield row, f"{words} with the editor itself"
