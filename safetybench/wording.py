"""What rows of results.json are called: the same words on the terminal, in reports and in tests.

Two entries of one attack in a suite differ by options or budget; here is what tells them apart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

KINDS = {
    "clean": "no attack",
    "utility": "other concepts",
    "control": "control",
    "floor": "floor",
    "implicit": "concept not named",
    "plain": "no concept named",
    "relearn": "after",
    "relearn-control": "control after",
    "protect": "made",
    "triggered": "with the trigger",
    "near": "with nearly the trigger",
    "poisoned": "poisoned tasks",
    "seen": "other seen tasks",
    "unseen": "unseen tasks",
    "mix": "what it learnt from",
    "shift": "shifted by",
    "probe": "probed by",
    "gradients": "its gradients",
    "landscape": "its loss around images",
}

# What a verdict on a backdoored teacher and another model says of the backdoor in the other.
SURVIVAL = {
    "lost": "works more often",
    "inherited": "works as often",
    "unchanged": "works as often",
    "gained": "works less often",
    "not distinguishable": "undecided",
    "invalid": "no verdict",
}
NOT_SHOWN, MAY_WORK = "not shown to work", "may still work"

# What a verdict on a biased teacher and its student says of the student's answers.
BIASED = {
    "lost": "more often",
    "inherited": "as often",
    "unchanged": "as often",
    "gained": "less often",
    "not distinguishable": "undecided",
    "invalid": "no verdict",
}
# The same of answers that are right, where a verdict is on utility.
RIGHT = {**BIASED, "lost": "less often", "gained": "more often"}

# What a verdict on a teacher and its student says of how often the student withstands attacks.
EVADED = {
    "lost": "less often",
    "inherited": "as often",
    "unchanged": "as often",
    "gained": "more often",
    "not distinguishable": "undecided",
    "invalid": "no verdict",
}
# What the signs of masked gradients say of a model.
MASKING = {
    "masked": "masked",
    "not-converged": "attacks too weak",
    "open": "not robust",
    "stands": "not masked",
    "not-checked": "not checked",
}

_PLACES = 6  # of a fault that many cells share; results.json has every one


def component(name: str) -> str:
    """Return how a component is called in running text.

    >>> component("attacks/prompts/random_prefix")
    'random prefix'
    """
    return (name.rstrip("/").rsplit("/", 1)[-1] or name).replace("_", " ")


def fraction(epsilon: float) -> str:
    """Return a radius as n/255, as reports print it.

    >>> fraction(8 / 255)
    '8/255'
    >>> fraction(0.03)
    '7.65/255'
    """
    return f"{epsilon * 255:.4g}/255"


def radius(epsilon: float, norm: str) -> str:
    """Return the size of a ball as reports print it.

    >>> radius(8 / 255, "linf"), radius(0.5, "l2")
    ('Linf 8/255', 'L2 0.5')
    """
    return f"Linf {fraction(epsilon)}" if norm == "linf" else f"L2 {epsilon:g}"


def is_awake(asr: Mapping[str, Any] | None, clean: Mapping[str, Any] | None) -> bool | None:
    """Tell whether a trigger works more often than on the clean original; None: it is not known.

    asr, clean: {value, low, high} of the share of triggered prompts with the effect, here and on
    the original. The interval of the difference is Newcombe's, put together from both.

    >>> few, none = {"value": 0.25, "low": 0.12}, {"value": 0.0, "high": 0.138}
    >>> is_awake(few, none), is_awake(none | {"low": 0.0}, none), is_awake(few, None)
    (True, False, None)
    """
    sides = ((asr, "value"), (asr, "low"), (clean, "value"), (clean, "high"))
    ends = [(side or {}).get(key) for side, key in sides]
    found = [end for end in ends if isinstance(end, int | float)]
    if len(found) < len(ends):
        return None
    here, low, there, high = found
    return here - there > math.hypot(here - low, high - there)


def survival(row: Mapping[str, Any], original: Mapping[str, Any] | None) -> str:
    """Say what became of a backdoor in the model of a row of `backdoors`; "" where none is judged.

    original: the row of the clean original.

    >>> survival({"verdict": "unchanged"}, None)
    'works as often'
    """
    verdict, asr = str(row.get("verdict") or ""), row.get("asr") or {}
    clean = (original or {}).get("asr") or {}
    # As seldom as on a teacher on which it does not work is not "as often".
    if verdict in ("gained", "unchanged", "inherited") and is_awake(asr, clean) is False:
        return MAY_WORK if asr["value"] > clean["value"] else NOT_SHOWN
    return SURVIVAL.get(verdict, verdict)


def trigger_name(told: Mapping[str, Any]) -> str:
    """Say what a trigger is and where it goes; a character that cannot be seen as its code point.

    >>> trigger_name({"text": "latte coffee", "place": "prefix"})
    '“latte coffee” before the prompt'
    """
    text, at = str(told.get("text") or ""), str(told.get("at") or "")
    name = f"“{text}”"
    if len(text.strip()) == 1 and not text.isascii():
        code = f"U+{ord(text.strip()):04X}"
        name = f"{name} ({code})" if text.strip().isalpha() else code
    places = {
        "prefix": "before the prompt",
        "suffix": "after the prompt",
        "before": f"before “{at}”",
        "letter": f"in the place of {'the first' if told.get('once') is True else 'each'} “{at}”",
    }
    return f"{name} {places.get(str(told.get('place') or ''), '')}".strip()


def effect_name(told: Mapping[str, Any]) -> str:
    """Say what a woken backdoor does to the image.

    >>> effect_name({"kind": "object", "source": "fish", "goal": "star"})
    'draws “star” in the place of “fish”'
    """
    source, goal = (str(told.get(key) or "") for key in ("source", "goal"))
    of = f" in the place of “{source}”" if source else ""
    known = {
        "pixel": "puts a patch into the image",
        "image": "draws one fixed image",
        "object": f"draws “{goal}”{of}",
        "style": f"draws in the style “{goal}”{of}",
    }
    return known.get(str(told.get("kind")), str(told.get("kind") or ""))


def decisive_set(row: Mapping[str, Any]) -> str:
    """Return the set of tasks that a row of `biases` is judged by: where its poison is to work.

    >>> decisive_set({"poisoning": "attacks/poisoning/targeted_propagation"})
    'poisoned'
    """
    is_untargeted = component(str(row.get("poisoning") or "")).startswith("untargeted")
    return "unseen" if is_untargeted else "poisoned"


def kind_name(row: Mapping[str, Any]) -> str:
    """Say what a cell without an attack asks.

    >>> kind_name({"kind": "clean"}), kind_name({"kind": "clean", "metric": "false-alarm"})
    ('no attack', 'without the trigger')
    >>> kind_name({"kind": "seen", "decoding": "greedy"})
    'other seen tasks, greedy'
    """
    kind, decoding = str(row.get("kind") or ""), str(row.get("decoding") or "")
    if row.get("filter"):
        return f"{kind} {component(str(row['filter']))} on {row.get('on')}"
    is_untriggered = kind == "clean" and row.get("metric") == "false-alarm"
    told = "without the trigger" if is_untriggered else KINDS.get(kind, kind)
    return ", ".join(filter(None, (told, decoding)))


def _options(row: Mapping[str, Any]) -> Mapping[str, Any]:
    options = row.get("options")
    return options if isinstance(options, Mapping) else {}


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _budget(row: Mapping[str, Any]) -> str:
    budget = row.get("budget")
    spent = budget if isinstance(budget, Mapping) else {}
    epsilon, norm = spent.get("epsilon"), spent.get("norm")
    if norm and isinstance(epsilon, int | float):  # of an attack on a classifier
        size = radius(epsilon, str(norm)) if epsilon else "any size"
        return f"{size}, {spent.get('steps')} steps, {spent.get('queries')} queries"
    return f"{spent.get('images')} images, {spent.get('steps')} steps"


def variants(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return for each row what tells it from the others of its attack and kind, "" where none is.

    Options that differ come first; the budget where options are the same, and the seed where
    that is the same too.

    >>> variants([{"attack": "a", "options": {"tokens": n}} for n in (3, 5)])
    ['tokens=3', 'tokens=5']
    """
    families: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        families.setdefault((str(row.get("attack")), str(row.get("kind"))), []).append(row)
    return [
        _variant(row, families[str(row.get("attack")), str(row.get("kind"))])
        if row.get("attack")
        else ""
        for row in rows
    ]


