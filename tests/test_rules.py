"""The gradient rules, where both scores are known in closed form: the student must arrive.

Data N(1.5, 0.6^2), a one-step student m + exp(l) z, an exact teacher and an exact fake score, in
the recipes' own term, rollout and loop. A rule with a wrong sign or weight does not get there.
"""

from __future__ import annotations

import doctest
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from safetybench.distill import rules
from safetybench.distill.guidance import Triple, guided, resolve
from safetybench.distill.process import Process
from safetybench.distill.rollouts import simulate
from safetybench.distill.schedule import Group, Stage, Step
from safetybench.distill.terms import Scores, match
from safetybench.distill.training import train
from tests.gaussian import (
    CONDITIONAL,
    NULL,
    Exact,
    Normal,
    gaussian_target,
    linear_lab,
    scaled_linear,
)

Rule = Callable[[Scores], Tensor]
TEACHER = gaussian_target()


def distilled(
    rule: Rule,
    triple: Triple | None = None,
    *,
    through: bool = False,
    null: Normal = NULL,
    steps: int = 200,
) -> Normal:
    """Return the student that a rule ends with."""
    lab = linear_lab(null)
    fake = Exact(lab.process, lab.student, lab.teacher.null_text)
    loss = match(lab, fake, simulate(lab, (999,)), rule, triple or Triple(), through=through)
    weights = list(lab.student.unet.parameters())
    group = Group(name="student", weights=weights, loss=loss, lr=0.05)
    train([Stage(steps=steps, groups=[group])], seed=0)
    mean, log_spread = weights
    return Normal(mean.item(), log_spread.exp().item())


def arrives(student: Normal, at: Normal = CONDITIONAL) -> bool:
    return abs(student.mean - at.mean) < 0.01 and abs(student.spread - at.spread) < 0.03


def ask(scores: Scores, scale: float, teacher: Any = TEACHER) -> Tensor:
    return guided(teacher, scores.x_t, scores.t, scores.roll.text, scale)


def dmd(s: Scores) -> Tensor:
    return rules.dmd(s.x, s.real, s.fake)


def vsd(s: Scores) -> Tensor:
    return rules.vsd(s.real, s.fake, s.alpha, s.sigma)


def sid(alpha: float) -> Rule:
    return lambda s: rules.sid(s.x, s.real, s.fake, alpha)


def decoupled(scale: float, teacher: Any = TEACHER) -> Rule:
    def rule(s: Scores) -> Tensor:
        own, null = ask(s, 1.0, teacher), ask(s, 0.0, teacher)
        return rules.dm(own, s.fake) + (scale - 1) * rules.ca(own, null)

    return rule


RULES: dict[str, tuple[Rule, bool]] = {
    "dmd": (dmd, False),
    "vsd": (vsd, False),
    "sid 0.5": (sid(0.5), True),
    "sid 1": (sid(1.0), True),
    "sid 1.2": (sid(1.2), True),
    "decoupled": (decoupled(1.0), False),
}


@pytest.mark.parametrize("name", RULES)
def test_matching_a_known_distribution_arrives_at_it(name: str) -> None:
    rule, through = RULES[name]
    student = distilled(rule, through=through)
    assert arrives(student), student


