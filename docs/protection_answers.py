"""The questions about image protection that the suites were made for, answered from kept runs.

Every sentence here is chosen by a rule from docs/results/*.json; none is written by hand. Rows of
one editor are compared image by image through their `outcomes`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from docs.markdown import NONE, NOTE, table
from safetybench import stats
from safetybench.wording import component, fraction

RESULTS = Path(__file__).resolve().parent / "results"
RUNS = (
    "protection",
    "protection-strength",
    "protection-purified",
    "protection-inpainting",
    "protection-mimicry",
    "protection-quick",
    "protection-described",
)
Row = Mapping[str, Any]
_LEVEL = 0.95
_CLEAR = 0.2
_ABOUT = """\
We found no measurement of image protection against distilled editors. These are the hypotheses
that this suite set out with, and the directions that papers claim, each beside what the kept runs
show.

- *Net*: points by which fewer edits succeed than under sign noise of the same epsilon, on images
  whose clean edit succeeds on that editor.
- *Difference*: of two protections or two editors, on the images that count for both. Interval:
  Tango's for two protections on one editor, BCa bootstrap for two editors; 95 %.
- *More*, *less*: the whole interval lies on that side of 0; *undecided*: it does not, which is no
  proof of equality. These are not corrected for their number: of twenty true zeros one leaves its
  interval. **Verdicts** in bold in tables of students are the suite's: corrected (Holm) over
  all pairs of a run, and *inherited* only where both are shown to lie within 10 points.
- Noise of equal epsilon hardly moves an edit, so that net effects are nearly the whole effects;
  [what it moves in the latent](encoder.md) is a fraction of what protections move.
