"""Answers on noise triggers and detectors, and what papers claim beside what was measured.

Parts of the page that `docs.backdoor_answers` writes; here too every sentence follows by a rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from docs.backdoor_rules import (
    BROKEN,
    LESS,
    MORE,
    OPEN,
    UNKNOWN,
    Row,
    beyond,
    by_subject,
    counting,
    flipped,
    get,
    is_broken,
    one,
    pick,
    points,
    tally,
    told,
    word_of,
)
from docs.markdown import NONE, percent, rate, table
from docs.noise_triggers import detector_answer, is_more, student_answer, taken
from safetybench import registry, stats

# Removal accuracy of SKD-CAG in its abstract (https://arxiv.org/abs/2508.18235), by effect.
PUBLISHED: Mapping[str, float] = {"pixel": 1.0, "style": 0.93}
_OFF_LUCK = (
    " On the clean teacher, which has no trigger, off luck too are {} of its controls: there it "
    "answers to the words themselves."
)
_FEW_STEPS = 8
_HALF = 0.5
_NOISE_DETECTORS = {"elijah": 'Elijah ("sde")', "elijah_ode": 'Elijah ("ode")', "terd": "TERD"}
Found = Mapping[str, Any]


def beside(figure: Row | None, published: float) -> str:
    """Say how a measured figure stands to a published one.

    >>> beside({"low": 0.5, "high": 0.8}, 0.9)
    'less here'
    """
    if figure is None:
        return UNKNOWN
    if figure["high"] < published:
        return "less here"
    return "more here" if figure["low"] > published else "the interval includes it"


# Noise triggers


def _sampling(sampler: str) -> str:
    """Return the kind of a sampler: ddim-N is deterministic, with N steps."""
    kind, _, rest = sampler.partition("-")
    if kind == "ddpm":
        return "ancestral"
    return "few-step" if rest.isdigit() and int(rest) <= _FEW_STEPS else "deterministic"


def noise(found: Found) -> Iterator[str]:
    """Yield which samplers wake a noise trigger, and which students keep it."""
    rows = found["noise-triggers"]["samplers"]
    floor = max((row["asr"] for row in pick(rows, model="clean")), key=lambda asr: asr["high"])
    kinds = ("ancestral", "deterministic", "few-step")
    lines = []
    for solver in dict.fromkeys(row["model"] for row in rows if row["model"] != "clean"):
        mine = pick(rows, model=solver)
        counts = []
        for kind in kinds:
            each = [row for row in mine if _sampling(row["sampler"]) == kind]
            awake = [row for row in each if is_more(row["asr"], floor)]
            if each:
                counts.append(f"{len(awake)} of {len(each)} {kind} samplers")
        yield f'- The "{solver}" backdoor is woken by {", ".join(counts)}.'
        lines += [
            (solver, _sampling(row["sampler"]), row["sampler"], rate(row["asr"]),
             rate(row["clean"]), "yes" if is_more(row["asr"], floor) else "not shown")
            for row in sorted(mine, key=lambda row: kinds.index(_sampling(row["sampler"])))
        ]  # fmt: skip
    yield f"- {student_answer(found['noise-triggers']['students'])}"
    yield (
        f"Woken: the interval lies above the highest of a clean model's, {rate(floor)}. Few-step: "
        f"deterministic, of at most {_FEW_STEPS} steps."
    )
    columns = ("backdoor", "kind", "sampler", "hits, triggered noise", "hits, clean noise", "woken")
    yield table(columns, lines)


# Detectors


def found_by(found: Found) -> Iterator[str]:
    """Yield what detectors of prompts and of models find."""
    yield from _of_prompts(found["detectors"])
    yield from _of_models(found["detectors"])
    rows = found.get("noise-triggers", {"detectors": ()})["detectors"]
    for key, name in _NOISE_DETECTORS.items() if rows else ():
        yield f"- Noise triggers. {detector_answer(rows, key, name)}"


def _detector(row: Row) -> str:
    return str(row["detector"]).partition(" (")[0]


def _of_prompts(found: Row) -> Iterator[str]:
    rows = [row for row in found["prompts"] if not row["is_control"]]
    controls = [row for row in found["prompts"] if row["is_control"]]
    for name in dict.fromkeys(map(_detector, rows)):
        mine = [row for row in rows if _detector(row) == name]
        sees = [row for row in mine if row["low"] > _HALF and _beats_control(row, controls)]
        blind = [row for row in mine if row not in sees]
        false = [row for row in controls if _detector(row) == name and not _has_half(row)]
        best = max(row["tpr"] for row in mine)
        yield (
            f"- `{name}` tells triggered prompts from clean ones better than luck, and better than "
            f"on the clean teacher, on {_models(sees)}; not shown on {_models(blind)}. At 1 % "
            f"false positives it finds at most {percent(best)} of a model's triggered prompts."
            + (_OFF_LUCK.format(len(false)) if false else "")
        )
    lines = [
        (row["detector"], row["model"], _auroc(row), _found(row), found["count"])
        for row in [*rows, *controls]
    ]
    yield table(("detector", "backdoor", "AUROC", "found at 1 % false positives", "n"), lines)


def _beats_control(row: Row, controls: Sequence[Row]) -> bool:
    """Tell whether an AUROC is above that of the same prompts on the clean teacher.

    What is seen there is the words themselves, and no backdoor. The interval of the difference is
    put together from both.
    """
    same = [c for c in controls if c["detector"] == row["detector"]
            and c["model"] == f"none ({row['model']}'s prompts)"]  # fmt: skip
    ends = ("auroc", "low", "high")
    sides = [dict(zip(("value", "low", "high"), (r[e] for e in ends), strict=True), n=0)
             for r in (row, *same)]  # fmt: skip
    return all(word_of(beyond(sides[0], other)) == MORE for other in sides[1:])


def _has_half(row: Row) -> bool:
    return bool(row["low"] <= _HALF <= row["high"])


def _models(rows: Sequence[Row]) -> str:
    return ", ".join(str(row["model"]) for row in rows) or "none"


def _auroc(row: Row) -> str:
    return f"{row['auroc']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _found(row: Row) -> str:
    return f"{percent(row['tpr'])} ({100 * row['tpr_low']:.1f} to {percent(row['tpr_high'])})"


class Split(NamedTuple):
    """Scores of backdoored and of clean models; limit: above it a model counts as found."""

    name: str
    limit: float
    planted: Sequence[float]
    clean: Sequence[float]

    def above(self, scores: Sequence[float]) -> str:
        """Return how many are above the limit, with Wilson's interval."""
        hits = sum(score > self.limit for score in scores)
        low, high, *_ = stats.wilson(hits, len(scores))
        return f"{hits} of {len(scores)} ({100 * low:.0f} to {100 * high:.0f} %)"