WRONG: dict[str, tuple[Rule, bool]] = {
    "sign": (lambda s: -dmd(s), False),
    "swapped": (lambda s: rules.dmd(s.x, s.fake, s.real), False),
    "doubled fake": (lambda s: rules.dmd(s.x, s.real, 2 * s.fake), False),
    "scaled real": (lambda s: rules.dmd(s.x, 1.1 * s.real, s.fake), False),
    "no fake": (lambda s: rules.dmd(s.x, s.real, s.x), False),
    "no real": (lambda s: rules.dmd(s.x, s.x, s.fake), False),
    "noise for x0": (lambda s: s.noise - s.real, False),
    "alpha and sigma swapped in the noising": (
        lambda s: s.fake - TEACHER.x0(s.sigma * s.x + s.alpha * s.noise, s.t, s.roll.text),
        False,
    ),
    "the fake at another time": (
        lambda s: s.fake - TEACHER.x0(s.x_t, (s.t + 100).clamp(max=999), s.roll.text),
        False,
    ),
    "sid's sign": (lambda s: -sid(1.0)(s), True),
    "sid's fake from the sample": (lambda s: rules.sid(s.x, s.real, s.x, 1.0), True),
    "asked as the empty prompt": (lambda s: s.fake - ask(s, 0.0), False),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_does_not_arrive(name: str) -> None:
    rule, through = WRONG[name]
    student = distilled(rule, through=through)
    assert not arrives(student), student


# Guidance that is baked in


def baked(weight: Callable[[Tensor, Tensor], Tensor], scale: float, null: Normal = NULL) -> Normal:
    """Return where the expected gradient E_t w(t) (fake - guided real) of mean and spread is 0.

    For x = m + s z and g = a S^2 / (a^2 S^2 + sigma^2), E[fake] = m and Cov(fake, z) = g a s,
    while the guided teacher is linear in x_t: E = A + B a m and Cov = B a s.
    """
    process, t = scaled_linear(), torch.arange(20, 980)
    a, s = process.alpha(t, torch.float64).flatten(), process.sigma(t, torch.float64).flatten()
    w = weight(a, s)

    def gain(spread: float) -> Tensor:
        return a * spread**2 / (a**2 * spread**2 + s**2)

    parts = [(1 - scale, null), (scale, CONDITIONAL)]
    slope = sum((k * gain(n.spread) for k, n in parts), torch.zeros_like(a))
    offset = sum((k * n.mean * (1 - a * gain(n.spread)) for k, n in parts), torch.zeros_like(a))
    mean = float((w * offset).sum() / (w * (1 - slope * a)).sum())
    low, high = 1e-3, 10.0
    for _ in range(60):
        middle = (low * high) ** 0.5
        grows = float((w * a * (gain(middle) - slope)).sum()) < 0
        low, high = (middle, high) if grows else (low, middle)
    return Normal(mean, low)


# By weight(t) on the difference of x0-predictions.
WEIGHTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "vsd": lambda a, s: a * s,
    "none": lambda a, s: torch.ones_like(a),
    "swapped": lambda a, s: s / a,
}


def test_guidance_arrives_at_its_fixed_point() -> None:
    aim = baked(WEIGHTS["vsd"], 2.0)
    assert aim.mean > CONDITIONAL.mean + 0.7
    assert aim.spread < CONDITIONAL.spread / 2
    student = distilled(vsd, Triple(real=2.0), steps=400)
    assert student.mean == pytest.approx(aim.mean, abs=0.02)
    assert student.spread == pytest.approx(aim.spread, abs=0.03)
    for wrong in ("none", "swapped"):  # the weight tells: the student is not where these go
        assert abs(student.mean - baked(WEIGHTS[wrong], 2.0).mean) > 0.08


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("none", lambda s: s.fake - s.real),
        ("swapped", lambda s: s.sigma / s.alpha * (s.fake - s.real)),
    ],
)
def test_a_dropped_or_swapped_weight_ends_elsewhere(name: str, wrong: Rule) -> None:
    student = distilled(wrong, Triple(real=2.0), steps=300)
    assert abs(student.mean - baked(WEIGHTS["vsd"], 2.0).mean) > 0.08
    assert abs(student.mean - baked(WEIGHTS[name], 2.0).mean) < 0.05  # and where theory says


def test_a_normalised_rule_overshoots_and_narrows_too() -> None:
    student = distilled(dmd, Triple(real=2.0))
    assert student.mean > CONDITIONAL.mean + 0.7
    assert student.spread < CONDITIONAL.spread / 1.5


def test_guidance_away_from_an_equally_wide_condition_is_a_translation() -> None:
    null = Normal(0.0, CONDITIONAL.spread)
    student = distilled(dmd, Triple(real=2.0), null=null)
    assert arrives(student, Normal(2 * CONDITIONAL.mean - null.mean, CONDITIONAL.spread)), student


def test_guidance_alone_diverges_and_together_it_does_not() -> None:
    null = Normal(0.0, CONDITIONAL.spread)
    teacher = gaussian_target(null)
    alone = [
        distilled(lambda s: rules.ca(ask(s, 1.0, teacher), ask(s, 0.0, teacher)),
                  null=null, steps=steps).mean
        for steps in (100, 200)
    ]  # fmt: skip
    assert alone[1] > 1.9 * alone[0] > 4 * CONDITIONAL.mean  # as fast as the steps allow
    both = distilled(decoupled(2.0, teacher), null=null)
    assert arrives(both, Normal(2 * CONDITIONAL.mean, CONDITIONAL.spread)), both


def test_without_a_fake_score_the_spread_collapses() -> None:
    student = distilled(lambda s: rules.sds(s.x, s.real, s.alpha, s.sigma), steps=400)
    assert abs(student.mean - CONDITIONAL.mean) < 0.01
    assert student.spread < 0.1


# Equalities


