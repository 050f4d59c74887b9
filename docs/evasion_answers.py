"""The questions about attacked classifiers that the suites were made for, answered by rule.

Every sentence is chosen from docs/results/evasion*.json; none is written by hand but what others
published.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from docs.evasion_rules import (
    Gap,
    counts,
    gap,
    in_worst_case,
    left,
    mean_l2,
    pair_of,
    rows_of,
    signs,
    told,
    verdict,
    versus,
    word,
)
from docs.figures_evasion import (
    first_by,
    is_own,
    label,
    masking,
    name,
    noise,
    points,
    rate,
    who_table,
    withstood,
    worst,
)
from docs.markdown import NONE, NOTE, percent, table
from safetybench.wording import EVADED, component

RESULTS = Path(__file__).resolve().parent / "results"
NEAR = 0.02  # of accuracy: what counts as about the same
ORDER = (("rslad", "iad"), ("ard",), ("pgd-at",), ("kd",), ("plain",))  # published, best first
# How sub-networks are sampled; "longer" is the first way with more updates.
_WAYS = ("progressive", "longer", "sandwich", "random")
_OFTEN = {"more": "more often right", "less": "less often right",
          "not shown": "no difference shown", "no figure": "no figure"}  # fmt: skip
_ADAPTIVE = {"loss": "margin", "temperature": 0.0}
_ABOUT = """\
What the suites on evasion were made to find out, each question with what others published, a few
sentences that a rule chose from the kept results, and the figures behind them. Figures are shares
of images that stay right; brackets hold 95 % intervals. *Worst case*: no attack of the suite,
nor a probe of the gradients, misleads the image inside the ball.

- Verdicts in bold, and whether gradients are masked, are the run's own, which is told no answer:
  against the teacher on the same images, corrected (Holm) over the students.
- Between two students: the mean difference of trainings of the same seed, in points. Its interval
  spans that over the seeds and that over the images as if they were not the same, so that it is
  rather too wide. *More*, *less*: the whole interval lies on that side of 0; else *not shown*,
  which is no proof of equality.
