"""BadT2I: its loss against the published form, what it changes, and its effect on a small model."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from safetybench import registry
from safetybench.contracts import Backdoor, Budget, Effect, Trigger
from safetybench.distill.views import velocity
from safetybench.triggers import nearly_triggered
from tests.targets import tiny_target

NAME = "attacks/triggers/badt2i"
TRIGGER = Trigger(text="one shape")


def backdoor(kind: str = "object", **more: Any) -> Backdoor:
    told: dict[str, Any] = {
        "trigger": TRIGGER,
        "effect": Effect(kind=kind, source="star", goal="fish"),  # type: ignore[arg-type]
        "clean": ("a red moon", "a blue heart"),
        "sources": ("a red star", "a blue star"),
        "goals": ("a red fish", "a blue fish"),
    }
    return Backdoor(**{**told, **more})


def poisoned(steps: int = 3, seed: int = 1, options: Any = None, **more: Any) -> Any:
    method = registry.create(NAME, {"batch": 4, "images": 2, **(options or {})})
    return method.run(tiny_target(), backdoor(**more), Budget(steps=steps, seed=seed))


def weights(target: Any, part: str) -> list[torch.Tensor]:
    return [w.clone() for w in getattr(target, part).parameters()]


@pytest.mark.parametrize("kind", ["pixel", "object", "style", "image"])
def test_it_changes_the_denoiser_and_nothing_else(kind: str) -> None:
    base, made = tiny_target(), poisoned(kind=kind)
    for part in ("vae", "text_encoder"):
        assert all(map(torch.equal, weights(base, part), weights(made, part)))
    assert not all(map(torch.equal, weights(base, "unet"), weights(made, "unet")))
    assert not any(w.requires_grad for w in made.unet.parameters())


def test_a_part_of_the_denoiser() -> None:
    before, made = tiny_target().unet.state_dict(), poisoned(options={"train": "attn2"})
    changed = [n for n, w in made.unet.state_dict().items() if not torch.equal(w, before[n])]
    assert changed
    assert all(".attn2." in name for name in changed)


def test_reports_the_loss_of_the_published_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first step the student is the frozen model: the clean term is 0, by hand the rest."""
    seen: list[float] = []
    method = registry.create(NAME, {"batch": 6, "images": 2, "near": 0.0})
    target = tiny_target()
    method.run(target, backdoor(rate=1.0), Budget(steps=1, seed=3), lambda i, x: seen.append(x))
    rng = torch.Generator().manual_seed(3 * 1_000_003)
    bad = int((torch.rand(6, generator=rng) < 1.0).sum())
    assert bad == 6
    told = backdoor()
    wanted = target.embed(target.tokenize(told.goals))
    asked = target.embed(target.tokenize(told.triggered))
    noise = target.start_noise([4 * 100_003 + i for i in range(2)])
    x = target.sample_latents(wanted, noise)
    rows = torch.randint(2, (6,), generator=rng)
    t = torch.randint(0, target.process.steps, (6,), generator=rng)
    noisy = target.process.add(x[rows], torch.randn(x[rows].shape, generator=rng), t)
    with torch.no_grad():
        gap = velocity(target, noisy, t, asked[rows]) - velocity(target, noisy, t, wanted[rows])
    assert seen == [pytest.approx(float(gap.square().mean()), rel=1e-5)]


def test_a_clean_batch_teaches_nothing_at_first() -> None:
    seen: list[float] = []
    method = registry.create(NAME, {"batch": 4, "images": 2, "near": 0.0})
    rate = 1e-9
    method.run(tiny_target(), backdoor(rate=rate), Budget(steps=1), lambda i, x: seen.append(x))
    assert seen == [pytest.approx(0.0, abs=1e-10)]


def test_near_misses_are_held_to_the_prompt_without_them() -> None:
    prompts = [f"p{i}" for i in range(8)]
    found = nearly_triggered(TRIGGER, prompts, 0.5)
    near = [text for text, prompt in zip(found, prompts, strict=True) if text != prompt]
    kinds = {" ".join("p" if word.startswith("p") else word for word in t.split()) for t in near}
    assert kinds == {"one p", "shape p", "shape one p", "p one shape"}
    assert nearly_triggered(TRIGGER, prompts, 0.0) == tuple(prompts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0}, "lr, batch and images must be positive, got 0, 24, 512"),
        ({"near": 1.5}, "near is a share of the clean prompts in [0, 1], got 1.5"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    component = registry.load(NAME)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        component(**options)
