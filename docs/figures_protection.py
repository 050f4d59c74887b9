"""Tables of a kept protection run: protections by editors, for each purifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from docs.markdown import NONE, between, percent, table
from safetybench.wording import component, fraction

Row = Mapping[str, Any]
_ABOUT = """\
Net effect: points by which fewer edits succeed than under sign noise of the same epsilon, on images
whose clean edit succeeds, with its 95 % interval. **Bold**: shown (p < 0.05 after Holm over all
rows of the run). Below 0 the protection helps the editor."""
_ABOUT_RATES = "Share of edits that succeed, and in brackets of those the judge rejects."
_ABOUT_MOVES = """\
How alike the edits of the protected and of the clean image are, and how much less or more than
under noise: LPIPS, or PSNR in dB where the features of LPIPS were not at hand. It says that the
edit is another one, not that it failed."""
_NONE, _ANY = "no purifier", "the best purifier for the editor, image by image"


def protection_sections(results: Row) -> Iterator[str]:
    """Yield the sections of a run of the scenario protection."""
    rows = results["protection"]
    editors = list(dict.fromkeys(map(_editor, rows)))
    cleaners = list(dict.fromkeys((row["purifier"], _options(row, "purifier_options"), row["edit"],
                                   _options(row, "edit_options")) for row in rows))  # fmt: skip
    yield "## What protection takes off edit success"
    yield _ABOUT
    for cleaner in cleaners:
        mine = [row for row in rows if _cleaner(row) == cleaner]
        yield f"### {_heading(cleaner, cleaners)}"
        yield _matrix(mine, editors, _net)
    yield "## Edit success"
    yield _ABOUT_RATES
    for cleaner in cleaners:
        mine = [row for row in rows if _cleaner(row) == cleaner]
        yield f"### Rates, {_heading(cleaner, cleaners)}"
        yield _rates(mine, editors)
    yield "## Displacement, which is no protection"
    yield _ABOUT_MOVES
    plain = [row for row in rows if not row["purifier"]]
    yield _matrix(plain, editors, _move)
    if results.get("transfers"):
        yield "## From surrogate to editor"
        yield _transfers(results["transfers"])
    yield "## The protected images"
    yield _cloaks(results["cloaks"])


def _editor(row: Row) -> str:
    return str(row.get("student") or row["role"])


def _options(row: Row, key: str) -> str:
    return ", ".join(f"{name}={value}" for name, value in row.get(key, {}).items())


def _cleaner(row: Row) -> tuple[str, str, str, str]:
    return (row["purifier"], _options(row, "purifier_options"), row["edit"],
            _options(row, "edit_options"))  # fmt: skip


def _heading(cleaner: tuple[str, str, str, str], all_of_them: Sequence[tuple[str, ...]]) -> str:
    name, options, edit, how = cleaner
    shown = {"": _NONE, "any": _ANY}.get(name, component(name))
    shown += f" ({options})" if options and name not in ("", "any") else ""
    if len({each[2:] for each in all_of_them}) > 1:
        shown += f"; {component(edit)}" + (f" ({how})" if how else "")
    return shown


def _shield(row: Row) -> str:
    options = _options(row, "options")
    shown = f"{component(row['protection'])}" + (f" ({options})" if options else "")
    seed = f", seed {row['seed']}" if row.get("seed") else ""
    return f"{shown}, {fraction(row['epsilon'])}, on {row['surrogate']}{seed}"


def _matrix(rows: Sequence[Row], editors: Sequence[str], show: Any) -> str:
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(_shield(row), {})[_editor(row)] = row
    lines = [
        (name, *(show(mine[e]) if e in mine else NONE for e in editors))
        for name, mine in found.items()
    ]
    return table(("protection", *editors), lines)


def _net(row: Row) -> str:
    if row["net"] is None or row["verdict"] == "invalid":
        return f"no figure: {row['reason']}"
    told = f"{100 * row['net']:+.1f}"
    told = f"**{told}**" if row["verdict"] in ("protects", "helps the editor") else told
    return f"{told} ({between(row['interval'])}, n = {row['n']})"


def _move(row: Row) -> str:
    name = next((name for name in ("lpips", "psnr") if name in row["figures"]), "")
    if not name:
        return NONE
    found, digits, unit = row["figures"][name], *{"lpips": (3, ""), "psnr": (1, " dB")}[name]
    ends = found["interval"]
    return (
        f"{found['value']:.{digits}f}{unit}, noise {found['noise']:.{digits}f}{unit}: "
        f"{found['difference']:+.{digits}f} ({ends['low']:.{digits}f} to {ends['high']:.{digits}f})"
    )


def _rates(rows: Sequence[Row], editors: Sequence[str]) -> str:
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        noise = f"noise, {fraction(row['epsilon'])}"
        who = _editor(row)
        found.setdefault("nothing", {})[who] = percent(row["clean_rate"])
        found.setdefault(noise, {})[who] = _rate(row["noise_rate"], row["noise_ruined"])
    for row in rows:
        found.setdefault(_shield(row), {})[_editor(row)] = _rate(row["rate"], row["ruined"])
    lines = [(name, *(mine.get(e, NONE) for e in editors)) for name, mine in found.items()]
    return table(("protected by", *editors), lines)


def _rate(value: float | None, ruined: float | None) -> str:
    return percent(value) + (f" ({percent(ruined)})" if ruined is not None else "")


def _transfers(rows: Sequence[Row]) -> str:
    lines = [
        (row["victim"], _shield(row), component(row["purifier"]) if row["purifier"] else NONE,
         percent(row["net"]), percent(row["direct"]),
         NONE if row["ratio"] is None else f"{row['ratio']:.2f} ({_ends(row['interval'])})",
         row["n"])
        for row in rows
    ]  # fmt: skip
    columns = ("editor", "protection", "purified", "net effect", "made on the editor itself",
               "ratio", "n")  # fmt: skip
    return table(columns, lines)


def _ends(interval: Mapping[str, Any] | None) -> str:
    return f"{interval['low']:.2f} to {interval['high']:.2f}" if interval else "no interval"


def _cloaks(rows: Sequence[Row]) -> str:
    lines = [
        (_shield({**row, "surrogate": row["surrogate"] or "nothing"}), f"{row['most_levels']:g}",
         _figure(row["psnr"], 1), _figure(row["ssim"], 3), _figure(row["lpips"], 3),
         _figure(row["latent"], 2))
        for row in rows
    ]  # fmt: skip
    columns = ("protection", "greatest change, levels", "PSNR", "SSIM", "LPIPS",
               "latent shift over pixel shift")  # fmt: skip
    return table(columns, lines)


def _figure(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"