- The world is small: small images, small networks, few epochs. What carries over is which defense
  fails and why, not the figures."""
_PUBLISHED = {
    "distilled": "distillation stops FGSM and stays susceptible to Carlini-Wagner; a ResNeXt50 "
    "that is right on 79 % is right on 35 % under Carlini-Wagner and, distilled, on about 51 % (a "
    "comparison of FGSM, Carlini-Wagner and distillation, of whose text only the abstract and a "
    "review's figures were at hand). The defense is that of "
    "[Papernot et al. 2016](https://arxiv.org/abs/1511.04508).",
    "students": "RSLAD and IAD about alike, above ARD, above adversarial training, above plain "
    "distillation, above plain training ([RSLAD](https://arxiv.org/abs/2108.07969), "
    "[IAD](https://arxiv.org/abs/2106.04928), [ARD](https://arxiv.org/abs/1905.09747)).",
    "hard": "augmentations where teacher and student disagree improve accuracy in and out of the "
    "domain ([HARD](https://arxiv.org/abs/2305.14890), of which only the abstract was at hand).",
    "family": "one dynamic network holds many accurate and robust students without training any "
    "again, and sampling them at random fails ([ProARD](https://arxiv.org/abs/2506.07666)).",
}
Found = Mapping[str, Any]
Row = Mapping[str, Any]


class Question(NamedTuple):
    """One question: title, what the page shows of one run, and of which runs."""

    title: str
    body: Callable[[Row], Iterator[str]]
    runs: tuple[str, ...]
    published: str = ""


def known(folder: Path = RESULTS) -> dict[str, Any]:
    """Return the kept results by name."""
    files = {run: folder / f"{run}.json" for run in RUNS}
    return {n: json.loads(f.read_text(encoding="utf-8")) for n, f in files.items() if f.is_file()}


def page(found: Found) -> str:
    """Return the page; a question of which no run is kept is left out."""
    parts = ["# Attacked classifiers and their students: the answers", NOTE, _ABOUT]
    for question in QUESTIONS:
        kept = [run for run in question.runs if run in found]
        if not kept:
            continue
        parts.append(f"## {question.title}")
        if question.published:
            parts.append(f"Published: {question.published}")
        for run in kept:
            parts.append(f"Read from [{run}]({run}.md), made by `safetybench run {run}`.")
            parts += list(question.body(found[run]))
    if missing := [f"`{run}`" for run in RUNS if run not in found]:
        parts.append(f"Not here yet: no run is kept of {', '.join(missing)}.")
    return "\n\n".join(parts) + "\n"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


# Questions


def _heat(row: Row) -> float | None:
    heat = row["options"].get("temperature")
    return float(heat) if row["way"].endswith("/defensive_distillation") and heat else None


def _distilled(results: Row) -> Iterator[str]:
    (twin,) = rows_of(results, "teacher")
    students = rows_of(results, "student")
    by_heat = {heat: row for row in students if (heat := _heat(row))}
    if by_heat:
        hottest = max(by_heat)
        row = by_heat[hottest]
        yield "\n".join(f"- {line}" for line in _stopped(results, twin, row, hottest))
        fgsm = "; ".join(f"{h:g}: {rate(left(r, 'fgsm'))}" for h, r in by_heat.items())
        masked = [f"{h:g}" for h, r in by_heat.items() if r["masking"]["verdict"] == "masked"]
        yield f"By temperature FGSM leaves {fgsm}. Masked gradients at: {_listed(masked)}."
    for row in students:
        if row["way"].endswith("/art_defensive_distillation"):
            yield (
                f"ART's class of that name, which has no temperature: FGSM leaves "
                f"{rate(left(row, 'fgsm'))}, the worst case {worst(row)}; gradients "
                f"{masking(row)}."
            )
    columns = ("model", "temperature", "right", "FGSM", "PGD", "adaptive PGD", "Square",
               "CW, any size", "mean L2 of CW", "of DeepFool", "worst case", "gradients",
               "points against undefended", "verdict")  # fmt: skip
    yield table(columns, [_distilled_row(results, row) for row in (twin, *students)])


def _stopped(results: Row, twin: Row, row: Row, heat: float) -> Iterator[str]:
    """Yield whether FGSM is stopped, and CW, and what the worst case and the run's signs say."""
    plain, own = left(twin, "fgsm"), left(row, "fgsm")
    is_stopped = plain and own and own["interval"]["low"] > plain["interval"]["high"]
    yield (
        f"FGSM leaves {rate(plain)} of the images right of the undefended twin, and {rate(own)} "
        f"of students distilled at temperature {heat:g}: "
        f"{'more, with intervals that do not meet' if is_stopped else 'more is not shown'}."
    )
    adaptive = [left(each, "pgd", _ADAPTIVE) for each in (twin, row)]
    also = "; PGD on the margin of rescaled logits, which knows no temperature, "
    yield f"PGD leaves {rate(left(twin, 'pgd'))} and {rate(left(row, 'pgd'))}" + (
        f"{also}{' and '.join(map(rate, adaptive))}." if all(adaptive) else "."
    )
    cw = left(row, "carlini wagner l2", size="own")
    if cw is not None:
        is_open = cw["interval"]["high"] < 0.5
        yield (
            f"Carlini-Wagner, held to no ball, leaves "
            f"{rate(left(twin, 'carlini wagner l2', size='own'))} and {rate(cw)}, by a mean L2 of "
            f"{mean_l2(twin, 'carlini wagner l2')} and {mean_l2(row, 'carlini wagner l2')}: the "
            f"distilled students are {'' if is_open else 'not shown to be '}susceptible."
        )
    yield (
        f"In the worst case {worst(twin)} and {worst(row)} stay right: the distilled students "
        f"withstand {verdict(results, row)}, {versus(results, row)} points, beside a twin of "
        f"{twin['seeds']} training{'s' * (twin['seeds'] != 1)}."
    )
    if own and row["worst"]:
        seeming = own["value"] - row["worst"]["value"]
        yield f"FGSM alone would show {100 * seeming:.1f} points more of them than is there."
    yield (
        f"The run is not told what defends: it finds the gradients {masking(row)}{signs(row)}, "
        f"those of the twin {masking(twin)}{signs(twin)}."
    )


def _distilled_row(results: Row, row: Row) -> tuple[object, ...]:
    heat = _heat(row)
    return (
        "undefended twin" if row["role"] == "teacher" else name(row),
        NONE if heat is None else f"{heat:g}",
        rate(row["clean"]),
        rate(left(row, "fgsm")),
        rate(left(row, "pgd")),
        rate(left(row, "pgd", _ADAPTIVE)),
        rate(left(row, "square")),
        rate(left(row, "carlini wagner l2", size="own")),
        mean_l2(row, "carlini wagner l2"),
        mean_l2(row, "deepfool"),
        worst(row),
        masking(row),
        versus(results, row),
        verdict(results, row),
    )


