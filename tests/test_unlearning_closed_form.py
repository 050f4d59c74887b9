"""UCE, RECE and task vectors against their formulas, and what they do to the zoo's teacher."""

from __future__ import annotations

import copy
import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safetybench import registry
from safetybench.contracts import Budget, Erasure, SafetyBenchError, Unavailable
from safetybench.distill.views import chosen_parameters
from safetybench.judges.zoo import Zoo
from safetybench.targets.loading import load_target
from safetybench.zoo.prompts import erasure_of, evaluation_prompts
from tests.targets import Variant, tiny_target
from tests.test_targets_sdxl import tiny_target as tiny_xl

# By the name that the registry imports them by: checkers do not know it.
closed_form: Any = importlib.import_module("safetybench.unlearning._closed_form")
rece: Any = importlib.import_module("safetybench.unlearning.rece")
task_vector: Any = importlib.import_module("safetybench.unlearning.task_vector")
COLOURS = ("red", "blue", "green")
ERASURE = Erasure(
    forget=tuple(f"a {c} fish on dark" for c in COLOURS),
    anchor=tuple(f"a {c} star on dark" for c in COLOURS),
    retain=tuple(f"a {c} {o}" for c in COLOURS for o in ("heart", "moon")),
    bare=("fish", "one"),
)
STYLE = Erasure(
    forget=("a striped moon", "red moon , striped"),
    anchor=("a solid moon", "red moon , solid"),
    retain=(),
    bare=("a striped shape", "a pale shape"),
)
METHODS = ("unlearning/uce", "unlearning/rece", "unlearning/task_vector")


def toy(seed: int = 0, width: int = 5, out: int = 3) -> tuple[Tensor, Any]:
    rng = torch.Generator().manual_seed(seed)

    def rows(count: int) -> Tensor:
        return torch.randn(count, width, generator=rng, dtype=torch.float64)

    weight = torch.randn(out, width, generator=rng, dtype=torch.float64)
    return weight, closed_form.Rows(rows(2), rows(2), rows(4))


def changed(before: nn.Module, after: nn.Module) -> set[str]:
    pairs = zip(before.named_parameters(), after.named_parameters(), strict=True)
    return {name for (name, old), (_, new) in pairs if not torch.equal(old, new)}


# The edit


def test_the_edit_is_equation_7_written_out_sum_by_sum() -> None:
    weight, rows = toy()
    first, second = 0.5 * weight, 0.5 * torch.eye(5, dtype=torch.float64)
    for c, g in zip(rows.concept, rows.guide, strict=True):
        first += 2.0 * torch.outer(weight @ g, c)
        second += 2.0 * torch.outer(c, c)
    for k in rows.kept:
        first += 0.3 * torch.outer(weight @ k, k)
        second += 0.3 * torch.outer(k, k)
    found = closed_form.edited(weight, rows, erase=2.0, preserve=0.3, ridge=0.5)
    torch.testing.assert_close(found, first @ torch.linalg.inv(second))


def test_the_edit_solves_the_stacked_least_squares_problem() -> None:
    weight, rows = toy(1)
    eye = torch.eye(5, dtype=torch.float64)
    inputs = torch.cat([2.0**0.5 * rows.concept, 0.3**0.5 * rows.kept, 0.5**0.5 * eye])
    wanted = torch.cat([2.0**0.5 * rows.guide, 0.3**0.5 * rows.kept, 0.5**0.5 * eye]) @ weight.T
    found = closed_form.edited(weight, rows, erase=2.0, preserve=0.3, ridge=0.5)
    torch.testing.assert_close(found.T, torch.linalg.lstsq(inputs, wanted).solution)


def test_the_edit_stays_in_the_dtype_of_the_weight_and_at_the_weight_without_sums() -> None:
    weight, rows = toy()
    kept = closed_form.edited(weight.float(), rows, erase=0.0, preserve=1.0, ridge=0.1)
    assert kept.dtype == torch.float32
    torch.testing.assert_close(kept, weight.float())


