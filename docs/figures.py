"""Pages of figures: what the cards of the zoo say, and what a kept run found."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from docs.figures_backdoor import backdoor_sections
from docs.figures_bias import bias_sections
from docs.figures_evasion import evasion_sections
from docs.figures_inpainting import editor_sections
from docs.figures_instructed import instructed_sections
from docs.figures_planted import planted_sections
from docs.figures_protection import protection_sections
from docs.figures_transfer import transfer_reasons, transfer_table
from docs.figures_unlearning import is_comparison, measures_section, method_tables
from docs.markdown import NONE, NOTE, between, percent, rate, table
from safetybench.wording import fraction

_ABOUT_ZOO = """\
The zoo is a small world with exact ground truth: a renderer draws one object with a style, a
colour and a background, 64x64 pixels, and captions come from a grammar. A real diffusers
`StableDiffusionPipeline` is trained on it, and unlearned teachers and one-step students are made
from that teacher by the suite's own components. It is there so that the whole suite runs offline
on a CPU; a result on it is a result about this world, not about photographs."""
_ABOUT_BUILDS = """\
The command on a card makes the model again from recipe and seed, into `zoo-build/` or where `--out`
says. A build of the teacher, the judge or an inpainting model that was interrupted goes on where it
stopped when the same command runs again; the others start over."""
_ABOUT_FIGURES = """\
Every figure is on a model's `card.json`, put there by the command that built it. Rates stand with
their 95 % Wilson interval and the number of prompts. `safetybench zoo verify` generates and judges
the images again; `safetybench zoo verify --quick` reads the cards. Attributes are read by the
judge, so no figure can be better known than the judge's own card allows."""
_ABOUT_STUDENTS = """\
Each model against the original teacher, on the same prompts from other seeds. The row `teacher` is
the teacher against itself: what chance does.

- guidance: classifier-free at run time (CFG), embedded in the weights by the recipe, or none;
- alignment: share of the four attributes a prompt names that the judge sees;
- KID: of the judge's features, not of Inception's, scaled to unit mean square, times 1000; the
  floor is that between two sets of the teacher's images, and may be below 0;
- recall: share of the teacher's images that lie among the student's; the ceiling is that of two
  sets of the teacher's images, and chance may exceed it;
- rare combinations: on prompts that name the object alone, the student's share of the colours and
  styles that the teacher seldom draws, over the teacher's own share on images they were not
  chosen by; below 1, distillation lost variety. Rejected images are left out of both, and their
  share, on those prompts, is in the next column;
- NFE: network evaluations an image; time: CPU time an image over the teacher's, one thread, in the
  same process."""

_HEADS = ("object", "colour", "style")
_MOST_LEFT_OUT = 0.1  # share of a pair's prompts without an answer above which it has no verdict


def card_folders(home: Path | None = None) -> list[Path]:
    """Return the folders with a card, by name: of models, then of those with a card alone.

    home: the folder of the models, None for the zoo's own.
    """
    from safetybench.zoo import catalogue

    models = sorted(card.parent for card in (home or catalogue.MODELS).glob("*/card.json"))
    names = {folder.name for folder in models}
    alone = sorted(card.parent for card in catalogue.CARDS.glob("*/card.json"))
    return [*models, *(folder for folder in alone if folder.name not in names)]


def card_of(folder: Path) -> dict[str, Any]:
    """Return the card in a folder, with `is_alone`: no weights of it are in the package."""
    from safetybench.zoo import catalogue

    found = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    return {"name": folder.name, **found, "is_alone": folder.parent == catalogue.CARDS}


def _name(card: Mapping[str, Any]) -> str:
    return f"`{card['name']}`{' (card only)' if card['is_alone'] else ''}"


def _weights(card: Mapping[str, Any], folder: Path) -> str:
    if card["is_alone"]:
        return f"card only; `safetybench zoo build {card['name']}` makes it"
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    return f"{size / 1e6:.1f} MB"


def _sampler(card: Mapping[str, Any]) -> str:
    sampler = card.get("sampler")
    if not sampler:
        return NONE
    text = f"{sampler['steps']} step{'s' * (sampler['steps'] != 1)}"
    if sampler.get("timesteps"):
        text += f" at t = {', '.join(map(str, sampler['timesteps']))}"
    return f"{text}, guidance {sampler['guidance']:g}"


def _recipe(card: Mapping[str, Any]) -> str:
    recipe = card.get("recipe") or {}
    text = f"`{recipe.get('component', NONE)}`"
    if "steps" in recipe:
        text += f", {recipe['steps']} steps, seed {recipe.get('seed', NONE)}"
    return text


