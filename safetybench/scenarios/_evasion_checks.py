"""Checks of an evasion run: do the attacks work at all, and is a model still a classifier?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from safetybench import stats
from safetybench.wording import who

from ._checks import COLLAPSE, POSITIVE_CONTROL, Check, every_check, ratio
from ._evasion_models import Entry
from ._evasion_task import TRANSFER
from ._log import LEVEL, CellLog, paired, unlike


def checks(
    logs: Mapping[str, CellLog], strays: Sequence[str], entries: Sequence[Entry]
) -> list[Check]:
    """Return every check of a log.

    strays: items of cells that the plan does not have; entries: the models of the log.
    """
    originals = {entry.subject: entry for entry in entries if entry.role == "original"}
    claims = [check for entry in entries for check in _claims(entry)]

    def of_subject(subject: str, mine: Sequence[CellLog]) -> Iterator[Check]:
        return _subject_checks(subject, mine, originals.get(subject))

    return [*every_check(logs, strays, of_subject), *claims]


def _claims(entry: Entry) -> Iterator[Check]:
    """Hold what a model card claims to what was measured; less than measured is no fault."""
    for training in entry.trainings.values():
        if training.claim is None or not training.clean:
            continue
        label = training.of_kind("clean")[0].cell.label
        sides = {"clean": ("as it is", training.clean), "robust": ("in the worst case",
                                                                  training.worst)}  # fmt: skip
        for key, (where, outcomes) in sides.items():
            claimed, n = training.claim[key], len(outcomes)
            if claimed is None or not n:
                continue
            right = n - sum(outcomes.values())
            most = stats.wilson(right, n, LEVEL).high
            yield Check(
                "claim",
                entry.subject,
                label,
                claimed <= most,
                "warning",
                f"the card of {training.claim['name']} claims {claimed:.1%} right {where}; "
                f"measured {ratio(right, n)}, at most {most:.1%} with 95 % confidence",
            )


def _subject_checks(
    subject: str, logs: Sequence[CellLog], original: Entry | None
) -> Iterator[Check]:
    attacked = [log for log in logs if log.cell.kind == "attack"]
    everything = tuple(log.cell.label for log in attacked if log.cell.role != "original")
    first = [log for log in attacked if log.cell.role == "original"]
    if original is not None and attacked:
        worst = next(iter(original.trainings.values())).attacked
        misled = sum(worst.values())
        yield Check(
            "positive-control",
            subject,
            first[0].cell.label if first else attacked[0].cell.label,
            misled >= POSITIVE_CONTROL * len(worst) > 0,
            "invalid",
            f"in the ball the attacks mislead the undefended original on "
            f"{ratio(misled, len(worst))}, and must on {POSITIVE_CONTROL:.0%}; else they are too "
            "weak, the ball is too small, or none was tried on it, to show anything",
            everything,
        )
    yield from _collapses(subject, logs)
    yield from _against_noise(subject, logs)


def _collapses(subject: str, logs: Sequence[CellLog]) -> Iterator[Check]:
    clean = [log for log in logs if log.cell.kind == "clean"]
    original = next((log for log in clean if log.cell.role == "original"), None)
    if original is None or not original.n:
        return
    most = original.n - original.successes
    for log in clean:
        cell, right = log.cell, log.n - log.successes
        if cell.role == "original":
            continue
        own = [x.cell.label for x in logs if x.cell.target == cell.target]
        name = who({"role": cell.role, "student": cell.student, "seed": cell.seed})
        yield Check(
            "collapse",
            subject,
            cell.label,
            log.n > 0 and right / log.n >= COLLAPSE * most / original.n,
            "warning",
            f"the {name} classifies {ratio(right, log.n)} images rightly, the original "
            f"{ratio(most, original.n)}; a model that keeps under {COLLAPSE:.0%} of that is broken",
            tuple(label for label in own if label != cell.label),
        )


def _against_noise(subject: str, logs: Sequence[CellLog]) -> Iterator[Check]:
    """Hold attacks with gradients to random noise of the same ball on the same model."""
    noises = {
        (log.cell.target, log.cell.budget.epsilon, log.cell.budget.norm, log.cell.seed): log
        for log in logs
        if log.cell.kind == "control"
    }
    for log in logs:
        cell = log.cell
        noise = noises.get((cell.target, cell.budget.epsilon, cell.budget.norm, cell.seed))
        if cell.kind != "attack" or noise is None or cell.attack == TRANSFER:
            continue  # a transfer has one try, and noise some hundred
        ours, theirs = paired(log, noise)
        more, fewer = unlike(ours, theirs)
        yield Check(
            "beats-noise",
            subject,
            cell.label,
            fewer <= more,
            "warning",
            f"the attack misleads on {ratio(sum(ours), len(ours))} images, random noise in the "
            f"same ball on {ratio(sum(theirs), len(theirs))}: an attack that noise beats tells "
            "nothing of robustness",
        )