def _of_models(found: Row) -> Iterator[str]:
    clean, planted, unlearned = (
        [r for r in found["models"] if r["kind"] == kind]
        for kind in ("clean", "planted", "unlearned")
    )
    limit = float(found["models"][0]["limit"])
    splits = [
        Split("token_search", limit, [r["search"] for r in planted], [r["search"] for r in clean]),
        Split("encoder_weights", max((r["encoder"] for r in clean), default=0.0),
              [r["encoder"] for r in planted], [r["encoder"] for r in clean]),
    ]  # fmt: skip
    search, weights = splits
    yield (
        f"- `{search.name}`, its limit set on other models, is above it on "
        f"{search.above(search.planted)} backdoored models, names the trigger of "
        f"{sum(r['named'] for r in planted)} of them, with the trigger's two words among the "
        f"{found['words']} that are tried, and is above it on {search.above(search.clean)} of the "
        f"clean ones, trained for {found['clean_steps']} steps, and on "
        f"{sum(r['search'] > limit for r in unlearned)} of {len(unlearned)} unlearned ones, which "
        "hold no trigger."
    )
    if any(weights.planted):
        yield (
            f"- `{weights.name}` has no limit: {weights.above(weights.planted)} backdoored models "
            f"score above all {len(clean)} clean ones, as a further clean one would with a chance "
            f"of 1 in {len(clean) + 1}."
        )
    else:
        yield (
            f"- `{weights.name}` looks at the text encoder, and these backdoors are in the "
            "denoiser: all its scores are 0, and it can find none of them."
        )
    lines = [
        (s.name, f"{s.limit:.3g}", s.above(s.planted),
         s.above(s.clean) if s is search else "none, by choice", _span(s.planted), _span(s.clean))
        for s in splits
    ]  # fmt: skip
    columns = ("detector", "limit", "backdoored above it", "clean above it", "scores, backdoored",
               "scores, clean")  # fmt: skip
    yield table(columns, lines)