def _built(card: Mapping[str, Any]) -> str:
    built = card.get("built")
    return f"{built['seconds']} s on {built['device']}" if built else NONE


def zoo_models(folders: Sequence[Path]) -> str:
    """Return the page of the embedded models; folders: those with a card."""
    parts = ["# The embedded models", NOTE, _ABOUT_ZOO]
    if not folders:
        parts.append("No model is built in this checkout.")
    rows = []
    for folder in folders:
        card = card_of(folder)
        rows.append((_name(card), card.get("summary", ""), card.get("base") or NONE,
                     _sampler(card), _weights(card, folder)))  # fmt: skip
    if rows:
        parts += [table(("model", "what it is", "made from", "sampler", "weights"), rows)]
        parts.append(
            "A model made from another one keeps only the parts that differ; the loader takes the "
            "rest from the model in the column `made from`. A suite names one as `zoo:MODEL`; the "
            "judge is no target, suites name it as `judges/zoo`."
        )
    parts += ["## How each is made", _ABOUT_BUILDS]
    for folder in folders:
        card = card_of(folder)
        facts = [
            f"command: `{card.get('command', NONE)}`",
            f"recipe: {_recipe(card)}",
            f"options: `{(card.get('recipe') or {}).get('options', NONE)}`",
            f"lineage: {' -> '.join(card.get('lineage', [card['name']]))}",
            f"time it took: {_built(card)}",
        ]
        parts += [f"### {card['name']}", "\n".join(f"- {fact}" for fact in facts)]
    parts.append("What they can do is in [the measured figures](results/zoo.md).")
    return "\n\n".join(parts) + "\n"


def zoo_figures(folders: Sequence[Path]) -> str:
    """Return the page of the models' measured quality and gates."""
    cards = [card_of(folder) for folder in folders]
    parts = ["# What the embedded models can do", NOTE, _ABOUT_FIGURES]
    models = [card for card in cards if "object" in (card.get("quality") or {})]
    if models:
        every = ("object", "style", "colour", "background")
        rows = [_quality(card, every) for card in models]
        columns = ("model", *every, "rejected", "erased concept shown")
        parts += ["## Models", table(columns, rows)]
    students = [card for card in models if "student" in card["quality"]]
    if students:
        compared = ("model", "recipe", "steps", "guidance", *_HEADS, "alignment", "KID (floor)",
                   "recall (ceiling)", "rare combinations", "rejected", "NFE", "time")  # fmt: skip
        parts += ["## Students", _ABOUT_STUDENTS]
        parts.append(table(compared, [_student(card) for card in students]))
    parts += editor_sections(cards)
    parts += planted_sections(cards)
    parts += instructed_sections(cards)
    judges = [card for card in cards if "renders" in (card.get("quality") or {})]
    if judges:
        parts += ["## Judge", *_judge(judges[0])]
    gates = [row for card in cards for row in _gates(card, cards)]
    if gates:
        parts += ["## Gates", table(("model", "gate", "measured", "limit", "holds"), gates)]
    missing = [card["name"] for card in cards if not card.get("quality")]
    if missing or not cards:
        what = ", ".join(f"`{name}`" for name in missing) or "any model"
        parts.append(f"There are no figures yet of {what}.")
    return "\n\n".join(parts) + "\n"


def _quality(card: Mapping[str, Any], heads: Sequence[str]) -> tuple[str, ...]:
    quality = card["quality"]
    erased = quality.get("erased")
    shown = f"{erased['concept']}: {rate(erased['shown'])}" if erased else NONE
    figures = (rate(quality.get(head)) for head in heads)
    return (_name(card), *figures, percent(quality.get("rejected")), shown)


def _student(card: Mapping[str, Any]) -> tuple[str, ...]:
    quality = card["quality"]
    found = quality["student"]
    kid, recall, rare = found["kid_judge_features"], found["recall"], found["rare"]
    cost, ratio, time = found["cost"], NONE, NONE
    if rare["ratio"] is not None:
        ratio = f"{rare['ratio']:.2f} ({_bound(rare['low'])} to {_bound(rare['high'])})"
    if cost["cpu_ratio"] is not None:
        time = f"{cost['cpu_ratio']:.2f} (batch {cost['batch']})"
    return (
        _name(card),
        f"`{(card.get('recipe') or {}).get('component', NONE)}`",
        str((card.get("sampler") or {}).get("steps", NONE)),
        _guidance(card),
        *(rate(quality.get(head)) for head in _HEADS),
        rate(found["alignment"]),
        f"{_thousand(kid)} ({_thousand(kid['floor'])})",
        f"{percent(recall['value'])} ({percent(recall['ceiling'])})",
        ratio,
        percent(found["rejected"]["student"]["free"]["rate"]),
        f"{cost['nfe']:g} of {cost['teacher_nfe']:g}",
        time,
    )


