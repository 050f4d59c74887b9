"""Views of a denoiser: which weights learn, LoRAs on shared weights, averages, velocity."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from safetybench.distill.schedule import Group, Stage, Step
from safetybench.distill.training import train
from safetybench.distill.views import (
    Shifted,
    averaged_view,
    chosen_parameters,
    draw,
    guidance_view,
    lora_view,
    velocity,
)
from tests.gaussian import gaussian_target
from tests.targets import tiny_pipeline, tiny_target

# As published: ESD-x, ESD-x-strict (and concept ablation), ESD-u, everything.
PATTERNS = {
    "attn2": r"\.attn2\.",
    "attn2.kv": r"\.attn2\.to_[kv]\.",
    "not attn2": r"^(?!.*\.attn2\.)",
    "all": r"",
}


@pytest.fixture(scope="module")
def unet() -> Any:
    return tiny_pipeline().unet


@pytest.mark.parametrize("part", PATTERNS)
def test_a_part_is_exactly_the_published_group(unet: Any, part: str) -> None:
    unet.requires_grad_(True)
    weights = chosen_parameters(unet, part)
    wanted = {n for n, _ in unet.named_parameters() if re.search(PATTERNS[part], n)}
    trainable = {n for n, w in unet.named_parameters() if w.requires_grad}
    named = {id(w): n for n, w in unet.named_parameters()}
    assert trainable == wanted == {named[id(w)] for w in weights}
    assert wanted


def test_the_groups_fit_together(unet: Any) -> None:
    sizes = {part: sum(w.numel() for w in chosen_parameters(unet, part)) for part in PATTERNS}
    assert sizes["attn2"] + sizes["not attn2"] == sizes["all"]
    assert 0 < sizes["attn2.kv"] < sizes["attn2"]
    names = [n for n, _ in unet.named_parameters() if re.search(PATTERNS["attn2.kv"], n)]
    # Two for each cross-attention, and neither query nor output.
    assert len(names) == 2 * sum(
        n.endswith("attn2.to_q.weight") for n, _ in unet.named_parameters()
    )


def test_an_unknown_part_is_refused(unet: Any) -> None:
    with pytest.raises(ValueError, match="train") as error:
        chosen_parameters(unet, "xattn")
    assert str(error.value) == ("train must be one of all, attn2, attn2.kv, not attn2, got 'xattn'")


def test_a_denoiser_without_cross_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="denoiser") as error:
        chosen_parameters(nn.Sequential(nn.Linear(1, 1)), "attn2")
    assert str(error.value) == "the denoiser has no weights of the part 'attn2'"


@given(population=st.integers(1, 50), count=st.integers(1, 50), seed=st.integers(0, 2**31))
def test_indices_are_below_the_population_and_the_generators(
    population: int, count: int, seed: int
) -> None:
    found = draw(population, count, torch.Generator().manual_seed(seed))
    assert found.shape == (count,)
    assert bool(((found >= 0) & (found < population)).all())
    assert torch.equal(found, draw(population, count, torch.Generator().manual_seed(seed)))


def test_indices_are_drawn_with_replacement_and_reach_everything() -> None:
    found = draw(5, 200, torch.Generator().manual_seed(0))
    assert set(found.tolist()) == set(range(5))


def test_velocity_is_its_definition() -> None:
    target, rng = gaussian_target(), torch.Generator().manual_seed(0)
    x, t = torch.randn(6, 1, 4, 4, generator=rng), torch.tensor([1, 100, 500, 800, 990, 999])
    text = torch.tensor([0.0, 1.0] * 3).reshape(6, 1, 1)
    clean = target.x0(x, t, text)
    alpha, sigma = target.process.alpha(t), target.process.sigma(t)
    noise = (x - alpha * clean) / sigma
    found = velocity(target, x, t, text)
    torch.testing.assert_close(found, alpha * noise - sigma * clean, rtol=1e-4, atol=1e-4)


def test_velocity_of_a_velocity_model_is_its_networks_answer_even_at_pure_noise() -> None:
    target, rng = tiny_target("velocity"), torch.Generator().manual_seed(0)
    x, t = torch.randn(3, *target.latent_shape, generator=rng), torch.tensor([0, 500, 999])
    text = target.embed(target.tokenize(["a red fish"] * 3))
    with torch.no_grad():
        answer = target.unet(x, t, encoder_hidden_states=text).sample
        torch.testing.assert_close(velocity(target, x, t, text), answer, rtol=1e-3, atol=1e-4)


# LoRA


def question(target: Any, count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(4)
    x = torch.randn(count, *target.latent_shape, generator=rng)
    t = torch.tensor([10, 500, 999])[:count]
    return x, t, target.embed(target.tokenize(["a red fish", "a blue star", ""][:count]))


def answer(model: Any, asked: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.x0(*asked)
    return found


def state(target: Any) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in target.unet.state_dict().items()}


def learn(model: Any, weights: list[nn.Parameter], steps: int = 3) -> None:
    """Train a view towards zeros."""
    asked = question(model)

    def loss(step: Step) -> Tensor:
        found: Tensor = model.x0(*asked).square().mean()
        return found

    train([Stage(steps=steps, groups=[Group(name="w", weights=weights, loss=loss, lr=0.01)])],
          seed=0)  # fmt: skip


def test_a_lora_answers_as_its_base_at_first_and_shares_its_storage() -> None:
    base = tiny_target("velocity")
    names, before = list(base.unet.state_dict()), state(base)
    view, weights = lora_view(base, 2)
    asked = question(base)
    assert torch.equal(answer(view, asked), answer(base, asked))
    own = {id(w) for w in weights}
    rest = {w.data_ptr() for w in view.unet.parameters() if id(w) not in own}
    assert rest == {w.data_ptr() for w in base.unet.parameters()}
    assert sum(w.numel() for w in weights) < sum(w.numel() for w in base.unet.parameters())
    # The base knows nothing of it.
    assert list(base.unet.state_dict()) == names
    assert all(torch.equal(before[name], weight) for name, weight in state(base).items())
    assert getattr(base.unet, "_hf_peft_config_loaded", False) is False


def test_only_the_lora_learns() -> None:
    base = tiny_target("velocity")
    view, weights = lora_view(base, 2)
    assert {id(w) for w in view.unet.parameters() if w.requires_grad} == {id(w) for w in weights}
    before, asked = state(base), question(base)
    first = [w.detach().clone() for w in weights]
    learn(view, weights)
    assert all(torch.equal(before[name], weight) for name, weight in state(base).items())
    moved = sum(not torch.equal(a, b) for a, b in zip(first, weights, strict=True))
    assert moved > 0.8 * len(weights)
    assert not torch.equal(answer(view, asked), answer(base, asked))
    assert not any(w.requires_grad for w in base.unet.parameters())


def test_two_loras_of_one_base_do_not_meet_and_a_lora_is_seeded() -> None:
    base = tiny_target("velocity")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, its = lora_view(base, 2, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    same, others = lora_view(base, 2, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(its, others, strict=True))
    differ = lora_view(base, 2, seed=2)[1]
    assert not all(torch.equal(a, b) for a, b in zip(its, differ, strict=True))
    asked = question(base)
    learn(one, its)
    assert torch.equal(answer(same, asked), answer(base, asked))


def test_a_lora_reaches_every_matrix_that_it_names() -> None:
    base = tiny_target("velocity")
    _, weights = lora_view(base, 2)
    wide = [n for n, w in base.unet.named_parameters() if w.ndim > 1 and "time_embedding" not in n]
    # All but the first and last convolutions and those that change the size.
    left = {"conv_in.weight", "conv_out.weight"}
    resized = {n for n in wide if "samplers" in n}
    assert len(weights) == 2 * len(set(wide) - left - resized)


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_that_is_none_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match="rank") as error:
        lora_view(gaussian_target(), rank)
    assert str(error.value) == f"a LoRA's rank must be 1 or more, got {rank}"


# Averages


def test_a_target_network_trails_what_learns_and_shares_the_rest() -> None:
    student = tiny_target("velocity")
    learns = chosen_parameters(student.unet, "attn2")
    view, update = averaged_view(student, learns, 0.9)
    pairs = list(zip(student.unet.parameters(), view.unet.parameters(), strict=True))
    own = {id(w) for w in learns}
    assert all((new is old) == (id(new) not in own) for new, old in pairs)
    kept = [old.detach().clone() for new, old in pairs if id(new) in own]
    learn(student, learns)
    assert all(torch.equal(a, b) for (_, b), a in zip(
        [p for p in pairs if id(p[0]) in own], kept, strict=True))  # fmt: skip
    update(None)
    for (new, old), before in zip([p for p in pairs if id(p[0]) in own], kept, strict=True):
        torch.testing.assert_close(old, 0.9 * before + 0.1 * new.detach())
        assert old.requires_grad is False
        assert new.requires_grad is True


# Guidance as an input, shifted times


def test_a_guidance_input_changes_nothing_at_first() -> None:
    base = tiny_target("velocity")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    view = guidance_view(base, width=8)
    assert torch.equal(before, torch.get_rng_state())
    x, t, text = question(base)
    with torch.no_grad():
        found = view.x0(x, t, text, guidance=torch.tensor([1.0, 3.0, 8.0]))
    torch.testing.assert_close(found, answer(base, (x, t, text)))
    assert base.unet.config.get("time_cond_proj_dim") is None


def test_shifted_times_go_towards_noise() -> None:
    target, t = gaussian_target(), torch.tensor([0, 100, 600, 950, 999])
    assert torch.equal(Shifted(target, 0.0).times(t, torch.Generator()), t)
    later = torch.stack([Shifted(target, 0.5).times(t, torch.Generator().manual_seed(i))
                         for i in range(50)])  # fmt: skip
    assert bool(((later >= t) & (later <= 999)).all())
    assert later[:, 2].max() > 850
    with pytest.raises(ValueError, match=r"^ratio must be in \[0, 1\], got 1.5$"):
        Shifted(target, 1.5)