# Phrases and tokens


def test_phrases_of_an_object_are_its_names_and_the_anchors() -> None:
    found = closed_form.phrases_of(ERASURE, templates=2, kept=1)
    assert found.concepts == ("fish", "one", "a red fish", "a blue fish")
    assert found.guides == ("star", "star", "a red star", "a blue star")
    assert found.kept == ("a red heart",)


def test_phrases_of_a_style_end_with_the_style() -> None:
    found = closed_form.phrases_of(STYLE, templates=2, kept=4)
    assert found.concepts == ("a striped", "a pale", "a striped", "red moon , striped")
    assert found.guides == ("a solid", "a solid", "a solid", "red moon , solid")
    assert found.kept == ()


def test_an_anchor_of_several_words_takes_the_place_of_one() -> None:
    erasure = Erasure(
        forget=("the fish here",), anchor=("the pale green moon here",), retain=(), bare=("fish",)
    )
    found = closed_form.phrases_of(erasure, templates=1, kept=0)
    assert found.guides == ("pale green moon", "the pale green moon")


def test_the_last_token_is_the_one_before_the_end() -> None:
    target = tiny_target()
    states, last = closed_form.embedded(target, ("fish", "a red fish", ""))
    assert last == [1, 3, 0]
    assert states.dtype == torch.float64
    ids = target.tokenize(["a red fish"])[0].tolist()
    assert target.detokenize(ids[3:4]) == "fish"
    assert ids[4] == target.tokenizer.eos_token_id


def test_rows_are_those_of_the_tokens_asked_for() -> None:
    target = tiny_target()
    phrases = closed_form.Phrases(("a red fish",), ("star",), ("a red heart",))
    states = target.embed(target.tokenize(["a red fish", "star", "a red heart"])).double()
    last = closed_form.rows_of(target, phrases, "last")
    torch.testing.assert_close(last.concept, states[0, 3:4])
    torch.testing.assert_close(last.guide, states[1, 1:2])
    torch.testing.assert_close(last.kept, states[2, 3:4])
    behind = closed_form.rows_of(target, phrases, "from_last")
    torch.testing.assert_close(behind.concept, states[0, 3:])
    torch.testing.assert_close(behind.guide, states[1, 1:10])
    torch.testing.assert_close(behind.kept, states[2])
    whole = closed_form.rows_of(target, phrases, "all")
    torch.testing.assert_close(whole.concept, states[0])
    torch.testing.assert_close(whole.guide, states[1])


# UCE


@pytest.mark.parametrize("variant", ["teacher", "velocity"])
@pytest.mark.parametrize("name", METHODS[:2])
def test_keys_and_values_of_a_copy_change_and_nothing_else(name: str, variant: Variant) -> None:
    target = tiny_target(variant)
    before = copy.deepcopy(target.unet)
    made = registry.create(name).run(target, ERASURE, Budget())
    assert changed(before, target.unet) == set()
    probe = copy.deepcopy(target.unet)
    chosen_parameters(probe, "attn2.kv")
    allowed = {name for name, weight in probe.named_parameters() if weight.requires_grad}
    assert changed(before, made.unet) == allowed
    assert not any(weight.requires_grad for weight in made.unet.parameters())
    assert made.generate(["a red fish"], [1]).isfinite().all()


def test_uce_makes_the_concept_read_as_the_guide() -> None:
    target = tiny_target()
    method = registry.create(
        "unlearning/uce", {"tokens": "last", "templates": 0, "kept": 0, "ridge": 1e-9}
    )
    made = method.run(target, ERASURE, Budget())
    rows = closed_form.rows_of(target, closed_form.phrases_of(ERASURE, templates=0, kept=0), "last")
    pairs = zip(
        closed_form.projections(made.unet), closed_form.projections(target.unet), strict=True
    )
    for new, old in pairs:
        wanted = old.weight.double() @ rows.guide.T
        torch.testing.assert_close(new.weight.double() @ rows.concept.T, wanted, atol=1e-4, rtol=0)
        assert (old.weight.double() @ rows.concept.T - wanted).abs().max() > 1e-2