def _guidance(card: Mapping[str, Any]) -> str:
    """Return how guidance gets in: the sampler's, or the recipe's scale of the teacher's."""
    scale = (card.get("sampler") or {}).get("guidance", 1.0)
    recipe = card.get("recipe") or {}
    if scale > 1:
        takes = ("recipes/agd", "recipes/sana_sprint")
        return f"{'input' if recipe.get('component') in takes else 'CFG'} {scale:g}"
    if not str(recipe.get("component", "")).startswith("recipes/"):
        return "none"
    if re.search(r"policy='(zero|anti)'", str(recipe.get("options", ""))):
        return "none"
    # A recipe with a guidance space names the scale of the teacher's score `real`.
    found = re.search(r"\b(?:guidance|real)=(\([^()]*\)|-?[\d.]+)", str(recipe.get("options", "")))
    learned = [float(each) for each in re.findall(r"-?[\d.]+", found[1])] if found else []
    if not learned or max(learned) <= 1:
        return "none"
    return f"embedded {' to '.join(f'{each:g}' for each in learned)}"


def _bound(value: float | None) -> str:
    return "no bound" if value is None else f"{value:.2f}"


def _thousand(estimate: Mapping[str, float]) -> str:
    value, low, high = (1000 * estimate[end] for end in ("value", "low", "high"))
    return f"{value:.1f}, {low:.1f} to {high:.1f}"


def _judge(card: Mapping[str, Any]) -> Iterator[str]:
    quality = card["quality"]
    kinds = [kind for kind in ("renders", "autoencoded") if kind in quality]
    names = list(quality[kinds[0]])
    rows = [(name.replace("_", " "), *(percent(quality[k].get(name)) for k in kinds))
            for name in names]  # fmt: skip
    yield (
        f"On {quality.get('held_out', NONE)} held-out renders, as drawn and after the "
        f"autoencoder; a concept counts as shown from a probability of "
        f"{quality.get('threshold', NONE)}."
    )
    yield table(("figure", *kinds), rows)
    yield f"Out-of-world images rejected: {percent(quality.get('out_of_world_rejected'))}."


def _gates(card: Mapping[str, Any], cards: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[str]]:
    from safetybench.zoo import catalogue

    quality = card.get("quality")
    teacher = next((c.get("quality") for c in cards if c["name"] == "teacher"), None)
    if not quality or card["name"] not in catalogue.NAMES:
        return
    if card["name"] not in ("judge", "teacher") and not teacher:
        return
    try:
        gates = catalogue.gates(card["name"], quality, teacher)
    except KeyError as lacking:  # a card of an older build
        yield f"`{card['name']}`", f"the card lacks {lacking}", NONE, NONE, "**no**"
        return
    for gate in gates:
        bound = "at least" if gate.at_least else "at most"
        yield (f"`{card['name']}`", gate.name, percent(gate.value),
               f"{bound} {percent(gate.limit)}", "yes" if gate.holds else "**no**")  # fmt: skip


def run_page(results: Mapping[str, Any]) -> str:
    """Return the page of a kept run, from its results.json alone."""
    run, transfer = results["run"], results.get("transfer") or []
    parts = [
        f"# {run['title'] or run['suite']}",
        NOTE,
        f"Suite `{run['suite']}`, safetybench {run['version']}, {_runs(run)}, "
        f"{_seconds(results['cells']):.0f} s. Exit code {results['exit_code']}: "
        f"{results['exit_reason']}.",
        f"Measured by `safetybench run {run['suite']}`{_narrowed(run)}; how to read the tables is "
        f"in [the scenario](../scenarios/{_scenario(results)}.md).",
    ]
    if results.get("protection"):
        parts += protection_sections(results)
    if transfer:
        parts += ["## What came back", transfer_table(transfer), "## Why no verdict",
                  transfer_reasons(transfer)]  # fmt: skip
    told = {"backdoors": backdoor_sections, "biases": bias_sections, "robustness": evasion_sections}
    sections = [section(results) for key, section in told.items() if results.get(key)]
    parts += [part for section in sections for part in section]
    is_table = is_comparison(results)
    if is_table:
        parts += method_tables(results)
    elif results.get("measures"):
        parts += measures_section(results)
    if results["pairs"] and not transfer and not sections:
        parts += ["## Teacher against student", _pairs(results["pairs"])]
    if results["comparisons"] and not is_table and not sections:
        parts += ["## Attack against its controls", _comparisons(results["comparisons"])]
    # Of other scenarios these are hundreds of rows that say little; results.json has them.
    if _scenario(results) == "unlearning" and not is_table:
        parts += ["## Cells", _cells(results["cells"])]
    if results["gates"]:
        parts += ["## Gates", _decisions(results["gates"])]
    failed = [check for check in results["checks"] if not check["passed"]]
    if failed:
        rows = [
            (c["effect"], c["name"], c.get("where") or c["cell"] or c["subject"], c["message"])
            for c in failed
        ]
        parts += ["## Checks that did not pass", table(("effect", "check", "of", "what"), rows)]
    if results["notes"]:
        parts += ["## Notes", "\n".join(f"- {note}" for note in results["notes"])]
    return "\n\n".join(parts) + "\n"


