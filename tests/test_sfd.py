"""Score Forgetting Distillation: its loss against a plain one, its overrides, its effect."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safetybench import registry
from safetybench.contracts import Budget, Erasure, SafetyBenchError, Unavailable
from safetybench.distill.schedule import Step
from safetybench.targets.saving import save_target
from safetybench.targets.spec import Sampler
from tests.gaussian import GaussianTarget, Normal, posterior_mean, scaled_linear
from tests.targets import tiny_target

# torch itself says so of its own scripts when forward derivatives are first asked for.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")

NAME = "unlearning/sfd"
COLOURS = ("red", "blue", "green")
ERASURE = Erasure(
    forget=tuple(f"a {c} fish" for c in COLOURS) * 2,
    anchor=tuple(f"a {c} star" for c in COLOURS) * 2,
    retain=tuple(f"a {c} {o}" for c in COLOURS for o in ("heart", "moon")),
    bare=("fish",),
)
SMALL: dict[str, Any] = {"batch": 3, "pairs": 6}


def sfd(**options: Any) -> Any:
    return registry.create(NAME, SMALL | options)


def helpers() -> Any:
    return importlib.import_module("safetybench.unlearning._sfd")


def importable(name: str) -> Any:
    return getattr(importlib.import_module("safetybench.unlearning.sfd"), name)


# The loss


def plain_sid(
    method: Any, lab: Any, fake: Any, time: int, about: list[str] | None, prompts: Any, turn: int
) -> Tensor:
    """Return SFD's l(p_c, s_c) as the paper writes it, in noise predictions, mean for sum."""
    step = Step(index=5, total=9, seed=3, turn=turn)
    teacher, count = lab.teacher, method.batch
    rows = torch.randint(len(prompts), (count,), generator=step.rng("prompts"))
    named = [prompts[int(row)] for row in rows]
    asked = named if about is None else [about[int(row)] for row in rows]
    s_c, p_c = (teacher.embed(teacher.tokenize(texts)) for texts in (named, asked))
    z = torch.randn((count, *teacher.latent_shape), generator=step.rng("start"))
    alphas = teacher.process.alphas_cumprod.double()
    # One-step generator: x_g = z / a - (b / a) eps(z, t_init, c), its input pure noise.
    a, b = alphas[time].sqrt(), (1 - alphas[time]).sqrt()
    said = lab.student.unet(z, time, encoder_hidden_states=s_c).sample
    x = (z - b * said) / a
    t = torch.randint(20, 980, (count,), generator=step.rng("times"))
    noise = torch.randn(x.shape, generator=step.rng("noise"))
    a, b = alphas[t].sqrt().view(-1, 1, 1, 1), (1 - alphas[t]).sqrt().view(-1, 1, 1, 1)
    x_t = (a * x + b * noise).float()

    def clean(model: Any, text: Tensor) -> Tensor:
        noises = [model.unet(x_t, t, encoder_hidden_states=states).sample
                  for states in (teacher.null_text.expand(count, -1, -1), text)]  # fmt: skip
        w = method.guidance
        x0: Tensor = (x_t - b * (noises[0] + w * (noises[1] - noises[0]))) / a
        return x0

    real, follower = clean(teacher, p_c), clean(fake, s_c)
    omega = (real - x).abs().mean(dim=(1, 2, 3), keepdim=True).detach()
    inner = (real - follower) * ((real - x) - method.alpha * (real - follower))
    loss: Tensor = (inner / omega).mean()
    return loss


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_students_loss_is_the_papers_two_terms(guidance: float) -> None:
    method = sfd(remain=0.7, forget=0.2, guidance=guidance, alpha=1.2)
    teacher, time = tiny_target("teacher"), 440
    student = tiny_target("teacher", seed=4).trainable_copy()
    student.text_encoder = teacher.text_encoder
    kept = method._lab(teacher, student, ERASURE.retain)
    lost = method._lab(teacher, student, ERASURE.forget)
    fake = tiny_target("teacher", seed=5)
    fake.text_encoder = teacher.text_encoder
    halves = (
        method._losses(kept, fake, time),
        method._losses(lost, fake, time, ERASURE.anchor),
    )
    found = method._both(*halves).student(Step(index=5, total=9, seed=3))
    wanted = 0.7 * plain_sid(method, kept, fake, time, None, ERASURE.retain, 0)
    wanted += 0.2 * plain_sid(method, lost, fake, time, list(ERASURE.anchor), ERASURE.forget, 1)
    torch.testing.assert_close(found, wanted.float(), rtol=1e-3, atol=1e-5)
    weights = list(student.unet.parameters())
    gradients = [torch.autograd.grad(loss, weights, allow_unused=True) for loss in (found, wanted)]
    for ours, theirs in zip(*gradients, strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-4)