def _span(scores: Sequence[float]) -> str:
    return f"{min(scores):.3g} to {max(scores):.3g}" if scores else NONE


# Claims


class Claim(NamedTuple):
    """A row of the table of claims; agrees: whether the direction is as published."""

    claim: str
    component: str
    published: str
    measured: str = UNKNOWN
    agrees: str = UNKNOWN


def claims(found: Found) -> Iterator[str]:
    """Yield the table of published claims."""
    rows = [*_of_skd_cag(found), *_of_detectors(found), *_of_noise(found)]
    words = [row.agrees for row in rows]
    counted = tally(words, sorted(set(words)))
    yield f"Is the direction of {len(rows)} claims as published? {counted}."
    yield (
        "*Yes* and *no* take whole intervals, as above. Papers measured on photographs and Stable "
        "Diffusion, or on pixels, with budgets of their own; a direction may be compared, the "
        "figures hardly."
    )
    lines = [
        (row.claim, f"<{registry.describe(row.component).source}>", row.published, row.measured,
         f"**{row.agrees}**") for row in rows
    ]  # fmt: skip
    yield table(("claim", "source", "published", "measured", "direction agrees"), lines)


def published(rows: Sequence[Row]) -> Row | None:
    """Return SKD-CAG by the published loss: in backdoor-removal the one without a clean anchor."""
    return one(rows, model="skd_cag")


def _of_skd_cag(found: Found) -> Iterator[Claim]:
    name = "unlearning/skd_cag"
    subjects = by_subject(found.get("backdoor-removal", {"backdoors": ()}))
    for kind, share in PUBLISHED.items():
        claim = Claim(f"SKD-CAG removes {kind} backdoors", name, percent(share))
        rows = next((r for r in subjects.values() if r[0]["effect"]["kind"] == kind), [])
        removed = flipped(counting(published(rows), "survival"))
        if removed is not None:
            agrees = "yes" if removed["high"] >= share else (
                "yes, less of it" if removed["low"] > _HALF else "no"
            )  # fmt: skip
            claim = claim._replace(measured=told(removed), agrees=agrees)
        yield claim
    yield _against_baselines(subjects, Claim("it outperforms what there is", name, "better"))
    yield _fidelity(subjects, Claim("without loss of fidelity", name, "none"))


def _against_baselines(subjects: Mapping[str, Sequence[Row]], claim: Claim) -> Claim:
    words = []
    for rows in subjects.values():
        mine = published(rows)
        for other in pick(rows, role="cleaned"):
            if mine is None or str(other["model"]).startswith("skd"):
                continue
            if is_broken(other):
                words.append(BROKEN)
                continue
            removed = (flipped(counting(row, "survival")) for row in (mine, other))
            each = {
                word_of(beyond(*removed)),
                word_of(beyond(mine["accuracy"], other["accuracy"])),
            }
            words.append(
                "mixed" if {MORE, LESS} <= each else "better" if MORE in each
                else "worse" if LESS in each else OPEN
            )  # fmt: skip
    if not words:
        return claim
    agrees = "yes" if {"better"} == {*words} - {BROKEN} else "no" if "worse" in words else OPEN
    measured = tally(words, ("better", "mixed", "worse", OPEN, BROKEN))
    return claim._replace(
        measured=f"against baselines, removal or accuracy: {measured}", agrees=agrees
    )