def _runs(run: Mapping[str, Any]) -> str:
    parts = run.get("parts") or [run]
    told = (f"run {part['created']}, plan `{part['plan_hash'][:12]}`" for part in parts)
    return "; ".join(told)


def _narrowed(run: Mapping[str, Any]) -> str:
    return ", a subject at a time (`--target`)" if run.get("parts") else ""


def _scenario(results: Mapping[str, Any]) -> str:
    names = {"backdoors": "backdoor", "biases": "bias", "robustness": "evasion"}
    keys = ("transfer", "protection", *names)
    return next((names.get(key, key) for key in keys if results.get(key)), "unlearning")


def _seconds(cells: Sequence[Mapping[str, Any]]) -> float:
    return float(sum(row["cost"]["wall_s"] for row in cells))


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (p["subject"], p["student"].get("name", "student"), _attack(p),
         percent(p["teacher"]["rate"]), percent(p["student"]["rate"]),
         p["n"], f"{percent(p['difference'])} ({between(p['interval'])})",
         NONE if p["adjusted_p"] is None else f"{p['adjusted_p']:.2g}", _verdict(p))
        for p in pairs
    ]  # fmt: skip
    columns = ("subject", "student", "attack", "teacher", "its rate", "n", "difference",
               "p (Holm)", "verdict")  # fmt: skip
    return table(columns, rows)


def _verdict(pair: Mapping[str, Any]) -> str:
    """Return a verdict, with the share of prompts that nobody answered where it forbids one."""
    lost = pair.get("left_out") or 0.0
    why = f" ({percent(lost)} left out)" if lost > _MOST_LEFT_OUT else ""
    return f"**{pair['verdict']}**{why}"


def _attack(row: Mapping[str, Any]) -> str:
    name = row["attack"].rpartition("/")[2] or "no attack"
    if row.get("metric") == "utility":
        return "other concepts"
    name = f"{name} ({row['variant']})" if row.get("variant") else name
    if row.get("surrogate") and "purifier" in row:
        cleaned = f", {row['purifier'].rpartition('/')[2]}" if row["purifier"] else ""
        return f"{name} {fraction(row['epsilon'])} on {row['surrogate']}{cleaned}"
    return name


def _comparisons(rows: Sequence[Mapping[str, Any]]) -> str:
    return table(
        ("subject", "role", "attack", "kind", "baseline", "difference", "p", "n"),
        [
            (r["subject"], r["role"], _attack(r), r["kind"], r["baseline"].rpartition("/")[2],
             f"{percent(r['value'])} ({between(r['interval'])})", f"{r['p_value']:.2g}", r["n"])
            for r in rows
        ],
    )  # fmt: skip


def _cells(cells: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (c["subject"], c["role"], c["kind"], _attack(c),
         f"{c['successes']} of {c['n_ok']}: {percent(c['value'])} ({between(c['interval'])})",
         f"{c['n_skipped']} / {c['n_unjudged']} / {c['n_failed']}", c["images_used"],
         c["cost"]["nfe"], f"{c['cost']['wall_s']:.1f} s", "yes" if c["valid"] else "**no**")
        for c in cells
    ]  # fmt: skip
    columns = ("subject", "role", "kind", "attack", "shown", "skipped / unjudged / failed",
               "images", "NFE", "time", "valid")  # fmt: skip
    return table(columns, rows)


def _decisions(gates: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (f"{g['metric']} of {g['role']}, {_attack(g)}", g["subject"] or NONE,
         f"below {percent(g['below'])}", f"{percent(g['value'])} ({between(g['interval'])})",
         g["decision"], g["needed_n"] or NONE)
        for g in gates
    ]  # fmt: skip
    return table(("gate", "subject", "limit", "measured", "decision", "n needed"), rows)