- Everything is about 64x64 renders, students of minutes and one draw of noise an edit."""


class Question(NamedTuple):
    """One question: title, what was expected and by whom, what the page shows."""

    title: str
    expected: str
    body: Callable[[Mapping[str, Row]], Iterator[str]]
    runs: tuple[str, ...]


def known(folder: Path = RESULTS) -> dict[str, Row]:
    """Return the kept runs that answers are read from, by name."""
    files = {name: folder / f"{name}.json" for name in RUNS}
    return {
        name: json.loads(file.read_text(encoding="utf-8"))
        for name, file in files.items()
        if file.is_file()
    }


def page(runs: Mapping[str, Row]) -> str:
    """Return the page; a question whose run is not kept says so."""
    parts = ["# Image protection against few-step editors: the answers", NOTE, _ABOUT]
    for question in QUESTIONS:
        parts += [f"## {question.title}", f"Expected: {question.expected}"]
        missing = [name for name in question.runs if name not in runs]
        if missing:
            commands = ", ".join(f"`safetybench run {name}`" for name in missing)
            parts.append(f"Not answered yet: {commands} is not kept.")
            continue
        parts.append("Read from " + ", ".join(f"[{n}]({n}.md)" for n in question.runs) + ".")
        parts += list(question.body(runs))
    return "\n\n".join(parts) + "\n"


# Picking rows


def _editor(row: Row) -> str:
    return str(row.get("student") or row["role"])


def _rows(results: Row, protection: str = "", /, **wanted: Any) -> list[Row]:
    """Return valid rows without purifier unless one is asked for, of one protection."""
    wanted = {"purifier": "", **wanted}
    return [
        row
        for row in results["protection"]
        if row["verdict"] != "invalid"
        and (not protection or _name(row) == protection)
        and all(_value(row, key) == value for key, value in wanted.items())
    ]


def _name(row: Row, key: str = "protection") -> str:
    return str(row[key]).rpartition("/")[2]


def _value(row: Row, key: str) -> Any:
    if key == "editor":
        return _editor(row)
    if key == "levels":
        return round(255 * row["epsilon"])
    return row["edit_options"].get("strength") if key == "strength" else row[key]


def _one(rows: Sequence[Row]) -> Row | None:
    return rows[0] if len(rows) == 1 else None


def _points(value: float) -> str:
    return f"{100 * value:+.0f}"


def _span(interval: Row | stats.Interval | None) -> str:
    if interval is None:
        return ""
    ends = interval if isinstance(interval, Mapping) else interval._asdict()
    return f" [{100 * ends['low']:.0f}, {100 * ends['high']:.0f}]"


def _net(row: Row | None) -> str:
    if row is None or row["net"] is None:
        return NONE
    return f"{_points(row['net'])}{_span(row['interval'])}"


# Comparing rows


class Difference(NamedTuple):
    """What the first protection does beyond the second, on one editor."""

    value: float
    interval: stats.Interval
    n: int

    def __str__(self) -> str:
        return f"{_points(self.value)}{_span(self.interval)}, n = {self.n}"

    @property
    def word(self) -> str:
        """Say which does more."""
        return _word(self.interval.low, self.interval.high)


def _word(low: float, high: float) -> str:
    return "more" if low > 0 else "less" if high < 0 else "undecided"


def beyond(first: Row, second: Row) -> Difference:
    """Compare two protections on one editor, image by image; above 0 the first does more."""
    if first["noise_outcomes"] != second["noise_outcomes"]:
        raise ValueError("protections must be compared under the same noise")
    pairs = [
        (int(a), int(b))
        for a, b in zip(first["outcomes"], second["outcomes"], strict=True)
        if "-" not in (a, b)
    ]
    if not pairs:
        raise ValueError("there is no image that both count")
    mine, others = [not a for a, _ in pairs], [not b for _, b in pairs]
    interval = stats.paired_rate_difference(others, mine, _LEVEL)
    return Difference((sum(mine) - sum(others)) / len(pairs), interval, len(pairs))


def _pairs(results: Row, protection: str, **wanted: Any) -> list[Row]:
    """Return teacher-student pairs of a protection, without purifier, that have a verdict."""
    return [
        pair
        for pair in results["pairs"]
        if _name(pair, "attack") == protection
        and not pair["purifier"]
        and pair["verdict"] != "invalid"
        and all(_pair_value(pair, key) == value for key, value in wanted.items())
    ]


def _pair_value(pair: Row, key: str) -> Any:
    if key == "levels":
        return round(255 * pair["epsilon"])
    return pair["edit_options"].get("strength") if key == "strength" else pair[key]


def _tally(words: Sequence[str]) -> str:
    order = ("more", "less", "undecided")
    return ", ".join(f"{words.count(w)} {w}" for w in order if w in words)


def _pair_table(pairs: Sequence[Row], first: str = "") -> str:
    lines = [
        (*([_about(p)] if first else []), p["student"]["name"], _points(p["teacher"]["rate"]),
         _points(p["student"]["rate"]), f"{_points(p['difference'])}{_span(p['interval'])}",
         p["n"], f"**{p['verdict']}**")
        for p in pairs
    ]  # fmt: skip
    columns = ("student", "net on the teacher", "net on the student", "difference", "n", "verdict")
    return table((*([first] if first else []), *columns), lines)


def _about(pair: Row) -> str:
    strength = pair["edit_options"].get("strength")
    told = f"{component(pair['attack'])}, {fraction(pair['epsilon'])}"
    return told + (f", strength {strength:g}" if strength else "")


def _pair_words(pairs: Sequence[Row]) -> list[str]:
    return [_word(p["interval"]["low"], p["interval"]["high"]) for p in pairs]


# The questions


def _h1(runs: Mapping[str, Row]) -> Iterator[str]:
    pairs = _pairs(runs["protection"], "photoguard_encoder")
    words = _pair_words(pairs)
    clear = [p for p in pairs if p["teacher"]["rate"] >= _CLEAR]  # a ratio over less says nothing
    share = [p["student"]["rate"] / p["teacher"]["rate"] for p in clear] or [float("nan")]
    yield (
        f"**Of {len(pairs)} comparisons of a student with the teacher: {_tally(words)} on the "
        f"student.** Where the teacher's effect is 20 points or more, the student's is "
        f"{min(share):.2f} to {max(share):.2f} times it."
    )
    yield _pair_table(pairs, "protection")


def _h2(runs: Mapping[str, Row]) -> Iterator[str]:
    results, lines, words = runs["protection"], [], list[str]()
    for editor in _editors(results):
        own = {"surrogate": editor, "editor": editor, "levels": 16}
        matched = _one(_rows(results, "grid_matched", **own))
        uniform = _one(_plain(_rows(results, "advdm", **own)))
        if matched and uniform:
            found = beyond(matched, uniform)
            lines.append((editor, _net(uniform), _net(matched), str(found), f"**{found.word}**"))
            if editor != "teacher":
                words.append(found.word)
    yield (
        f"**On {len(words)} students, times of the own grid against uniform times, both made on "
        f"that student: {_tally(words)}.**"
    )
    columns = ("made on and edited by", "uniform (AdvDM)", "grid-matched", "difference", "it does")
    yield table(columns, lines)


def _plain(rows: Sequence[Row]) -> list[Row]:
    """Drop AdvDM's descent, which is another method."""
    return [row for row in rows if row["options"].get("sign", "up") == "up"]