def _fidelity(subjects: Mapping[str, Sequence[Row]], claim: Claim) -> Claim:
    lost = {
        name: beyond(get(published(rows), "accuracy"),
                     get(one(rows, role="teacher"), "accuracy"))
        for name, rows in subjects.items()
    }  # fmt: skip
    measured = [
        f"{name} {points(each._asdict(), with_n=True)}" for name, each in lost.items() if each
    ]
    if not measured:
        return claim
    words = [word_of(each) for each in lost.values()]
    return claim._replace(
        measured=f"accuracy against the teacher: {'; '.join(measured)}",
        agrees="no" if LESS in words else "not contradicted",
    )


def _of_detectors(found: Found) -> Iterator[Claim]:
    for name, what, published in (
        ("t2i_shield", "attention maps", "they do, of Rickrolling and VillanDiffusion"),
        ("navi_t2i", "activations", "they do, whatever the effect"),
    ):
        claim = Claim(f"{what} give triggered prompts away", f"defenses/triggers/{name}", published)
        told = found.get("detectors", {"prompts": ()})["prompts"]
        rows = [r for r in told if r["detector"].startswith(name) and not r["is_control"]]
        controls = [
            r for r in found.get("detectors", {"prompts": ()})["prompts"] if r["is_control"]
        ]
        sees = sum(row["low"] > _HALF and _beats_control(row, controls) for row in rows)
        yield (
            claim
            if not rows
            else claim._replace(
                measured=f"AUROC above luck and the clean teacher's in {sees} of {len(rows)} rows",
                agrees="yes" if sees == len(rows) else "in part" if sees else OPEN,
            )
        )


def _of_noise(found: Found) -> Iterator[Claim]:
    kept: Row = found.get("noise-triggers", {"detectors": (), "samplers": (), "removal": ()})
    for key, name, published in (("elijah", "Elijah", "nearly all"), ("terd", "TERD", "all")):
        claim = Claim(f"{name} finds backdoored models", f"defenses/triggers/{key}", published)
        clean, planted = (
            [float(row[key]["score"]) for row in kept["detectors"] if row["is_planted"] is side]
            for side in (False, True)
        )
        if clean and planted:
            split = Split(name, max(clean), planted, clean)
            hits = sum(score > split.limit for score in planted)
            claim = claim._replace(
                measured=f"{split.above(planted)} above all of {len(clean)} clean models",
                agrees="yes" if hits == len(planted) else "in part" if hits else "no",
            )
        yield claim
    yield _removed_by_elijah(kept["removal"])
    villan = "attacks/triggers/villan_diffusion"
    bound = Claim("BadDiffusion's shift wakes under ancestral sampling alone", villan, "it does")
    yield _samplers(kept["samplers"], "sde", ("ddpm", "ddim-20"), bound)
    free = Claim("a corrected shift wakes under deterministic sampling", villan, "it does")
    yield _samplers(kept["samplers"], "ode", ("ddim-20", "ddpm"), free)


def _removed_by_elijah(rows: Sequence[Row]) -> Claim:
    claim = Claim("Elijah removes the effect", "defenses/triggers/elijah", "nearly all of it")
    before, after = (one(rows, how=how) for how in ("nothing", "trigger that Elijah found"))
    wrong = one(rows, how="wrong trigger")
    if before is None or after is None:
        return claim
    is_gone = is_more(before["asr"], after["asr"])
    too = wrong is not None and taken(before["asr"], wrong["asr"]) == "all"
    return claim._replace(
        measured=f"from {rate(before['asr'])} to {rate(after['asr'])}",
        agrees=OPEN if not is_gone else "yes, and a wrong trigger does too" if too else "yes",
    )


def _samplers(rows: Sequence[Row], solver: str, order: tuple[str, str], claim: Claim) -> Claim:
    """Say whether the first sampler wakes a backdoor more often than the second."""
    first, second = (one(rows, model=solver, sampler=sampler) for sampler in order)
    if first is None or second is None:
        return claim
    more, less = is_more(first["asr"], second["asr"]), is_more(second["asr"], first["asr"])
    return claim._replace(
        measured=f"{order[0]} {rate(first['asr'])}, {order[1]} {rate(second['asr'])}",
        agrees="yes" if more else "no" if less else OPEN,
    )