def _students(results: Row) -> Iterator[str]:
    students = {row["model"]: row for row in rows_of(results, "student")}
    shares = {model: found["value"] for model, row in students.items()
              if (found := left(row, "auto attack"))}  # fmt: skip
    auto = {model: counts(results, students[model], "attack", "auto attack") for model in shares}
    if shares:
        yield f"Measured, by what AutoAttack leaves: {_order(shares)}."
    places = {model: i for i, level in enumerate(ORDER) for model in level if model in auto}
    pairs = [(a, b) for a in places for b in places if places[a] < places[b]]
    words = Counter(word(gap(auto[a], auto[b])) for a, b in pairs)
    other = [f"`{b}` above `{a}`" for a, b in pairs if word(gap(auto[a], auto[b])) == "less"]
    if pairs:
        yield (
            f"Of {len(pairs)} couples that the published order ranks, {words['more']} stand as "
            f"published, of {words['not shown']} no difference is shown. The other way: "
            f"{_listed(other)}."
        )
    over = {row["model"] or row["role"]: _over(results, row) for row in rows_of(results)}
    measured = {model: found for model, found in over.items() if found}
    if measured:
        most = max(measured, key=lambda model: measured[model].value)
        yield (
            f"PGD leaves more than AutoAttack most of `{most}`: {told(measured[most])} points. "
            "More is shown of: "
            f"{_listed([f'`{m}`' for m, found in measured.items() if word(found) == 'more'])}."
        )
    columns = ("model", "right", "FGSM", "PGD", "AutoAttack", "PGD minus AutoAttack, points",
               "worst case", "points against the teacher", "verdict", "gradients")  # fmt: skip
    lines = []
    for row in rows_of(results):
        over_by = told(over[row["model"] or row["role"]])
        under = (rate(left(row, attack)) for attack in ("fgsm", "pgd", "auto attack"))
        lines.append((name(row), rate(row["clean"]), *under, over_by, worst(row),
                      versus(results, row), verdict(results, row), masking(row)))  # fmt: skip
    yield table(columns, lines)


def _over(results: Row, row: Row) -> Gap | None:
    if row["invalid"]:
        return None
    return gap(*(counts(results, row, "attack", each) for each in ("pgd", "auto attack")))


def _order(shares: Mapping[str, float]) -> str:
    """Return the students by what an attack leaves; ~ stands between those that are near."""
    ranked = sorted(shares, key=lambda model: -shares[model])
    parts = [f"`{ranked[0]}`"]
    for before, after in pairwise(ranked):
        is_near = shares[before] - shares[after] < NEAR
        parts.append(f"{'~' if is_near else '>'} `{after}`")
    return f"{' '.join(parts)} (~: less than {100 * NEAR:.0f} points apart)"


def _who(results: Row) -> Iterator[str]:
    pairs = [p for p in results["pairs"] if p["metric"] == "worst-case" and p.get("who")]
    own = [
        f"`{p['student']['name']}` {p['who']['student']} of {sum(p['who'].values())}"
        for p in pairs
        if p["who"]["student"]
    ]
    yield f"Images that only the student withstands, and not its teacher: {_listed(own)}."
    if pairs:
        yield who_table(pairs)


def _hard(results: Row) -> Iterator[str]:
    students = {row["model"]: row for row in rows_of(results, "student")}
    rows = rows_of(results)
    shifts = {a["attack"] + str(a["options"]): label(a, rows[0]["threat"])
              for a in rows[0]["attacks"] if a["kind"] == "shift"}  # fmt: skip
    others = [model for model in ("random-augmentation", "kd", "plain") if model in students]
    for other in others if "hard" in students else ():
        said = []
        for what, kind in (("images as they are", "clean"), ("shifted images", "shift")):
            found = gap(*(counts(results, students[m], kind) for m in ("hard", other)))
            said.append(f"on {what} {_OFTEN[word(found)]}, {told(found)} points")
        yield f"`hard` beside `{other}`: {'; '.join(said)}."
    if "hard" in students and "random-augmentation" in students:
        drawn = (counts(results, students[m], "shift") for m in ("hard", "random-augmentation"))
        is_better = word(gap(*drawn)) == "more"
        yield (
            "Learning the augmentations is "
            f"{'worth' if is_better else 'not shown to be worth'} more on shifted images than "
            "drawing them at random from the same ranges."
        )
    columns = ("model", "right", *shifts.values(), "all shifts, points against the teacher",
               "verdict", "worst case")  # fmt: skip
    lines = []
    for row in rows:
        own = {a["attack"] + str(a["options"]): a["own"] for a in row["attacks"]}
        pair = pair_of(results, row, "shifted")
        lines.append((name(row), rate(row["clean"]), *(rate(own.get(shift)) for shift in shifts),
                      points(*withstood(pair)) if pair else NONE,
                      f"**{EVADED[pair['verdict']]}**" if pair else NONE, worst(row)))  # fmt: skip
    yield table(columns, lines)


