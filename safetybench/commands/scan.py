"""`safetybench scan`: look for a backdoor in a pipeline, and say what the look could have seen.

Two canaries are looked at in the same call: the base beside itself, in which nothing may be
found, and a copy of it with a known backdoor, which must be. A scan that fails them says nothing.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetybench import registry, session
from safetybench.commands.console import note, percent, print_json, print_table
from safetybench.commands.training_checks import choose_device
from safetybench.contracts import Budget, SafetyBenchError, Suspicion
from safetybench.targets.spec import TargetSpec

FOUND, NO_POWER = 1, 6
SCHEMA = "safetybench.scan/1"
_WEIGHTS = "defenses/triggers/encoder_weights"
_SEARCH = "defenses/triggers/token_search"
_CROWD = 256  # words that the canaries' searches try
_SHOWN = 5  # candidates and prompts of a table


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The arguments of `safetybench scan`."""

    target: str
    base: str
    prompts: Path | None = None
    clean: Path | None = None
    false_positives: float = 0.05
    words: int = 4000
    tried: tuple[str, ...] = ()
    seed: int = 1
    device: str = "auto"
    offline: bool = False
    as_json: bool = False
    threads: int | None = None


@dataclass(frozen=True)
class Scan:
    """What was looked at and found.

    weights, search: what the model detectors say; threshold: of the search's score; clean, known:
    its scores on the two canaries; is_known: whether the second one's own trigger was named.
    flags: of the prompt detectors, none without --prompts.
    """

    weights: Suspicion
    search: Suspicion
    threshold: float
    clean: float
    known: float
    is_known: bool
    flags: Sequence[Any]

    @property
    def verdict(self) -> str:
        """The verdict: found, nothing found at this power, or no power; never "safe"."""
        if self.clean > self.threshold or not self.is_known:
            return "no power"
        is_found = self.search.score > self.threshold or any(each.is_found for each in self.flags)
        return "found" if is_found else "nothing found at this power"

    @property
    def code(self) -> int:
        """The exit code of the verdict."""
        return {"found": FOUND, "no power": NO_POWER}.get(self.verdict, 0)


def scan(choices: Choices) -> int:
    """Scan and return the exit code; the table or JSON goes to stdout, chatter to stderr."""
    session.prepare_process(choices.threads, offline=choices.offline)
    from safetybench.commands.scan_prompts import clean_prompts
    from safetybench.commands.scan_shape import layout_of, refuse_unlike
    from safetybench.prompt_file import read_prompt_file
    from safetybench.triggers import trigger_of

    for word in choices.tried:
        try:
            trigger_of(word)
        except SafetyBenchError as error:
            raise SafetyBenchError(f"--word: {error}") from error
    spec, origin = TargetSpec.parse(choices.target), TargetSpec.parse(choices.base)
    prompts = read_prompt_file(choices.prompts) if choices.prompts else []
    clean = clean_prompts(choices.clean, is_zoo=origin.kind == "zoo", rate=choices.false_positives)
    mine = layout_of("PATH", spec, offline=choices.offline)
    base = layout_of("--base", origin, offline=choices.offline)
    refuse_unlike(mine, base)
    device = choose_device(choices.device)
    digests = mine.digest(spec), base.digest(origin)
    found = _look(choices, spec, origin, device, prompts, clean)
    told = _told(choices, spec, origin, digests, found)
    if choices.as_json:
        print_json(told)
    else:
        _print(spec, origin, found)
    return found.code


def _look(
    choices: Choices,
    spec: TargetSpec,
    origin: TargetSpec,
    device: str,
    prompts: Sequence[str],
    clean: Sequence[str],
) -> Scan:
    from safetybench.commands.scan_canary import plant
    from safetybench.commands.scan_prompts import look
    from safetybench.targets.loading import load_target

    target, base = (
        load_target(each, device=device, dtype="float32", offline=choices.offline)
        for each in (spec, origin)
    )
    canary = plant(base, choices.seed)
    search = registry.create(_SEARCH, {"words": choices.tried})
    crowd = Budget(images=min(_CROWD, choices.words), seed=choices.seed)
    note("canaries: the base beside itself, and a copy of it with a known backdoor")
    own = registry.create(_SEARCH).examine(base, base, crowd)
    known = registry.create(_SEARCH, {"words": (canary.word,)}).examine(canary.target, base, crowd)
    named = [what for what, score in known.evidence if score > search.threshold]
    note("the weights, and words tried as triggers")
    weights = registry.create(_WEIGHTS).examine(target, base, Budget())
    budget = Budget(images=choices.words, seed=choices.seed)
    found = search.examine(target, base, budget, _progress())
    flags = look(target, base, canary, prompts, clean, choices.false_positives) if prompts else []
    return Scan(
        weights=weights,
        search=found,
        threshold=search.threshold,
        clean=own.score,
        known=known.score,
        is_known=any(canary.word in what.split() for what in named),
        flags=flags,
    )


