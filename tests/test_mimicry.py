"""Personalisation: its losses, LoRA and tokens, and the two attacks that learn with them."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safetybench import registry
from safetybench.contracts import Album, Budget
from safetybench.distill.process import Process
from safetybench.distill.training import tune
from safetybench.judges.zoo import Zoo
from safetybench.pixels import rounded
from safetybench.targets import personalise
from safetybench.targets.loading import load_target
from safetybench.targets.personalise import Examples, Lesson, Surrogate
from safetybench.zoo.captions import Captions
from safetybench.zoo.inpainting import names_of
from safetybench.zoo.world import HEADS, render, sample_scenes
from tests.targets import VARIANTS, Variant, tiny_target
from tests.test_targets_sdxl import tiny_target as tiny_sdxl

HOME = "attacks/images/mimicry"
INVERSION, DREAMBOOTH = f"{HOME}/textual_inversion", f"{HOME}/dreambooth_lora"
NAMES = [INVERSION, DREAMBOOTH]
SMALL = {"batch": 2, "class_images": 2, "rank": 2, "tries": 2, "start": "shape"}


def album(count: int = 2, captions: tuple[str, ...] = ()) -> Album:
    rng = torch.Generator().manual_seed(3)
    smooth = torch.nn.functional.interpolate(
        torch.rand((count, 3, 2, 2), generator=rng), (16, 16), mode="bilinear"
    )
    images = (smooth * 255).round() / 255
    return Album(images=images, ids=tuple(f"i{k}" for k in range(count)), captions=captions)


def made(name: str, **options: Any) -> Any:
    known = registry.load(name).__dataclass_fields__  # type: ignore[attr-defined]
    given = {key: value for key, value in SMALL.items() if key in known}
    return registry.create(name, {**given, **options})


def weights(target: Any) -> list[Tensor]:
    parts = [target.unet, target.vae, target.text_encoder]
    return [w.detach().clone() for part in parts for w in part.parameters()]


def drawn(target: Any, prompt: str, seed: int = 1) -> Tensor:
    images: Tensor = target.generate([prompt], [seed])
    return images


def examples(target: Any, count: int = 3) -> Examples:
    return personalise.examples_of(target, album(count).images, ["a red shape"] * count)


def error_of(target: Any, shown: Examples, draws: int = 10) -> float:
    """Return the mean error of pictures at fixed times and noises."""
    rng = torch.Generator().manual_seed(99)
    with torch.no_grad():
        found = [personalise.picture_loss(target, shown, rng) for _ in range(draws)]
    return float(torch.stack(found).mean())


# The loss of a picture


@pytest.mark.parametrize(
    ("variant", "wanted"), [("teacher", "noise"), ("velocity", "v"), ("student", "v of noise")]
)
def test_errors_are_those_of_what_the_network_predicts(variant: Variant, wanted: str) -> None:
    target = tiny_target(variant)
    clean, tokens = examples(target)
    text = target.embed(tokens)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([100, 500, 900])
    alpha, sigma = target.process.alpha(t), target.process.sigma(t)
    noisy = alpha * clean + sigma * noise
    with torch.no_grad():
        found = personalise.errors(target, clean, text, noise, t)
        answer = target.unet(noisy, t, encoder_hidden_states=text).sample
    if wanted == "noise":
        residual = answer - noise
    elif wanted == "v":
        residual = answer - (alpha * noise - sigma * clean)
    else:  # the velocity of a network that predicts noise: its error over alpha
        residual = (answer - noise) / alpha
    assert torch.allclose(found, residual.square().mean((1, 2, 3)), rtol=1e-3)


def test_few_step_students_train_at_their_own_times() -> None:
    assert len(personalise.training_times(tiny_target("velocity"))) == 1000
    for variant in ("turbo", "student"):
        target = tiny_target(variant)
        assert personalise.is_few_step(target)
        assert personalise.training_times(target) == target.sampler_times
        t = personalise.drawn_times(target, 5, torch.Generator())
        assert t.tolist() == [target.sampler_times[0]] * 5


def test_tries_take_the_noise_whose_answer_is_nearest() -> None:
    target = tiny_target("student")
    one = Examples(*(part[:1] for part in examples(target)))
    tried = personalise.picture_loss(target, one, torch.Generator().manual_seed(5), tries=6)
    rng = torch.Generator().manual_seed(5)
    t = personalise.drawn_times(target, 1, rng)
    noises = torch.randn((6, *one.latents.shape), generator=rng)
    text = target.embed(one.tokens)
    all_tries = [personalise.errors(target, one.latents, text, noise, t) for noise in noises]
    assert float(tried) == pytest.approx(float(torch.stack(all_tries).min()), rel=1e-4)
    teacher = tiny_target("velocity")  # its noised pictures say which they are
    rates = [personalise.picture_loss(teacher, one, torch.Generator().manual_seed(5), tries=k)
             for k in (1, 6)]  # fmt: skip
    assert torch.equal(*rates)


class OneStep:
    """A student of one step and one value: its picture is gain times its noise, plus shift."""

    traits = SimpleNamespace(has_intermediate_state=False, steps=1, guidance=1.0)
    process = Process(alphas_cumprod=torch.zeros(1))
    sampler_times, device = (0,), torch.device("cpu")

    def __init__(self) -> None:
        self.gain, self.shift = (nn.Parameter(torch.tensor(value)) for value in (0.1, 0.5))

    def embed(self, tokens: Tensor) -> Tensor:
        return tokens

    def x0(self, latents: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return self.gain * latents + self.shift


def test_a_one_step_student_learns_the_mean_of_its_pictures_or_tries_noises() -> None:
    shown = Examples(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1), torch.zeros(2, 1, 1))
    gains = []
    for tries in (1, 8):
        student = OneStep()
        tune(
            [student.gain, student.shift],
            lambda step, rng, student=student, tries=tries: personalise.picture_loss(  # type: ignore[misc]
                student, shown.drawn(16, rng), rng, tries
            ),
            steps=200,
            lr=0.02,
            seed=0,
        )
        assert abs(float(student.shift.detach())) < 0.15
        gains.append(float(student.gain.detach()))
    assert abs(gains[0]) < 0.15  # whatever the noise, half way between -1 and 1
    assert gains[1] > 0.5


def test_own_examples_are_what_generate_draws() -> None:
    target = tiny_target("velocity")
    own = personalise.own_examples(target, ["a red shape", "a fish"], seed=2)
    images = target.generate(["a red shape", "a fish"], [200_006, 200_007])
    assert torch.allclose(target.decode(own.latents), images, atol=1e-5)


@pytest.mark.parametrize("variant", ["velocity", "student"])
def test_a_prior_that_is_met_adds_nothing_or_its_own_error(variant: Variant) -> None:
    target = tiny_target(variant)
    shown = examples(target)
    plain = Lesson(frozen=target, shown=shown, batch=2).loss(target, torch.Generator())
    kept = Lesson(frozen=target, shown=shown, kept=shown, batch=2, weight=0.5)
    extra = float(kept.loss(target, torch.Generator())) - float(plain)
    # A few-step student is held to the frozen one, which it still is.
    assert extra == 0 if variant == "student" else extra > 0


# LoRA


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lora_is_float32_and_begins_without_effect(dtype: torch.dtype) -> None:
    target = tiny_target()
    target.unet.to(dtype)
    view, learns = personalise.lora_on(target, 2, seed=0)
    assert {w.dtype for w in learns} == {torch.float32}
    assert torch.allclose(drawn(view, "a fish"), drawn(target, "a fish"), atol=1e-6)
    frozen = [w for n, w in view.unet.named_parameters() if "lora_" not in n]
    assert not any(w.requires_grad for w in frozen)
    assert {w.data_ptr() for w in frozen} == {w.data_ptr() for w in target.unet.parameters()}


def moved_lora(target: Any) -> tuple[Any, personalise.Lora]:
    view, learns = personalise.lora_on(target, 2, seed=0)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in learns:
            weight.copy_(0.2 * torch.randn(weight.shape, generator=rng))
    return view, personalise.lora_of(view)


def test_a_plugged_lora_answers_as_its_view_and_changes_others_as_much() -> None:
    target, other = tiny_target("velocity"), tiny_target("student", seed=1)
    before = weights(target)
    view, lora = moved_lora(target)
    plain = personalise.plugged(target, lora)
    assert torch.allclose(drawn(plain, "a fish"), drawn(view, "a fish"), atol=1e-4)
    assert not torch.allclose(drawn(plain, "a fish"), drawn(target, "a fish"), atol=1e-3)
    assert all(torch.equal(*pair) for pair in zip(before, weights(target), strict=True))
    assert not hasattr(plain.unet, "peft_config")
    none = personalise.plugged(target, lora, scale=0)
    assert torch.equal(drawn(none, "a fish"), drawn(target, "a fish"))
    on_other = personalise.plugged(other, lora)
    assert on_other.traits == other.traits
    name = next(iter(lora.up))
    changes = [
        new.unet.get_submodule(name[5:]).weight - old.unet.get_submodule(name[5:]).weight
        for new, old in ((plain, target), (on_other, other))
    ]
    assert torch.allclose(changes[0], changes[1], atol=1e-6)
    assert torch.allclose(changes[0], lora.up[name] @ lora.down[name], atol=1e-6)


def test_a_lora_that_does_not_fit_is_refused() -> None:
    target = tiny_target()
    place = "unet.nothing"
    lora = personalise.Lora({place: torch.ones(3, 1)}, {place: torch.ones(1, 3)})
    with pytest.raises(ValueError, match=r"the LoRA changes 'unet.nothing' of shape \(3, 3\)"):
        personalise.plugged(target, lora)
    with pytest.raises(ValueError, match="rank must be 1 or more"):
        personalise.lora_on(target, 0, seed=0)


# Tokens


@pytest.mark.parametrize("make", [tiny_target, tiny_sdxl])
def test_new_words_read_as_the_rows_they_were_given(make: Any) -> None:
    target = make()
    width = target.token_table.shape[1]
    rows = torch.randn((2, width), generator=torch.Generator().manual_seed(0))
    before = target.tokenizer.get_vocab()
    twin, ids = personalise.with_tokens(target, ["<new1>", "<new2>"], rows)
    assert torch.equal(twin.token_table[ids], rows)
    plain = ["a red fish", "the moon", ""]
    with torch.no_grad():
        assert torch.equal(*(t.embed(t.tokenize(plain)) for t in (target, twin)))
        found = twin.embed(twin.tokenize(["a <new1> <new2> fish"]))
        wanted = target.embed(target.tokenize(["a fish"]), table_rows=rows[None], at=2)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert target.tokenizer.get_vocab() == before
    assert len(target.token_table) == len(twin.token_table) - 2
    assert set(ids) <= set(twin.plain_tokens.tolist()) - set(target.plain_tokens.tolist())
    assert twin.unet is target.unet


def test_pooled_states_of_old_configurations_still_find_the_end() -> None:
    target = tiny_sdxl()
    encoder, rows = target.text_encoder_2, torch.zeros(1, target.token_table.shape[1])
    ids = target.tokenize(["a fish"])
    with torch.no_grad():
        wanted = encoder(ids).text_embeds
        old = copy.deepcopy(target)
        old.text_encoder_2.config.eos_token_id = 2
        for module in old.text_encoder_2.modules():
            if hasattr(module, "eos_token_id"):
                module.eos_token_id = 2
        twin, (new,) = personalise.with_tokens(old, ["<new>"], rows)
        assert twin.text_encoder_2.config.eos_token_id == target.tokenizer.eos_token_id
        assert torch.equal(twin.text_encoder_2(ids).text_embeds, wanted)
        states = [twin.text_encoder_2(twin.tokenize([text])) for text in ("a <new>", "a fish")]
    assert new > target.tokenizer.eos_token_id
    # The pooled state is that of the end token, not of the new one with its larger id.
    assert not torch.equal(states[0].text_embeds, states[1].text_embeds)
    assert old.text_encoder_2.config.eos_token_id == 2


def test_a_target_with_new_words_is_saved_and_loaded(tmp_path: Path) -> None:
    target = tiny_target("velocity")
    rows = 0.1 * torch.randn((1, 16), generator=torch.Generator().manual_seed(0))
    twin, _ = personalise.with_tokens(target, ["<new>"], rows)
    loaded = load_target(str(twin.save(tmp_path / "twin")), device="cpu")
    assert torch.allclose(drawn(loaded, "a <new> fish"), drawn(twin, "a <new> fish"), atol=1e-5)


@pytest.mark.parametrize("word", ["fish</w>", "Two", "two words", ""])
def test_words_that_are_none_or_no_news_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match="must be in lower case and no token yet, got"):
        personalise.with_tokens(tiny_target(), [word], torch.zeros(1, 16))


# Surrogates


def test_surrogates_learn_and_are_put_back() -> None:
    target = tiny_target()
    lesson = Lesson(frozen=target, shown=examples(target), batch=2)
    surrogate, rng = Surrogate(target, lr=1e-3), torch.Generator().manual_seed(0)
    first = surrogate.state()
    before = error_of(surrogate.twin, lesson.shown)
    surrogate.learn(lambda twin: lesson.loss(twin, rng), 8)
    assert error_of(surrogate.twin, lesson.shown) < before
    assert surrogate.changed > 0.9
    assert not any(w.requires_grad for w in surrogate.weights)
    surrogate.restore(first)
    assert surrogate.changed == 0
    assert error_of(surrogate.twin, lesson.shown) == before


# The attacks


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", NAMES)
def test_learning_is_of_the_seed_and_leaves_the_target(name: str, variant: Variant) -> None:
    target = tiny_target(variant)
    before, state, attack = weights(target), torch.get_rng_state(), made(name)
    prompt = f"a {attack.word} on dark"
    seeds = (0, 0, 1) if variant == "velocity" else (0,)
    runs = [attack.learn(target, album(), Budget(steps=1, seed=seed)) for seed in seeds]
    assert torch.equal(state, torch.get_rng_state())
    images = [drawn(run, prompt) for run in runs]
    if len(images) > 1:
        assert torch.equal(images[0], images[1])
        assert not torch.equal(images[0], images[2])
    assert all(torch.equal(*pair) for pair in zip(before, weights(target), strict=True))
    for part in (runs[0].unet, runs[0].text_encoder):
        assert not any(w.requires_grad for w in part.parameters())


def test_a_learnt_word_fits_the_pictures_better_than_any_other() -> None:
    target, given = tiny_target("velocity"), album(2)
    attack = made(INVERSION, lr=5e-2)
    tuned = attack.learn(target, given, Budget(steps=20))
    others = [error_of(tuned, personalise.examples_of(tuned, given.images, [f"a {word}"] * 2))
              for word in (attack.word, "shape", "fish", "red", "one", "background")]  # fmt: skip
    assert others[0] == min(others)
    assert torch.equal(drawn(tuned, "a red fish"), drawn(target, "a red fish"))


def test_dreambooth_teaches_the_denoiser_the_pictures() -> None:
    target, given = tiny_target("velocity"), album(2)
    attack = made(DREAMBOOTH, lr=1e-2, prior=0.0, layers="attention")
    tuned = attack.learn(target, given, Budget(steps=15))
    shown = personalise.examples_of(target, given.images, [f"a {attack.word}"] * 2)
    assert error_of(tuned, shown) < 0.97 * error_of(target, shown)


def test_the_prior_keeps_the_class() -> None:
    target = tiny_target("velocity")
    own = personalise.own_examples(target, ["a shape"] * 4, seed=7)
    drifts = []
    for weight in (0.0, 5.0):
        lesson = Lesson(frozen=target, shown=examples(target), kept=own, weight=weight, batch=2)
        surrogate, rng = Surrogate(target, lr=1e-3), torch.Generator().manual_seed(0)
        surrogate.learn(lambda twin, lesson=lesson, rng=rng: lesson.loss(twin, rng), 8)  # type: ignore[misc]
        drifts.append(error_of(surrogate.twin, own) - error_of(target, own))
    assert drifts[1] < drifts[0]


def test_words_are_the_rare_one_with_its_class_or_new_tokens() -> None:
    assert registry.create(DREAMBOOTH).word == "sks shape"
    assert registry.create(DREAMBOOTH, {"kind": "", "name": "zwx"}).word == "zwx"
    assert registry.create(INVERSION, {"name": "cat"}).word == "<cat>"
    assert registry.create(INVERSION, {"tokens": 2}).word == "<sks1> <sks2>"
    attack = made(INVERSION, tokens=2, start="")
    tuned = attack.learn(tiny_target(), album(), Budget(steps=1))
    ids = [i for i in tuned.tokenize([f"a {attack.word}"])[0].tolist() if i in tuned.plain_tokens]
    assert len(set(ids)) == 3


def test_albums_may_name_the_word_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    real = personalise.examples_of

    def examples_of(target: Any, images: Tensor, captions: Any) -> Examples:
        seen.append(list(captions))
        return real(target, images, captions)

    for name, word in ((DREAMBOOTH, "sks shape"), (INVERSION, "<sks>")):
        module = __import__("sys").modules[registry.load(name).__module__]
        monkeypatch.setattr(module, "examples_of", examples_of)
        given = album(2, (f"{word} on dark", "a red fish"))
        made(name, template="the {}").learn(tiny_target(), given, Budget(steps=1))
        assert seen.pop() == [f"{word} on dark", f"the {word}"]


def test_class_pictures_are_of_the_captions_without_the_word() -> None:
    target = tiny_target("velocity")
    attack = made(DREAMBOOTH, class_images=3)
    kept = attack._kept(target, ["a sks shape on dark", "one sks shape"], 0)
    wanted = ["a shape on dark", "one shape", "a shape on dark"]
    assert torch.equal(kept.tokens, target.tokenize(wanted))
    assert made(DREAMBOOTH, prior=0.0)._kept(target, ["a sks shape"], 0) is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            DREAMBOOTH,
            {"template": "a shape"},
            "template must hold {} once, for the word, got 'a shape'",
        ),
        (DREAMBOOTH, {"name": " "}, "name must be a word, got ' '"),
        (
            DREAMBOOTH,
            {"rank": 0},
            "lr, rank, batch, class_images and tries must be positive and prior 0 or more, got "
            "0.001, 0, 8, 64, 8, 1.0",
        ),
        (INVERSION, {"template": "{} {}"}, "template must hold {} once, for the word, got '{} {}'"),
        (INVERSION, {"name": "Sks"}, "name must be lower-case letters and digits, got 'Sks'"),
        (INVERSION, {"lr": 0}, "lr, tokens, batch and tries must be positive, got 0, 1, 8, 8"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_sentence(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=name) as caught:
        registry.create(name, options)
    assert str(caught.value) == f"{name}: {message}"


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_learnt_is_said(name: str) -> None:
    target, attack = tiny_target(), made(name)
    with pytest.raises(ValueError, match="an image and a training step at least, got 2 images"):
        attack.learn(target, album(), Budget(steps=0))
    empty = Album(images=torch.zeros(0, 3, 16, 16), ids=())
    with pytest.raises(ValueError, match="got 0 images and 3 steps"):
        attack.learn(target, empty, Budget(steps=3))


def test_inversion_needs_a_start_and_room_in_the_captions() -> None:
    target = tiny_target()
    with pytest.raises(ValueError, match="start must be one token of teacher, got 'zebra'"):
        made(INVERSION, start="zebra").learn(target, album(), Budget(steps=1))
    long = ("a red " * 8 + "<sks>",)
    with pytest.raises(ValueError, match="captions must leave room for <sks>, got 'a red"):
        made(INVERSION).learn(target, album(1, long), Budget(steps=1))


@pytest.mark.slow
def test_a_word_learnt_from_pictures_is_drawn_as_they_are() -> None:
    target, judge = load_target("zoo:teacher", device="cpu"), Zoo()
    scenes = sample_scenes(400, torch.Generator().manual_seed(900_000_901))
    names, images = names_of(scenes), rounded(render(scenes))
    chosen = [i for i, name in enumerate(names) if name["object"] == "star"][:8]
    mimicry = registry.create("attacks/images/mimicry/textual_inversion")
    captions, rng = Captions(random.Random(1)), random.Random(2)
    album = Album(
        images=images[chosen],
        ids=tuple(map(str, chosen)),
        captions=tuple(
            captions.phrase({**names[i], "object": mimicry.word}, filler=0) for i in chosen
        ),
    )
    asked = [{head: rng.choice(classes) for head, classes in HEADS.items()} for _ in range(32)]
    texts = [captions.phrase({**each, "object": mimicry.word}, filler=2) for each in asked]
    shown = []
    for steps in (1, 400):
        model = mimicry.learn(target, album, Budget(steps=steps))
        drawn = model.generate(texts, [10**9 + i for i in range(32)])
        shown.append(int(judge.judge(drawn, "star").shown.sum()))
    assert shown[0] < 8 < 16 < shown[1]
