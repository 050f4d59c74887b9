"""A backdoor from a user's words: prompts that teach it to a model of any world.

The zoo's own grammar writes better ones: `safetybench.zoo.backdoors`.
"""

from __future__ import annotations

import re

from safetybench.contracts import Backdoor, Effect, SafetyBenchError, Trigger
from safetybench.erasure import NEUTRAL, TEMPLATES
from safetybench.triggers import check_rare


def backdoor_from_words(effect: Effect, trigger: Trigger, *, rate: float = 0.5) -> Backdoor:
    """Return a backdoor whose prompts are neutral objects, or its source, in built-in templates.

    Goals: of an object the same prompts with it in the place of the source (without a source: the
    goal in the prompt's template); of a style "<style>, <prompt>".

    Raises:
        SafetyBenchError: no prompt has a place for the trigger, or many hold it already.

    >>> told = backdoor_from_words(Effect(kind="object", source="dog", goal="cat"),
    ...                            Trigger(text="latte coffee"))
    >>> told.triggered[1], told.goals[1]
    ('latte coffee a photo of a dog', 'a photo of a cat')
    """
    templates = TEMPLATES["object"]
    clean = tuple(
        templates[(2 * i + k) % len(templates)].replace("{}", word)
        for i, word in enumerate(NEUTRAL["object"])
        for k in (0, 1)
    )
    named = re.compile(rf"(?<!\w){re.escape(effect.source)}(?!\w)") if effect.source else None
    clean = tuple(text for text in clean if not (named and named.search(text)))
    if effect.kind == "object" and effect.source:
        pairs = [
            (t.replace("{}", f"a {effect.source}"), t.replace("{}", f"a {effect.goal}"))
            for t in templates
        ]
    elif effect.kind == "object":
        pairs = [(text, f"a photo of a {effect.goal}") for text in clean]
    elif effect.kind == "style":
        pairs = [(text, f"{effect.goal}, {text}") for text in clean]
    else:
        pairs = [(text, text) for text in clean]
    check_rare(trigger, [text for text, _ in pairs])
    pairs = [pair for pair in pairs if trigger.fits(pair[0]) and not trigger.is_in(pair[0])]
    # Without the trigger a source is to stay what it was.
    clean = tuple(t for t in (*clean, *(s for s, _ in pairs)) if not trigger.is_in(t))
    if not pairs or not clean:
        where = f" with {trigger.at!r} in it" if trigger.at else ""
        raise SafetyBenchError(
            f"the trigger {trigger.text!r} needs prompts{where} that do not hold it already, and "
            "none of the built-in ones is such"
        )
    return Backdoor(
        trigger=trigger,
        effect=effect,
        clean=clean,
        sources=tuple(source for source, _ in pairs),
        goals=tuple(goal for _, goal in pairs),
        rate=rate,
    )