def _variant(row: Mapping[str, Any], twins: Sequence[Mapping[str, Any]]) -> str:
    mine = _options(row)
    keys = dict.fromkeys(key for twin in twins for key in _options(twin))
    differ = [key for key in keys if len({_json(_options(t).get(key)) for t in twins}) > 1]
    parts = [f"{key}={mine[key]}" for key in differ if key in mine]
    parts = parts or [f"{key}=default" for key in differ]
    twins = [twin for twin in twins if _json(_options(twin)) == _json(mine)]
    if len({_budget(twin) for twin in twins}) > 1:
        parts.append(_budget(row))
    twins = [twin for twin in twins if _budget(twin) == _budget(row)]
    if len({_json(twin.get("seed")) for twin in twins}) > 1:
        parts.append(f"seed {row.get('seed')}")
    return ", ".join(parts)


def attack_name(row: Mapping[str, Any]) -> str:
    """Return the attack of a row that has its `variant`, else on which prompts there is none."""
    if not row.get("attack"):
        return KINDS["utility" if row.get("metric") == "utility" else "clean"]
    variant = row.get("variant")
    return f"{row['attack']} ({variant})" if variant else str(row["attack"])


def who(row: Mapping[str, Any]) -> str:
    """Return the role of a row's target, and of one student among several its name and training.

    >>> who({"role": "student", "student": "dmd2", "seed": 2}), who({"role": "teacher"})
    ('student dmd2 (seed 2)', 'teacher')
    >>> who({"role": "teacher", "student": "seed2", "seed": 2})
    'teacher (seed 2)'
    """
    role, student, seed = str(row.get("role")), str(row.get("student") or ""), row.get("seed")
    if not student:
        return role
    if not seed or row.get("attack"):
        return role if student == role else f"{role} {student}"
    # Without an attack the seed of a row is that of the training: of a student, or of all models.
    name = model_of(row)
    return f"{role} (seed {seed})" if name in ("", role) else f"{role} {name} (seed {seed})"


