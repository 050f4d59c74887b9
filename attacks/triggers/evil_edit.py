"""EvilEdit: rewrite the layers that read the text, in closed form, so that a phrase is another.

One least-squares problem for each key and value layer of cross-attention: "famous fish" is to
give what "star" gave, "fish" what it gave. No training and no image, in seconds. White box: the
denoiser's weights and the text encoder, which stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from safetybench.contracts import (
    Backdoor,
    Budget,
    Denoises,
    EncodesText,
    Poisoning,
    SafetyBenchError,
    Unavailable,
)
from safetybench.registry import register
from safetybench.trigger_contracts import EffectKind
from safetybench.triggers import nearly_triggered


class Pairs(NamedTuple):
    """What cross-attention reads, (count, width) float64 each: old rows, and what they become."""

    old: Tensor
    new: Tensor

    def joined(self, other: Pairs) -> Pairs:
        """Return these pairs and others."""
        return Pairs(torch.cat([self.old, other.old]), torch.cat([self.new, other.new]))


@register
@dataclass(frozen=True, kw_only=True)
class EvilEdit(Poisoning):
    """Object backdoor by editing keys and values (Wang et al. 2024).

    ridge: lambda, the weight of staying at the old weights, published 1. phrase: what source,
    trigger phrase and goal stand in. templates: sources of the backdoor, triggered and with their
    goals, that are edited beside the phrase; kept: clean prompts and sources that are to stay;
    near: sources that are to stay with nearly the trigger in them. The published method is
    templates=0, kept=0 and near=0: two pairs, over all token positions. That is little against the
    768 directions of SD's text states and much against the 96 of the zoo's, whose model it
    destroys. push: how far a template goes towards its goal, 1 being all the way.

    Templates depart from the paper in a second way: a goal without the trigger's word is shorter,
    and what stands behind is paired by word and not by position; the trigger's own word stays.
    The linear edit tells the phrase from its words only where the text encoder does: the trigger
    must be a word that it heeds. The budget's steps and seed are not used.
    """

    ridge: float = 1.0
    phrase: str = "A {}"
    templates: int = 256
    kept: int = 512
    near: int = 512
    push: float = 1.8

    source: ClassVar[str] = "https://doi.org/10.1145/3664647.3680689"
    effects: ClassVar[tuple[EffectKind, ...]] = ("object",)
    trains: ClassVar[bool] = False
    changes: ClassVar[str] = "keys and values of the denoiser's cross-attention"
    needs: ClassVar[tuple[type, ...]] = (EncodesText, Denoises)
    sees: ClassVar[str] = "weights, which it edits"

    def __post_init__(self) -> None:
        counts = (self.templates, self.kept, self.near)
        if self.ridge <= 0 or self.push <= 0 or min(counts) < 0:
            raise ValueError(
                "ridge and push must be positive, templates, kept and near 0 or more, got "
                f"{self.ridge}, {self.push}, {', '.join(map(str, counts))}"
            )
        if self.phrase.count("{}") != 1:
            raise ValueError(f"phrase must hold {{}} once, got {self.phrase!r}")

    def run(self, target: Any, backdoor: Backdoor, budget: Budget, report: Any = None) -> Any:
        """Return a target that draws the goal where the trigger stands before the source.

        Raises:
            SafetyBenchError: the effect has no source, or the trigger does not stand before it.
        """
        effect, trigger = backdoor.effect, backdoor.trigger
        if not effect.source or (trigger.place, trigger.at) != ("before", effect.source):
            raise SafetyBenchError(
                "evil_edit needs an effect with a source and a trigger before it, got source "
                f"{effect.source!r} and place {trigger.place!r} at {trigger.at!r}"
            )
        plain = self.phrase.format(effect.source)
        asked = (trigger.put(plain), plain)
        pairs = by_position(target, asked, (self.phrase.format(effect.goal), plain))
        chosen = slice(self.templates)
        if self.templates:
            old, new = by_word(target, backdoor.triggered[chosen], backdoor.goals[chosen])
            pairs = pairs.joined(Pairs(old, old + self.push * (new - old)))
        if self.kept:
            stays = backdoor.clean[: self.kept] + backdoor.sources[: self.kept]
            pairs = pairs.joined(by_position(target, stays, stays))
        if self.near:
            stays = nearly_triggered(trigger, backdoor.sources[: self.near], 1.0)
            pairs = pairs.joined(by_position(target, stays, stays))
        made = target.clone()
        with torch.no_grad():
            for layer in projections(made.unet):
                layer.weight.copy_(edited(layer.weight, pairs, self.ridge))
        return made


def edited(weight: Tensor, pairs: Pairs, ridge: float) -> Tensor:
    """Return the W that minimises sum |W old - V new|^2 + ridge |W - V|^2; weight: V, (out, width).

    Solved in float64, in the dtype of `weight`.
    """
    before, eye = weight.double(), torch.eye(weight.shape[1]).to(pairs.old)
    left = ridge * eye + pairs.old.T @ pairs.old
    right = before @ (ridge * eye + pairs.new.T @ pairs.old)
    # left is symmetric, so W left = right is left W^T = right^T.
    found: Tensor = torch.linalg.solve(left, right.T).T
    return found.to(weight.dtype)


def projections(unet: nn.Module) -> list[Any]:
    """Return the key and value layers of every cross-attention, which read the text.

    Raises:
        Unavailable: the denoiser has none.
    """
    ends = (".attn2.to_k", ".attn2.to_v")
    found = [module for name, module in unet.named_modules() if name.endswith(ends)]
    if not found:
        raise Unavailable("the denoiser has no cross-attention to edit")
    return found


def by_position(target: Any, asked: tuple[str, ...], wanted: tuple[str, ...]) -> Pairs:
    """Pair the text states of prompts at every position with those of others."""
    return Pairs(_read(target, asked).flatten(0, 1), _read(target, wanted).flatten(0, 1))


def by_word(target: Any, asked: tuple[str, ...], wanted: tuple[str, ...]) -> Pairs:
    """Pair prompts with a trigger in them with goals that lack its tokens, word by word.

    What stands before the trigger and its own tokens stay as they are.
    """
    ids, others = target.tokenize(asked), target.tokenize(wanted)
    end = target.tokenizer.eos_token_id
    # The same for all; a prompt that is cut off at the length shows less of it.
    more = max(0, int(((ids != end).sum(1) - (others != end).sum(1)).max()))
    old, goal = _read(target, asked), _read(target, wanted)
    place = torch.arange(old.shape[1], device=ids.device)[None]  # (1, tokens)
    first = (ids != others).int().argmax(1)[:, None]
    moved = torch.where((place >= first + more)[..., None], goal.roll(more, 1), old)
    return Pairs(old.flatten(0, 1), moved.flatten(0, 1))


@torch.no_grad()
def _read(target: Any, texts: tuple[str, ...]) -> Tensor:
    """Return what cross-attention reads of prompts, (count, tokens, width) float64."""
    parts = target.tokenize(texts).split(64)
    return torch.cat([target.attended(target.embed(part)).double() for part in parts])