def _editors(results: Row) -> list[str]:
    return list(dict.fromkeys(map(_editor, results["protection"])))


def _h3(runs: Mapping[str, Row]) -> Iterator[str]:
    pairs = _pairs(runs["protection-inpainting"], "diffusionguard")
    words = _pair_words(pairs)
    yield (
        f"**DiffusionGuard on the one-step student against its teacher, {len(pairs)} comparisons: "
        f"{_tally(words)} on the student.**"
    )
    lines = [
        (_options(p), p["surrogate"], str(p["edit_options"].get("mask")),
         _points(p["teacher"]["rate"]), _points(p["student"]["rate"]),
         f"{_points(p['difference'])}{_span(p['interval'])}", p["n"], f"**{p['verdict']}**")
        for p in pairs
    ]  # fmt: skip
    yield table(
        ("options", "made on", "mask", "net on the teacher", "on the student", "difference", "n",
         "verdict"),
        lines,
    )  # fmt: skip


def _options(row: Row) -> str:
    return ", ".join(f"{k}={v}" for k, v in row["options"].items()) or "as published"


def _h4(runs: Mapping[str, Row]) -> Iterator[str]:
    results = runs["protection-strength"]
    pairs = [p for name in ("advdm", "photoguard_encoder") for p in _pairs(results, name)]
    yield (
        f"**Of {len(pairs)} comparisons at four strengths: {_tally(_pair_words(pairs))} on the "
        "student.** A student's grid makes two strengths one where no time of it lies between."
    )
    yield _pair_table(pairs, "protection")


def _h5(runs: Mapping[str, Row]) -> Iterator[str]:
    results = runs["protection-purified"]
    by_cleaner: dict[tuple[str, str], dict[tuple[str, ...], Row]] = {}
    for row in results["protection"]:
        if row["verdict"] != "invalid":
            told = json.dumps(row["purifier_options"], sort_keys=True)
            mine = by_cleaner.setdefault((row["purifier"], told), {})
            mine[_editor(row), row["protection"], row["surrogate"]] = row
    bare = by_cleaner.pop(("", "{}"))
    found = {name: _cleaned(rows, bare) for name, rows in by_cleaner.items()}
    lines = [(_cleaner(*name), *each) for name, each in found.items()]
    some = ("student_purifier", "diffpure", "gridpure", "crop_resize", "jpeg")
    named = {
        name[0].rpartition("/")[2]: each for name, each in reversed(found.items())
    }  # of alike ones the first
    told = "; ".join(
        f"{name.replace('_', ' ')} {named[name].regained} and {named[name].spoilt}"
        for name in some
        if name in named
    )
    rates = [r[key] for key in ("noise_rate", "rate") for r in bare.values()]
    half = len(rates) // 2
    yield (
        f"**Points by which edits of protected images succeed more often after cleaning, and those "
        f"under noise less often: {told}.** Uncleaned they stand at "
        f"{100 * sum(rates[half:]) / half:.0f} and {100 * sum(rates[:half]) / half:.0f} %. What "
        "closes the gap by spoiling every edit gains the editor nothing."
    )
    yield "Means over editors and protections; intervals resample images."
    columns = ("cleaned with", "protected: more succeed, points", "noise: fewer succeed, points",
               "net effect gone, %", "rows that still protect")  # fmt: skip
    yield table(columns, lines)
    shields = list(dict.fromkeys((key[1], key[2]) for key in bare))
    named_shields = (f"net, {component(n)} on {made}" for n, made in shields)
    yield table(
        ("cleaned with", "editor", *named_shields),
        [
            (_cleaner(*name), editor, *(_net(rows.get((editor, *s))) for s in shields))
            for name, rows in {("", "{}"): bare, **by_cleaner}.items()
            for editor in _editors(results)
        ],
    )


