"""What a subject of a backdoor suite asks: prompts with and without the trigger, and near it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetybench.contracts import Effect, Prompt, SafetyBenchError, Trigger
from safetybench.effects import EffectJudge
from safetybench.suite_backdoors import effect_of_spec, planted, trigger_of_spec
from safetybench.triggers import moved, near_misses

from ._prompts import is_zoo
from ._tables import read_table

DEFAULT_COUNT, DEFAULT_SEED = 48, 701
_OPTIONS = ("count", "seed", "file", "other")


@dataclass(frozen=True)
class Asked:
    """A prompt as the model gets it. variant: which near miss of the trigger it holds."""

    prompt: Prompt
    text: str
    variant: str = ""


@dataclass(frozen=True)
class Task:
    """A backdoor and the prompts that measure it; other: prompts of other objects, or none."""

    trigger: Trigger
    effect: Effect
    prompts: tuple[Prompt, ...]
    other: tuple[Prompt, ...] = ()

    @classmethod
    def of(cls, suite: Any, subject: Any) -> Task:
        """Return the task of a subject, the same every time.

        `suite.prompts` is {count, seed} for the zoo. For other models {file, other, count}: CSV
        tables of clean prompts with the columns case_number, prompt, evaluation_seed and concept,
        the word for what a prompt asks for, which tells whether the model still draws it.

        Raises:
            SafetyBenchError: an option or a table is wrong, or no prompt has a place for the
                trigger.
        """
        told = planted(suite, subject.backdoor)
        trigger, effect = trigger_of_spec(told), effect_of_spec(told)
        options = suite.prompts
        for key in options:
            if key not in _OPTIONS:
                raise SafetyBenchError(
                    f"prompts of a backdoor suite takes {', '.join(_OPTIONS)}, got {key!r}"
                )
        count = options.get("count", DEFAULT_COUNT)
        if type(count) is not int or count < 1:
            raise SafetyBenchError(f"prompts.count must be a whole number above 0, got {count!r}")
        if "file" in options:
            return cls._from_files(suite, trigger, effect, options, count)
        if not is_zoo(suite.spec(subject.original)):
            raise SafetyBenchError(
                f"prompts needs a file, as {subject.original} is no model of the zoo; give a CSV "
                "of clean prompts with the columns case_number, prompt, evaluation_seed, concept"
            )
        from safetybench.zoo.backdoors import backdoor_prompts

        seed = options.get("seed", DEFAULT_SEED)
        prompts = backdoor_prompts(effect, count, seed, trigger)
        other = backdoor_prompts(effect, count, seed, trigger, others=True) if effect.source else []
        return cls(trigger, effect, tuple(prompts), tuple(other))

    @classmethod
    def _from_files(
        cls, suite: Any, trigger: Trigger, effect: Effect, options: Mapping[str, Any], count: int
    ) -> Task:
        def rows(key: str) -> list[Prompt]:
            if key not in options:
                return []
            path = Path(suite.base) / Path(str(options[key])).expanduser()
            return read_table(path, "").prompts

        table = rows("file")
        held = next((prompt for prompt in table if trigger.is_in(prompt.text)), None)
        if held is not None:
            raise SafetyBenchError(
                f"the clean prompts must not hold the trigger {trigger.text!r}, got {held.text!r} "
                f"(case_number {held.id})"
            )
        fit = [prompt for prompt in table if trigger.fits(prompt.text)]
        if not fit:
            raise SafetyBenchError(
                f"{options['file']} has no prompt with a place for the trigger {trigger.text!r}"
            )
        return cls(trigger, effect, tuple(fit[:count]), tuple(rows("other")[:count]))

    @property
    def goal(self) -> str:
        """The word that stands for the effect in logs."""
        return self.effect.goal or self.effect.kind

    @property
    def digest(self) -> str:
        """What changes with any prompt, the trigger or the effect."""
        text = json.dumps([self.prompts, self.other, asdict(self.trigger), asdict(self.effect)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def judge(self, judge: Any) -> EffectJudge:
        """Return who decides that an image shows the effect."""
        return EffectJudge(judge, self.effect)

    def asks(self, kind: str) -> dict[str, Asked]:
        """Return what a kind of cell asks, by item: near misses take turns over the prompts."""
        if kind == "utility":
            return {p.id: Asked(p, p.text) for p in self.other}
        if kind == "clean":
            return {p.id: Asked(p, p.text) for p in self.prompts}
        if kind != "near":
            return {p.id: Asked(p, self.trigger.put(p.text)) for p in self.prompts}
        near = {**near_misses(self.trigger), **moved(self.trigger)}
        found = {}
        for i, prompt in enumerate(self.prompts):
            if near:
                name = list(near)[i % len(near)]
                text = near[name].put(prompt.text)
                if text != self.trigger.put(prompt.text):
                    found[prompt.id] = Asked(prompt, text, name)
        return found