def test_the_fake_score_is_told_the_true_prompt_and_the_halves_are_weighted_means() -> None:
    method, time = sfd(remain=0.7, forget=0.2, guidance=1.0), 440
    teacher, fake = tiny_target("teacher"), tiny_target("teacher", seed=5)
    student = teacher.clone()
    kept = method._losses(method._lab(teacher, student, ERASURE.retain), fake, time)
    lab = method._lab(teacher, student, ERASURE.forget)
    lost = method._losses(lab, fake, time, ERASURE.anchor)
    step = Step(index=0, total=1, seed=0)
    found = method._both(kept, lost).fake(step)
    wanted = 0.7 * kept.fake(step) + 0.2 * lost.fake(replace(step, turn=1))
    torch.testing.assert_close(found, wanted)
    # No anchor in it: with other overrides the fake score's loss is the same.
    same = method._losses(lab, fake, time, ERASURE.retain).fake(step)
    torch.testing.assert_close(same, lost.fake(step))


def test_a_half_without_weight_is_left_out() -> None:
    def never(step: Step) -> Tensor:
        raise AssertionError(step)

    losses = importable("Losses")
    one = losses(lambda step: torch.tensor(2.0), lambda step: torch.tensor(3.0))
    both = sfd(forget=0.0, remain=0.5)._both(one, losses(never, never))
    step = Step(index=0, total=1, seed=0)
    assert (float(both.fake(step)), float(both.student(step))) == (1.0, 1.5)


# What takes the concept's place


@pytest.mark.parametrize(
    ("forget", "anchor", "wanted"),
    [
        ("a red fish", "a red star", "a red moon"),
        ("fish on a dark background", "star on a dark background", "moon on a dark background"),
        ("a picture of brad pitt smiling", "a picture of an old man smiling",
         "a picture of moon smiling"),
        ("a fish fish", "a fish", "a fish moon"),
        ("a fish", "a pale fish", "a moon fish"),
    ],
)  # fmt: skip
def test_a_word_goes_where_forget_and_anchor_differ(forget: str, anchor: str, wanted: str) -> None:
    assert helpers().with_word(forget, anchor, "moon") == wanted


def test_a_prompt_that_is_its_own_anchor_has_no_place_for_a_word() -> None:
    with pytest.raises(ValueError, match=r"^a forget prompt and its anchor must differ, got"):
        helpers().with_word("a fish", "a  fish", "moon")


def test_every_prompt_meets_every_word_once() -> None:
    found = helpers().every_word(ERASURE, ("moon", "heart"))
    assert found.forget == tuple(f for f in ERASURE.forget for _ in range(2))
    assert found.asked[:4] == ("a red moon", "a red heart", "a blue moon", "a blue heart")


# Where the answer is known

LABELS = {"fish": Normal(1.5, 0.6), "star": Normal(-1.0, 0.3), "moon": Normal(0.4, 0.9)}