@pytest.mark.parametrize("name", METHODS[:2])
def test_sdxl_is_edited_without_its_pooled_state(name: str) -> None:
    target = tiny_xl()
    made = registry.create(name).run(target, ERASURE, Budget())
    assert changed(target.unet, made.unet)
    assert made.generate(["a red fish"], [1]).isfinite().all()


def test_a_denoiser_without_cross_attention_is_refused() -> None:
    with pytest.raises(Unavailable) as caught:
        closed_form.projections(nn.Linear(2, 2))
    assert str(caught.value) == "the denoiser has no cross-attention to edit"


# RECE


def test_the_adversarial_embedding_solves_its_least_squares_problem() -> None:
    edited, original = tiny_target(seed=1).unet, tiny_target(seed=0).unet
    concept = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)).double()
    new, old = (
        torch.cat([layer.weight.double() for layer in closed_form.projections(unet)])
        for unet in (edited, original)
    )
    stacked = torch.cat([new, 0.1**0.5 * torch.eye(16, dtype=torch.float64)])
    wanted = torch.cat([old @ concept.T, torch.zeros(16, 3, dtype=torch.float64)])
    found = rece.adversarial(edited, original, concept, 0.1)
    torch.testing.assert_close(found.T, torch.linalg.lstsq(stacked, wanted).solution)
    same = rece.adversarial(original, original, concept, 1e-9)
    torch.testing.assert_close(same, concept, atol=1e-4, rtol=0)


def test_rece_without_epochs_is_uce_on_every_token() -> None:
    target, shared = tiny_target(), {"preserve": 0.1, "ridge": 0.1}
    first = registry.create("unlearning/rece", {"epochs": 0, **shared})
    second = registry.create("unlearning/uce", {"tokens": "all", **shared})
    with_empty = replace(ERASURE, retain=("", *ERASURE.retain))  # which RECE keeps by itself
    made = [first.run(target, ERASURE, Budget()), second.run(target, with_empty, Budget())]
    assert changed(made[0].unet, made[1].unet) == set()


def test_an_epoch_of_rece_leaves_less_of_the_concept_to_be_found() -> None:
    target = tiny_target()
    phrases = closed_form.phrases_of(ERASURE, templates=0, kept=0)
    rows = closed_form.rows_of(target, phrases, "all")
    gaps = []
    for epochs in (0, 1, 3):
        options = {"epochs": epochs, "templates": 0, "kept": 0}
        made = registry.create("unlearning/rece", options).run(target, ERASURE, Budget())
        found = rece.adversarial(made.unet, target.unet, rows.concept, 0.1)
        pairs = zip(
            closed_form.projections(made.unet), closed_form.projections(target.unet), strict=True
        )
        left = [
            (new.weight.double() @ found.T - old.weight.double() @ rows.concept.T).norm()
            for new, old in pairs
        ]
        gaps.append(float(torch.stack(left).sum()))
    assert gaps[0] < gaps[1] < gaps[2]


# Task vectors


def tuned(scale: float, steps: int = 3, **options: Any) -> Any:
    method = registry.create(
        "unlearning/task_vector", {"scale": scale, "images": 3, "batch": 2, **options}
    )
    return method.run(tiny_target("velocity"), ERASURE, Budget(steps=steps, seed=1))


def test_what_was_learned_is_subtracted_by_the_scale() -> None:
    nothing, once, twice = (tuned(scale) for scale in (0.0, 1.0, 2.0))
    original = tiny_target("velocity")
    assert changed(original.unet, nothing.unet) == set()
    triples = zip(*(m.unet.parameters() for m in (original, once, twice)), strict=True)
    for old, one, two in triples:
        torch.testing.assert_close(two - old, 2 * (one - old), atol=1e-5, rtol=1e-3)
    probe = copy.deepcopy(original.unet)
    chosen_parameters(probe, "attn2.kv")
    allowed = {name for name, weight in probe.named_parameters() if weight.requires_grad}
    assert changed(original.unet, tuned(1.0, train="attn2.kv").unet) == allowed