class Cleaned(NamedTuple):
    """What a purifier did, as text: points with intervals, a share, and how many rows hold."""

    regained: str
    spoilt: str
    gone: str
    holding: str


def _cleaned(
    cleaned: Mapping[tuple[str, ...], Row], bare: Mapping[tuple[str, ...], Row]
) -> Cleaned:
    """Compare rows with their own without a purifier, on the images that both count."""
    shared = [key for key in bare if key in cleaned]
    sides = [
        np.array([[_success(rows[key][name]) for key in shared] for rows in (bare, cleaned)])
        for name in ("outcomes", "noise_outcomes")
    ]  # each (without and with, rows, images)
    count = sides[0].shape[2]
    picks = np.random.default_rng(0).integers(0, count, (2000, count))

    def figures(chosen: Any) -> list[float]:
        ours, noise = (np.nanmean(side[:, :, chosen], axis=2).mean(1) for side in sides)
        nets = noise - ours
        gone = 1 - nets[1] / nets[0] if nets[0] else float("nan")
        return [ours[1] - ours[0], noise[0] - noise[1], gone]

    ends = np.quantile([figures(chosen) for chosen in picks], [0.025, 0.975], axis=0)
    told = [
        f"{100 * value:.0f} [{100 * low:.0f}, {100 * high:.0f}]"
        for value, low, high in zip(figures(slice(None)), *ends, strict=True)
    ]
    holding = sum(cleaned[key]["verdict"] == "protects" for key in shared)
    return Cleaned(told[0], told[1], told[2], f"{holding} of {len(shared)}")


def _success(outcomes: str) -> list[float]:
    return [float("nan") if letter == "-" else int(letter) for letter in outcomes]


def _cleaner(purifier: str, told: str) -> str:
    if not purifier:
        return "nothing"
    if purifier == "any":
        return "whatever serves the editor best, image by image"
    options = ", ".join(f"{k}={v}" for k, v in json.loads(told).items())
    return component(purifier) + (f" ({options})" if options else "")


def _h6(runs: Mapping[str, Row]) -> Iterator[str]:
    results = runs["protection"]
    lines, words = [], list[str]()
    for editor in _editors(results):
        mine = _one(_rows(results, "end_to_end", editor=editor, surrogate=editor, levels=16))
        advdm = _one(_plain(_rows(results, "advdm", editor=editor, surrogate=editor, levels=16)))
        if mine and advdm:
            found = beyond(mine, advdm)
            words.append(found.word)
            lines.append((editor, _net(mine), _net(advdm), str(found), f"**{found.word}**"))
    yield f"**End to end against AdvDM, both made on the student that edits: {_tally(words)}.**"
    yield table(("made on and edited by", "end to end", "AdvDM", "difference", "it does"), lines)
    yield "From student to teacher and back (T: ratio to what is made on the editor itself):"
    wanted = ("advdm", "grid_matched", "end_to_end", "photoguard_diffusion")
    rows = [
        (component(t["protection"]), t["surrogate"], t["victim"], _points(t["net"]),
         _points(t["direct"]), _ratio(t), t["n"])
        for t in results["transfers"]
        if _name(t) in wanted and "teacher" in (t["surrogate"], t["victim"])
        and not t["purifier"] and t["net"] is not None
        and t["options"].get("sign", "up") == "up"
    ]  # fmt: skip
    columns = ("protection", "made on", "editor", "net", "made on the editor itself", "T", "n")
    yield table(columns, rows)


def _ratio(row: Row) -> str:
    if row["ratio"] is None:
        return NONE
    ends = row["interval"]
    return f"{row['ratio']:.2f}" + (f" [{ends['low']:.2f}, {ends['high']:.2f}]" if ends else "")


def _described(runs: Mapping[str, Row]) -> Iterator[str]:
    bare, full = (_rows(runs[name]) for name in ("protection-quick", "protection-described"))
    lines, shown = [], list[str]()
    for row in bare:
        twin = _one(
            [r for r in full if all(r[k] == row[k] for k in ("protection", "surrogate", "target"))]
        )
        if twin:
            shown.append(twin["verdict"])
            lines.append(
                (component(row["protection"]), _editor(row), _net(row), row["n"], _net(twin),
                 twin["n"], f"{100 * twin['rate']:.0f} %", f"**{twin['verdict']}**")
            )  # fmt: skip
    yield (
        f"**Under prompts that describe the whole image {shown.count('protects')} of {len(shown)} "
        "rows are shown to protect.** The images are the same; those that count differ, as other "
        "clean edits succeed."
    )
    columns = ("protection", "editor", "net, what changes alone", "n", "net, all described", "n",
               "edits that succeed", "verdict")  # fmt: skip
    yield table(columns, lines)