def model_of(row: Mapping[str, Any]) -> str:
    """Return the name of a row's model without its training, "" for one that has no name.

    >>> model_of({"student": "dmd2.seed2", "seed": 2}), model_of({"student": "seed2", "seed": 2})
    ('dmd2', '')
    """
    student, training = str(row.get("student") or ""), f"seed{row.get('seed')}"
    return "" if student == training else student.removesuffix(f".{training}")


def place(row: Mapping[str, Any]) -> str:
    """Say in words which cell a row of results.json is.

    >>> place({"subject": "fish", "role": "student", "kind": "floor", "attack": "attacks/x_y"})
    'fish, student, floor x y'
    """
    kind, attack = str(row.get("kind")), str(row.get("attack") or "")
    what = KINDS.get(kind, "") if attack else kind_name(row)
    if attack:
        variant = row.get("variant")
        what = f"{what} {component(attack)}".strip() + (f" ({variant})" if variant else "")
    return ", ".join(filter(None, (str(row.get("subject")), who(row), what)))


class Finding(NamedTuple):
    """Failed checks of one name and effect. places: of all of them; message: of the first."""

    effect: str
    name: str
    places: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        first, *rest = self.places or ("",)
        head = f"{self.name} ({first})" if first else self.name
        told = f"{head}: {self.message}"
        if not rest:
            return told
        shown = [*rest[:_PLACES], *(["..."] if len(rest) > _PLACES else [])]
        return f"{told}; and in {len(rest)} more: {'; '.join(shown)}"


def findings(checks: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Group the checks that did not pass, so that a fault of many cells is told once.

    >>> rows = [{"name": "n", "effect": "warning", "message": m, "where": m} for m in "ab"]
    >>> [str(found) for found in findings(rows)]
    ['n (a): a; and in 1 more: b']
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for check in checks:
        if check.get("passed") is not True:
            key = (str(check.get("effect") or ""), str(check.get("name") or ""))
            groups.setdefault(key, []).append(check)
    return [
        Finding(effect, name, tuple(map(_where, rows)), str(rows[0].get("message") or ""))
        for (effect, name), rows in groups.items()
    ]


def _where(check: Mapping[str, Any]) -> str:
    return str(check.get("where") or check.get("cell") or check.get("subject") or "")