def test_the_negated_model_is_worse_on_its_own_images_of_the_concept() -> None:
    target = tiny_target("velocity")
    text = target.embed(target.tokenize(ERASURE.forget))
    latents = task_vector.own_images(target, text, seed=1)

    def loss(model: Any) -> float:
        rng = torch.Generator().manual_seed(5)
        count = 32
        x, states = latents.repeat(count, 1, 1, 1), text.repeat(count, 1, 1)
        with torch.no_grad():
            return float(task_vector.denoising_loss(model, x, states, rng))

    assert loss(tuned(1.0, steps=20, lr=1e-3)) > 1.02 * loss(target)


def test_the_denoising_loss_is_zero_for_a_denoiser_that_knows_the_noise() -> None:
    target = tiny_target("velocity")
    x = torch.zeros(2, *target.latent_shape)
    rng = torch.Generator().manual_seed(0)
    t = torch.randint(0, target.process.steps, (2,), generator=rng)
    noise = torch.randn(x.shape, generator=rng)
    text = target.null_text.expand(2, -1, -1)
    with torch.no_grad():
        answer = target.predict(target.process.add(x, noise, t), t, text)
    wanted = (answer - target.process.alpha(t) * noise).square().mean()
    found = task_vector.denoising_loss(target, x, text, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


# Options, and the effect


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_weights_whatever_the_global_stream(name: str) -> None:
    method = registry.create(name)
    torch.manual_seed(1)
    first = method.run(tiny_target("velocity"), ERASURE, Budget(steps=2, seed=1))
    torch.manual_seed(2)
    second = method.run(tiny_target("velocity"), ERASURE, Budget(steps=2, seed=1))
    assert changed(first.unet, second.unet) == set()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "uce",
            {"ridge": 0.0},
            "erase, preserve, templates and kept must be 0 or more and ridge positive, got "
            "1.0, 1.0, 64, 256, 0.0",
        ),
        ("uce", {"tokens": "some"}, "tokens must be one of last, from_last, all, got 'some'"),
        (
            "rece",
            {"epochs": -1},
            "epochs must be 0 or more and adversarial_ridge positive, got -1 and 0.1",
        ),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SafetyBenchError) as error:
        registry.create(f"unlearning/{name}", options)
    assert str(error.value) == f"unlearning/{name}: {message}"


def test_a_negative_scale_is_refused() -> None:
    with pytest.raises(SafetyBenchError, match="scale 0 or more, got") as error:
        registry.create("unlearning/task_vector", {"scale": -1.0})
    assert str(error.value).endswith(", -1.0")


def rates(target: Any) -> list[float]:
    """Return how often fish and other objects are shown where they are asked for."""
    found, judge = [], Zoo()
    for kind in ("concept", "other"):
        prompts = evaluation_prompts("fish", 12, 1, kind=kind)
        images = target.generate([p.text for p in prompts], [p.seed for p in prompts])
        shown = [
            bool(judge.judge(images[i : i + 1], prompt.concept).shown)
            for i, prompt in enumerate(prompts)
        ]
        found.append(sum(shown) / len(shown))
    return found


@pytest.fixture(scope="module")
def teacher() -> Any:
    return load_target("zoo:teacher", device="cpu")


@pytest.fixture(scope="module")
def before(teacher: Any) -> list[float]:
    return rates(teacher)


@pytest.mark.parametrize("name", METHODS[:2])
def test_the_zoos_teacher_forgets_fish_and_little_else(
    name: str, teacher: Any, before: list[float]
) -> None:
    erasure = erasure_of("fish", "circle", count=256)
    after = rates(registry.create(name).run(teacher, erasure, Budget()))
    assert before[0] >= 0.8
    assert after[0] <= 0.1
    assert after[1] >= before[1] - 0.2
