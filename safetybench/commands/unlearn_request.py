"""From the words of `safetybench unlearn` to a checked job; no weights are loaded here."""

from __future__ import annotations

import dataclasses
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetybench import registry
from safetybench.commands.training_checks import (
    check_model,
    check_paths,
    choose_device,
    model_digest,
)
from safetybench.commands.training_inputs import digest_of, read_options
from safetybench.commands.unlearn_defaults import Defaults, defaults_of
from safetybench.commands.unlearn_texts import Texts, heard_texts, make_texts
from safetybench.contracts import Erasure, SafetyBenchError
from safetybench.erasure import TEMPLATES
from safetybench.naming import full_name
from safetybench.private import scrub
from safetybench.targets.spec import TargetSpec


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The arguments of `safetybench unlearn`; None where the user said nothing.

    A concept and its anchor are erased, or a backdoor's trigger.
    """

    method: str
    target: str
    out: Path
    concept: str = ""
    anchor: str = ""
    trigger: str = ""
    synonyms: tuple[str, ...] = ()
    templates: str = "object"
    prompts: Path | None = None
    retain: Path | None = None
    steps: int | None = None
    seed: int = 1
    options: tuple[str, ...] = ()
    device: str = "auto"
    offline: bool = False
    overwrite: bool = False
    plan_only: bool = False
    as_json: bool = False
    threads: int | None = None

    @property
    def templates_file(self) -> Path | None:
        """The file of templates, None for built-in ones."""
        return None if self.templates in TEMPLATES else Path(self.templates).expanduser()

    @property
    def erases(self) -> tuple[str, str]:
        """What is taken out, and what stands in its place: nothing, of a trigger."""
        return (self.trigger, "") if self.trigger else (self.concept, self.anchor)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be made; everything in it is checked.

    name: of the method in the registry; digest: of the target, "" for a hub id that is not
    fetched yet; steps: 0 for a method that trains nothing; notes: for the user.
    """

    name: str
    method: Any
    target: TargetSpec
    digest: str
    texts: Texts
    steps: int
    device: str
    notes: tuple[str, ...]
    choices: Choices

    @property
    def erasure(self) -> Erasure:
        """The prompts."""
        return self.texts.erasure

    @property
    def erasure_digest(self) -> str:
        """A SHA-256 of all prompts, each in its place."""
        return digest_of([json.dumps(dataclasses.asdict(self.erasure), sort_keys=True)])

    @property
    def command(self) -> str:
        """Return the command line, without the folders of this machine."""
        chosen, file = self.choices, self.choices.templates_file
        words = ["safetybench", "unlearn", self.name, "--target", self.target.name]
        if chosen.trigger:
            words += ["--trigger", chosen.trigger]
        else:
            words += ["--concept", chosen.concept, "--anchor", chosen.anchor]
        if chosen.synonyms:
            words += ["--synonyms", ",".join(chosen.synonyms)]
        if chosen.templates != "object":
            words += ["--templates", file.name if file else chosen.templates]
        for flag, path in (("--prompts", chosen.prompts), ("--retain", chosen.retain)):
            words += [flag, path.name] if path is not None else []
        words += ["--out", chosen.out.name]
        words += ["--steps", str(self.steps)] if self.steps else []
        words += ["--seed", str(chosen.seed)]
        for option in chosen.options:
            words += ["--option", scrub(option)]
        return shlex.join(words)


def make_job(choices: Choices) -> Job:
    """Check everything that can be checked without loading a weight.

    Raises:
        SafetyBenchError: one sentence on what is wrong and what to do.
    """
    _check_what(choices)
    name = full_name(choices.method.replace("-", "_"), ["unlearning"])
    target = TargetSpec.parse(choices.target)
    files = {"--prompts": choices.prompts, "--retain": choices.retain}
    check_paths(choices.out, "target", target, {**files, "--templates": choices.templates_file})
    defaults = defaults_of(name, registry.load(name))
    given = read_options(name, choices.options)
    own = {} if target.kind == "zoo" else defaults.options
    method = registry.create(name, {**own, **given})
    notes = check_model("--target", target, offline=choices.offline, cannot="unlearned")
    texts = make_texts(choices, target)
    digest = model_digest(target, offline=choices.offline, plan_only=choices.plan_only)
    texts, heard = heard_texts(choices, target, texts)
    return Job(
        name=name,
        method=method,
        target=target,
        digest=digest,
        texts=texts,
        steps=_steps(choices, target, defaults),
        device=choose_device(choices.device),
        notes=(*notes, *heard, *_advice(choices, name, target, defaults)),
        choices=choices,
    )


def _check_what(choices: Choices) -> None:
    """Refuse a call that does not say what to take out, or says it twice."""
    for flag, value in (("--concept", choices.concept), ("--anchor", choices.anchor)):
        if choices.trigger and value:
            raise SafetyBenchError(
                f"--trigger stands in the place of {flag}; leave one of them out"
            )
        if not (choices.trigger or value):
            raise SafetyBenchError(
                f"{flag} is needed, or --trigger TEXT to take a known trigger out"
            )
    if choices.trigger and choices.synonyms:
        raise SafetyBenchError("--synonyms are of a concept, and --trigger names none")


def _steps(choices: Choices, target: TargetSpec, defaults: Defaults) -> int:
    if not defaults.is_trained:
        return 0
    return choices.steps or (defaults.zoo if target.kind == "zoo" else defaults.model)


def _advice(choices: Choices, name: str, target: TargetSpec, defaults: Defaults) -> list[str]:
    found = []
    if choices.steps and not defaults.is_trained:
        found.append(f"{name} trains nothing; --steps {choices.steps} is not used")
    said = {text.partition("=")[0].strip() for text in choices.options}
    unsaid = {key: value for key, value in defaults.options.items() if key not in said}
    if target.kind != "zoo" and unsaid:
        listed = ", ".join(f"{key}={value}" for key, value in unsaid.items())
        found.append(
            f"the defaults of {name} are made for the zoo's small models; taken for this one: "
            f"{listed}"
        )
    return found
