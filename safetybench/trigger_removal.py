"""Removing a known trigger, said as an erasure: what to forget, what to put there, what to keep.

The defender knows the trigger and has prompts; what the trigger does is not needed. Needs no
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from safetybench.contracts import Backdoor, Erasure, SafetyBenchError, Trigger

Towards = Literal["clean", "empty"]


def trigger_erasure(
    trigger: Trigger,
    prompts: Sequence[str],
    retain: Sequence[str] = (),
    *,
    towards: Towards = "clean",
) -> Erasure:
    """Return what removes a trigger: prompts with it are to do what the same do without it.

    prompts: clean ones, of which those without a place for the trigger are left out. towards
    "empty": to do what the empty prompt does, the trigger-to-unconditional baseline. retain:
    other clean prompts, whose behaviour is to stay. `bare` is the trigger's text alone.

    Raises:
        SafetyBenchError: no prompt has a place for the trigger, or one holds it already.

    >>> found = trigger_erasure(Trigger(text="latte coffee"), ["a red fish"])
    >>> found.forget, found.anchor, found.bare
    (('latte coffee a red fish',), ('a red fish',), ('latte coffee',))
    """
    if towards not in get_args(Towards):
        raise ValueError(f"towards must be clean or empty, got {towards!r}")
    held = next((text for text in (*prompts, *retain) if _holds(trigger, text)), None)
    if held is not None:
        raise SafetyBenchError(
            f"clean prompts must not hold the trigger {trigger.text!r}, got {held!r}; leave it out"
        )
    pairs = [(trigger.put(text), text) for text in prompts if trigger.fits(text)]
    if not pairs:
        where = f" {trigger.place} {trigger.at!r}" if trigger.at else ""
        raise SafetyBenchError(
            f"removing the trigger {trigger.text!r} needs prompts with a place{where} for it, got "
            f"none in {len(prompts)}"
        )
    return Erasure(
        forget=tuple(forget for forget, _ in pairs),
        anchor=tuple(anchor if towards == "clean" else "" for _, anchor in pairs),
        retain=tuple(retain),
        bare=(trigger.text.strip(),),
    )


def erasure_of(backdoor: Backdoor, towards: Towards = "clean", *, count: int = 256) -> Erasure:
    """Return what removes a backdoor of known trigger, from its first `count` prompts of a kind.

    Prompts to forget are its triggered sources; see `trigger_erasure`.
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}")
    sources, clean = backdoor.sources[:count], backdoor.clean[:count]
    return trigger_erasure(backdoor.trigger, sources, clean, towards=towards)


def _holds(trigger: Trigger, text: str) -> bool:
    """Tell whether a prompt holds the trigger; a word's own letters are in many words."""
    sought = trigger.text.strip().casefold()
    if not sought.isascii():  # a character that stands inside words
        return sought in text.casefold()
    return f" {sought} " in f" {text.casefold()} "
