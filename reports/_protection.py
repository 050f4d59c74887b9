"""What the page shows of a protection run: net effects by editor, pairs, transfer and cloaks.

Every figure, interval and verdict is that of results.json; here they are only put side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from safetybench.wording import component

from ._cells import CellRow, Estimate, estimate
from ._load import Record
from ._pairs import PairRow, failed_checks, fault_of_run
from ._protection_names import ANY, Maker, Place, Shield, cleanings, editor_of, places
from ._text import mapping, number, rows, text

FIGURES = ("asked", "held", "lpips", "psnr", "ssim", "direction", "similarity")
TONES = {  # verdicts of a row, and the badge whose shape and colour each has
    "protects": "inherited",
    "helps the editor": "lost",
    "not distinguishable from noise": "not distinguishable",
    "invalid": "invalid",
}


class Moved(NamedTuple):
    """One figure of the edits: under the protection, under noise, and the paired difference."""

    value: float | None
    noise: float | None
    difference: Estimate


@dataclass(frozen=True, kw_only=True)
class Net:
    """One protection against one editor. net: what noise lets succeed less what it does.

    clean, noise, rate: share of edits that succeed; ruined: share of which the judge recognises
    nothing. invalid: why the verdict does not hold. albums: the rate of each, of a mimicry.
    """

    editor: str
    shield: Shield
    place: Place
    cleaning: str
    net: Estimate
    verdict: str
    invalid: str
    clean: float | None
    noise: float | None
    rate: float | None
    ruined: float | None
    noise_ruined: float | None
    p: float | None
    moved: Mapping[str, Moved]
    cell: str
    albums: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """Return the verdict that the page may show."""
        return "invalid" if self.invalid else self.verdict or "no verdict"

    @property
    def tone(self) -> str:
        """Return the badge that the verdict has the shape and colour of."""
        return TONES.get(self.shown, "undecided")


class Editor(NamedTuple):
    """A model that edits: what it does with images that nobody protected."""

    name: str
    role: str
    target: str
    clean: Estimate
    ruined: float | None
    invalid: str


class NoiseRow(NamedTuple):
    """Edits that succeed under noise of one radius, by editor."""

    epsilon: str
    rates: Mapping[str, float | None]


class GridRow(NamedTuple):
    """One protection against every editor."""

    shield: Shield
    nets: Mapping[str, Net]


class Grid(NamedTuple):
    """Net effects behind one purifier; title: "" for none; kind: "none", "any" or "one"."""

    kind: str
    title: str
    rows: tuple[GridRow, ...]
    noise: tuple[NoiseRow, ...]

    @property
    def nets(self) -> list[Net]:
        """Return every net effect, row by row."""
        return [net for row in self.rows for net in row.nets.values()]


class PairLine(NamedTuple):
    """One student against its teacher under one protection; purified: by what, "" for nothing."""

    pair: PairRow
    student: str
    shield: Shield
    purified: str


class PairGrid(NamedTuple):
    """Pairs behind one purifier, "" for none: by protection, and of each by student."""

    purified: str
    rows: Sequence[tuple[Shield, Mapping[str, PairLine]]]


class TransferLine(NamedTuple):
    """Net effect on an editor of what was made on another, over that of what was made on it."""

    shield: Shield
    editor: str
    purified: str
    ratio: float | None
    interval: Estimate
    net: float | None
    direct: float | None


class Cloak(NamedTuple):
    """What a protection did to the images themselves, as means; most: greatest change, in 1/255.

    of: what the images are, "" for those that are edited.
    """

    shield: Shield
    n: float | None
    most: float | None
    psnr: float | None
    ssim: float | None
    lpips: float | None
    latent: float | None
    is_outside: bool
    of: str


class Part(NamedTuple):
    """All about one subject under one edit."""

    place: Place
    anchor: str
    editors: tuple[Editor, ...]
    grids: tuple[Grid, ...]
    pairs: tuple[PairLine, ...]
    transfers: tuple[TransferLine, ...]

    @property
    def students(self) -> list[str]:
        """Return the students of its pairs."""
        return list(dict.fromkeys(line.student for line in self.pairs))

    @property
    def pair_grids(self) -> list[PairGrid]:
        """Return the pairs behind each purifier, none first."""
        found: dict[str, dict[Shield, dict[str, PairLine]]] = {}
        for line in self.pairs:
            found.setdefault(line.purified, {}).setdefault(line.shield, {})[line.student] = line
        order = sorted(found, key=bool)
        return [
            PairGrid(name, sorted(found[name].items(), key=lambda row: row[0].number))
            for name in order
        ]


class Protections(NamedTuple):
    """A protection run as the page shows it."""

    parts: tuple[Part, ...]
    cloaks: tuple[Cloak, ...]

    def nets(self, kind: str) -> list[Net]:
        """Return the net effects behind no purifier ("none"), the best ("any") or each ("one")."""
        return [n for part in self.parts for g in part.grids if g.kind == kind for n in g.nets]

    @property
    def learns(self) -> bool:
        """Tell whether a mimicry is among what was to be stopped."""
        return any(n.albums for part in self.parts for g in part.grids for n in g.nets)

    def pairs(self, purified: str) -> list[PairLine]:
        """Return the pairs behind one purifier, "" for none."""
        return [p for part in self.parts for p in part.pairs if p.purified == purified]


def protections(
    record: Record, cells: Sequence[CellRow], pairs: Sequence[PairRow]
) -> Protections | None:
    """Return what the page shows; None where the run is of another scenario."""
    if "protection" not in record.results:
        return None
    found = rows(record.results["protection"])
    maker = Maker(found, rows(record.results.get("cloaks")))
    nets = list(_nets(record, found, maker))
    lines = _pair_lines(record, pairs, maker, nets)
    transfers = list(_transfers(record, maker))
    editors = _editors(record, cells)
    return Protections(
        tuple(
            Part(
                place,
                f"part-{i}",
                tuple(editors.get(place, ())),
                tuple(_grids(n for n in nets if n.place == place)),
                tuple(line for where, line in lines if where == place),
                tuple(line for where, line in transfers if where == place),
            )
            for i, place in enumerate(places(found, record.results.get("cells")), 1)
        ),
        tuple(_cloaks(record, maker)),
    )


def _nets(record: Record, found: Sequence[Mapping[str, Any]], maker: Maker) -> Iterator[Net]:
    broken = failed_checks(record)
    for row, cleaning in cleanings(found):
        reason = fault_of_run(broken, text(row.get("subject")))
        if text(row.get("verdict")) == "invalid":
            reason = text(row.get("reason")) or reason or "no reason was given"
        p = number(row.get("adjusted_p"))
        yield Net(
            editor=editor_of(row),
            shield=maker.shield(row),
            place=Place.of(row),
            cleaning=cleaning,
            net=estimate(row.get("net"), row.get("interval"), row.get("n")),
            verdict=text(row.get("verdict")),
            invalid=reason,
            clean=number(row.get("clean_rate")),
            noise=number(row.get("noise_rate")),
            rate=number(row.get("rate")),
            ruined=number(row.get("ruined")),
            noise_ruined=number(row.get("noise_ruined")),
            p=number(row.get("p_value")) if p is None else p,
            moved={name: _moved(row, name) for name in FIGURES if name in _figures(row)},
            cell=text(row.get("cell")),
            albums={
                name: number(mapping(each).get("rate"))
                for name, each in mapping(row.get("by_album")).items()
            },
        )


def _figures(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return mapping(row.get("figures"))


def _moved(row: Mapping[str, Any], name: str) -> Moved:
    found = mapping(_figures(row).get(name))
    spread = estimate(found.get("difference"), found.get("interval"), found.get("n"))
    return Moved(number(found.get("value")), number(found.get("noise")), spread)


def _grids(nets: Iterable[Net]) -> Iterator[Grid]:
    """Yield a grid for each purifier: none first, then the best of all, then each of them."""
    found: dict[str, list[Net]] = {}
    for net in nets:
        found.setdefault(net.cleaning, []).append(net)
    order = sorted(found, key=lambda name: {"": 0, ANY: 1}.get(name, 2))
    for name in order:
        kind = {"": "none", ANY: "any"}.get(name, "one")
        by_shield: dict[Shield, dict[str, Net]] = {}
        noise: dict[str, dict[str, float | None]] = {}
        for net in found[name]:
            by_shield.setdefault(net.shield, {}).setdefault(net.editor, net)
            noise.setdefault(net.shield.epsilon, {}).setdefault(net.editor, net.noise)
        ordered = sorted(by_shield.items(), key=lambda pair: pair[0].number)
        yield Grid(
            kind,
            "" if kind != "one" else name,
            tuple(GridRow(shield, mine) for shield, mine in ordered),
            tuple(NoiseRow(epsilon, rates) for epsilon, rates in noise.items()),
        )


def _editors(record: Record, cells: Sequence[CellRow]) -> dict[Place, list[Editor]]:
    """Return the editors of each place, with their success on images that nobody touched."""
    ruined: dict[str, list[float]] = {}
    for item in record.items:
        told = mapping(item.extra).get("abstained")
        value = number(told[0]) if isinstance(told, list) and told else None
        if value is not None:
            ruined.setdefault(item.cell, []).append(value)
    found: dict[Place, list[Editor]] = {}
    for row, cell in zip(rows(record.results.get("cells")), cells, strict=True):
        if cell.kind == "clean" and not text(row.get("purifier")):
            mine = ruined.get(cell.label, [])
            found.setdefault(Place.of(row), []).append(
                Editor(
                    editor_of(row),
                    cell.role,
                    cell.target,
                    cell.rate,
                    sum(mine) / len(mine) if mine else None,
                    "" if cell.is_valid else cell.reason or "no reason was given",
                )
            )
    for editors in found.values():
        editors.sort(key=lambda editor: editor.role != "teacher")
    return found


def _pair_lines(
    record: Record, pairs: Sequence[PairRow], maker: Maker, nets: Sequence[Net]
) -> list[tuple[Place, PairLine]]:
    known = {net.cell: net for net in nets if net.cell}
    found = []
    for row, pair in zip(rows(record.results.get("pairs")), pairs, strict=True):
        purifier = text(row.get("purifier"))
        label = text(mapping(row.get("teacher")).get("cell"))
        shield = maker.shield({**row, "protection": row.get("attack")})
        purified = component(purifier)
        if label in known:
            shield, purified = known[label].shield, known[label].cleaning
        found.append((Place.of(row), PairLine(pair, pair.student, shield, purified)))
    return found


def _transfers(record: Record, maker: Maker) -> Iterator[tuple[Place, TransferLine]]:
    for row in rows(record.results.get("transfers")):
        purifier = text(row.get("purifier"))
        span = estimate(row.get("ratio"), row.get("interval"), row.get("n"))
        yield (
            Place.of(row),
            TransferLine(
                maker.shield(row),
                text(row.get("victim")),
                component(purifier),
                span.value,
                span,
                number(row.get("net")),
                number(row.get("direct")),
            ),
        )


def _cloaks(record: Record, maker: Maker) -> Iterator[Cloak]:
    for row in rows(record.results.get("cloaks")):
        most, epsilon = number(row.get("most_levels")), number(row.get("epsilon"))
        yield Cloak(
            shield=maker.shield(row, is_made=True),
            n=number(row.get("n")),
            most=most,
            psnr=number(row.get("psnr")),
            ssim=number(row.get("ssim")),
            lpips=number(row.get("lpips")),
            latent=number(row.get("latent")),
            is_outside=most is not None and epsilon is not None and most > epsilon * 255 + 1e-3,
            of=text(row.get("of")),
        )