def _against(
    results: Row, mine: Callable[[Row], bool], other: Callable[[Row], bool], **wanted: Any
) -> Iterator[tuple[str, Row, Row, Difference]]:
    for editor in _editors(results):
        rows = _rows(results, editor=editor, **wanted)
        first, second = _one([r for r in rows if mine(r)]), _one([r for r in rows if other(r)])
        if first and second:
            yield editor, first, second, beyond(first, second)


def _is(name: str, **options: Any) -> Callable[[Row], bool]:
    def tell(row: Row) -> bool:
        return _name(row) == name and all(
            row["options"].get(key) == value for key, value in options.items()
        )

    return tell


def _claims(runs: Mapping[str, Row]) -> Iterator[str]:
    results = runs["protection"]
    compared: list[tuple[str, str, Callable[[Row], bool], Callable[[Row], bool]]] = [
        ("SDS (down) as strong as AdvDM (Diff-Protect)", "SDS - AdvDM",
         _is("sds", sign="down", target_rate=None), _advdm),
        ("SDS (up) as strong as AdvDM", "SDS up - AdvDM", _is("sds", sign="up"), _advdm),
        ("SDST as strong as AdvDM", "SDST - AdvDM", _is("sds", target_rate=5.0), _advdm),
        ("descent works too (Diff-Protect)", "AdvDM down - AdvDM",
         _is("advdm", sign="down"), _advdm),
        ("encoder attacks beat AdvDM (an independent comparison)", "PhotoGuard - AdvDM",
         _is("photoguard_encoder"), _advdm),
        ("Mist beats AdvDM (Mist)", "Mist - AdvDM", _is("mist"), _advdm),
        ("ACE beats AdvDM (ACE)", "ACE - AdvDM", _is("ace"), _advdm),
        ("ASPL about as AdvDM (an independent comparison)", "ASPL - AdvDM", _is("aspl"), _advdm),
        ("SimAC beats ASPL (SimAC)", "SimAC - ASPL", _is("simac"), _is("aspl")),
    ]  # fmt: skip
    lines = []
    for claim, what, mine, other in compared:
        found = list(_against(results, mine, other, surrogate="teacher", levels=16))
        if not found:
            lines.append((claim, what, "not in the kept run", NONE))
            continue
        words = [each.word for *_, each in found]
        teacher = next((str(each) for editor, *_, each in found if editor == "teacher"), NONE)
        lines.append((claim, what, teacher, _tally(words)))
    yield table(("claim", "compared", "difference on the teacher", "over all editors"), lines)
    yield _visible(results)


def _advdm(row: Row) -> bool:
    return _is("advdm")(row) and row["options"].get("sign", "up") == "up"


def _visible(results: Row) -> str:
    """Say whether descending the loss gives the less visible change (Diff-Protect)."""
    rows = [
        (component(c["protection"]) + (f" ({_options(c)})" if c["options"] else ""),
         *(NONE if c[k] is None else f"{c[k]:.{d}f}"
           for k, d in (("psnr", 1), ("ssim", 3), ("lpips", 3))))
        for c in results["cloaks"]
        if round(255 * c["epsilon"]) == 16 and c["surrogate"] in ("", "teacher")
    ]  # fmt: skip
    told = table(("made on the teacher at 16/255", "PSNR, dB", "SSIM", "LPIPS"), rows)
    return "How visible each is; Diff-Protect holds descent to be the less visible:\n\n" + told