def _family(results: Row) -> Iterator[str]:
    rows = {row["model"]: row for row in rows_of(results, "student")}
    members = [model.removeprefix("alone-") for model in rows if model.startswith("alone-")]
    ways = [way for way in _WAYS if any(f"{way}-{m}" in rows for m in members)]
    clean = {model: counts(results, row, "clean") for model, row in rows.items()}
    held = {model: in_worst_case(row) for model, row in rows.items()}
    spent = {
        way: next((r.get("epochs") for m, r in rows.items() if m.startswith(f"{way}-")), None)
        for way in ("alone", *ways)
    }
    epochs = "; ".join(f"{way} {found:g}" for way, found in spent.items() if found)
    if epochs:
        yield f"Epochs of one training: {epochs}. A family's members share one of them."
    for what, of_model in (("right", clean), ("worst case", held)):

        def gaps(
            way: str, other: str, found: Mapping[str, Mapping[str, Any]] = of_model
        ) -> list[Gap | None]:
            return [gap(found.get(f"{way}-{m}", {}), found.get(f"{other}-{m}", {}))
                    for m in members]  # fmt: skip

        for way in ways:
            yield _close(way, what, [found for found in gaps(way, "alone") if found])
        if {"progressive", "random"} <= set(ways):
            words = Counter(map(word, gaps("progressive", "random")))
            yield (
                f"{what.capitalize()}, progressive beside random sampling, of {len(members)} "
                f"members: more {words['more']}, less {words['less']}, not shown "
                f"{words['not shown']}."
            )
        read = worst if what == "worst case" else (lambda row: rate(row["clean"]))
        lines = []
        for i, member in enumerate(members):
            names = (f"{way}-{member}" for way in ("alone", *ways))
            shares = (read(rows[model]) if model in rows else NONE for model in names)
            lines.append((f"`{member}`", *shares, *(told(gaps(w, "alone")[i]) for w in ways)))
        columns = ("member", *(f"{what}, {way}" for way in ("alone", *ways)),
                   *(f"{way} minus alone, points" for way in ways))  # fmt: skip
        yield table(columns, lines)


def _close(way: str, what: str, gaps: Sequence[Gap]) -> str:
    near = sum(found.value >= -NEAR for found in gaps)
    sure = sum(found.interval["low"] >= -NEAR for found in gaps)
    return (
        f"{what.capitalize()}, {way}: {near} of {len(gaps)} members are at most "
        f"{100 * NEAR:.0f} points below the same network trained by itself, {sure} of them with "
        "the whole interval."
    )


def _first(results: Row) -> Iterator[str]:
    rows = [row for row in rows_of(results) if not row["invalid"]]
    won: Counter[str] = Counter()
    for row in rows:
        won.update(row["won_by"])
    if total := sum(won.values()):
        shares = (f"{component(a)} {percent(n / total)}" for a, n in won.most_common())
        yield (
            f"Of {total} images that attacks mislead in the ball, all models together, each is "
            f"found first by: {', '.join(shares)}. The order is the suite's."
        )
    shown = [told_of for row in rows if (told_of := _below_noise(row))]
    yield f"Random noise leaves fewer images right than an attack does of: {_listed(shown)}."
    lines = [(row["subject"], name(row), rate(row["clean"]), rate(noise(row)), worst(row),
              first_by(row)) for row in rows]  # fmt: skip
    yield table(("subject", "model", "right", "noise", "worst case", "misled first by"), lines)


def _below_noise(row: Row) -> str:
    """Return a model with the attacks in the ball that noise beats, "" where none is."""
    own, threat = noise(row), row["threat"]
    beaten = [
        label(a, threat)
        for a in row["attacks"]
        if own and a["kind"] == "attack" and a["left"] and not is_own(a, threat)
        if a["left"]["value"] > own["value"]
    ]
    return f"{name(row)} ({', '.join(beaten)})" if beaten else ""


_DISTILLED, _AUTO, _SHIFT = ("evasion", "evasion-digits"), "evasion-autoattack", "evasion-shift"
_FAMILY, _QUICK = "evasion-family", "evasion-quick"
RUNS = (*_DISTILLED, _AUTO, _SHIFT, _FAMILY, _QUICK)
QUESTIONS = (
    Question("Does defensive distillation withstand attacks?", _distilled, _DISTILLED,
             _PUBLISHED["distilled"]),
    Question("Which students of a robust teacher withstand AutoAttack?", _students, (_AUTO,),
             _PUBLISHED["students"]),
    Question("Who withstands what?", _who, (_AUTO, _QUICK)),
    Question("Do augmentations where teacher and student disagree help on shifted images?", _hard,
             (_SHIFT,), _PUBLISHED["hard"]),
    Question("Does one network hold many robust students?", _family, (_FAMILY,),
             _PUBLISHED["family"]),
    Question("Which attack finds what first, and what does noise find?", _first,
             (*_DISTILLED, _AUTO, _QUICK)),
)  # fmt: skip
