"""Tables and the figure of a kept unlearning run: methods by models by attacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from docs.markdown import NONE, between, percent, table

Row = Mapping[str, Any]
_SHARES = ("forgetting", "retain-same", "retain-cross", "in-prompt", "implicit-leak")

# README leaderboard of Diffusion-MU-Attack, nudity on SD 1.4, 142 prompts, ASR with pre-ASR in it.
PUBLISHED: dict[str, tuple[float, float, float]] = {  # method: pre-ASR, ASR, FID
    "salun": (0.0141, 0.1127, 33.62),
    "adv_unlearn": (0.0775, 0.2113, 19.34),
    "esd": (0.2042, 0.7605, 18.18),
    "uce": (0.2183, 0.7958, 17.10),
}
_UDA = "attacks/prompts/unlearndiffatk"


class Model(NamedTuple):
    """One model of a run: an unlearned teacher, or one of its students."""

    subject: str
    role: str
    student: str

    @property
    def shown(self) -> str:
        """What tables call it."""
        return self.student or self.role


_MANY = 3  # subjects from which a run is a comparison of methods
_ABOUT_MEASURES = """\
One line a model: the unlearned teacher, then each of its students. Intervals are 95 %; what each
column is on stands in [the scenario](../scenarios/unlearning.md#metrics). KID is of the judge's
features, to the original's images of the same prompts, times 1000. The strongest attack is the one
with the highest success among those that were made on every model of its role."""
_ABOUT_FIGURE = """\
To the right is useful, up is robust: prompts on which even the strongest attack did not bring the
concept back, against prompts on other concepts that are drawn as asked."""
_ABOUT_ATTACKS = """\
Share of ideal prompts that show the concept, with its interval; the lift is over random tokens in
the same place at as many images, paired by prompt."""
_ABOUT_PUBLISHED = """\
The published figures are those of the README of Diffusion-MU-Attack: nudity on Stable Diffusion
1.4, 142 prompts, 51 images each, and the ASR there counts prompts that succeed without an attack.
Ours is an object of the zoo at the budget of this suite, so only the order of methods compares."""


def is_comparison(results: Row) -> bool:
    """Tell whether a run compares methods of forgetting: measures of several subjects."""
    return len({row["subject"] for row in results.get("measures") or ()}) >= _MANY


def measures_section(results: Row) -> list[str]:
    """Return the section on what each model forgot and kept."""
    return ["## Forgetting and what it costs", _ABOUT_MEASURES, measures_table(results)]


def method_tables(results: Row) -> list[str]:
    """Return the sections of a comparison of methods."""
    name = results["run"]["suite"]
    return [
        *measures_section(results),
        "## Forgetting against utility", _ABOUT_FIGURE,
        f"![Prompts that withstand the strongest attack, against utility]({name}.svg)",
        "## Attack success", _ABOUT_ATTACKS, attacks_table(results),
        "## Beside the published table", _ABOUT_PUBLISHED, published_table(results),
    ]  # fmt: skip


def models(rows: Sequence[Row]) -> list[Model]:
    """Return the models of a run's rows but the originals, in their order."""
    found = (Model(r["subject"], r["role"], r.get("student") or "") for r in rows)
    return list(dict.fromkeys(model for model in found if model.role != "original"))


def measures_table(results: Row) -> str:
    """Return one line a model: how much it forgot and what that cost."""
    rows = []
    for model in models(results["measures"]):
        found = _measures(results, model)
        worst = strongest(results, model)
        rows.append((
            model.subject, f"`{model.shown}`",
            *(_share(found.get(name)) for name in _SHARES),
            _worst(found.get("worst-concept")),
            _distance(found.get("kid-judge")), _steps(found.get("half-life")),
            NONE if worst is None else f"{percent(worst['value'])} {_short(worst['attack'])}",
            "**collapsed**" if _collapsed(results, model) else "",
        ))  # fmt: skip
    columns = ("subject", "model", "forgetting (UA)", "same kind (IRA)", "other kinds (CRA)",
               "rest of the prompt", "implicit leak", "worst other concept", "KID (x 1000)",
               "relearned after", "strongest attack", "")  # fmt: skip
    return table(columns, rows)


def attacks_table(results: Row) -> str:
    """Return one line a model: success of each attack, and how far it is over random."""
    attacks = list(dict.fromkeys(
        (c["attack"], c.get("variant", "")) for c in results["cells"] if c["kind"] == "attack"
    ))  # fmt: skip
    lifts = {c["cell"]: c for c in results["comparisons"] if c["baseline"].endswith("random_prefix")
             and c["kind"] == "lift"}  # fmt: skip
    rows = []
    for model in models(results["cells"]):
        cells = [c for c in results["cells"] if _is_of(c, model)]
        by_attack = {(c["attack"], c.get("variant", "")): c for c in cells if c["kind"] == "attack"}
        plain = next((c for c in cells if c["kind"] == "clean"), None)
        random = _control(cells, "control", "random_prefix")
        seeds = _control(cells, "control", "seed_search")
        floor = _control(cells, "floor", "random_prefix")
        line = [model.subject, f"`{model.shown}`", _asr(plain), _asr(seeds), _asr(random),
                _asr(floor)]  # fmt: skip
        for attack in attacks:
            cell = by_attack.get(attack)
            lift = lifts.get(cell["label"]) if cell else None
            line.append(_asr(cell) + (f", lift {_signed(lift)}" if lift else ""))
        rows.append(line)
    names = [f"{_short(name)} {variant}".strip() for name, variant in attacks]
    return table(("subject", "model", "no attack", "other seeds", "random", "floor", *names), rows)


def published_table(results: Row) -> str:
    """Return our order of methods beside the published one, by UnlearnDiffAtk on the teacher."""
    rows = []
    for method, (before, after, fid) in PUBLISHED.items():
        for subject in dict.fromkeys(c["subject"] for c in results["cells"]):
            if subject.rpartition(".")[2].replace("-", "_") != method:
                continue
            mine = [c for c in results["cells"] if c["subject"] == subject
                    and c["role"] == "teacher"]  # fmt: skip
            plain = next((c for c in mine if c["kind"] == "clean"), None)
            own = [c for c in mine if c["kind"] == "attack" and c["attack"] == _UDA]
            attacked = own[0] if own else None
            kid = _measures(results, Model(subject, "teacher", "")).get("kid-judge")
            rows.append((method, percent(before), percent(after), f"{fid:.2f}", subject,
                         _asr(plain), _asr(attacked), _distance(kid)))  # fmt: skip
    columns = ("method", "published pre-ASR", "published ASR", "published FID", "here",
               "no attack", "UnlearnDiffAtk", "KID (x 1000)")  # fmt: skip
    return table(columns, rows) if rows else "The run has none of the published methods."


def strongest(results: Row, model: Model) -> Row | None:
    """Return the valid attack with the highest success on a model; an oracle is none.

    Of the attacks that were made on every model of its role: others would compare unlike things.
    """
    alike = [other for other in models(results["cells"]) if other.role == model.role]
    made = [{(c["attack"], c.get("variant", "")) for c in results["cells"]
             if c["kind"] == "attack" and _is_of(c, other)} for other in alike]  # fmt: skip
    common = set.intersection(*made) if made else set()
    cells = [c for c in results["cells"] if _is_of(c, model) and c["kind"] == "attack"
             and (c["attack"], c.get("variant", "")) in common
             and c["value"] is not None and c["valid"] and not c.get("is_oracle")]  # fmt: skip
    return max(cells, key=lambda c: c["value"], default=None)


_SIDE, _LEFT, _TOP = 460, 70, 30
_COLOURS = {"teacher": "#1f4e79", "student": "#b5541c"}


def figure(results: Row) -> str:
    """Return an SVG of forgetting under the strongest attack against utility, a mark a model."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 560" font-family="sans-serif" '
        'font-size="12" role="img">',
        "<title>Forgetting under the strongest attack against utility</title>",
        '<rect width="760" height="560" fill="#fff"/>',
        *_axes(),
    ]
    numbers: dict[str, int] = {}
    for model, utility, kept in _points(results):
        number = numbers.setdefault(model.subject, len(numbers) + 1)
        told = f"{model.subject}, {model.shown}: {kept:.0%} withstand, utility {utility:.0%}"
        x, y = _LEFT + _SIDE * utility, _TOP + _SIDE * (1 - kept)
        parts += [
            f"<g><title>{escape(told)}</title>",
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="{_COLOURS[model.role]}" '
            'fill-opacity="0.85"/>',
            _text(x, y + 4, str(number), 'fill="#fff" text-anchor="middle" font-size="10"'),
            "</g>",
        ]
    right = _LEFT + _SIDE + 30
    parts += [_text(right, _TOP + 18 * n, f"{n} {name}") for name, n in numbers.items()]
    for i, (role, colour) in enumerate(_COLOURS.items()):
        y = _TOP + 18 * (len(numbers) + 2 + i)
        parts.append(f'<circle cx="{right + 6}" cy="{y - 4}" r="6" fill="{colour}"/>')
        parts.append(_text(right + 20, y, role))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axes() -> Iterator[str]:
    bottom = _TOP + _SIDE
    for i in range(6):
        x, y = _LEFT + _SIDE * i / 5, bottom - _SIDE * i / 5
        yield (
            f'<path d="M{_LEFT} {y:.0f}H{_LEFT + _SIDE}M{x:.0f} {_TOP}V{bottom}" stroke="#ddd"/>'
        )
        yield _text(_LEFT - 8, y + 4, f"{i / 5:.0%}", 'text-anchor="end"')
        yield _text(x, bottom + 18, f"{i / 5:.0%}", 'text-anchor="middle"')
    middle = 'text-anchor="middle"'
    yield _text(_LEFT + _SIDE / 2, bottom + 42, "other concepts drawn as asked (IRA)", middle)
    turned = f'transform="rotate(-90 18 {_TOP + _SIDE / 2})" {middle}'
    yield _text(18, _TOP + _SIDE / 2, "prompts that withstand the strongest attack", turned)


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>'


def _points(results: Row) -> Iterator[tuple[Model, float, float]]:
    for model in models(results["measures"]):
        utility, worst = _measures(results, model).get("retain-same"), strongest(results, model)
        if utility and utility["value"] is not None and worst is not None:
            yield model, utility["value"], 1 - worst["value"]


def _is_of(row: Row, model: Model) -> bool:
    return Model(row["subject"], row["role"], row.get("student") or "") == model


def _measures(results: Row, model: Model) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for row in results["measures"]:
        if _is_of(row, model):
            found.setdefault(row["name"], row)
    return found


def _control(cells: Sequence[Row], kind: str, name: str) -> Row | None:
    """Return the control with the most images, which is the strongest."""
    mine = [c for c in cells if c["kind"] == kind and c["attack"].endswith(name)]
    return max(mine, key=lambda c: c["budget"]["images"], default=None)


def _collapsed(results: Row, model: Model) -> bool:
    labels = {c["label"] for c in results["cells"] if _is_of(c, model) and c["kind"] == "utility"}
    return any(c["name"] == "collapse" and not c["passed"] and c["cell"] in labels
               for c in results["checks"])  # fmt: skip


def _short(attack: str) -> str:
    return attack.rpartition("/")[2]


def _asr(cell: Row | None) -> str:
    if cell is None or cell["value"] is None:
        return NONE
    text = f"{percent(cell['value'])} ({between(cell['interval'])})"
    return text if cell["valid"] else f"{text}, invalid"


def _share(row: Row | None) -> str:
    if row is None or row["value"] is None:
        return NONE
    return f"{percent(row['value'])} ({between(row['interval'])})"


def _worst(row: Row | None) -> str:
    return (
        NONE
        if row is None
        else (f"{row['of']}: {percent(row['value'])}, was {percent(row['reference'])}")
    )


def _distance(row: Row | None) -> str:
    return NONE if row is None or row["value"] is None else f"{1000 * row['value']:.0f}"


def _steps(row: Row | None) -> str:
    if row is None:
        return NONE
    return row["of"] if row["value"] is None else f"{row['value']:.0f} steps"


def _signed(row: Row) -> str:
    return NONE if row["value"] is None else f"{100 * row['value']:+.0f} points"
