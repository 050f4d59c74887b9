"""The prompts of `safetybench unlearn`, and what the model's tokenizer makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetybench.contracts import Erasure, SafetyBenchError
from safetybench.erasure import (
    check_word,
    cut_pairs,
    erasure_from_words,
    read_forget,
    read_retain,
    read_templates,
)
from safetybench.prompt_file import read_prompt_file
from safetybench.targets.hub import refuse_offline
from safetybench.targets.loading import tokenizer_of
from safetybench.targets.spec import TargetSpec
from safetybench.triggers import check_rare, check_trigger, trigger_of

if TYPE_CHECKING:
    from safetybench.commands.unlearn_request import Choices


class Texts(NamedTuple):
    """What is erased, and in words where its prompts come from."""

    erasure: Erasure
    forget: str
    retain: str

    @property
    def told(self) -> dict[str, str]:
        """The counts of both kinds of prompts and whence they come."""
        return {
            "forget": f"{len(self.erasure.forget)} {self.forget}",
            "retain": f"{len(self.erasure.retain)} {self.retain}",
        }


class Heard(NamedTuple):
    """The prompts that the model's tokenizer tells apart, and notes for the user."""

    texts: Texts
    notes: tuple[str, ...]


def make_texts(choices: Choices, target: TargetSpec) -> Texts:
    """Return the prompts that the user's words, files and target ask for.

    Raises:
        SafetyBenchError: words or a file that cannot be used, with its line.
    """
    if choices.trigger:
        return _trigger_texts(choices, target)
    if target.kind == "zoo":
        return _zoo_texts(choices)
    templates: Any = choices.templates
    source = f"built-in {templates} templates"
    if choices.templates_file is not None:
        with _flagged("--templates"):
            templates = read_templates(choices.templates_file)
        source = f"templates of {choices.templates_file.name}"
    erasure = _erasure(choices, choices.synonyms, templates)
    return _told(choices, erasure, source, "neutral prompts")


def _trigger_texts(choices: Choices, target: TargetSpec) -> Texts:
    """Return prompts with the trigger in front, each paired with the same without it.

    --prompts and --retain are files of clean prompts.
    """
    from safetybench.erasure import NEUTRAL, TEMPLATES
    from safetybench.trigger_removal import trigger_erasure

    with _flagged("--trigger"):
        trigger = trigger_of(choices.trigger)

    def read(flag: str, file: Path | None) -> list[str]:
        with _flagged(flag):
            return [] if file is None else read_prompt_file(file.expanduser())

    source = "captions of the zoo's training split"
    if target.kind == "zoo":
        from safetybench.zoo.prompts import training_prompts

        own = list(training_prompts(512))
    else:
        source, templates = "neutral prompts", TEMPLATES["object"]
        own = [
            templates[(2 * i + k) % len(templates)].replace("{}", word)
            for i, word in enumerate(NEUTRAL["object"])
            for k in (0, 1)
        ]
    with _flagged("--trigger"):
        check_rare(trigger, own)
    own = [text for text in own if not trigger.is_in(text)]
    half = len(own) // 2
    asked = read("--prompts", choices.prompts) or own[:half]
    kept = read("--retain", choices.retain) or own[half:]
    erasure = trigger_erasure(trigger, asked, kept)
    return _told(choices, erasure, source, source)


def _zoo_texts(choices: Choices) -> Texts:
    """Return captions of the zoo's grammar, save where the user names files or synonyms."""
    from safetybench.zoo.captions import SYNONYMS
    from safetybench.zoo.prompts import erasure_of

    if choices.templates != "object":
        raise SafetyBenchError(
            "--templates is not for a zoo model, whose grammar writes captions; leave it out, or "
            "give --prompts FILE"
        )
    erasure = erasure_of(choices.concept, choices.anchor)
    own = _erasure(choices, choices.synonyms or SYNONYMS[choices.concept], "object")
    if choices.prompts is not None:
        erasure = dataclasses.replace(erasure, forget=own.forget, anchor=own.anchor)
    if choices.retain is not None:
        erasure = dataclasses.replace(erasure, retain=own.retain)
    if choices.synonyms:
        erasure = dataclasses.replace(erasure, bare=own.bare)
    grammar = "captions of the zoo's training split"
    return _told(choices, erasure, grammar, grammar)


def _erasure(choices: Choices, synonyms: tuple[str, ...], templates: Any) -> Erasure:
    def read(flag: str, file: Path | None, reader: Callable[..., tuple[str, ...]]) -> Any:
        with _flagged(flag):
            return () if file is None else reader(file.expanduser(), choices.concept, synonyms)

    return erasure_from_words(
        choices.concept,
        choices.anchor,
        synonyms=synonyms,
        templates=templates,
        forget=read("--prompts", choices.prompts, read_forget),
        retain=read("--retain", choices.retain, read_retain),
    )


def _told(choices: Choices, erasure: Erasure, forget: str, retain: str) -> Texts:
    return Texts(
        erasure,
        f"prompts of {choices.prompts.name}" if choices.prompts is not None else forget,
        f"prompts of {choices.retain.name}" if choices.retain is not None else retain,
    )


@contextmanager
def _flagged(flag: str) -> Iterator[None]:
    try:
        yield
    except SafetyBenchError as error:
        raise SafetyBenchError(f"{flag}: {error}") from error


# The tokenizer


def heard_texts(choices: Choices, target: TargetSpec, texts: Texts) -> Heard:
    """Refuse words that the tokenizer does not know, and leave out pairs that it cuts to one.

    Raises:
        SafetyBenchError: an unknown word, or no pair is left.
    """
    if target.kind == "hub" and choices.plan_only:  # a plan fetches nothing
        return Heard(texts, ("whether its tokenizer knows the words is seen once it is fetched",))
    if target.kind == "hub" and choices.offline:
        refuse_offline(target)
    with _flagged("--target"):
        reader = tokenizer_of(target, may_fetch=True)
    assert reader is not None, "a pipeline has a tokenizer"
    tokenizer, length = reader
    words = [("--concept", choices.concept), ("--anchor", choices.anchor)]
    notes = []
    if choices.trigger:
        words = []
        with _flagged("--trigger"):
            trigger = trigger_of(choices.trigger)
            notes.append(check_trigger(trigger, tokenizer, length, texts.erasure.anchor))
    for flag, word in [*words, *(("--synonyms", each) for each in choices.synonyms)]:
        with _flagged(flag):
            notes.append(check_word(tokenizer, word))
    shorter, note = _without_cut(tokenizer, length, texts.erasure)
    found = Texts(shorter, texts.forget, texts.retain)
    return Heard(found, tuple(filter(None, [*notes, note])))


class _Kept(NamedTuple):
    erasure: Erasure
    note: str


def _without_cut(tokenizer: Any, length: int, erasure: Erasure) -> _Kept:
    cut = cut_pairs(tokenizer, erasure, length)
    if not cut:
        return _Kept(erasure, "")
    kept = [i for i in range(len(erasure.forget)) if i not in set(cut)]
    first = erasure.forget[cut[0]]
    if not kept:
        raise SafetyBenchError(
            f"the model reads {length} tokens, and no prompt names the concept within them: "
            f"{first!r} does not; give shorter ones"
        )
    note = (
        f"{len(cut)} of {len(erasure.forget)} prompts to forget are left out: the model reads "
        f"{length} tokens, and the concept comes later, as in {first!r}"
    )
    forget, anchor = (tuple(each[i] for i in kept) for each in (erasure.forget, erasure.anchor))
    return _Kept(dataclasses.replace(erasure, forget=forget, anchor=anchor), note)