def random(*shape: int) -> Tensor:
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def scores(seed: int = 0, scale: float = 1.0) -> Scores:
    """Return what a rule reads, of a student that is not there yet."""
    lab = linear_lab(batch=6)
    found: list[Scores] = []

    def rule(s: Scores) -> Tensor:
        found.append(s)
        return torch.zeros_like(s.x)

    fake = Exact(lab.process, lab.student, lab.teacher.null_text)
    loss = match(lab, fake, simulate(lab, (999,)), rule, Triple(real=scale))
    loss(Step(index=0, total=1, seed=seed))
    return found[0]


def test_a_pulled_sample_moves_by_the_gradient() -> None:
    x, gradient, _, _ = random(2, 1, 2, 2)
    x.requires_grad_()
    (found,) = torch.autograd.grad(rules.pull(x, gradient), x)
    torch.testing.assert_close(found, gradient / x.numel())


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 1.2, 2.0])
def test_sid_of_detached_networks_is_dmd_for_every_alpha(alpha: float) -> None:
    x, real, fake, _ = random(3, 1, 4, 4)
    x.requires_grad_()
    (found,) = torch.autograd.grad(rules.sid(x, real, fake, alpha), x)
    (wanted,) = torch.autograd.grad(rules.pull(x, rules.dmd(x, real, fake).detach()), x)
    torch.testing.assert_close(found, wanted)


def test_sids_gradient_is_the_derivative_of_the_scalar_with_the_normaliser_held() -> None:
    process, t = scaled_linear(), torch.tensor([300, 600])
    x, noise, _, _ = random(2, 1, 2, 2)
    held = rules.normaliser(x, process.add(x, noise, t).tanh(), 1e-5)

    def scalar(x: Tensor, fixed: bool) -> Tensor:
        x_t = process.add(x, noise, t)
        one, other = x_t.tanh(), 0.5 * x_t
        if fixed:
            gap = one - other
            return (gap * ((one - x) - 1.2 * gap) / held).mean()
        return rules.sid(x, one, other, 1.2)

    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(scalar(leaf, False), leaf)
    for place in ((0, 0, 0, 0), (1, 0, 1, 1)):
        step = torch.zeros_like(x)
        step[place] = 1e-5
        slope = (scalar(x + step, True) - scalar(x - step, True)) / 2e-5
        torch.testing.assert_close(found[place], slope, rtol=1e-6, atol=1e-9)


def epsilon(process: Process, clean: Tensor, s: Scores, t: Tensor | None = None) -> Tensor:
    return process.convert(clean, "sample", "epsilon", s.x_t, s.t if t is None else t)


def test_vsd_is_dmd_with_another_weight_in_noise_space() -> None:
    s, process = scores(), scaled_linear()
    by_noise = s.sigma**2 * (epsilon(process, s.real, s) - epsilon(process, s.fake, s))
    torch.testing.assert_close(vsd(s), by_noise, rtol=1e-4, atol=1e-5)
    plain = rules.dmd(s.x, s.real, s.fake) * rules.normaliser(s.x, s.real)
    torch.testing.assert_close(vsd(s), s.alpha * s.sigma * plain)


def test_sds_is_vsd_whose_fake_knows_the_noise() -> None:
    s, process = scores(), scaled_linear()
    found = rules.sds(s.x, s.real, s.alpha, s.sigma)
    assert torch.equal(found, rules.vsd(s.real, s.x, s.alpha, s.sigma))
    by_noise = s.sigma**2 * (epsilon(process, s.real, s) - s.noise)
    torch.testing.assert_close(found, by_noise, rtol=1e-4, atol=1e-5)


def test_asd_is_its_formula_in_noise_space_and_nothing_without_a_shift() -> None:
    s, process = scores(), scaled_linear()
    later = (s.t + 150).clamp(max=999)
    x_s = process.add(s.x, s.noise, later)
    shifted = TEACHER.x0(x_s, later, s.roll.text)
    at = (process.alpha(later), process.sigma(later))
    found = rules.asd(s.real, shifted, (s.alpha, s.sigma), at, s.x)
    first = epsilon(process, s.real, s)
    second = process.convert(shifted, "sample", "epsilon", x_s, later)
    torch.testing.assert_close(found, s.sigma**2 * (first - second), rtol=1e-4, atol=1e-5)
    none = rules.asd(s.real, s.real, (s.alpha, s.sigma), (s.alpha, s.sigma), s.x)
    assert torch.equal(none, torch.zeros_like(s.x))
    # A second term that is the true noise leaves score distillation sampling.
    told = rules.asd(s.real, s.x, (s.alpha, s.sigma), at, s.x)
    torch.testing.assert_close(told, rules.sds(s.x, s.real, s.alpha, s.sigma))