def _masks(runs: Mapping[str, Row]) -> Iterator[str]:
    results = runs["protection-inpainting"]
    lines, words = [], list[str]()
    cleaned = list(dict.fromkeys(
        (r["purifier"], json.dumps(r["purifier_options"], sort_keys=True),
         r["edit_options"].get("mask"), r["surrogate"])
        for r in results["protection"] if _name(r) == "diffusionguard"
    ))  # fmt: skip
    for purifier, told, mask, surrogate in cleaned:
        for editor in _editors(results):
            rows = [
                r for r in _rows(results, editor=editor, purifier=purifier, surrogate=surrogate)
                if r["edit_options"].get("mask") == mask
                and json.dumps(r["purifier_options"], sort_keys=True) == told
            ]  # fmt: skip
            guards = [r for r in rows if _name(r) == "diffusionguard"]
            photo = [r for r in rows if _name(r).startswith("photoguard")]
            for guard in guards:
                for other in photo:
                    if purifier == "any" or guard["epsilon"] != other["epsilon"]:
                        continue
                    found = beyond(guard, other)
                    words.append(found.word)
                    lines.append(
                        (component(other["protection"]), _cleaner(purifier, told), mask, surrogate,
                         editor, _net(guard), _net(other), str(found), f"**{found.word}**")
                    )  # fmt: skip
    yield (
        f"**DiffusionGuard does, over {len(words)} comparisons: {_tally(words)}.** All at one "
        "epsilon; the steps of each stand in the suite, and are not equal."
    )
    columns = ("against", "cleaned with", "mask", "made on", "editor", "DiffusionGuard",
               "the other", "difference", "it does")  # fmt: skip
    yield table(columns, lines)


def _mimicry(runs: Mapping[str, Row]) -> Iterator[str]:
    rows = [r for r in runs["protection-mimicry"]["protection"] if r["verdict"] != "invalid"]
    shown = [r for r in rows if r["verdict"] == "protects"]
    yield f"**{len(shown)} of {len(rows)} rows protect beyond noise.**"
    lines = [
        (component(r["edit"]), _editor(r), component(r["protection"]), r["surrogate"],
         component(r["purifier"]) if r["purifier"] else "nothing",
         f"{100 * r['noise_rate']:.0f} %", f"{100 * r['rate']:.0f} %", _net(r), r["n"],
         f"**{r['verdict']}**")
        for r in rows if r["n"]
    ]  # fmt: skip
    pairs = [p for p in runs["protection-mimicry"]["pairs"] if p["verdict"] != "invalid"]
    columns = ("learnt by", "drawn by", "protection", "made on", "cleaned with", "noise",
               "protected", "net", "n", "verdict")  # fmt: skip
    yield table(columns, lines)
    yield "The teacher's LoRA on its students, against the teacher itself:"
    yield _pair_table(pairs, "protection")


QUESTIONS = (
    Question(
        "H1: does an encoder protection transfer to students that share the encoder?",
        "about as much as on the teacher: it depends on the encoder alone.",
        _h1,
        ("protection",),
    ),
    Question(
        "H2: do the times of the student's own grid make a stronger protection?",
        "yes: of uniform times most are never visited by a student.",
        _h2,
        ("protection",),
    ),
    Question(
        "H3: is a first-step protection stronger on a one-step inpainting student?",
        "yes, a later step cannot repair anything; but the noise norm is nearly constant for "
        "students that predict the image.",
        _h3,
        ("protection-inpainting",),
    ),
    Question(
        "H4: does protection do more on students than on the teacher, at equal strength?",
        "yes: fewer steps, no guidance, less noise that wipes it away.",
        _h4,
        ("protection-strength",),
    ),
    Question(
        "H5: is a one-step student a purifier?",
        "yes, in one pass where DiffPure takes many.",
        _h5,
        ("protection-purified",),
    ),
    Question(
        "H6: what does crafting through the whole student gain, and does it transfer back?",
        "stronger on the student, and transfer is lopsided.",
        _h6,
        ("protection",),
    ),
    Question(
        "Does a prompt that describes the image undo protection?",
        "the text brings back what the protection took off the image.",
        _described,
        ("protection-quick", "protection-described"),
    ),
    Question(
        "Published directions",
        "as told in each row; published figures are of photographs and Stable Diffusion.",
        _claims,
        ("protection",),
    ),
    Question(
        "DiffusionGuard against PhotoGuard on unseen masks and after purification",
        "it holds where PhotoGuard does not (DiffusionGuard).",
        _masks,
        ("protection-inpainting",),
    ),
    Question(
        "Mimicry",
        "protected pictures teach a mimic less (AdvDM, Mist, Anti-DreamBooth).",
        _mimicry,
        ("protection-mimicry",),
    ),
)
