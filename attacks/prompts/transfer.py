"""Transfer: texts made on one model, tried on another whose weights the attacker need not have.

Of the target it needs images alone; of the surrogate (a student's teacher, a teacher's original)
what the attack that runs there needs. Tells how much of an attack survives distillation.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from safetybench import registry
from safetybench.contracts import (
    Aids,
    AttackAid,
    Budget,
    Candidate,
    EncodesText,
    GeneratesImages,
    Prompt,
    PromptAttack,
    Reply,
    SafetyBenchError,
)
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class Transfer(PromptAttack):
    """Replay an attack's texts on another model (the transfer of Zhang et al. 2023).

    attack: the component that searches on the surrogate, with its `options`. Each of its texts is
    judged on the target as it comes, where the authors replay the successes of a finished run:
    a text that fails on the surrogate may well succeed on the target.
    """

    attack: str = "attacks/prompts/unlearndiffatk"
    options: Mapping[str, Any] = field(default_factory=dict)

    source: ClassVar[str] = "https://arxiv.org/abs/2310.11868"
    needs: ClassVar[tuple[type, ...]] = (GeneratesImages,)
    uses: ClassVar[tuple[AttackAid, ...]] = ("surrogate",)
    sees: ClassVar[str] = "the surrogate, as the attack does; of the target the images alone"

    def __post_init__(self) -> None:
        inner = self.inner
        has_scores = "scores" in inner.aids  # they would be the target's
        if inner.is_control or inner.is_oracle or has_scores or isinstance(inner, Transfer):
            raise ValueError(
                f"attack must be one with a surrogate to learn from, got {self.attack!r}"
            )

    @property
    def inner(self) -> PromptAttack:
        """The attack that searches on the surrogate."""
        made = registry.create(self.attack, self.options)
        if not isinstance(made, PromptAttack):
            raise ValueError(f"attack must be one of attacks/prompts, got {self.attack!r}")
        return made

    @property
    def aids(self) -> tuple[AttackAid, ...]:
        """What the attack uses, and the surrogate."""
        return tuple(dict.fromkeys((*self.inner.aids, *self.uses)))

    def unfit(self, target: Any, prompts: Sequence[Prompt]) -> Mapping[str, str]:
        """Name what the attack refuses; a target whose tokenizer is unknown refuses nothing."""
        return self.inner.unfit(target, prompts) if isinstance(target, EncodesText) else {}

    def control_options(self) -> Mapping[str, Any]:
        """Return the options of the attack's control."""
        return self.inner.control_options()

    def search(
        self,
        target: GeneratesImages,
        prompts: Sequence[Prompt],
        aids: Aids,
        budget: Budget,
    ) -> Generator[list[Candidate], Reply | None, None]:
        """Yield what the attack tries on the surrogate; replies tell of the target.

        Raises:
            SafetyBenchError: the surrogate lacks what the attack needs, or the attack tries
                text states, which are of the surrogate's encoder and no text.
        """
        inner, surrogate = self.inner, aids.surrogate
        missing = [need.__name__ for need in inner.needs if not isinstance(surrogate, need)]
        if missing:
            raise SafetyBenchError(
                f"{self.attack} needs a surrogate with {', '.join(missing)}, got {surrogate.name}"
            )
        search = inner.search(surrogate, prompts, aids, budget)
        candidates = next(search, [])
        while candidates:
            if any(candidate.states is not None for candidate in candidates):
                raise SafetyBenchError(f"{self.attack} tries no texts that could be transferred")
            reply = yield candidates
            try:
                candidates = search.send(reply)
            except StopIteration:
                return