def _progress() -> Any:
    import time

    last = [time.monotonic()]

    def report(done: int, best: float) -> None:
        if time.monotonic() - last[0] >= 10:
            last[0] = time.monotonic()
            note(f"{done} candidates tried")

    return report


def _told(
    choices: Choices,
    spec: TargetSpec,
    origin: TargetSpec,
    digests: tuple[str, str],
    found: Scan,
) -> dict[str, Any]:
    """Return the scan as JSON: the verdict first, then what it rests on."""
    return {
        "schema": SCHEMA,
        "verdict": found.verdict,
        "target": {"name": spec.name, "digest": digests[0]},
        "base": {"name": origin.name, "digest": digests[1]},
        "seed": choices.seed,
        "weights": _suspicion(found.weights),
        "search": {"threshold": found.threshold, **_suspicion(found.search)},
        "canaries": {
            "clean": found.clean,
            "backdoored": found.known,
            "trigger_named": found.is_known,
        },
        "prompts": [
            {
                "detector": each.detector,
                "threshold": each.threshold,
                "calibrated_on": each.calibrated,
                "false_positives": choices.false_positives,
                "flagged": [list(row) for row in each.flagged],
                "p": each.p,
                "canary_caught": each.caught,
                "has_power": each.has_power,
                "found": each.is_found,
            }
            for each in found.flags
        ],
    }


def _suspicion(found: Suspicion) -> dict[str, Any]:
    evidence = [[what, value] for what, value in found.evidence]
    return {"score": found.score, "evidence": evidence, "note": found.note}


def _print(spec: TargetSpec, origin: TargetSpec, found: Scan) -> None:
    limit = f"{found.threshold:g}"
    rows = [
        ("weights", f"{found.weights.score:.3g}", "-", found.weights.note),
        ("words as triggers", f"{found.search.score:.3g}", limit, found.search.note),
        ("canary: base beside itself", f"{found.clean:.3g}", limit, "must be below"),
        (
            "canary: known backdoor",
            f"{found.known:.3g}",
            limit,
            "its trigger was named" if found.is_known else "its trigger was not named",
        ),
    ]
    for each in found.flags:
        power = "" if each.has_power else "; no power here, so not counted"
        rows.append((
            each.detector.rpartition("/")[2],
            f"{len(each.flagged)} flagged",
            f"{each.threshold:.3g}",
            f"p {each.p:.2g} by chance; caught {percent(each.caught)} of a known trigger{power}",
        ))  # fmt: skip
    print_table(
        ("look", "score", "limit", "what it says"), rows, f"{spec.name} beside {origin.name}"
    )
    best = [(what, f"{value:.3g}") for what, value in found.search.evidence[:_SHOWN]]
    best += [
        (_visible(what), f"{value:.3g}")
        for each in found.flags
        for what, value in each.flagged[:_SHOWN]
    ]
    print_table(("candidate or prompt", "score"), best)
    sentence = {
        "found": "found: the model responds to what is listed as its base does not, as to a "
        "trigger, or after a long honest fine-tune; draw with each and look",
        "no power": "no power: a canary was misjudged, so this scan says nothing of the model",
    }.get(found.verdict, f"{found.verdict}: that is no proof that there is nothing")
    print(sentence)


def _visible(text: str) -> str:
    """Return text in which characters that are drawn as nothing are escaped."""
    return "".join(
        f"\\u{ord(char):04x}" if unicodedata.category(char) == "Cf" else char for char in text
    )