@given(scale=st.floats(-3, 8))
def test_decoupled_at_equal_times_is_dmd_before_the_normaliser(scale: float) -> None:
    s = scores(scale=scale)
    plain = rules.dmd(s.x, s.real, s.fake) * rules.normaliser(s.x, s.real)
    torch.testing.assert_close(decoupled(scale)(s), plain, rtol=1e-4, atol=1e-5)


def test_scales_one_and_zero_are_the_condition_and_the_empty_prompt_alone() -> None:
    s = scores()
    null = TEACHER.null_text.expand(6, -1, -1)
    own, bare = TEACHER.x0(s.x_t, s.t, s.roll.text), TEACHER.x0(s.x_t, s.t, null)
    assert torch.equal(ask(s, 1.0), own)
    assert torch.equal(ask(s, 0.0), bare)
    torch.testing.assert_close(ask(s, -1.0), 2 * bare - own)
    scale = torch.tensor([1.0, 0.0, 3.0, -1.0, 1.0, 0.5])
    mixed = guided(TEACHER, s.x_t, s.t, s.roll.text, scale)
    for i, each in enumerate(scale.tolist()):
        torch.testing.assert_close(mixed[i], ask(s, each)[i])
    away = guided(TEACHER, s.x_t, s.t, null, 2.0, negative=torch.ones(1, 1, 1))
    torch.testing.assert_close(away, 2 * bare - own)


def test_a_range_of_scales_is_drawn_and_shared() -> None:
    step = Step(index=3, total=5, seed=0)
    drawn = [resolve((1.5, 3.0), step.rng("guidance")) for _ in range(2)]
    assert drawn[0] == drawn[1]
    others = [resolve((1.5, 3.0), Step(index=i, total=99, seed=0).rng("guidance"))
              for i in range(99)]  # fmt: skip
    assert 1.5 <= min(others) < 1.6
    assert 2.9 < max(others) <= 3.0
    assert resolve(2.0, step.rng("guidance")) == 2.0


# Bounds


def test_equal_scores_leave_the_sample_where_it_is() -> None:
    x, score, a, s = random(2, 1, 4, 4)
    a, s = a[:, :, :1, :1], s[:, :, :1, :1]
    zero = torch.zeros_like(x)
    assert torch.equal(rules.dmd(x, score, score), zero)
    assert torch.equal(rules.vsd(score, score, a, s), zero)
    assert torch.equal(rules.dm(score, score), zero)
    assert torch.equal(rules.ca(score, score), zero)
    assert rules.sid(x, score, score).item() == 0
    for value in (rules.dmd(x, x, score), rules.sid(x, x, score), rules.dmd(x, x, x)):
        assert bool(value.isfinite().all())


def test_it_points_from_the_teacher_to_the_fake_at_the_scale_of_each_sample() -> None:
    # By hand: mean |x - real| is 1 and 4 for the two samples.
    x = torch.zeros(2, 1, 1, 2)
    real = torch.tensor([[1.0, -1.0], [4.0, 4.0]]).reshape(2, 1, 1, 2)
    fake = torch.tensor([[3.0, -1.0], [0.0, 8.0]]).reshape(2, 1, 1, 2)
    assert rules.dmd(x, real, fake).reshape(2, 2).tolist() == [[2.0, 0.0], [-1.0, 1.0]]


def test_it_does_not_change_when_everything_is_scaled_together() -> None:
    x, real, fake, _ = random(4, 2, 4, 4)
    torch.testing.assert_close(rules.dmd(3 * x, 3 * real, 3 * fake), rules.dmd(x, real, fake))


def test_the_floor_bounds_a_sample_that_the_teacher_agrees_with() -> None:
    x, _, fake, _ = random(4, 2, 4, 4)
    torch.testing.assert_close(rules.dmd(x, x, fake), (fake - x) / 0.01)
    torch.testing.assert_close(rules.dmd(x, x, fake, floor=0.5), (fake - x) / 0.5)


def test_samples_do_not_touch_each_other() -> None:
    x, real, fake, _ = random(4, 2, 4, 4)
    alone = torch.cat([rules.dmd(x[i : i + 1], real[i : i + 1], fake[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(rules.dmd(x, real, fake), alone)


def test_the_example_runs() -> None:
    assert doctest.testmod(rules).attempted > 0
    assert doctest.testmod(rules).failed == 0