class Lines(nn.Module):
    """A Gaussian for each label."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([each.mean for each in LABELS.values()]))
        spreads = torch.tensor([each.spread for each in LABELS.values()])
        self.log_spread = nn.Parameter(spreads.log())


@dataclass(eq=False)
class Labelled(GaussianTarget):
    """A Gaussian target whose data depend on the last word of the prompt; text is its label."""

    card: dict[str, Any] = field(default_factory=dict)
    name: str = "labelled"
    takes_guidance: bool = False

    def tokenize(self, prompts: Any) -> Tensor:
        return torch.tensor([[list(LABELS).index(p.split()[-1])] for p in prompts])

    def x0(self, latents: Tensor, t: Tensor, text: Tensor) -> Tensor:
        label = text.reshape(-1, 1, 1, 1).round().long()
        mean, spread = self.unet.mean[label], self.unet.log_spread.exp()[label]
        return posterior_mean(self.process, latents, t, mean, spread)


def labelled() -> Labelled:
    return Labelled(Lines().requires_grad_(False), scaled_linear(), Sampler(steps=4, guidance=1.0))


WORDS = Erasure(forget=("a fish",) * 2, anchor=("a star",) * 2, retain=("a star", "a moon"),
                bare=("fish",))  # fmt: skip
GAUSSIAN = {"guidance": 1.0, "lr": 0.03, "fake_lr": 0.06, "time": 800, "batch": 32}


def drawn(student: Any, word: str) -> Normal:
    noise = torch.randn(4000, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    t = torch.full((4000,), student.sampler.timesteps[0])
    with torch.no_grad():
        x = student.x0(noise, t, student.embed(student.tokenize([word] * 4000)))
    return Normal(x.mean().item(), x.std().item())


def near(found: Normal, wanted: Normal) -> bool:
    return abs(found.mean - wanted.mean) < 0.12 and abs(found.spread - wanted.spread) < 0.12


@pytest.mark.parametrize("options", [{}, {"sid": 60}, {"override": "random", "others": ["star"]}])
def test_the_concept_becomes_its_override_and_the_others_stay(options: dict[str, Any]) -> None:
    made = sfd(**GAUSSIAN, **options).run(labelled(), WORDS, Budget(steps=160, seed=1))
    found = {word: drawn(made, word) for word in LABELS}
    assert near(found["fish"], LABELS["star"]), found
    assert near(found["star"], LABELS["star"]), found
    assert near(found["moon"], LABELS["moon"]), found


def test_two_others_at_random_make_a_mixture() -> None:
    # A line cannot be two Gaussians; it must lie between them, far from the fish.
    options = {"override": "random", "others": ["star", "moon"]}
    made = sfd(**GAUSSIAN, **options).run(labelled(), WORDS, Budget(steps=100, seed=1))
    assert -1.1 < drawn(made, "fish").mean < 0.5


def test_without_the_forget_half_the_concept_is_not_forgotten() -> None:
    # Its line is no one's business then: only what is shared would move, and nothing is.
    made = sfd(**GAUSSIAN, forget=0.0).run(labelled(), WORDS, Budget(steps=20, seed=1))
    start = labelled().with_sampler(Sampler(steps=1, guidance=1.0, timesteps=(800,)))
    assert drawn(made, "fish") == drawn(start, "fish")


def test_pseudo_labels_are_what_the_image_looks_like() -> None:
    target = labelled()
    rng = torch.Generator().manual_seed(0)
    texts = [target.embed(target.tokenize([word] * 30)) for word in ("star", "moon")]
    for right, word in enumerate(("star", "moon")):
        x = LABELS[word].mean + LABELS[word].spread * torch.randn(30, 1, 4, 4, generator=rng)
        found = helpers().pseudo_labels(target, x, texts, rng)
        assert (found == right).float().mean() > 0.9


def test_by_label_a_prompt_has_one_override_for_good() -> None:
    target = labelled()
    found = helpers().likeliest_word(WORDS, ("star", "moon"), target, target, 800, 1)
    # At its start the generator says little but the mean, and 0.4 is nearer to 1.5 than -1.
    assert found.forget == WORDS.forget
    assert found.asked == ("a moon", "a moon")


# The run


def test_no_image_is_read_and_none_made_by_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("an image")

    target = tiny_target("velocity")
    for name in ("encode", "decode", "generate", "draw", "sample_latents"):
        monkeypatch.setattr(type(target), name, never)
    monkeypatch.setattr(target.vae, "forward", never)
    monkeypatch.setattr("PIL.Image.open", never)
    monkeypatch.setattr("safetybench.distill.rollouts.trajectories", never)
    monkeypatch.setattr("safetybench.distill.terms.trajectories", never)
    options = {"sid": 1, "override": "label", "others": ["moon", "heart"]}
    made = sfd(**options).run(target, ERASURE, Budget(steps=2, seed=1))
    assert made.traits.data == "none"
    with pytest.raises(AssertionError, match="an image"):
        sfd(warmup=1).run(target, ERASURE, Budget(steps=2, seed=1))


def test_a_teacher_becomes_a_one_step_target_that_says_what_it_saw() -> None:
    target = tiny_target("velocity")
    made = sfd(warmup=1, time=640).run(target, ERASURE, Budget(steps=2, seed=1))
    assert made.sampler == Sampler(steps=1, guidance=1.0, timesteps=(640,))
    assert (made.traits.steps, made.traits.data) == (1, "synthetic")
    assert made.traits.shared_with_teacher == ("text_encoder", "vae")
    assert made.traits.prompts == "6 forget prompts, their overrides and 6 others"
    assert target.card == {}
    assert target.sampler.steps == 4
    answer = made.x0(made.start_noise([7]), torch.tensor([640]), made.embed(made.tokenize(["a"])))
    torch.testing.assert_close(made.generate(["a"], [7]), made.decode(answer.detach()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_target(tiny_target("velocity"), tmp_path_factory.mktemp("models") / "teacher")


def one_step(seen: str = "synthetic") -> Any:
    target = tiny_target("velocity").clone("student")
    target.card = {"traits": {"data": seen}}
    return target.with_sampler(Sampler(steps=1, guidance=1.0, timesteps=(699,)))


@pytest.mark.parametrize("seen", ["none", "synthetic", "real"])
def test_a_student_keeps_its_sampler_and_what_it_had_seen(folder: Path, seen: str) -> None:
    student = one_step(seen)
    made = sfd(teacher=str(folder), time=3).run(student, ERASURE, Budget(steps=2, seed=1))
    assert made.sampler == student.sampler
    assert made.traits.data == seen
    assert made.unet is not student.unet


def test_the_fake_score_of_a_student_starts_as_the_teacher_it_names(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importable("Sfd").run.__globals__
    stages: list[Any] = []
    monkeypatch.setitem(module, "train", lambda given, **rest: stages.extend(given))
    sfd(teacher=str(folder), sid=4).run(one_step(), ERASURE, Budget(steps=9))
    assert [stage.steps for stage in stages] == [4, 9]
    groups = [[(g.name, g.lr, g.repeats, g.betas[0]) for g in s.groups] for s in stages]
    assert groups[0] == groups[1] == [("fake", 6e-4, 1, 0.0), ("student", 3e-4, 1, 0.0)]
    own = list(tiny_target("velocity").unet.parameters())
    assert all(torch.equal(a, b) for a, b in zip(stages[0].groups[0].weights, own, strict=True))


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch must be positive, got 0"),
        ({"fake_lr": 0.0}, "fake_lr must be positive, got 0.0"),
        ({"sid": -1}, "sid must be 0 or more, got -1"),
        ({"remain": 0.0, "forget": 0.0}, "remain or forget must be positive, got 0 and 0"),
        ({"ema": 1.0}, "ema must be in [0, 1), got 1.0"),
        ({"override": "none"}, "override is one of fixed, random, label, got 'none'"),
        ({"override": "label"}, "others are the words of override 'random' or 'label', which need "
         "them, got [] for 'label'"),
        ({"others": ["star"]}, "others are the words of override 'random' or 'label', which need "
         "them, got ['star'] for 'fixed'"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SafetyBenchError) as error:
        registry.create(NAME, options)
    assert str(error.value) == f"{NAME}: {message}"


def test_wrong_targets_are_refused(folder: Path, tmp_path: Path) -> None:
    budget = Budget(steps=1)
    with pytest.raises(
        Unavailable, match=r"^student is a one-step student, so SFD needs its teacher: "
    ):
        sfd().run(one_step(), ERASURE, budget)
    with pytest.raises(
        Unavailable, match=r"one-step student without guidance, got 4 steps at 5.0$"
    ):
        sfd(teacher=str(folder)).run(tiny_target("velocity"), ERASURE, budget)
    with pytest.raises(
        Unavailable, match=r"^SFD keeps what the retain prompts show, and there are none$"
    ):
        sfd().run(tiny_target("velocity"), replace(ERASURE, retain=()), budget)
    with pytest.raises(Unavailable, match="is a hub id and the network is off"):
        sfd(teacher="somebody/model").run(one_step(), ERASURE, budget)
    other = save_target(tiny_target("velocity", seed=3), tmp_path / "other")
    with pytest.raises(Unavailable, match="must share text encoder and latents"):
        sfd(teacher=str(other)).run(one_step(), ERASURE, budget)
