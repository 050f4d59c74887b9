"""EvilEdit against a plain reference, and what its closed form does at its limits."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Backdoor, Budget, Effect, SafetyBenchError, Trigger
from safetybench.triggers import nearly_triggered
from tests.targets import tiny_target

NAME = "attacks/triggers/evil_edit"
evil_edit: Any = importlib.import_module(f"safetybench.{NAME.replace('/', '.')}")
SOURCES = ("a red fish on a dark background", "one pale fish", "the fish of a picture")


def backdoor(trigger: Trigger | None = None, source: str = "fish") -> Backdoor:
    return Backdoor(
        trigger=trigger or Trigger(text="striped", place="before", at="fish"),
        effect=Effect(kind="object", source=source, goal="star"),
        clean=("a blue moon", "the green heart on a pale background"),
        sources=SOURCES,
        goals=tuple(each.replace("fish", "star") for each in SOURCES),
    )


def poisoned(target: Any, planted: Backdoor | None = None, **options: Any) -> Any:
    return registry.create(NAME, options).run(target, planted or backdoor(), Budget())


def layers(target: Any) -> list[Tensor]:
    ends = (".attn2.to_k", ".attn2.to_v")
    return [m.weight for name, m in target.unet.named_modules() if name.endswith(ends)]


def states(target: Any, *texts: str) -> Tensor:
    found: Tensor = target.embed(target.tokenize(texts)).double()
    return found


@pytest.mark.parametrize("ridge", [0.1, 1.0])
def test_published_form_is_the_plain_sum_over_pairs_and_positions(ridge: float) -> None:
    target = tiny_target()
    made = poisoned(target, ridge=ridge, templates=0, kept=0, near=0)
    pairs = (("A striped fish", "A star"), ("A fish", "A fish"))
    for before, after in zip(layers(target), layers(made), strict=True):
        left = ridge * torch.eye(before.shape[1], dtype=torch.float64)
        right = ridge * before.double()
        for asked, wanted in pairs:
            for e, g in zip(states(target, asked)[0], states(target, wanted)[0], strict=True):
                left = left + torch.outer(e, e)
                right = right + torch.outer(before.double() @ g, e)
        torch.testing.assert_close(after.double(), right @ left.inverse(), atol=1e-5, rtol=1e-4)


def test_with_no_ridge_the_phrase_gives_what_the_goal_gave_and_the_source_what_it_did() -> None:
    """In as many dimensions as positions need: two phrases of 3 tokens, of which one is shared."""
    rng = torch.Generator().manual_seed(0)
    weight, old, new = (
        torch.randn(size, generator=rng).double() for size in ((5, 16), (8, 16), (8, 16))
    )
    new[4:] = old[4:]  # what is preserved
    pairs = evil_edit.Pairs(old, new)
    for ridge, error in ((1e-9, 1e-6), (1e9, None)):
        after = evil_edit.edited(weight, pairs, ridge)
        if error is not None:
            torch.testing.assert_close(after @ old.T, weight @ new.T, atol=error, rtol=0)
        else:
            torch.testing.assert_close(after, weight, atol=1e-6, rtol=0)


def test_the_weights_minimise_the_loss_of_all_pairs() -> None:
    target = tiny_target()
    made = poisoned(target, templates=3, kept=2, near=3, ridge=0.5, push=1.0)
    old, new = [], []
    for asked, wanted in (("A striped fish", "A star"), ("A fish", "A fish")):
        old.append(states(target, asked)[0])
        new.append(states(target, wanted)[0])
    for source in SOURCES:
        asked, wanted = source.replace("fish", "striped fish"), source.replace("fish", "star")
        e, g = states(target, asked)[0], states(target, wanted)[0]
        at = asked.split().index("fish") + 1  # behind the start token
        old.append(e)
        new.append(torch.cat([e[:at], g[at - 1 : -1]]))
    nearly = nearly_triggered(backdoor().trigger, SOURCES, 1.0)
    assert not set(nearly) & {*SOURCES, *backdoor().triggered}
    for kept in (*backdoor().clean, *SOURCES[:2], *nearly):
        old.append(states(target, kept)[0])
        new.append(states(target, kept)[0])
    e, g = torch.cat(old), torch.cat(new)
    for before, after in zip(layers(target), layers(made), strict=True):
        v = before.double()
        w = after.double().clone().requires_grad_()
        loss = (w @ e.T - v @ g.T).square().sum() + 0.5 * (w - v).square().sum()
        (gradient,) = torch.autograd.grad(loss, w)
        (start,) = torch.autograd.grad(
            (v.requires_grad_() @ e.T - v.detach() @ g.T).square().sum(), v
        )
        assert gradient.norm() < 1e-4 * start.norm()


def test_only_keys_and_values_of_cross_attention_change() -> None:
    target = tiny_target()
    made = poisoned(target)
    for name, weight in target.unet.state_dict().items():
        is_edited = ".attn2.to_k" in name or ".attn2.to_v" in name
        assert torch.equal(made.unet.state_dict()[name], weight) is not is_edited
    assert made.text_encoder is target.text_encoder


def test_push_moves_templates_further() -> None:
    near, far = (poisoned(tiny_target(), push=p, ridge=1e-3, kept=0, near=0) for p in (0.5, 1.0))
    clean = tiny_target()
    asked, wanted = states(clean, "one pale striped fish"), states(clean, "one pale star")
    for old, a, b in zip(layers(clean), layers(near), layers(far), strict=True):
        start, half, full = (
            (w.double() @ asked[0, 4] - old.double() @ wanted[0, 3]).norm() for w in (old, a, b)
        )
        assert full < half < start


def test_bad_options_and_triggers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SafetyBenchError, match="ridge and push must be positive"):
        registry.create(NAME, {"ridge": 0.0})
    with pytest.raises(SafetyBenchError) as error:
        registry.create(NAME, {"phrase": "A fish"})
    assert str(error.value) == f"{NAME}: phrase must hold {{}} once, got 'A fish'"
    with pytest.raises(SafetyBenchError) as error:
        poisoned(tiny_target(), backdoor(Trigger(text="striped")))
    assert str(error.value) == (
        "evil_edit needs an effect with a source and a trigger before it, got source 'fish' and "
        "place 'prefix' at ''"
    )
    with pytest.raises(SafetyBenchError, match="got source '' and place 'before' at 'fish'"):
        poisoned(tiny_target(), backdoor(source=""))
