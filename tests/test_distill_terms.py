"""Rollouts, consistency terms and adversaries: whose gradient goes where, against what is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safetybench import registry
from safetybench.contracts import Means
from safetybench.distill import rollouts, rules
from safetybench.distill import times as sampled
from safetybench.distill.adversary import Adversary, Heads, features, heads_for, map_mean
from safetybench.distill.consistency import consistency, stored
from safetybench.distill.guidance import Triple, swapped
from safetybench.distill.lab import Lab
from safetybench.distill.rollouts import Roll, ddim, simulate, trajectories
from safetybench.distill.schedule import Group, Stage, Step
from safetybench.distill.signal import bootstrap
from safetybench.distill.terms import Scores, follow, match, once, regress
from safetybench.distill.training import train
from tests.gaussian import (
    CONDITIONAL,
    NULL,
    Exact,
    Normal,
    gaussian_target,
    linear_lab,
    posterior_mean,
)
from tests.targets import tiny_target

PROMPTS = ["a red fish", "a blue star", "a green moon"]
GRID = (899, 674, 449, 224)


def tiny_lab(batch: int = 3) -> Lab:
    target = tiny_target("velocity")
    return Lab(teacher=target, student=target.trainable_copy(), ids=target.tokenize(PROMPTS),
               batch=batch)  # fmt: skip


def at(index: int, total: int = 100) -> Step:
    return Step(index=index, total=total, seed=3)


class Recorder:
    """A linear student that remembers what it was asked and in which mode."""

    def __init__(self) -> None:
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.asked: list[tuple[Tensor, int, bool]] = []

    def x0(self, latents: Tensor, t: Tensor, text: Tensor) -> Tensor:
        assert len(set(t.tolist())) == 1
        self.asked.append((latents, int(t[0]), torch.is_grad_enabled()))
        return self.scale * latents


# Rollouts


def test_a_simulated_chain_makes_the_native_steps_and_only_the_last_has_a_gradient() -> None:
    lab, stops = linear_lab(batch=4), set()
    for index in range(40):
        lab.student = student = Recorder()
        roll = simulate(lab, GRID)(at(index), True)
        times = [t for _, t, _ in student.asked]
        assert times == list(GRID[: len(times)])
        assert roll.t == times[-1]
        assert [grad for *_, grad in student.asked] == [False] * (len(times) - 1) + [True]
        # The noise is pure at first, and what the last step reads is a constant.
        assert torch.equal(student.asked[0][0], lab.draw(at(index)).noise)
        x = student.asked[-1][0]
        assert not x.requires_grad
        (slope,) = torch.autograd.grad(roll.x.sum(), student.scale)
        torch.testing.assert_close(slope, x.sum())
        stops.add(len(times))
    assert stops == {1, 2, 3, 4}


def test_a_simulated_step_renoises_the_students_own_sample() -> None:
    lab = linear_lab(batch=4)
    lab.student = student = Recorder()
    index = next(i for i in range(99) if simulate(lab, GRID)(at(i), False).t == GRID[2])
    student.asked.clear()
    roll = simulate(lab, GRID)(at(index), False)
    assert not roll.x.requires_grad
    xs = [x for x, *_ in student.asked]
    renoise = at(index).rng("renoise")
    for now, then, time in zip(xs, xs[1:], GRID[1:], strict=False):
        wanted = lab.process.add(0.5 * now, lab.noise(renoise), lab.times(time))
        torch.testing.assert_close(then, wanted)


def test_a_shared_rollout_is_made_once_a_turn() -> None:
    calls: list[tuple[Step, bool]] = []

    def rollout(step: Step, with_grad: bool) -> Roll:
        calls.append((step, with_grad))
        return Roll(torch.zeros(1), torch.zeros(1), 0)

    shared = once(rollout)
    assert shared(at(0), True) is shared(at(0), True)
    assert shared(at(0), False) is not shared(at(1), False)
    assert calls == [(at(0), True), (at(0), False), (at(1), False)]


def test_ddim_is_diffusers_step_and_all_new_noise_is_renoising() -> None:
    target, rng = tiny_target("teacher"), torch.Generator().manual_seed(0)
    x, clean, noise = torch.randn(3, 2, 4, 8, 8, generator=rng)
    now, then = torch.tensor([800, 800]), torch.tensor([300, 300])
    eps = target.process.convert(clean, "sample", "epsilon", x, now)
    scheduler = target.scheduler
    scheduler.set_timesteps(2)  # 500 apart
    wanted = scheduler.step(eps, 800, x).prev_sample
    torch.testing.assert_close(ddim(target.process, x, clean, now, then), wanted, rtol=1e-4,
                               atol=1e-4)  # fmt: skip
    renoised = ddim(target.process, x, clean, now, then, 1.0, noise)
    assert torch.equal(renoised, target.process.add(clean, noise, then))
    assert ddim(target.process, x, clean, now, None) is clean


def test_part_new_noise_keeps_the_variance() -> None:
    target = gaussian_target()
    rng = torch.Generator().manual_seed(0)
    clean, old, new = torch.randn(3, 4000, 1, 2, 2, generator=rng)
    clean = 0.6 * clean
    now, then = torch.full((4000,), 700), torch.full((4000,), 400)
    x = target.process.add(clean, old, now)
    for eta in (0.0, 0.3, 0.9):
        found = ddim(target.process, x, clean, now, then, eta, new)
        a, s = target.process.alpha(then[:1]), target.process.sigma(then[:1])
        assert found.var().item() == pytest.approx((a**2 * 0.36 + s**2).item(), rel=0.03)


def test_stored_trajectories_are_the_targets_own_samples() -> None:
    lab = tiny_lab()
    paths = trajectories(lab, 5, 2.5)
    assert paths.times == lab.teacher.sampler_times
    assert paths.x.shape == (5, 5, *lab.teacher.latent_shape)
    assert paths.clean.shape == (4, 5, *lab.teacher.latent_shape)
    wanted = lab.teacher.sample_latents(lab.text(paths.rows), paths.x[0], guidance=2.5)
    torch.testing.assert_close(paths.x[-1], wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(paths.x[-1], paths.clean[-1])
    assert paths.scale.tolist() == [2.5] * 5


def test_trajectories_are_made_once_for_a_teacher_its_prompts_and_scales(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab, calls, run = tiny_lab(), [], rollouts._run

    def counted(*args: Any) -> Any:
        calls.append(args)
        return run(*args)

    monkeypatch.setattr(rollouts, "_run", counted)
    first = trajectories(lab, 3, 2.0)
    again = Lab(teacher=lab.teacher, student=lab.student, ids=lab.ids, batch=7)
    assert trajectories(again, 3, 2.0) is first
    assert trajectories(lab, 3, 2.0, 2.0) is first
    again.ids = lab.ids.flip(0)  # the rows would name other prompts
    ranged = trajectories(lab, 3, 1.5, 4.0)
    for other in (trajectories(lab, 4, 2.0), trajectories(again, 3, 2.0), ranged,
                  trajectories(tiny_lab(), 3, 2.0)):  # fmt: skip
        assert other is not first
    assert len(calls) == 5
    assert bool(((ranged.scale >= 1.5) & (ranged.scale <= 4)).all())
    assert len(set(ranged.scale.tolist())) == 3


def test_a_range_of_scales_guides_each_path_by_its_own() -> None:
    lab = tiny_lab()
    paths = trajectories(lab, 3, 1.5, 4.0)
    for i, scale in enumerate(paths.scale.tolist()):
        text = lab.text(paths.rows[i : i + 1])
        wanted = lab.teacher.sample_latents(text, paths.x[0, i : i + 1], guidance=scale)
        torch.testing.assert_close(paths.x[-1, i : i + 1], wanted, rtol=1e-4, atol=1e-4)


# The fake score and the regression


def test_the_fake_score_follows_the_student() -> None:
    lab = linear_lab(batch=32)
    fake, its = lab.follower()
    with torch.no_grad():
        lab.student.unet.mean.fill_(-0.5)
    loss = follow(lab, fake, simulate(lab, (999,)), Triple())
    before = [w.detach().clone() for w in lab.student.unet.parameters()]
    train([Stage(steps=300, groups=[Group(name="fake", weights=its, loss=loss, lr=0.03)])], seed=0)
    assert fake.unet.mean.item() == pytest.approx(-0.5, abs=0.02)
    assert fake.unet.log_spread.exp().item() == pytest.approx(1.0, abs=0.03)
    assert all(torch.equal(a, b) for a, b in
               zip(before, lab.student.unet.parameters(), strict=True))  # fmt: skip


def test_prompts_are_dropped_only_for_a_guided_fake_score() -> None:
    lab = linear_lab(batch=64)
    for triple, dropped in ((Triple(real=3.0), 0.0), (Triple(fake=3.0), 0.1)):
        shares: list[float] = []

        class Spy:
            null_text = lab.teacher.null_text

            def x0(self, x: Tensor, t: Tensor, text: Tensor, said: Any = shares) -> Tensor:
                said.append((text == 0).float().mean().item())
                return torch.zeros_like(x)

        for index in range(20):
            follow(lab, Spy(), simulate(lab, (999,)), triple)(at(index))
        assert sum(shares) / 20 == pytest.approx(dropped, abs=0.03)


def test_the_regression_is_paired_by_noise_and_prompt() -> None:
    lab = linear_lab(batch=4)
    paths = trajectories(lab, 3, 1.0)

    class Oracle:
        def x0(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
            which = (x[:, None] == paths.x[0][None]).flatten(2).all(2).float().argmax(1)
            assert t.tolist() == [700] * 4
            return paths.clean[-1][which]

    lab.student = Oracle()
    assert regress(lab, 700, 3, 1.0)(at(0)).item() == 0


# Consistency


class Path:
    """The exact consistency function of Gaussian data: where the probability flow ends."""

    def __init__(self, lab: Lab, data: Normal = CONDITIONAL) -> None:
        self.process, self.data = lab.process, data

    def x0(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        mean, spread = self.data
        width = (alpha**2 * spread**2 + sigma**2).sqrt()
        answer: Tensor = mean + spread * (x - alpha * mean) / width
        return answer


def source(lab: Lab, data: Normal = CONDITIONAL) -> Callable[[Step], tuple[Tensor, Tensor]]:
    def draws(step: Step) -> tuple[Tensor, Tensor]:
        text = torch.ones(lab.batch, 1, 1)
        return data.mean + data.spread * lab.noise(step.rng("clean")), text

    return draws


def mean_loss(loss: Callable[[Step], Tensor], count: int = 30) -> float:
    return sum(loss(at(i)).item() for i in range(count)) / count


def test_the_exact_consistency_function_is_consistent_and_the_denoiser_is_not() -> None:
    lab = linear_lab(batch=8)
    exact = Path(lab)

    def value(student: Any, points: int, **options: Any) -> float:
        lab.student = student
        return mean_loss(consistency(lab, student, source(lab), first=999, points=points,
                                     scale=1.0, **options))  # fmt: skip

    fine = value(exact, 400)
    assert fine < value(exact, 20) / 20 < 1e-3  # what is left is the solver's error
    assert value(lab.teacher, 400) > 20 * fine
    # In segments the student's step is DDIM to the end of each, exact no longer; in short ones
    # the teacher's own prediction is nearly enough.
    assert value(lab.teacher, 400, segments=lambda step: 200) < 0.1 * value(lab.teacher, 400)


@pytest.mark.parametrize(
    "options", [{"segments": lambda step: 1}, {"hops": 1, "eta": 0.0}, {"hops": 1}]
)
def test_one_segment_and_one_sure_hop_are_plain_consistency(options: dict[str, Any]) -> None:
    lab = tiny_lab()
    plain = consistency(lab, lab.teacher, stored(lab, 4, 2.0), first=899, points=6, scale=2.0)
    other = consistency(lab, lab.teacher, stored(lab, 4, 2.0), first=899, points=6, scale=2.0,
                        **options)  # fmt: skip
    for index in range(4):
        assert torch.equal(plain(at(index)), other(at(index)))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("recipes/hyper_sd", {"segments": (1,)}),
        ("recipes/scott", {"hops": 1, "eta": 0.0, "gan": 0.0}),
    ],
)
def test_recipes_that_vary_consistency_have_it_as_a_case(name: str, options: Any) -> None:
    shared = {"points": 6, "pairs": 4, "batch": 3, "guidance": 2.0}
    values = []
    cases: list[tuple[str, dict[str, Any]]] = [("recipes/consistency", {}), (name, options)]
    for each, more in cases:
        lab = tiny_lab()
        plan: Any = registry.create(each, {**shared, **more})
        group = plan.plan(lab, 10).stages[-1].groups[-1]
        values.append([group.loss(at(index)).item() for index in range(4)])
    assert values[0] == pytest.approx(values[1], rel=1e-5, abs=1e-6)


def test_stochastic_hops_change_the_goal_and_several_shorten_what_is_left() -> None:
    lab = tiny_lab()

    def value(**options: Any) -> Tensor:
        return consistency(lab, lab.teacher, stored(lab, 4, 2.0), first=899, points=6, scale=2.0,
                           **options)(at(1))  # fmt: skip

    assert len({value(eta=eta, hops=hops).item() for eta in (0.0, 0.2) for hops in (1, 3)}) == 4


def test_a_consistency_loss_teaches_the_student_alone() -> None:
    lab = tiny_lab()
    target = lab.teacher.trainable_copy()
    loss = consistency(lab, target, stored(lab, 4, 2.0), first=899, points=6, scale=2.0)(at(0))
    loss.backward()
    assert any(w.grad is not None for w in lab.student.unet.parameters())
    assert all(w.grad is None for w in target.unet.parameters())
    assert all(w.grad is None for w in lab.teacher.unet.parameters())


class Signal:
    """The signal y = (x_t - sigma e) / alpha on the path of Gaussian data that starts at e."""

    def __init__(self, lab: Lab, spread: float) -> None:
        self.process, self.spread = lab.process, spread
        self.start = lab.times(999)

    def x0(self, noise: Tensor, t: Tensor, text: Tensor) -> Tensor:
        def parts(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            alpha, sigma = self.process.alpha(t), self.process.sigma(t)
            return alpha, sigma, (alpha**2 * self.spread**2 + sigma**2).sqrt()

        (first, _, width), (alpha, sigma, narrow) = parts(self.start), parts(t)
        mean = CONDITIONAL.mean
        x = alpha * mean + narrow * (noise - first * mean) / width
        return (x - sigma * noise) / alpha


def test_bootstrapping_is_exact_for_the_signal_of_the_path() -> None:
    lab = linear_lab(batch=8)
    times = [*sampled.grid(1000, 50), 0]

    def value(student: Any) -> float:
        lab.student = student
        loss = bootstrap(lab, inputs=times, times=times, scale=1.0, boundary=0.0)
        return sum(loss(at(i)).item() for i in range(60, 100)) / 40

    right = value(Signal(lab, CONDITIONAL.spread))
    assert right < 2e-6  # what is left is the size of the step
    for wrong in (Signal(lab, 0.5), Signal(lab, 0.7), gaussian_target()):
        assert value(wrong) > 10 * right


# Coupled terms


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_decoupled_terms_at_one_time_are_dmd2s(scale: float) -> None:
    lab = linear_lab()
    fake = Exact(lab.process, lab.student, lab.teacher.null_text)
    rollout = simulate(lab, (800,))
    recipe: Any = registry.create("recipes/decoupled_dmd", {"guidance": scale, "coupled": True})
    lab.batch = 32
    theirs = match(lab, fake, rollout, lambda s: rules.dmd(s.x, s.real, s.fake),
                   Triple(real=scale))  # fmt: skip
    for index in range(3):
        ours = recipe.term(lab, fake, rollout)(at(index))
        weights = list(lab.student.unet.parameters())
        found = torch.autograd.grad(ours, weights)
        wanted = torch.autograd.grad(theirs(at(index)), weights)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


# Times


def test_times_lie_where_they_should() -> None:
    rng = torch.Generator().manual_seed(0)
    t = sampled.uniform(5000, 1000, rng, 0.1, 0.6)
    assert (int(t.min()), int(t.max())) == (100, 599)
    assert sampled.uniform(3, 1000, rng, 0.5, 0.5).tolist() == [500] * 3
    late = sampled.above(torch.tensor([0, 500, 979, 999] * 500), 1000, rng).reshape(500, 4)
    assert bool((late >= torch.tensor([0, 500, 979, 999])).all())
    assert bool((late[:, :2] < 980).all())
    assert late[:, 0].max() > 950
    angle = sampled.atan_lognormal(5000, rng, 0.2, 1.6)
    assert bool(((angle > 0) & (angle <= torch.pi / 2)).all())
    assert angle.tan().log().median().item() == pytest.approx(0.2, abs=0.08)
    assert sampled.grid(1000, 4) == [999, 749, 500, 250]
    assert sampled.grid(1000, 3, 899) == [899, 599, 300]


def test_segments_cut_the_grid_into_equal_parts() -> None:
    assert [sampled.segment_end(i, 8, 4) for i in range(8)] == [2, 2, 4, 4, 6, 6, 8, 8]
    assert [sampled.segment_end(i, 8, 1) for i in range(8)] == [8] * 8
    assert [sampled.segment_end(i, 7, 3) for i in range(7)] == [3, 3, 3, 6, 6, 6, 7]


# Adversaries


def test_features_stop_before_the_decoder_and_carry_the_gradient() -> None:
    target = tiny_target("velocity")
    reached: list[str] = []
    for name in ("conv_in", "mid_block", "conv_out"):
        module = target.unet.get_submodule(name)
        module.register_forward_hook(lambda *args, name=name: reached.append(name))
    up = target.unet.up_blocks[0].register_forward_hook(lambda *args: reached.append("up"))
    x = torch.randn(2, *target.latent_shape, requires_grad=True)
    text = target.embed(target.tokenize(PROMPTS[:2]))
    hooks = [len(b._forward_hooks) for b in (target.unet.down_blocks[-1], target.unet.mid_block)]
    maps = features(target, x, torch.tensor([500, 500]), text)
    assert reached == ["conv_in", "mid_block"]
    assert [m.shape[1] for m in maps] == [16, 16]
    assert hooks == [
        len(b._forward_hooks) for b in (target.unet.down_blocks[-1], target.unet.mid_block)
    ]
    (slope,) = torch.autograd.grad(torch.stack([m.sum() for m in maps]).sum(), x)
    assert bool((slope != 0).any())
    up.remove()


def test_heads_are_seeded_and_leave_the_global_stream_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    heads = Heads([8, 16])
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in
               zip(heads.parameters(), Heads([8, 16]).parameters(), strict=True))  # fmt: skip
    maps = [torch.zeros(2, 8, 4, 4), torch.zeros(2, 16, 2, 2)]
    assert heads(maps).shape == (2, 20)
    assert map_mean(maps).shape == (2, 4)


def fixed(lab: Lab, x: Tensor) -> rollouts.Rollout:
    return lambda step, with_grad: Roll(x, lab.text(torch.zeros(lab.batch, dtype=torch.int64)), 0)


@pytest.mark.parametrize("kind", ["softplus", "hinge"])
@pytest.mark.parametrize("r1", [0.0, 0.1])
def test_heads_learn_to_tell_real_from_made_and_the_generator_moves_to_real(
    kind: Any, r1: float
) -> None:
    lab = tiny_lab(batch=4)
    lab.latents = 0.1 * torch.randn(4, *lab.teacher.latent_shape) + 2
    lab.captions = lab.teacher.tokenize([PROMPTS[0]] * 4)
    made = torch.full((4, *lab.teacher.latent_shape), -2.0)
    heads = heads_for(lab, lab.teacher)
    judge = Adversary(lab, lab.teacher, heads, kind=kind, high=0.5, r1=r1)
    its = list(heads.parameters())
    group = Group(name="d", weights=its, loss=judge.discriminator(fixed(lab, made)), lr=3e-3)
    train([Stage(steps=30, groups=[group])], seed=0)
    with torch.no_grad():
        text = lab.text(torch.zeros(4, dtype=torch.int64))
        real = judge.logits(lab.latents, text, at(0), "judged")
        fake = judge.logits(made, text, at(0), "judged")
    assert real.mean() > 0.3 > -0.3 > fake.mean()
    x = made.clone().requires_grad_()
    loss = judge.generator(fixed(lab, x), 1.0)
    first = loss(at(0))
    (slope,) = torch.autograd.grad(first, x)
    with torch.no_grad():
        moved = x - 0.05 * slope / slope.abs().mean()
        assert judge.generator(fixed(lab, moved), 1.0)(at(0)) < first
        assert judge.logits(moved, text, at(0), "judged").mean() > fake.mean()
    (half,) = torch.autograd.grad(judge.generator(fixed(lab, x), 0.5)(at(0)), x)
    torch.testing.assert_close(half, slope / 2)
    assert not any(w.requires_grad for w in lab.teacher.unet.parameters())


def test_the_losses_are_the_published_ones() -> None:
    lab = tiny_lab(batch=2)
    lab.latents = torch.zeros(2, *lab.teacher.latent_shape)
    lab.captions = lab.teacher.tokenize(PROMPTS[:2])
    logits = {"judged": torch.tensor([[0.5], [-2.0]]), "judged real": torch.tensor([[0.2], [3.0]])}
    made = fixed(lab, torch.zeros(2, *lab.teacher.latent_shape))
    values = {}
    for kind in ("softplus", "hinge"):
        judge = Adversary(lab, lab.teacher, map_mean, kind=kind)
        judge.logits = lambda x, text, step, purpose: logits[purpose]  # type: ignore[method-assign]
        values[kind] = (judge.generator(made, 2.0)(at(0)).item(),
                        judge.discriminator(made, 2.0)(at(0)).item())  # fmt: skip
    # By hand: softplus(-0.5) = 0.4741, softplus(2) = 2.1269, softplus(0.5) = 0.9741,
    # softplus(-2) = 0.1269, softplus(-0.2) = 0.5981, softplus(-3) = 0.0486.
    assert values["softplus"] == pytest.approx(
        (0.4741 + 2.1269, 0.9741 + 0.1269 + 0.5981 + 0.0486), abs=2e-4
    )
    assert values["hinge"] == pytest.approx((1.5, 1.5 + 0.8), abs=1e-5)


def test_the_exact_fake_score_is_bayes_rule() -> None:
    lab = linear_lab()
    x, t = torch.randn(4, 1, 4, 4), torch.tensor([5, 300, 700, 990])
    fake = Exact(lab.process, lab.student, lab.teacher.null_text)
    found = fake.x0(x, t, torch.ones(4, 1, 1))
    torch.testing.assert_close(found, posterior_mean(lab.process, x, t, 0.0, 1.0))
    null = lab.teacher.x0(x, t, torch.zeros(4, 1, 1))
    torch.testing.assert_close(null, posterior_mean(lab.process, x, t, *NULL))


def test_a_swap_asks_the_teacher_about_other_prompts() -> None:
    target = tiny_target("velocity")
    lab = Lab.open(target, ["a cat", "a dog"], 4, Means())
    swap = swapped(lab, ["a tree", "a car"])
    roll = Roll(torch.zeros(4, *target.latent_shape), torch.zeros(1), 0, torch.tensor([0, 1, 1, 0]))
    wanted = target.embed(target.tokenize(["a tree", "a car", "a car", "a tree"]))
    torch.testing.assert_close(swap(roll), wanted)
    with pytest.raises(ValueError, match="2 prompts to swap for, got 1"):
        swapped(lab, ["a tree"])


def test_a_swap_changes_what_the_student_is_pulled_to_and_no_draw() -> None:
    target = tiny_target("velocity")
    lab = Lab.open(target, ["a cat", "a dog"], 4, Means())
    lab.weights()
    fake, _ = lab.follower()
    asked: list[Tensor] = []

    def rule(scores: Scores) -> Tensor:
        asked.append(scores.real)
        return scores.fake - scores.real

    step = Step(index=0, total=1, seed=0)
    roll = simulate(lab, (699,))
    for condition in (None, swapped(lab, ["a cat", "a dog"]), swapped(lab, ["a car", "a tree"])):
        match(lab, fake, roll, rule, Triple(real=2.0), condition=condition)(step)
    negative = target.embed(target.tokenize(["a boat"]))
    match(lab, fake, roll, rule, Triple(real=2.0), negative=negative)(step)
    torch.testing.assert_close(asked[0], asked[1])
    assert not torch.allclose(asked[0], asked[2])
    assert not torch.allclose(asked[0], asked[3])
